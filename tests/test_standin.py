"""The stand-in for CuPy finds the mistakes that it is there to find."""

import numpy as np
import pytest

import standin_loader

CODE = r"""
extern "C" __global__ void scale(const float* x, float* y, int n, float a) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i];
}
template <class T> __device__ void flip(const T* x, T* y, bool wait) {
    __shared__ T part[64];
    part[threadIdx.x] = x[threadIdx.x];
    if (wait) __syncthreads();
    y[threadIdx.x] = part[63 - threadIdx.x];
}
#define FLIP(T, NAME) \
    extern "C" __global__ void __launch_bounds__(64) flip_##NAME(const T* x, T* y, bool wait) { flip(x, y, wait); }
FLIP(float, f32)
FLIP(double, f64)
extern "C" __global__ void diverge(int* y) {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
    y[threadIdx.x] = 1;
}
extern "C" __global__ void forget(float* y) {
    __shared__ float fixed[32];
    extern __shared__ float sized[];
    if (threadIdx.x < 16) fixed[threadIdx.x] = sized[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = fixed[threadIdx.x];
    y[32 + threadIdx.x] = sized[threadIdx.x];
}
extern "C" __global__ void reduce(const int* x, int* sum, unsigned* most, unsigned* odd) {
    int v = x[threadIdx.x];
    for (int step = 16; step; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
    if (threadIdx.x % 32 == 0) atomicAdd(sum, v);
    atomicMax(most, (unsigned)x[threadIdx.x]);
    unsigned votes = __ballot_sync(0xffffffffu, x[threadIdx.x] & 1);
    if (threadIdx.x == 0) *odd = votes;
}
#ifdef LRP_CPU_SHIM
extern "C" __global__ void tensor(const float* a, const float* b, float* d) {
    __shared__ __align__(16) float tile[8][8];
    int lane = threadIdx.x, g = lane >> 2, q = lane & 3;
    for (int i = lane; i < 64; i += 32) shim::cp_async(&tile[i / 8][i % 8], b + i, 4, 4);
    shim::cp_commit();
    shim::cp_wait(0);
    __syncthreads();
    unsigned fa[4], fb[2];
    for (int r = 0; r < 4; ++r) fa[r] = shim::to_tf32(a[(g + (r & 1) * 8) * 8 + q + (r >> 1) * 4]);
    for (int r = 0; r < 2; ++r) fb[r] = shim::to_tf32(tile[q + r * 4][g]);
    float acc[4] = {};
    shim::mma_m16n8k8(acc, fa, fb, __LINE__);
    for (int r = 0; r < 4; ++r) d[(g + (r >> 1) * 8) * 8 + q * 2 + (r & 1)] = acc[r];
}
#endif
"""


@pytest.fixture
def cupy():
    module = standin_loader.install()
    try:
        if module.standin.compiler() is None:
            pytest.skip("the stand-in for CuPy needs Linux and a C++ compiler")
        yield module
    finally:
        standin_loader.remove()


@pytest.fixture
def kernel(cupy):
    return cupy.RawModule(code=CODE).get_function


def _scale(kernel, x, y, factor=2, **where):
    kernel("scale")((2,), (64,), (x, y, np.int32(x.size), np.float32(factor)), **where)


def test_kernels_compute_in_every_order(cupy, kernel):
    host = np.arange(1000, dtype=np.float32)
    x, y = cupy.asarray(host), cupy.empty(1000, np.float32)
    for order in range(3):
        cupy.standin.CONFIG["order"] = order
        _scale(kernel, x, y, order)
        np.testing.assert_array_equal(y.get(), order * host)
    assert cupy.standin.LOG == [("scale", (2, 1, 1), (64, 1, 1))] * 3


def test_out_of_bounds_and_freed_memory(cupy, kernel):
    x, y = cupy.zeros(64, np.float32), cupy.empty(64, np.float32)
    kernel("scale")((1,), (64,), (x, y, np.int32(65), np.float32(1)))
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match=r"thread \(0,0,0\).* 0 bytes past the end"):
        y.get()
    kernel("scale")((1,), (64,), (x[:60].copy(), y[:59].copy(), np.int32(60), np.float32(1)))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="past the end"):
        cupy.cuda.Device().synchronize()
    address = x.data.ptr
    del x
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="freed"):
        gone = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(address, 256, None), 0)
        kernel("scale")((1,), (64,), (gone, y, np.int32(64), np.float32(1)))
        y.get()


@pytest.mark.parametrize(("name", "dtype"), [("flip_f32", np.float32), ("flip_f64", np.float64)])
def test_missing_barrier(cupy, kernel, name, dtype):
    host = np.arange(64, dtype=dtype)
    x, y = cupy.asarray(host), cupy.empty(64, dtype)
    for wait in (True, False):
        kernel(name)((3,), (64,), (x, y, np.bool_(wait)))
        assert np.array_equal(y.get(), host[::-1]) == wait


