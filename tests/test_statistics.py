"""Statistics of maps on the fly: right to the last digits, and the same bits however the samples were split."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrpfast.batch import Statistics, data_bounds
from lrpfast.batch.bounds import outside
from lrpfast.batch.normalize import NORMALIZATIONS, normalize_rows
from lrpfast.batch.sketch import FLOOR, RELATIVE_ERROR
from lrpfast.errors import InputError, ShapeError

RESULTS = ("count", "valid", "mean", "std", "positive", "negative", "minimum", "maximum")
Q = (0, 0.05, 0.25, 0.5, 0.9, 1)


def maps(samples, shape=(3, 5), dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((samples, *shape)).astype(dtype)


def counted(x, group=None, cuts=(), threads=1, **options):
    made = Statistics(x.shape[1:], **options)
    borders = [0, *cuts, len(x)]
    for first, end in zip(borders, borders[1:], strict=False):
        made.update(first, x[first:end], None if group is None else group[first:end], threads=threads)
    return made


def results(statistics):
    """Every result's bytes."""
    values = [getattr(statistics, name) for name in RESULTS]
    try:
        values.append(statistics.quantile(Q))
    except InputError:
        assert statistics._sketch is None
    return [value.tobytes() for value in values]


def check(statistics, x, group=None, rtol=1e-13):
    """Against NumPy's float64."""
    group = np.zeros(len(x), int) if group is None else group
    for g in range(len(statistics.groups)):
        rows = x[group == g].astype(np.float64)
        valid = (~np.isnan(rows)).sum(0)
        assert statistics.count[g] == len(rows)
        np.testing.assert_array_equal(statistics.valid[g], valid)
        some = valid > 0
        for name, make in {
            "mean": np.nanmean,
            "std": np.nanstd,
            "minimum": np.nanmin,
            "maximum": np.nanmax,
            "positive": lambda r, axis: (r > 0).sum(axis) / (~np.isnan(r)).sum(axis),
            "negative": lambda r, axis: (r < 0).sum(axis) / (~np.isnan(r)).sum(axis),
        }.items():
            got = getattr(statistics, name)[g]
            assert got.dtype == np.float64 and got.shape == x.shape[1:]
            assert np.isnan(got[~some]).all()
            if some.any():
                np.testing.assert_allclose(got[some], make(rows[:, some], axis=0), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("samples", [1, 2, 255, 256, 257, 1300])
def test_against_numpy(samples, dtype):
    x = maps(samples, dtype=dtype)
    group = np.random.default_rng(1).integers(-1, 3, samples)
    check(counted(x), x)
    check(counted(x, group, groups=["a", "b", "c"]), x, group)


def test_masked_features_do_not_count():
    x = maps(700, (600,))
    x[:, 3] = np.nan  # land
    x[::2, 4] = np.nan
    x[:300, 5] = np.nan  # a whole block
    x[1:, 6] = np.nan
    group = np.arange(700) % 2
    check(counted(x), x)
    check(counted(x, group, groups=2), x, group)


def test_empty_groups_and_no_samples():
    x = maps(10)
    made = counted(x, np.ones(10, int), groups=3)
    assert made.count.tolist() == [0, 10, 0]
    assert np.isnan(made.mean[[0, 2]]).all() and np.isnan(made.minimum[0]).all() and not np.isnan(made.std[1]).any()
    nothing = Statistics((2, 2), quantiles=True)
    nothing.update(0, np.empty((0, 2, 2), np.float32))
    assert np.isnan(nothing.mean).all() and np.isnan(nothing.quantile(0.5)).all() and nothing.valid.sum() == 0
    check(counted(maps(5, ())), maps(5, ()))
    assert counted(np.empty((5, 0))).mean.shape == (1, 0)


def exact(values):
    """Mean and standard deviation by exact sums."""
    values = [float(v) for v in values]
    mean = math.fsum(values) / len(values)
    rest = math.fsum((v - mean) for v in values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values) - rest**2)


@pytest.mark.parametrize("kind", ["offset", "heavy", "outlier first", "outlier last", "drift", "constant", "tiny"])
def test_hard_cases(kind):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1500, 3))
    if kind == "offset":
        x = 1e8 + 1e-3 * x
    elif kind == "heavy":
        x = rng.standard_cauchy((1500, 3)) ** 3
    elif kind.startswith("outlier"):
        x[0 if kind == "outlier first" else -1] = 1e9
    elif kind == "drift":
        x = 1e6 + np.arange(1500)[:, None] * 1e-3 + 1e-6 * x
    elif kind == "constant":
        x[:] = 1e8 / 3
    else:
        x *= 1e-150
    made = counted(x)
    for j in range(3):
        mean, std = exact(x[:, j])
        assert made.mean[0, j] == pytest.approx(mean, rel=1e-15, abs=1e-15 * np.abs(x[:, j]).max())
        assert made.std[0, j] == pytest.approx(std, rel=1e-12, abs=0)


