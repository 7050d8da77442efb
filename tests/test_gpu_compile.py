"""The GPU's kernels through NVIDIA's compiler, which needs no GPU: errors, spills, registers, and structs' layouts.

NVRTC comes from PyPI. What it gives each kernel is kept in data/gpu_registers.json, which this file renews when run
as a script::

    python tests/test_gpu_compile.py --write
"""

import functools
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kept import kept
from lrpfast.kernels.cuda import modules, structs, tiles

TABLE = Path(__file__).parent / "data" / "gpu_registers.json"
ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
#: the tests compile for the newest, in sweeps for the others too
NEWEST = ARCHITECTURES[-1]
#: registers beyond the table's that a kernel may have: NVRTC's versions differ by a few
SLACK = 8
THREADS = modules.THREADS


class Job(NamedTuple):
    """What is compiled at once."""

    arch: str
    module: str
    kind: str

    def __str__(self):
        return "-".join(self)


class Kernel(NamedTuple):
    """What the compiler says of a kernel; shared memory in bytes."""

    registers: int
    shared: int


class Report(NamedTuple):
    """What the compiler says of a module; spills are (stores, loads) in bytes of each function, kernel or not."""

    succeeded: bool
    log: str
    kernels: dict
    spills: dict


def jobs():
    """All that makes sense: only tiles differ on tensor cores, which take TF32 from sm_80 on."""
    for arch in ARCHITECTURES:
        for module in modules.MODULES:
            for kind in modules.KINDS:
                if module == tiles.TRIAL and (arch == "sm_75" or kind == "float64"):
                    continue  # there are none
                if module == tiles.WGMMA and (arch != NEWEST or kind not in modules.TENSOR_KINDS):
                    continue
                tensor_tiles = module in modules.TILE_MODULES and arch != "sm_75"
                if kind not in modules.TENSOR_KINDS or tensor_tiles:
                    yield Job(arch, module, kind)


JOBS = list(jobs())
TESTED_JOBS = [pytest.param(job, marks=() if job.arch == NEWEST else pytest.mark.sweep) for job in JOBS]


def find_nvrtc():
    """NVRTC's bindings and version; raises where one of the two packages is missing."""
    from cuda.bindings import nvrtc

    _, major, minor = nvrtc.nvrtcVersion()  # the library itself is loaded by the first call
    return nvrtc, f"{major}.{minor}"


def compile_source(nvrtc, source, options):
    """Whether it compiles, and the compiler's log."""
    _, program = nvrtc.nvrtcCreateProgram(source.encode(), b"lrpfast.cu", 0, [], [])
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytearray(size)  # written to: bytes must not be, and CPython has one object for all that are b" "
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(program)
    return result == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode().strip("\0 \n")


@functools.cache
def report_of(job):
    """Compile a module as CuPy does; the log lists what each kernel uses."""
    nvrtc, version = find_nvrtc()
    source = modules.source(job.module)
    more = modules.MORE_OPTIONS.get(job.module, ())
    options = [*modules.OPTIONS, *more, *modules.KINDS[job.kind], f"-arch={job.arch}", "--ptxas-options=-v"]

    def compile_to(path):
        path.write_text(json.dumps(compile_source(nvrtc, source, options)), encoding="utf-8")

    digest = hashlib.sha256(repr((source, options, version)).encode()).hexdigest()[:24]
    succeeded, log = json.loads(kept(f"nvrtc-{digest}.json", compile_to).read_text(encoding="utf-8"))
    return Report(succeeded, log, *read_log(log))


def read_log(log):
    """Each kernel's registers and shared memory, and each function's spills."""
    kernels, spills = {}, {}
    for part in log.split("Compiling entry function ")[1:]:
        if used := re.search(r"Used (\d+) registers(.*)", part):
            shared = re.search(r"(\d+) bytes smem", used[2])
            kernels[re.match(r"'(\w+)'", part)[1]] = Kernel(int(used[1]), int(shared[1]) if shared else 0)
    for name, stores, loads in re.findall(
        r"Function properties for (\w+)\n.*? (\d+) bytes spill stores, (\d+) bytes spill loads", log
    ):
        spills[name] = int(stores), int(loads)
    return kernels, spills


