"""Where there is no GPU, or none that works: the CPU does it, and an error says what is wrong and what to do."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import lrpfast
from lrpfast.kernels import backend
from lrpfast.kernels.cuda import contractions, cublas

MODEL = """
import numpy as np, lrpfast
model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
"""
#: how an interpreter gets to have no CuPy: whatever finds modules does not find that one
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in ("cupy", "cupy_backends", "cupyx")
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""
REPORT_DEVICES = """
import json
found = {}
analyzer = lrpfast.Analyzer(model, "epsilon", device="auto")
found["auto"] = analyzer.device, repr(analyzer), analyzer.analyze([[1.0, 1.0]]).round(3).tolist()
for device in ("gpu", "gpu:1"):
    try:
        lrpfast.Analyzer(model, "epsilon", device=device)
    except lrpfast.DeviceError as error:
        found[device] = str(error)
print(json.dumps(found))
"""
#: an array that says by DLPack that it lies on a GPU
REPORT_TENSOR = """
class Tensor:
    shape, dtype = (1, 2), "float32"

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, **options):
        raise AssertionError("it was to be asked where it lies first")

for use in (lrpfast.Analyzer(model, "epsilon").analyze, model.predict):
    try:
        use(Tensor())
    except lrpfast.DeviceError as error:
        print(error)
"""


def python(*arguments, path=None):
    """The output of a fresh interpreter that sees no GPU, if there is one, and starts with ``path``; no warnings."""
    paths = [str(path)] if path else []
    own = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=100, env=own)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def assert_on_cpu(name, text, relevance):
    assert name == "cpu"
    assert text.endswith(", cpu>")
    assert relevance == [[1.0, 2.0]]


# No CuPy at all


@pytest.fixture
def without(tmp_path):
    """Runs code where CuPy is not installed."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    found = python(
        "-c", "import importlib.util as u; print(u.find_spec('cupy'), u.find_spec('lrpfast'))", path=tmp_path
    )
    if not found.startswith("None ModuleSpec"):
        pytest.skip(f"cannot hide CuPy from this interpreter: {found}")
    return lambda *arguments: python(*arguments, path=tmp_path)


def test_without_cupy_the_cpu_is_taken_and_the_gpu_is_not_there(without):
    found = json.loads(without("-c", MODEL + REPORT_DEVICES))
    assert_on_cpu(*found["auto"])
    for device in ("gpu", "gpu:1"):
        for part in (f"device {device!r}", "CuPy is not installed", "pip install 'cupy-cuda13x[ctk]'"):
            assert part in found[device]


def test_without_cupy_info_says_what_is_missing(without):
    told = without("-m", "lrpfast", "info")
    assert "CuPy" in told
    assert "cpu" in told


def test_without_cupy_an_array_on_a_gpu_is_refused(without):
    told = without("-c", MODEL + REPORT_TENSOR).splitlines()
    assert len(told) == 2
    for line in told:
        for part in ("Tensor", "CuPy is needed", "pip install 'cupy-cuda13x[ctk]'", "copy the inputs to the host"):
            assert part in line


@pytest.mark.parametrize("raises", ["ImportError('no libcudart')", "RuntimeError('no libcudart')", "OSError()"])
def test_a_cupy_that_cannot_be_imported(tmp_path, raises):
    (tmp_path / "cupy.py").write_text(f"raise {raises}\n")
    found = json.loads(python("-c", MODEL + REPORT_DEVICES, path=tmp_path))
    assert_on_cpu(*found["auto"])
    for part in ("CuPy is installed but cannot be imported", raises.replace("('", ": ").rstrip("')("), "'cupy-cuda"):
        assert part in found["gpu"]


@pytest.mark.parametrize("raises", ["ImportError", "RuntimeError"])
def test_a_cupy_that_cannot_be_imported_and_an_array_on_a_gpu(tmp_path, raises):
    (tmp_path / "cupy.py").write_text(f"raise {raises}('no libcudart')\n")
    told = python("-c", MODEL + REPORT_TENSOR, path=tmp_path).splitlines()
    assert len(told) == 2
    assert all("CuPy" in line for line in told)


