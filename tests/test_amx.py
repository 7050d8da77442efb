"""Products on tile registers (tile_amx.h): emulated on any machine with a C compiler, and native where there are any.

The emulation is bit for bit what the instructions do, which is itself tested where they are.
"""

import ctypes
import mmap
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.kernels import _cpu

#: The package has no C source; that lies beside the tests.
KERNELS = Path(__file__).parents[1] / "src" / "lrpfast" / "kernels"
SOURCE = Path(__file__).with_name("amx_emulated.c")
ROWS, DEPTH, SIDE, STEP = 48, 256, 32, 32
COMPILER = shutil.which("gcc") or shutil.which("cc")
NATIVE = "x86-64-amx" in _cpu.instruction_sets()

pytestmark = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux") or not (KERNELS / "tile_amx.h").exists(),
    reason="needs Linux, a C compiler and the kernels' source",
)


class Products:
    """The compiled kernels, called as the contractions call them."""

    def __init__(self, folder, *flags, source=SOURCE):
        target = folder / "products.so"
        command = [
            COMPILER,
            "-ffp-contract=off",
            "-shared",
            "-fPIC",
            *flags,
            f"-I{KERNELS}",
            str(source),
            "-o",
            str(target),
        ]
        subprocess.run([*command, "-lm"], check=True, capture_output=True)
        self.library = ctypes.CDLL(str(target))
        size = ctypes.c_ssize_t
        pointer = ctypes.c_void_p
        self.library.products_pack.argtypes = [ctypes.c_int, size, size, pointer, size, size, ctypes.c_int, pointer]
        self.library.products_split.argtypes = [ctypes.c_int, size, size, size, size, pointer, pointer, pointer]
        self.library.products_block.argtypes = [
            ctypes.c_int, size, size, pointer, pointer, size, pointer, size, ctypes.c_int,
        ]  # fmt: skip

    def __call__(self, x, w, products=6, sign=0, segments=1, memory=lambda n, dtype: np.zeros(n, dtype)):
        """The sums of x · w, block after block of k, by so many products of bfloat16."""
        rows, depth = x.shape
        columns = w.shape[1]
        parts, padded_rows, padded = 3 if products == 6 else 2, -(-rows // SIDE) * SIDE, -(-columns // SIDE) * SIDE
        ld = padded + 16
        sums = memory((rows - 1) * ld + padded, np.float32)
        for k0 in range(0, depth, DEPTH):
            kc = min(DEPTH, depth - k0)
            steps = -(-kc // STEP) * STEP
            packed, split = (memory(n * steps * parts, np.uint16) for n in (padded, padded_rows))
            block = w[k0 : k0 + kc]
            row_step, column_step = (s // 4 for s in block.strides)
            self.library.products_pack(
                products, kc, columns, block.ctypes.data, row_step, column_step, sign, packed.ctypes.data
            )
            cuts = np.linspace(0, kc, min(segments, kc) + 1).astype(int)
            lengths = np.diff(cuts).astype(np.intp)
            for first in range(0, rows, ROWS):
                count = min(ROWS, rows - first)
                runs = [[memory(n, np.float32) for _ in range(count)] for n in lengths.tolist()]
                pointers = np.zeros((len(lengths), ROWS), np.uintp)
                for s, run in enumerate(runs):
                    for i, values in enumerate(run):
                        values[:] = x[first + i, k0 + cuts[s] : k0 + cuts[s + 1]]
                        pointers[s, i] = values.ctypes.data
                self.library.products_split(
                    products,
                    rows,
                    first,
                    count,
                    len(lengths),
                    lengths.ctypes.data,
                    pointers.ctypes.data,
                    split.ctypes.data,
                )
            self.library.products_block(
                products, rows, kc, split.ctypes.data, packed.ctypes.data, padded, sums.ctypes.data, ld, int(k0 > 0)
            )
        return np.lib.stride_tricks.as_strided(sums, (rows, columns), (4 * ld, 4)).copy()


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    return Products(tmp_path_factory.mktemp("emulated"), "-O1", "-DLRPFAST_EMULATE_AMX")


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    if not NATIVE:
        pytest.skip(f"this processor, system or compiler has no x86-64-amx: {', '.join(_cpu.instruction_sets())}")
    products = Products(tmp_path_factory.mktemp("native"), "-O2")
    assert products.library.granted()
    return products


def operands(rows, depth, columns, seed=0, positive=False):
    random = np.random.default_rng([rows, depth, columns, seed])
    x, w = random.normal(size=(rows, depth)).astype("f4"), random.normal(size=(depth, columns)).astype("f4")
    return (np.abs(x), np.abs(w)) if positive else (x, w)


def rounded(values):
    """To TF32: 10 bits after the leading one, to nearest even."""
    bits = values.view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~np.uint32(0x1FFF)).view(np.float32)


def exact(x, w):
    return x.astype("f8") @ w.astype("f8"), np.abs(x).astype("f8") @ np.abs(w).astype("f8")


def disagreements(products, sizes):
    """How many of some products are off by more than a few roundings of their largest sum."""
    wrong = 0
    for size in sizes:
        x, w = operands(*size)
        expected, scale = exact(x, w)
        wrong += int((np.abs(products(x, w) - expected) > 2.0**-21 * scale + 1e-30).any())
    return wrong


SIZES = [
    (1, 1, 1),
    (2, 3, 5),
    (15, 31, 16),
    (16, 32, 17),
    (17, 33, 31),
    (33, 95, 33),
    (49, 97, 64),
    (70, 257, 40),
    (1, 600, 65),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_those_of_float64(emulated, size):
    x, w = operands(*size)
    expected, scale = exact(x, w)
    assert (np.abs(emulated(x, w) - expected) <= 2.0**-22 * scale).all()
    assert (np.abs(emulated(x, w, segments=3) - expected) <= 2.0**-22 * scale).all()
    assert emulated(x, w, segments=3).tobytes() == emulated(x, np.asfortranarray(w)).tobytes()
    for sign in (1, -1):
        part = np.maximum(w, 0) if sign > 0 else np.minimum(w, 0)
        expected, scale = exact(x, part)
        assert (np.abs(emulated(x, w, sign=sign) - expected) <= 2.0**-22 * scale).all()


@pytest.mark.parametrize("size", SIZES[::2], ids=str)
def test_tf32_is_held_exactly_by_two_parts(emulated, size):
    x, w = operands(*size)
    expected, scale = exact(rounded(x), rounded(w))
    assert (np.abs(emulated(rounded(x), w, products=4) - expected) <= 2.0**-22 * scale).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_two_parts_of_any_value_hold_16_bits(emulated, size):
    """Each operand is off by 2⁻¹⁷ of it, and middle · middle, below 2⁻¹⁶, is left out."""
    x, w = operands(*size)
    expected, scale = exact(x, w)
    off = np.abs(emulated(x, w, products=3) - expected)
    assert (off <= 2.0**-15 * scale).all()
    if size[1] > 30:
        assert off.max() > 2.0**-22 * scale.max()
    positive = emulated(*operands(*size, positive=True), products=3)
    assert (positive > 0).all()


def test_rows_do_not_depend_on_their_neighbours(emulated):
    x, w = operands(50, 300, 37)
    whole = emulated(x, w)
    for rows in ([0], [3, 17], list(range(20)), list(range(10, 50))):
        assert emulated(x[rows], w).tobytes() == whole[rows].tobytes()


def test_more_accurate_than_a_chain_of_multiply_adds(emulated):
    x, w = operands(4, 2000, 3)
    expected, _ = exact(x, w)
    chain = np.zeros((4, 3), "f4")
    for k in range(2000):
        chain = (x[:, k : k + 1].astype("f8") * w[k] + chain).astype("f4")
    assert np.abs(emulated(x, w) - expected).mean() < np.abs(chain - expected).mean()


def test_positive_stays_positive_and_zero_stays_zero(emulated):
    x, w = operands(20, 70, 20, positive=True)
    assert (emulated(x, w) > 0).all()
    w[:, 3] = 0
    x[4] = -0.0
    sums = emulated(x, w)
    assert (sums[4] == 0).all() and (sums[:, 3] == 0).all() and (np.delete(np.delete(sums, 4, 0), 3, 1) > 0).all()
    for scale in (2.0**-60, 2.0**-30, 2.0**30, 2.0**60):
        assert (emulated(np.float32(scale) * x[:3], w[:, :3]) > 0).all()


NAN_OF_ALL_BITS = np.array([0x7FFFFFFF], np.uint32).view("f4")[0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, NAN_OF_ALL_BITS, np.finfo("f4").max], ids=str)
@pytest.mark.parametrize("operand", [0, 1])
def test_what_is_not_finite_shows(emulated, value, operand):
    x, w = operands(3, 40, 5, positive=True)
    (x if operand == 0 else w)[1 if operand == 0 else 7, 7 if operand == 0 else 2] = value
    sums = emulated(x, w)
    hit = sums[1] if operand == 0 else sums[:, 2]
    assert not np.isfinite(hit).any()
    assert np.isfinite(sums).sum() == sums.size - hit.size


def test_what_is_lost_of_tiny_values_is_bounded(emulated):
    """Parts and products below the smallest normal number count as zero: docs/kernels.md says how much that can be."""
    for exponent in range(-149, -90, 7):
        x, w = operands(3, 64, 4)
        x = (x * np.float32(2.0) ** exponent).astype("f4")
        expected, scale = exact(x, w)
        bound = 2.0**-22 * scale + 64 * 2.0**-123
        assert (np.abs(emulated(x, w) - expected) <= bound).all(), exponent
        if exponent >= -100:
            assert (np.abs(emulated(x, w) - expected) <= 2.0**-21 * scale).all(), exponent


def guarded(n, dtype):
    """Memory that ends where the next page may not be touched."""
    nbytes = max(1, n * np.dtype(dtype).itemsize)
    pages = -(-nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    last = whole.ctypes.data + (pages - 1) * mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(last), mmap.PAGESIZE, 0) == 0
    end = (pages - 1) * mmap.PAGESIZE
    return whole[end - n * np.dtype(dtype).itemsize : end].view(dtype)


@pytest.mark.parametrize("size", [(1, 1, 1), (17, 33, 31), (49, 130, 33)], ids=str)
@pytest.mark.parametrize("which", ["emulated", "native"])
def test_nothing_is_touched_beyond_the_end(request, which, size):
    products = request.getfixturevalue(which)
    x, w = operands(*size)
    assert products(x, w, memory=guarded, segments=2).tobytes() == products(x, w, segments=2).tobytes()


def test_the_emulation_is_what_the_processor_does(emulated, native):
    for size in SIZES:
        for count in (6, 4, 3):
            x, w = operands(*size)
            assert emulated(x, w, count).tobytes() == native(x, w, count).tobytes(), size
    random = np.random.default_rng(5)
    for exponents in ((-149, -100), (-70, -50), (-126, 0), (0, 127)):  # denormals, products that underflow, overflow
        x, w = (
            (random.normal(size=s) * 2.0 ** random.integers(*exponents, s)).astype("f4") for s in ((20, 70), (70, 20))
        )
        found = [p(x, w) for p in (emulated, native)]
        assert np.array_equal(*found, equal_nan=True), exponents


FAULTS = {
    "a part of the columns twice": ("LOAD_COLUMNS(2);", "LOAD_COLUMNS(1);"),
    "a product left out": ("LOAD_ROWS(2);\n            MULTIPLY();", "LOAD_ROWS(2);"),
    "the wrong half": (
        "TILE_LOAD(7, b + (part) * AMX_PART + AMX_PART / 2, 64)",
        "TILE_LOAD(7, b + (part) * AMX_PART, 64)",
    ),
    "pairs of k the wrong way": ("2 * j + k % 2] = from[k", "2 * j + 1 - k % 2] = from[k"),
    "the last sums not added": ("    amx_add(&results[turn ^ 1], ldc);\n", ""),
    "panels of k not accumulated": ("tile->accumulate = accumulate || k0;", "tile->accumulate = accumulate;"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_checks_see_a_fault(tmp_path, fault):
    before, after = FAULTS[fault]
    source = (KERNELS / "tile_amx.h").read_text()
    assert source.count(before) == 1
    (tmp_path / "tile_amx.h").write_text(source.replace(before, after))
    changed = tmp_path / SOURCE.name
    changed.write_text(SOURCE.read_text())
    products = Products(tmp_path, "-O0", "-DLRPFAST_EMULATE_AMX", f"-I{tmp_path}", source=changed)
    assert disagreements(products, SIZES[3:8])


def test_large_layers_take_it(monkeypatch):
    """By their size alone: any part of a batch has the same bits."""
    if not NATIVE:
        pytest.skip(f"this processor, system or compiler has no x86-64-amx: {', '.join(_cpu.instruction_sets())}")
    random = np.random.default_rng(0)
    w = (random.normal(size=(512, 520)) / 20).astype("f4")
    model = lrpfast.from_layers([lrpfast.layers.Dense(w)])
    x = random.normal(size=(70, 512)).astype("f4")
    found = {}
    for name in ("amx", "v4"):
        monkeypatch.setenv("LRPFAST_ISA", name)
        analyzer = lrpfast.Analyzer(model, "epsilon", device="cpu", threads=2)
        found[name] = analyzer.analyze(x)
        packed = analyzer.plan().packed
        least = 2 * 6 * w.size if name == "amx" else 0  # forwards and backwards; columns are filled up
        assert least <= packed.tiles <= 1.1 * least and packed.tiles <= packed.total
        assert ("6 a value" in str(analyzer.plan())) == (name == "amx")
        parts = [analyzer.analyze(x[rows]) for rows in (slice(0, 1), slice(1, 20), slice(20, 70))]
        assert np.concatenate(parts).tobytes() == found[name].tobytes()
    assert found["amx"].tobytes() != found["v4"].tobytes()
    assert np.allclose(found["amx"], found["v4"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("isa", _cpu.instruction_sets())
def test_bf16x2_is_float32_where_no_tiles_multiply(monkeypatch, isa):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    random = np.random.default_rng(0)
    w = (random.normal(size=(512, 520)) / 20).astype("f4")
    x = random.normal(size=(3, 512)).astype("f4")
    found = []
    for layer in (lrpfast.layers.Dense(w), lrpfast.layers.Dense(w[:12, :8])):
        model, some = lrpfast.from_layers([layer]), x[:, : layer.kernel.shape[0]]
        one, two, whole = (
            lrpfast.Analyzer(model, "epsilon", device="cpu", precision=p, target=0).analyze(some)
            for p in ("float32", "bf16x2", "float64")
        )
        assert np.abs(two - whole).max() < 1e-4 * np.abs(whole).max()
        found.append(one.tobytes() == two.tobytes())
    assert found == [isa != "x86-64-amx", True]


def test_bf16x2_is_for_cpus(standin):
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((3, 2), "f4"))])
    with pytest.raises(lrpfast.DeviceError, match="'bf16x2'.* a GPU; use precision='3xtf32'"):
        lrpfast.Analyzer(model, "epsilon", device="gpu", precision="bf16x2").analyze(np.ones((1, 3)))