# The same bits


@st.composite
def splits(draw):
    """Samples, and ranges of them that begin at block borders, each cut anywhere, in any order."""
    samples = draw(st.integers(1, 1400))
    blocks = -(-samples // 256)
    starts = sorted({0} | draw(st.sets(st.integers(0, blocks - 1), max_size=5)))
    ranges = [(256 * a, min(samples, 256 * b)) for a, b in zip(starts, [*starts[1:], blocks], strict=False)]
    cuts = {r: sorted(draw(st.sets(st.integers(r[0] + 1, max(r[0] + 1, r[1] - 1)), max_size=4))) for r in ranges}
    cuts = {r: [c for c in each if r[0] < c < r[1]] for r, each in cuts.items()}
    return samples, draw(st.permutations(ranges)), cuts


@given(splits(), st.integers(1, 3), st.booleans())
def test_every_split_gives_the_same_bits(split, processes, quantiles):
    samples, ranges, cuts = split
    x = maps(samples, (40,), seed=samples)
    x[np.random.default_rng(0).random(x.shape) < 0.1] = np.nan
    x *= np.exp2(np.arange(samples, dtype=np.float32) % 50)[:, None]  # so that windows of buckets move
    group = np.random.default_rng(1).integers(-1, 3, samples)
    options = {"groups": 3, "quantiles": quantiles}
    whole = results(counted(x, group, **options))
    workers = [Statistics((40,), **options) for _ in range(processes)]
    for i, (first, end) in enumerate(ranges):
        worker = workers[i % processes]
        borders = [first, *cuts[first, end], end]
        for a, b in zip(borders, borders[1:], strict=False):
            worker.update(a, x[a:b], group[a:b])
            worker = Statistics.from_state(pickle.loads(pickle.dumps(worker.state())))
        workers[i % processes] = worker
    merged = workers.pop()
    for worker in workers:
        merged.merge(worker)
    assert results(merged) == whole


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_give_the_same_bits(dtype):
    x = maps(600, (3000,), dtype)
    x[:, 7] = np.nan
    group = np.arange(600) % 2
    one = results(counted(x, group, groups=2, quantiles=True))
    for threads in (2, 3, 5):
        assert results(counted(x, group, groups=2, quantiles=True, threads=threads)) == one


def test_signed_zeros_have_no_order():
    x = np.array([[0.0], [-0.0]])
    assert results(counted(x)) == results(counted(x[::-1].copy()))


def test_state_is_the_same_object():
    x = maps(1000)
    made = counted(x, cuts=(300,), quantiles=True, groups=["all"])
    state = made.state()
    assert all(isinstance(value, np.ndarray) and value.dtype != object for value in state.values())
    again = Statistics.from_state(state)
    assert again.groups == made.groups and again.shape == made.shape
    for name, value in again.state().items():
        assert value.dtype == state[name].dtype and value.tobytes() == state[name].tobytes(), name
    again.update(1000, maps(500, seed=1))
    assert len(made.count) == 1 and made.count[0] == 1000
    made.update(1000, maps(500, seed=1))
    assert results(again) == results(made)


# Errors


def test_samples_out_of_turn():
    x = maps(1024)
    made = counted(x[:300])
    for first in (0, 128, 256, 299):
        with pytest.raises(InputError, match="already"):
            made.update(first, x[:20])
    with pytest.raises(InputError, match="301 on came where sample 300 was expected"):
        made.update(301, x[:20])
    with pytest.raises(InputError, match="must begin at a multiple of 256"):
        made.update(513, x[:20])
    made.update(512, x[512:])
    with pytest.raises(InputError, match="samples 300 to 511 are missing"):
        _ = made.mean
    with pytest.raises(InputError, match="sample 512 has been counted already"):
        made.update(300, x[300:600])
    made.update(300, x[300:512])
    assert results(made) == results(counted(x))
    late = Statistics((3, 5))
    late.update(256, x[256:])
    with pytest.raises(InputError, match="samples 0 to 255 are missing"):
        _ = late.std


def test_merging_refuses():
    x = maps(600)
    with pytest.raises(InputError, match="both have counted samples between 512 and 767"):
        late = Statistics((3, 5))
        late.update(512, x[512:])
        counted(x).merge(late)
    for other in (Statistics((3,)), Statistics((3, 5), groups=2), Statistics((3, 5), quantiles=True)):
        with pytest.raises(InputError, match="merge"):
            counted(x).merge(other)


def test_wrong_arguments():
    made = Statistics((3, 5), groups=["a", "b"])
    x = maps(4)
    with pytest.raises(InputError, match="group= must say"):
        made.update(0, x)
    for group in ([0, 1, 2, 0], [0, -2, 0, 0], [0, 1], [0.0, 1.0, 0.0, 0.0]):
        with pytest.raises(InputError, match="group must be"):
            made.update(0, x, np.array(group))
    for first in (-1, 0.0, True):
        with pytest.raises(InputError, match="first"):
            made.update(first, x, np.zeros(4, int))
    with pytest.raises(ShapeError, match=r"\(4, 3, 4\)"):
        made.update(0, x[:, :, :4], np.zeros(4, int))
    with pytest.raises(InputError, match="C-contiguous"):
        made.update(0, x[::2], np.zeros(2, int))
    with pytest.raises(InputError, match="int64"):
        made.update(0, x.astype(int), np.zeros(4, int))
    with pytest.raises(InputError, match="threads"):
        made.update(0, x, np.zeros(4, int), threads=0)
    for groups in (0, True, [], ["a", "a"], ["a", 1], [0.5], "ab", [[1]]):
        with pytest.raises(InputError, match="groups must be"):
            Statistics((2,), groups=groups)
    with pytest.raises(
        InputError, match=r"not asked for: stream\(…, quantiles=\(0.5,\)\) or Statistics\(…, quantiles=True"
    ):
        made.quantile(0.5)
    with pytest.raises(InputError, match="take 16 MiB, more than the 1 MiB"):
        Statistics((8200,), quantiles=True, quantile_memory=1 << 20)
    with pytest.raises(InputError, match="between 0 and 1"):
        Statistics((2,), quantiles=True).quantile([0.5, np.nan])


def test_values_too_large():
    x = maps(300)
    x[280, 2, 1] = -np.inf
    with pytest.raises(InputError, match=r"x\[280, 2, 1\] is infinite"):
        counted(x)
    made = Statistics((3, 5))
    for match in ("is infinite", "was counted before"):
        with pytest.raises(InputError, match=match):
            made.update(int(made.count[0]), x[280:281] if match == "is infinite" else x[:1])
    big = np.array([[1e200], [-1e200]])
    with pytest.raises(InputError, match="too large to square"):
        _ = counted(big).std


# Quantiles


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["normal", "heavy", "signs", "denormal", "masked"])
def test_quantiles_are_within_their_bound(kind, dtype):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((901, 30))
    if kind == "heavy":
        x = np.sign(x) * np.exp(4 * x)
    elif kind == "signs":
        x = np.abs(x) * np.where(np.arange(30) % 2, 1, -1)
        x[:, :3] = 0
    elif kind == "denormal":
        x *= 1e-40
    elif kind == "masked":
        x[rng.random(x.shape) < 0.3] = np.nan
        x[:, 4] = np.nan
    x = x.astype(dtype)
    q = np.linspace(0, 1, 41)
    got = counted(x, quantiles=True).quantile(q)
    assert got.shape == (41, 1, 30)
    for j in range(30):
        values = x[:, j][~np.isnan(x[:, j])].astype(np.float64)
        if len(values) == 0:
            assert np.isnan(got[:, 0, j]).all()
            continue
        right = np.quantile(values, q, method="lower")
        error = np.abs(got[:, 0, j] - right)
        small = np.abs(right) < FLOOR * np.abs(values).max()
        assert (error[~small] <= RELATIVE_ERROR * (1 + 1e-12) * np.abs(right[~small])).all()
        assert (error[small] <= np.maximum(np.abs(right[small]), 0)).all()