# A CuPy, but no GPU


@pytest.fixture(scope="module")
def real():
    """(Version, what it says of GPUs) of a real CuPy that finds none."""
    if "cupy.standin" in sys.modules:
        pytest.skip("the stand-in is in the place of CuPy")
    if importlib.util.find_spec("cupy") is None:
        pytest.skip("CuPy is not installed")
    code = "import cupy\nprint(cupy.__version__)\ntry: print(cupy.cuda.runtime.getDeviceCount())\n"
    version, told = python("-c", code + "except Exception as error: print(error)").splitlines()[:2]
    if told.isdecimal():
        pytest.skip(f"CuPy says that there are {told} GPUs")
    return version, told


def test_cupy_without_a_gpu(real):
    version, told = real
    found = json.loads(python("-c", MODEL + REPORT_DEVICES))
    assert_on_cpu(*found["auto"])
    assert told.startswith("cudaError")
    for device in ("gpu", "gpu:1"):
        for part in (f"device {device!r}", f"CuPy {version} finds no GPU", told):
            assert part in found[device]


def test_cupy_without_a_gpu_in_info(real):
    told = python("-m", "lrpfast", "info")
    assert f"CuPy {real[0]}" in told
    assert "cpu" in told


def test_cupy_is_imported_only_when_devices_are_looked_for(real):
    imported = "import sys; print('cupy' in sys.modules)"
    use = "lrpfast.Analyzer(model, 'epsilon', device='cpu').analyze([[1.0, 1.0]])"
    assert python("-c", f"import lrpfast; {imported}") == "False\n"
    assert python("-c", f"{MODEL}\n{use}; {imported}") == "False\n"
    assert python("-c", f"{MODEL}\n{use.replace('cpu', 'auto')}; {imported}") == "True\n"


# The stand-in for CuPy, with GPUs that do not work


@pytest.fixture
def cupy(standin):
    """The stand-in as `import cupy` gives it."""
    return sys.modules["cupy"]


def dense(size=4):
    weights = np.random.default_rng(0).standard_normal((2, size, size))
    return lrpfast.from_layers([lrpfast.layers.Dense(part, activation="relu") for part in weights])


def error_of(device):
    """What an analyzer on such a device raises."""
    with pytest.raises(lrpfast.DeviceError) as caught:
        lrpfast.Analyzer(dense(), "epsilon", device=device)
    return str(caught.value)


def auto():
    return lrpfast.Analyzer(dense(), "epsilon", device="auto").device


@contextlib.contextmanager
def broken(cupy, monkeypatch, on, module):
    """Kernels of some GPUs come from another module than they should."""
    real = cupy.RawModule

    def made(**given):
        return module(**given) if cupy.cuda.runtime.getDevice() in on else real(**given)

    with monkeypatch.context() as patch:
        patch.setattr(cupy, "RawModule", made)
        yield


def no_compiler(code, options):
    """A module that does not compile."""
    from cupy.cuda.compiler import CompileException

    raise CompileException("kernel.cu(1): error: no such header\n1 error detected", code, "kernel.cu", options)


class Idle:
    """A module whose kernels do nothing."""

    def __init__(self, code, options):
        pass

    def get_function(self, name):
        return lambda grid, block, arguments: None


def test_kernels_that_do_not_compile(cupy, monkeypatch):
    with broken(cupy, monkeypatch, {0}, no_compiler):
        assert auto() == "cpu"
        told = error_of("gpu")
        assert told == error_of("gpu:0").replace("'gpu:0'", "'gpu'")
    for part in ("device 'gpu'", f"CuPy {cupy.__version__}", "CompileException", "no such header", "cupy-cuda13x[ctk]"):
        assert part in told
    assert "1 error detected" not in told  # only the first line


def test_a_kernel_that_makes_a_wrong_number(cupy, monkeypatch):
    with broken(cupy, monkeypatch, {0}, Idle):
        assert auto() == "cpu"
        assert "made 0.0 of 1.5" in error_of("gpu")


def test_no_gpu(cupy):
    cupy.standin.CONFIG["devices"] = 0
    assert auto() == "cpu"
    for part in (f"CuPy {cupy.__version__} finds no GPU", "cudaErrorNoDevice", "driver"):
        assert part in error_of("gpu")


