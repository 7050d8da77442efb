"""Tiles by wgmma (LRPFAST_GPU_TILE=wgmma): the stand-in's instruction, depths of many steps, planted faults.

Of networks of all kinds test_gpu_trials.py holds that these tiles give the bits of those in use.
"""

import re

import numpy as np
import pytest

import cases
import lrpfast

CODE = r"""
// 64 x 128 sums: a (64, 32) b (32, 128), the second operand swizzled as the test says
#define PATTERN (8 * 32)
extern "C" __global__ void multiply(const float* a, const float* b, const int* chunks, float* d) {
    extern __shared__ __align__(1024) float rows[];
    int t = threadIdx.x, w = t / 32, g = t % 32 / 4, q = t % 4;
    for (int i = t; i < 128 * 32; i += 128) {
        int n = i / 32, k = i % 32;
        rows[n / 8 * PATTERN + n % 8 * 32 + chunks[n % 8 * 8 + k / 4] * 4 + k % 4] = b[k * 128 + n];
    }
    shim::proxy_fence();
    __syncthreads();
    float sums[64] = {};
    for (int k = 0; k < 32; k += 8) {
        unsigned part[4];
        for (int e = 0; e < 4; ++e)
            part[e] = __float_as_uint(a[(w * 16 + g + e % 2 * 8) * 32 + k + q + e / 2 * 4]);
        unsigned long long start = shim::shared_address(rows) / 16 + k / 4;
        shim::wgmma_fence();
        shim::wgmma_m64n128k8(sums, part, 1ull << 62 | 1024ull / 16 << 32 | 1ull << 16 | start, k > 0, __LINE__);
        shim::wgmma_commit();
        shim::wgmma_wait(__LINE__);
    }
    for (int e = 0; e < 64; ++e)
        d[(w * 16 + g + e / 2 % 2 * 8) * 128 + e / 4 * 8 + q * 2 + e % 2] = sums[e];
}
"""


@pytest.mark.parametrize("order", [0, 1, 2])
def test_the_instruction(order, standin):
    """Rows of 128 bytes, whose chunk c lies at c xor the row's number in its eight."""
    import cupy

    standin.CONFIG["order"] = order
    rng = np.random.default_rng(1)
    a, b = rng.integers(-8, 9, (64, 32)).astype(np.float32), rng.integers(-8, 9, (32, 128)).astype(np.float32)
    chunks = (np.arange(8)[:, None] ^ np.arange(8)).astype(np.int32)
    kernel, d = cupy.RawModule(code=CODE).get_function("multiply"), cupy.empty((64, 128), np.float32)
    kernel((1,), (128,), (cupy.asarray(a), cupy.asarray(b), cupy.asarray(chunks), d), shared_mem=128 * 32 * 4)
    np.testing.assert_array_equal(d.get(), a @ b)


RULE = {"tf32": "alpha_beta", "3xtf32": "epsilon"}


def explained(standin, monkeypatch, tile, precision, order=2):
    """Relevance of a network whose second layer has ten steps of K forwards, and five backwards."""
    from lrpfast.kernels.cuda import devices, tiles

    devices.forget()
    standin.CONFIG.update(multiprocessors=1, cublas=False, order=order)
    standin.LOG.clear()
    monkeypatch.setattr(tiles, "CHOICE", tile)
    layers = [lrpfast.layers.Dense(layer.w, layer.b) for layer in cases.network((3, 300, 132))]
    layers.insert(1, lrpfast.layers.Activation("relu"))
    model = lrpfast.from_layers(layers)
    r = np.random.default_rng(3).normal(size=(260, 132)).astype(np.float32)
    analyzer = lrpfast.Analyzer(model, RULE[precision], precision=precision, device="gpu")
    relevance = analyzer.analyze(cases.inputs(260, 3), r)
    return relevance.tobytes(), {name for name, *_ in standin.LOG if name.startswith(tile)}


@pytest.mark.parametrize("precision", RULE)
def test_many_steps(precision, standin, monkeypatch):
    expected, _ = explained(standin, monkeypatch, "wide", precision)
    for order in range(3):
        found, launched = explained(standin, monkeypatch, "wgmma", precision, order)
        assert launched and found == expected