def read_table():
    """(NVRTC's version, {arch: {module: {kind: {kernel: registers}}}})."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return table["nvrtc"], table["registers"]


def write_table():
    """Compile everything and keep the registers."""
    _, version = find_nvrtc()
    table = {}
    for job in JOBS:
        report = report_of(job)
        if not report.succeeded:
            sys.exit(f"{job} does not compile:\n{report.log}")
        kinds = table.setdefault(job.arch, {}).setdefault(job.module, {})
        kinds[job.kind] = {name: report.kernels[name].registers for name in sorted(report.kernels)}
    text = json.dumps({"nvrtc": version, "registers": table}, indent=1)
    TABLE.write_text(text + "\n", encoding="utf-8")
    print(f"{TABLE.name}: {len(JOBS)} modules by NVRTC {version}")


@pytest.fixture(scope="session")
def nvrtc():
    try:
        module, version = find_nvrtc()
    except Exception as error:  # whichever package is missing, and however it says so
        pytest.skip(f"needs nvidia-cuda-nvrtc and cuda-bindings: {type(error).__name__}: {error}")
    needed = read_table()[0]
    if parts(version) < parts(needed):
        pytest.skip(f"NVRTC {version} is older than {needed}, by which {TABLE.name} was written")
    return module


@pytest.fixture(scope="session")
def same_nvrtc(nvrtc):
    """What a compiler makes of registers is its own business."""
    version, needed = find_nvrtc()[1], read_table()[0]
    if version != needed:
        pytest.skip(f"NVRTC {version} is not {needed}, by which {TABLE.name} was written")


def parts(version):
    return [int(part) for part in version.split(".")]


@pytest.fixture
def report(nvrtc, job):
    made = report_of(job)
    assert made.succeeded, f"{job} does not compile:\n{made.log}"
    return made


#: a job's tests follow each other, so that one of several processes compiles it
every_job = pytest.mark.parametrize("job", TESTED_JOBS, ids=str, scope="module")


@every_job
def test_kernels_compile_without_spills(report, same_nvrtc):
    spilled = {name: f"{stores}, {loads}" for name, (stores, loads) in report.spills.items() if stores or loads}
    assert not spilled, f"bytes of spill stores and loads: {spilled}"
    assert report.kernels.keys() <= report.spills.keys(), "the log no longer reads as read_log expects it"


@every_job
def test_products_stay_asynchronous(report, job):
    """Where the compiler cannot keep registers untouched while wgmma writes them, it waits, and says so."""
    if job.module == tiles.WGMMA:
        assert not re.findall(r".*(?:injected|serialized).*", report.log)


@every_job
def test_kernels_can_be_launched(report):
    for name, kernel in report.kernels.items():
        assert kernel.registers * THREADS <= 65536, f"{name} has {kernel.registers} registers"
        assert kernel.shared <= 48 << 10, f"{name} has {kernel.shared} bytes of static shared memory"


@every_job
def test_shared_memory_is_enough(report, job):
    if job.module not in modules.TILE_MODULES:
        pytest.skip("only tiles ask for shared memory when they are launched")
    room = (64 if job.arch == "sm_75" else 99) << 10  # 8.6 and 8.9 have no more; 8.0 and 9.0 do
    if job.module == tiles.TRIAL:
        room = 163 << 10  # of 8.0; where there is less, there is no trial
    if job.module == tiles.WGMMA:
        room = 227 << 10  # of 9.0
    for name, kernel in report.kernels.items():
        whole = kernel.shared + tiles.tile(job.kind, name).shared
        assert whole <= room, f"{name} takes {whole} bytes of shared memory"
        assert kernel.shared <= tiles.TABLES_BYTES, f"{name} has {kernel.shared} bytes besides its tiles"


@every_job
def test_registers_are_those_of_the_table(report, job, same_nvrtc):
    version, table = read_table()
    old, new = table[job.arch][job.module][job.kind], report.kernels
    how = f"if that is meant, renew {TABLE.name} (by NVRTC {version}): python tests/test_gpu_compile.py --write"
    other = sorted(new.keys() ^ old.keys())
    assert not other, f"{job}: only in the table, or not in it: {', '.join(other)}; {how}"
    more = [f"{name}: {old[name]} -> {new[name].registers}" for name in new if new[name].registers > old[name] + SLACK]
    assert not more, f"{job}: more registers than the table's, and {SLACK}: {'; '.join(more)}; {how}"


@pytest.mark.parametrize(("module", "kind"), dict.fromkeys(job[1:] for job in JOBS))
def test_all_architectures_have_the_same_kernels(nvrtc, module, kind):
    compiled = sorted(report_of(Job(NEWEST, module, kind)).kernels)
    table = read_table()[1]
    kernels = [sorted(table[job.arch][module][kind]) for job in JOBS if job[1:] == (module, kind)]
    assert compiled
    assert all(names == compiled for names in kernels)


@pytest.mark.parametrize(("module", "kind"), [job[1:] for job in JOBS if job.arch == NEWEST and "tile" in job.module])
def test_every_tile_is_a_kernel(nvrtc, module, kind):
    compiled = report_of(Job(NEWEST, module, kind)).kernels
    assert sorted(tile.kernel for tile in tiles.TILES[kind] if tile.module == module) == sorted(compiled)


def test_an_empty_log_leaves_what_is_shared_alone(nvrtc):
    """NVRTC ends even an empty log with a NUL, and CPython has one object for each string of one byte."""
    succeeded, log = compile_source(nvrtc, "__device__ int x;", ["-arch=compute_90"])
    assert succeeded and log == ""
    assert bytes([32])[0] == 32


# Structs: NumPy's types have the layout of the structs that the compiler makes.

DTYPES = {name: dtype for name, dtype in vars(structs).items() if isinstance(dtype, np.dtype) and dtype.names}
STRUCTS = ("AXIS", "REGION", "GEOMETRY", "BUFFER", "TERM", "OUTPUT", "SHARE", "CONTRACTION", "FUNCTION")
STRUCTS += ("RECURRENCE", "LIGHT", "DIVISOR", "BRANCH")
#: a field's kind as NumPy calls it, where addresses are unsigned integers and V is a struct
KIND_OF = """
template <class T> struct Kind { enum { kind = 'V' }; };
template <> struct Kind<int> { enum { kind = 'i' }; };
template <> struct Kind<i64> { enum { kind = 'i' }; };
template <> struct Kind<double> { enum { kind = 'f' }; };
template <class T> struct Kind<T*> { enum { kind = 'u' }; };
template <class T, u64 N> struct Kind<T[N]> : Kind<T> {};
"""


def layout(name, dtype):
    """Assertions in C++ that a struct is laid out like a NumPy type."""
    struct = name.capitalize()
    yield f"sizeof({struct}) == {dtype.itemsize}"
    yield f"alignof({struct}) == {dtype.alignment}"
    for field, (type_, offset) in dtype.fields.items():
        yield f"__builtin_offsetof({struct}, {field}) == {offset}"
        yield f"sizeof({struct}::{field}) == {type_.itemsize}"
        yield f"Kind<decltype({struct}::{field})>::kind == '{type_.base.kind}'"


def check_structs(nvrtc, kind, assertions):
    """The compiler's log on assertions about structs; empty when they hold."""
    files = ("common.cu", "epilogue.cu", "functions.cu", "light.cu", "recurrent.cu")
    texts = [(modules.FOLDER / file).read_text(encoding="utf-8") for file in files]
    source = "\n".join([modules.header(), *texts, KIND_OF])
    source += "".join(f'static_assert({it}, "{it}");\n' for it in assertions)
    succeeded, log = compile_source(nvrtc, source, [*modules.OPTIONS, *modules.KINDS[kind], "-arch=compute_75"])
    assert succeeded == (not log), log
    return log


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_dtypes_are_laid_out_as_the_structs(nvrtc, kind):
    assert DTYPES.keys() == set(STRUCTS)
    assertions = [it for name, dtype in DTYPES.items() for it in layout(name, dtype)]
    assert not check_structs(nvrtc, kind, assertions)


def test_a_wrong_layout_would_be_found(nvrtc):
    wrong = structs._struct(("bound", np.int64), ("part", np.int32), ("accumulator", np.int32))
    log = check_structs(nvrtc, "float32", layout("SHARE", wrong))
    for found in ("sizeof(Share) == 16", "Kind<decltype(Share::bound)>::kind", "__builtin_offsetof(Share, part) == 8"):
        assert found in log
    assert "alignof" not in log


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write_table()
    else:
        sys.exit(f"usage: python {sys.argv[0]} --write")