def test_no_gpu_and_no_error(cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", lambda: 0)
    assert auto() == "cpu"
    assert "finds no GPU" in error_of("gpu")


@pytest.mark.parametrize(("bad", "good"), [(0, 1), (1, 0)])
def test_one_of_two_gpus_is_broken(cupy, monkeypatch, bad, good):
    cupy.standin.CONFIG["devices"] = 2
    with broken(cupy, monkeypatch, {bad}, no_compiler):
        analyzer = lrpfast.Analyzer(dense(), "epsilon", device="gpu")
        assert analyzer.device == f"gpu:{good}"
        assert repr(analyzer).endswith(f", gpu:{good}>")
        assert auto() == f"gpu:{good}"
        assert lrpfast.Analyzer(dense(), "epsilon", device=f"gpu:{good}").device == f"gpu:{good}"
        for part in (f"device 'gpu:{bad}' does not work", f"GPU {bad}", "no such header"):
            assert part in error_of(f"gpu:{bad}")
        told = error_of("gpu:7")
        assert f"'gpu:{good}'" in told
        assert f"'gpu:{bad}'" not in told
        assert cupy.cuda.runtime.getDevice() == 0  # the current device is the caller's


def test_both_of_two_gpus_are_broken(cupy, monkeypatch):
    cupy.standin.CONFIG["devices"] = 2
    with broken(cupy, monkeypatch, {0, 1}, no_compiler):
        assert auto() == "cpu"
        assert all(part in error_of("gpu") for part in ("GPU 0", "GPU 1", "no such header"))


def test_a_gpu_that_is_not_there(cupy):
    cupy.standin.CONFIG["devices"] = 2
    told = error_of("gpu:7")
    for part in ("'gpu:7'", "'cpu'", "'gpu'", "'gpu:0' (stand-in)", "'gpu:1' (stand-in)"):
        assert part in told


@pytest.mark.parametrize("name", ["cuda", "gpu:", "gpu:x", "gpu:-1", "GPU", "", "0", 0, None, b"gpu"])
def test_a_name_that_is_no_device(cupy, name):
    with pytest.raises(lrpfast.InputError) as caught:
        lrpfast.Analyzer(dense(), "epsilon", device=name)
    told = str(caught.value)
    for part in (repr(name), "'auto'", "'cpu'", "'gpu'", "'gpu:1'"):
        assert part in told


def test_all_gpus_work(cupy):
    cupy.standin.CONFIG["devices"] = 2
    assert auto() == "gpu:0, gpu:1"
    assert lrpfast.Analyzer(dense(), "epsilon", device="gpu:1").device == "gpu:1"
    assert lrpfast.Analyzer(dense(), "epsilon", device="cpu").device == "cpu"


def test_without_cublas_our_own_kernels_do_it(cupy, monkeypatch):
    calls, gemm = [], cublas.gemm
    monkeypatch.setattr(cublas, "gemm", lambda *given, **more: (calls.append(given), gemm(*given, **more)))
    monkeypatch.setattr(contractions, "LIBRARY_FLOPS", 0)
    x = np.random.default_rng(1).standard_normal((5, 32))
    analyzers = [lrpfast.Analyzer(dense(32), "epsilon", device=d, precision="float64") for d in ("cpu", "gpu")]
    expected, found = (analyzer.analyze(x) for analyzer in analyzers)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert calls and backend("gpu").describe()["cuBLAS"] == "yes"
    calls.clear()
    cupy.standin.CONFIG["cublas"] = False
    cublas.HANDLES.forget()
    import cupy_backends.cuda.libs as libs

    monkeypatch.delattr(libs, "cublas")  # imported anew, it fails
    monkeypatch.delitem(sys.modules, "cupy_backends.cuda.libs.cublas")
    found = lrpfast.Analyzer(dense(32), "epsilon", device="gpu", precision="float64").analyze(x)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    told = backend("gpu").describe()["cuBLAS"]
    assert not calls and told.startswith("no (") and "libcublas.so" in told