def test_divergent_barrier(cupy, kernel):
    kernel("diverge")((1,), (64,), (cupy.empty(64, np.int32),))
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="divergent __syncthreads in lines"):
        cupy.cuda.get_current_stream().synchronize()


def test_uninitialised_memory_is_nan(cupy, kernel):
    y = cupy.empty(64, np.float32)
    assert np.isnan(y.get()).all()
    kernel("forget")((2,), (32,), (y,), shared_mem=128)
    np.testing.assert_array_equal(np.isnan(y.get()), np.tile(np.arange(32) >= 16, 2))


def test_warps_and_atomics(cupy, kernel):
    host = np.arange(64, dtype=np.int32)
    for order in range(3):
        cupy.standin.CONFIG["order"] = order
        total, most, odd = cupy.zeros(1, np.int32), cupy.zeros(1, np.uint32), cupy.zeros(1, np.uint32)
        kernel("reduce")((1,), (64,), (cupy.asarray(host), total, most, odd))
        assert (total.item(), most.item(), odd.item()) == (host.sum(), 63, 0xAAAAAAAA)


def test_tensor_cores(cupy, kernel):
    a, b = np.random.default_rng(0).standard_normal((2, 16, 8)).astype(np.float32)
    d = cupy.empty((16, 8), np.float32)
    kernel("tensor")((1,), (32,), (cupy.asarray(a), cupy.asarray(b[:8]), d))
    np.testing.assert_allclose(d.get(), a @ b[:8], rtol=0, atol=1e-2)


def test_arguments_must_match(cupy, kernel):
    x, y, scale = cupy.zeros(64, np.float32), cupy.zeros(64, np.float32), kernel("scale")
    good = [x, y, np.int32(64), np.float32(1)]
    for i, bad in [(0, x.astype(np.float64)), (1, np.zeros(64, "f4")), (2, 64), (2, np.int64(64)), (3, np.float64(1))]:
        with pytest.raises(TypeError, match="argument"):
            scale((1,), (64,), [*good[:i], bad, *good[i + 1 :]])
    scale((1,), (64,), [x.data, y.data + 4, np.int32(63), np.float32(1)])
    for grid, block, shared in [((1, 65536), (1,), 0), ((1,), (1025,), 0), ((1,), (1,), 49153), ((0,), (1,), 0)]:
        with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
            scale(grid, block, good, shared_mem=shared)
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="INVALID_VALUE"):
        kernel("flip_f32")((1,), (65,), (x, y, np.bool_(True)))
    with pytest.raises(cupy.cuda.compiler.CompileException, match="kernel.cu"):
        cupy.RawModule(code='extern "C" __global__ void broken(int n) { nothing; }').compile()


def test_host_arrays_stay_out(cupy):
    x = cupy.zeros(3)
    for mix in (lambda: np.asarray(x), lambda: x + np.ones(3), lambda: np.add(np.ones(3), x)):
        with pytest.raises(TypeError):
            mix()
    with pytest.raises(TypeError):
        x[:] = np.ones(3)
    x[1:] += 2
    assert (x + 1).sum().get() == 7 and cupy.shares_memory(x, x[1:]) and x[0].shape == ()


def test_missing_event_between_streams(cupy, kernel):
    host = np.ones(64, np.float32)
    copying, computing = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    for wait in (True, False):
        x, y = cupy.empty(64, np.float32), cupy.empty(64, np.float32)
        x.set(host, stream=copying)
        if wait:
            computing.wait_event(copying.record())
        _scale(kernel, x, y, stream=computing)
        assert np.array_equal(y.get(stream=computing), 2 * host) == wait


def test_null_stream_waits_for_blocking_streams_only(cupy, kernel):
    for blocking in (True, False):
        x, y = cupy.empty(64, np.float32), cupy.empty(64, np.float32)
        x.set(np.ones(64, np.float32), stream=cupy.cuda.Stream(non_blocking=not blocking))
        _scale(kernel, x, y)
        assert np.array_equal(y.get(), np.full(64, 2)) == blocking


def test_pinned_memory_used_too_early(cupy):
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(256), np.float32, 64)
    stream = cupy.cuda.Stream(non_blocking=True)
    for host, wait in [(pinned, True), (pinned, False), (np.empty(64, np.float32), False)]:
        x = cupy.empty(64, np.float32)
        host[:] = 1
        x.set(host, stream=stream)
        if wait:
            stream.synchronize()
        host[:] = 2
        assert x.get(stream=stream)[0] == (2 if host is pinned and not wait else 1)
    x.get(stream=stream, out=pinned, blocking=False)
    assert pinned[0] == 2
    stream.synchronize()
    assert pinned[0] == 1