# Results for files


def test_to_dict():
    made = counted(maps(20), groups=["a"], quantiles=True)
    named = made.to_dict(("lat", "lon"), q=[0.5])
    assert list(named) == [
        "group",
        "count",
        "zero",
        "valid",
        *RESULTS[2:4],
        "minimum",
        "maximum",
        *RESULTS[4:6],
        "agreement",
        "p_value",
        "significant",
        "q",
        "quantile",
    ]
    for dims, values in named.values():
        assert len(dims) == values.ndim
    assert named["mean"][0] == ("group", "lat", "lon") and named["quantile"][0] == ("q", "group", "lat", "lon")
    assert made.to_dict()["std"][0] == ("group", "feature_0", "feature_1")
    with pytest.raises(ShapeError, match="dims"):
        made.to_dict(("lat",))


# Normalizing


def divisors(rows, how):
    rows = np.where(np.isnan(rows), 0, rows).astype(np.float64)
    with np.errstate(over="ignore"):
        return {
            "maxabs": lambda: np.abs(rows).max(1, initial=0),
            "sum": lambda: rows.sum(1),
            "max": lambda: rows.max(1, initial=0),
            "l1": lambda: np.abs(rows).sum(1),
        }[how]()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", NORMALIZATIONS)
@pytest.mark.parametrize("columns", [1, 15, 16, 100, 1000])
def test_normalize_rows(how, columns, dtype):
    x = maps(300, (columns,), dtype)
    x[::7] = 0
    x[3::7] *= 1e-38
    x[5::7] = -np.abs(x[5::7])
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    by = divisors(x, how)
    good = by != 0
    assert np.abs(by[good]).min() > 0
    expected = x.astype(np.float64)
    expected[good] /= by[good, None]
    results = []
    for threads in (1, 2, 3):
        got = x.copy()
        assert normalize_rows(got, how, threads=threads) == (~good).sum()
        results.append(got.tobytes())
        assert got[~good].tobytes() == x[~good].tobytes()
    assert results[0] == results[1] == results[2]
    # a sum's float64 error, over what its terms cancel to
    spread = np.nansum(np.abs(x.astype(np.float64)), 1) / np.where(good, np.abs(by), 1)
    allowed = np.finfo(dtype).eps + 2.0**-53 * columns * spread[:, None]
    assert (np.abs(got - expected) <= allowed * np.abs(expected) + np.finfo(dtype).tiny)[~np.isnan(x)].all()


