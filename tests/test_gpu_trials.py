"""Tiles that have not been measured (LRPFAST_GPU_TILE): right results, which are the bits of the tiles in use."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from tolerances import Expected

#: the tiles of each precision; rules with one sum and with two
PRECISIONS = {"float32": ("lean", "large"), "tf32": ("lean", "large", "wgmma"), "3xtf32": ("large", "wgmma")}
TRIALS = [(tile, precision) for precision, found in PRECISIONS.items() for tile in found]
RULES = (("epsilon", {"epsilon": 0.1}), ("alpha_beta", {}))
W = cases.Weights(21)
trials = pytest.mark.parametrize(("tile", "precision"), TRIALS)


@pytest.fixture
def choose(standin, monkeypatch):
    """Chooses a tile, on a device that some large tiles fill."""
    from lrpfast.kernels.cuda import tiles

    def choose(name, order=2):
        standin.CONFIG.update(multiprocessors=1, cublas=False, order=order)
        standin.LOG.clear()
        monkeypatch.setattr(tiles, "CHOICE", name)

    return choose


def launched(standin, tile):
    """The kernels of the tile that ran."""
    return {name for name, *_ in standin.LOG if name.startswith(tile)}


def relevance(shape, layers, rule, x, precision):
    """A network's, and what is expected; its first layer makes rows that are copied by 16 bytes, unlike the input's."""
    net = oracle_layers.chain(shape, *layers)
    r = cases.values(net.forward([x[0]]).shapes[-1], len(x), seed=9)
    rules = [None] + [rule] * len(layers)
    expected = Expected(lambda ar: net.explain(rules, x, list(np.float64(r).reshape(len(x), -1)), ar))
    analyzer = lrpfast.Analyzer(cases.graph(net), cases.composite({}, rule), precision=precision, device="gpu")
    return cases.flat(analyzer.analyze(x, r), len(x)), expected


def compare(tile, choose, standin, order=2, **case):
    """A tile's result has the bits of the tile in use: every sum runs over k in order, whatever the tile."""
    choose("wide", order)
    wide, _ = relevance(**case)
    assert launched(standin, "wide")
    choose(tile, order)
    found, expected = relevance(**case)
    assert found.tobytes() == wide.tobytes()
    return found, expected


@trials
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule[0])
def test_dense(rule, tile, precision, choose, standin):
    weights = cases.Weights(21)
    layers = weights.dense(3, 20, activation="relu"), weights.dense(20, 132)
    case = {"shape": (3,), "layers": layers, "rule": rule, "x": cases.values((3,), 260), "precision": precision}
    found, expected = compare(tile, choose, standin, **case)
    assert launched(standin, tile)
    if precision != "tf32":  # of so many values some lie in the middle of two TF32 numbers
        expected.check(found, precision)


CONVOLUTIONS = {
    "2d": ((9, 15, 2), 2, W.conv((1, 1), 2, 4, activation="relu"), W.conv((3, 2), 4, 132, padding="same")),
    "strides": ((23, 5, 2), 5, W.conv((1, 1), 2, 68, activation="relu"), W.conv((2, 1), 68, 130, strides=(2, 1))),
    "groups": ((131, 2), 2, W.conv((1,), 2, 8, activation="relu"), W.conv((3,), 4, 132, groups=2, padding="same")),
    "no quads": (
        (9, 3, 5, 2),
        2,
        W.conv((1, 1, 1), 2, 3, activation="relu"),
        W.conv((2, 1, 2), 3, 130, padding="same"),
    ),
}


@trials
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, tile, precision, choose, standin):
    shape, count, *layers = CONVOLUTIONS[name]
    order = (list(CONVOLUTIONS).index(name) + len(precision)) % 3
    rule = RULES[order % 2]
    x = cases.values(shape, count)
    compare(tile, choose, standin, order, shape=shape, layers=layers, rule=rule, x=x, precision=precision)
    whole = name != "no quads" or precision == "float32"
    assert bool(launched(standin, tile)) == whole, "on tensor cores, rows are whole quads"


def test_few_tiles_are_not_large(choose, standin):
    """Where they would leave processors idle, K is split as for the tile in use."""
    (layer,) = cases.network((36, 140))
    model = lrpfast.from_layers([lrpfast.layers.Dense(layer.w, layer.b)])
    choose("large")
    model.predict(cases.inputs(40, 36), device="gpu")
    assert launched(standin, "wide") and not launched(standin, "large")


def test_a_device_without_room_takes_the_tile_in_use(choose, standin, monkeypatch):
    from lrpfast.kernels.cuda import tiles

    choose("large")
    monkeypatch.setattr(tiles, "TABLES_BYTES", 1 << 20)
    (layer,) = cases.network((36, 140))
    model = lrpfast.from_layers([lrpfast.layers.Dense(layer.w, layer.b)])
    model.predict(cases.inputs(520, 36), device="gpu")
    assert launched(standin, "wide") and not launched(standin, "large")


def test_an_unknown_tile_is_an_error(choose):
    (layer,) = cases.network((36, 140))
    model = lrpfast.from_layers([lrpfast.layers.Dense(layer.w, layer.b)])
    choose("huge")
    with pytest.raises(lrpfast.DeviceError, match="'huge' must be one of 'wide', 'lean', 'large', 'wgmma'"):
        model.predict(cases.inputs(40, 36), device="gpu")