def test_wrong_device(cupy, kernel):
    cupy.standin.CONFIG["devices"] = 2
    with cupy.cuda.Device(1):
        x, y = cupy.zeros(64, np.float32), cupy.zeros(64, np.float32)
        _scale(kernel, x, y)
    assert x.device.id == 1 and cupy.cuda.runtime.getDevice() == 0
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="array of device 1 while device 0"):
        _scale(kernel, x, y)
    with pytest.raises(ValueError, match="current device"):
        x + 1
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidDevice"):
        cupy.cuda.Device(2).use()


def test_out_of_memory(cupy):
    config, pool = cupy.standin.CONFIG, cupy.get_default_memory_pool()
    before = pool.used_bytes()
    config["memory"] = before + 10000
    x = cupy.empty(8000, np.int8)
    assert pool.used_bytes() == before + 8192 and cupy.cuda.runtime.memGetInfo() == (1808, before + 10000)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(4000, np.int8)
    del x
    assert (pool.used_bytes(), pool.free_bytes()) == (before, 8192)
    pool.free_all_blocks()
    assert cupy.cuda.Device().mem_info[0] == 10000
    config["fail_allocation"] = lambda size: size > 1000
    cupy.empty(100, np.int8)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(2000, np.int8)
    with pytest.raises(AssertionError):
        pool.set_limit(1)


def test_capture_and_replay(cupy, kernel):
    x, y = cupy.ones(64, np.float32), cupy.zeros(64, np.float32)
    main, side = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    main.wait_event(cupy.cuda.get_current_stream().record())
    with main:
        main.begin_capture()
        _scale(kernel, x, y, 3)
        side.wait_event(main.record())
        _scale(kernel, y, x, 2, stream=side)
        main.wait_event(side.record())
        graph = main.end_capture()
        assert cupy.standin.LOG == []
        for _ in range(2):
            graph.launch()
        assert x.get()[0] == 36
        main.begin_capture()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureUnsupported"):
            x.get()
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureInvalidated"):
            main.end_capture()
        del y
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="an array that is gone"):
            graph.launch()


def test_gemm(cupy):
    from cupy_backends.cuda.libs import cublas

    rng = np.random.default_rng(1)
    handle, stream = cublas.create(), cupy.cuda.Stream(non_blocking=True)
    cublas.setStream(handle, stream.ptr)
    for dtype, code, kinds in [(np.float32, 0, (68, 77)), (np.float64, 1, (70,))]:
        a, b = rng.standard_normal((5, 7)).astype(dtype), rng.standard_normal((7, 4)).astype(dtype)
        one, nil = np.ones(1, dtype), np.zeros(1, dtype)
        for kind in kinds:
            x, w, z = cupy.empty((5, 7), dtype), cupy.empty((4, 7), dtype), cupy.empty((5, 4), dtype)
            x.set(a, stream=stream)
            w.set(np.ascontiguousarray(b.T), stream=stream)
            # row-major z = x w^T is column-major z^T = w x^T
            cublas.gemmEx(
                handle, cublas.CUBLAS_OP_T, cublas.CUBLAS_OP_N, 4, 5, 7, one.ctypes.data, w.data.ptr, code, 7,
                x.data.ptr, code, 7, nil.ctypes.data, z.data.ptr, code, 4, kind, cublas.CUBLAS_GEMM_DEFAULT,
            )  # fmt: skip
            error = np.abs(z.get(stream=stream) - a @ b).max()
            assert error < 1e-5 if kind != 77 else 1e-5 < error < 1e-2
    with pytest.raises(cublas.CUBLASError):
        cublas.gemmEx(handle, 0, 0, 1, 1, 1, 0, 0, 2, 1, 0, 2, 1, 0, 0, 2, 1, 64, -1)
    cublas.destroy(handle)
    cupy.standin.CONFIG["cublas"] = False
    with pytest.raises(ImportError):
        cublas.create()


def test_arrays_of_others_share_memory(cupy):
    x = cupy.zeros((2, 3), np.float32)

    class Tensor:
        def __dlpack_device__(self):
            return x.__dlpack_device__()

        def __dlpack__(self, **kwargs):
            return x.__dlpack__(**kwargs)

    class Shown:
        __cuda_array_interface__ = x.__cuda_array_interface__

    for other in (x, Tensor()):
        cupy.from_dlpack(other)[...] += 1
    cupy.asarray(Shown())[0] += 1
    np.testing.assert_array_equal(x.get(), [[3, 3, 3], [2, 2, 2]])
    assert x.__dlpack_device__() == (2, 0)


def test_the_loader_undoes_itself(cupy):
    import sys

    standin_loader.remove()
    assert sys.modules.get("cupy") is not cupy
    assert standin_loader.install() is cupy