@pytest.mark.parametrize("how", NORMALIZATIONS)
def test_normalize_extremes(how):
    tiny = np.float32(1e-45)
    x = np.array([[tiny, 0], [3e38, 3e38], [np.nan, np.nan], [-0.0, 0.0]], np.float32)
    assert normalize_rows(x, how) == 2
    np.testing.assert_array_equal(x[0], [1, 0])
    np.testing.assert_allclose(x[1], [0.5, 0.5] if how in ("sum", "l1") else [1, 1])
    big = np.array([[1.7e308, 1.7e308], [1.0, 1.0]])
    assert normalize_rows(big, how) == (how in ("sum", "l1"))  # the sum overflows
    cancel = np.array([[3e38, -3e38, 1e-3]], np.float32)
    assert normalize_rows(cancel, how) == (how == "sum")
    assert normalize_rows(np.empty((3, 0)), how) == 3
    with pytest.raises(InputError, match="normalize must be one of maxabs, sum, max, l1"):
        normalize_rows(x, "l2")


# Bounds


def blocks(x):
    return (x[first : first + 200] for first in range(0, len(x), 200))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_bounds(dtype):
    x = maps(500, dtype=dtype)
    low, high = data_bounds(blocks(x), "minmax")
    np.testing.assert_array_equal(low, x.min(0))
    np.testing.assert_array_equal(high, x.max(0))
    assert outside(x, low, high) == 0
    for k in (1, 3):
        low, high = data_bounds(blocks(x), f"{k}sigma")
        mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        np.testing.assert_allclose(low, mean - k * std, rtol=1e-12)
        np.testing.assert_allclose(high, mean + k * std, rtol=1e-12)
        beyond = ((x < low) | (x > high)).sum()
        assert outside(x, low, high) == outside(x, low, high, threads=2) == beyond > 0


def test_data_bounds_with_masks():
    x = maps(300)
    x[:, 1, 2] = np.nan
    x[7, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"feature \(0, 0\) is NaN in 1 samples; mask_nan=True"):
        data_bounds(blocks(x), "minmax")
    low, high = data_bounds(blocks(x), "3sigma", mask_nan=True)
    assert low[1, 2] == high[1, 2] == 0 and np.isfinite(low).all() and (low <= high).all()
    x[7, 0, 0] = 1e6
    assert outside(x, low, high) == ((x < low) | (x > high)).sum() > 0
    assert outside(x[:0], low, high) == 0
    with pytest.raises(InputError, match="at least one sample"):
        data_bounds(x[:0], "minmax")
    with pytest.raises(InputError, match="minmax, 1sigma, 3sigma"):
        data_bounds(blocks(x), "2sigma")