@pytest.mark.parametrize("capability", ["80", "100"])
def test_other_devices_do_not_have_it(capability, standin, monkeypatch):
    standin.CONFIG["compute_capability"] = capability
    assert not explained(standin, monkeypatch, "wgmma", "tf32")[1]


def test_a_compiler_that_refuses(standin, monkeypatch):
    from lrpfast.kernels.cuda import modules

    source = modules.source
    monkeypatch.setattr(modules, "source", lambda m: "#error twice\n" if m == "wgmma_tile" else source(m))
    with pytest.raises(lrpfast.DeviceError, match="needs the compiler of CUDA 13 .*; the compiler says: .*twice"):
        explained(standin, monkeypatch, "wgmma", "tf32")


#: what is planted: text, what takes its place, the precision under which it must show, what is said if not the result
FAULTS = {
    "chunks are not exchanged": ("(k / 4 ^ r % 8) * 4 + k % 4", "k", "tf32", None),
    "groups of rows too close": ("apart = 8 * SWIZZLED", "apart = 4 * SWIZZLED", "tf32", None),
    "no pattern is told of": ("exchanged = 1ull << 62", "exchanged = 0", "tf32", "128-byte swizzling"),
    "a step along K forgotten": (" + k * sizeof(float) / 16;", ";", "tf32", None),
    "nothing waits": ("        WGMMA_WAIT();\n", "", "tf32", "never waited for|has changed"),
    "nothing is committed": ("        WGMMA_COMMIT();\n", "", "tf32", "never waited for"),
    "registers are not fenced": ("        WGMMA_FENCE();\n", "", "tf32", "without wgmma.fence"),
    "copies are not shown": ("PROXY_FENCE();\n        sums.end", "sums.end", "tf32", "has not shown"),
    "no barrier after a step": ("sums.end();\n        __syncthreads();", "sums.end();", "tf32", None),
    "one copy too few is waited for": (
        "wait_for_group<STAGES - 2>();\n        if (s + 1",
        "wait_for_group<STAGES - 1>();\n        if (s + 1",
        "tf32",
        None,
    ),
    "the next copies overwrite the step in use": (
        "loader_a.load(state, rows, tiles[(s + STAGES - 1) % STAGES]);\n            loader_b",
        "loader_a.load(state, rows, tiles[s % STAGES]);\n            loader_b",
        "tf32",
        None,
    ),
    "later steps are not rounded": (
        "if (s + 1 < steps)\n            finish_copies",
        "if (false)\n            finish_copies",
        "tf32",
        None,
    ),
    "a fragment's halves exchanged": (
        "e / 2 * 4) * Operands::LDB + column() + e % 2 * 8",
        "e % 2 * 4) * Operands::LDB + column() + e / 2 * 8",
        "tf32",
        None,
    ),
    "the second half of the rows is the first": ("t.a + i * 128 * SWIZZLED", "t.a", "tf32", None),
    "the low half of the rows is left out": ("describe(t.low, k), 0", "describe(t.a, k), 0", "3xtf32", None),
    "sums of eight products do not begin at zero": ("describe(t.low, k), 0", "describe(t.low, k), 1", "3xtf32", None),
}


@pytest.mark.share
@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_found(name, standin, monkeypatch):
    from lrpfast.kernels.cuda import modules

    text, other, precision, said = FAULTS[name]
    expected, _ = explained(standin, monkeypatch, "wide", precision)
    source = modules.source
    assert text in source("wgmma_tile"), "the source has changed; plant the fault anew"
    monkeypatch.setattr(modules, "source", lambda m: source(m).replace(text, other) if m == "wgmma_tile" else source(m))
    found = []
    for order in range(3):
        try:
            relevance, _ = explained(standin, monkeypatch, "wgmma", precision, order)
        except Exception as error:
            found.append(str(error))
        else:
            found += [] if relevance == expected else ["other values"]
    assert found, "nothing was noticed"
    if said is not None:
        assert all(re.search(said, what) for what in found), found