# Signs, zero maps, grids


def test_the_sign_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    from lrpfast.batch.sign_test import false_discovery, sign_test

    rng = np.random.default_rng(5)
    count = rng.integers(0, 400, 300)
    heads = rng.binomial(count, 0.55)
    larger = np.maximum(heads, count - heads)
    expected = [stats.binomtest(int(k), int(n)).pvalue if n else 1.0 for k, n in zip(larger, count, strict=True)]
    p = sign_test(larger, count)
    np.testing.assert_allclose(p, expected, rtol=1e-10)
    np.testing.assert_allclose(false_discovery(p), stats.false_discovery_control(p), rtol=1e-12)
    large = sign_test(np.array([500_000, 501_500, 700_000]), np.full(3, 1_000_000))
    np.testing.assert_allclose(large[:2], [1.0, stats.binomtest(501_500, 1_000_000).pvalue], rtol=1e-6)
    assert 0 <= large[2] < 1e-300


def test_known_values_of_the_sign_test():
    from lrpfast.batch.sign_test import false_discovery, sign_test

    p = sign_test(np.array([10, 9, 5, 0, 1]), np.array([10, 10, 10, 0, 1]))
    np.testing.assert_allclose(p, [2 / 1024, 22 / 1024, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(false_discovery(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert false_discovery(np.empty(0)).shape == (0,)


def test_agreement_and_significance():
    """Zeros count for no sign, NaN not at all, and each group's features are adjusted by themselves."""
    statistics = Statistics((4,), groups=["a", "b"])
    x = np.ones((40, 4))
    x[::2, 1] = -1
    x[:, 2] = np.where(np.arange(40) < 30, 0, -1)
    x[:, 3] = np.nan
    statistics.update(0, x, np.repeat([0, 1], 20))
    np.testing.assert_allclose(statistics.agreement, [[1, 0.5, 0, np.nan], [1, 0.5, 0.5, np.nan]])
    raw = statistics.p_value(adjust=False)
    np.testing.assert_allclose(raw, [[2.0**-19, 1, 1, np.nan], [2.0**-19, 1, 2.0**-9, np.nan]])
    np.testing.assert_allclose(statistics.p_value()[1, [0, 2]], [3 * 2.0**-19, 1.5 * 2.0**-9])
    np.testing.assert_array_equal(statistics.significant(), [[1, 0, 0, 0], [1, 0, 1, 0]])
    assert not statistics.significant(1e-6).any()
    with pytest.raises(InputError, match="level must be between"):
        statistics.significant(0)


@pytest.mark.parametrize("skip", [False, True])
def test_zero_maps_are_counted_and_left_out(skip):
    x = np.zeros((300, 2000), np.float32)
    x[::3, 1999] = 1
    x[1::3, 0] = np.nan  # a zero map with a masked feature
    whole = Statistics((2000,), groups=2, skip_zero=skip)
    whole.update(0, x, np.arange(300) % 2)
    np.testing.assert_array_equal(whole.zero, [100, 100])
    np.testing.assert_array_equal(whole.count, [50, 50] if skip else [150, 150])
    assert whole.mean[0, 1999] == (1 if skip else pytest.approx(1 / 3))
    parts = Statistics((2000,), groups=2, skip_zero=skip)
    parts.update(0, x[:256], np.arange(256) % 2)
    other = Statistics.from_state(Statistics((2000,), groups=2, skip_zero=skip).state())
    other.update(256, x[256:], np.arange(44) % 2)
    parts.merge(other)
    np.testing.assert_array_equal(parts.zero, whole.zero)
    np.testing.assert_array_equal(parts.mean, whole.mean)


def test_results_are_on_the_grid_of_a_mask():
    mask = np.array([[True, False], [True, True]])
    statistics = Statistics((3,), mask=mask, quantiles=True, group_name="season", groups=["DJF"])
    statistics.update(0, np.array([[1.0, 2.0, -3.0]]))
    np.testing.assert_array_equal(statistics.mean, [[[1, np.nan], [2, -3]]])
    assert statistics.valid.tolist() == [[[1, 0], [1, 1]]] and statistics.quantile(0.5).shape == (1, 1, 2, 2)
    copy = Statistics.from_state(statistics.state())
    assert copy.to_dict(("lat", "lon"))["mean"][0] == ("season", "lat", "lon") and copy.map_shape == (2, 2)
    assert not copy.significant().any()
    with pytest.raises(InputError, match="mask must be True at"):
        Statistics((4,), mask=mask)
