"""Conditions and reference samples: lrpfast, a plain loop of lrpfast's calls, and zennit-crp.

    python bench/concepts.py
    PYTHONPATH=FOLDER python bench/concepts.py --peer   # pip install --target FOLDER --no-deps zennit-crp zennit==0.4.6

The 40 best samples of every channel of a convolution among 4,096, by relevance and by activation, under ε, z⁺ and flat.
zennit-crp always seeks both, and writes them to files, as `out=` does.

Before that, maps of 16 samples through each of the 64 channels: as conditions of one call, one call for each channel,
and two explanations, down to the layer and from its masked relevance on. Processor time of the whole process, since
other work may run beside it.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np

import lrpfast

SAMPLES, BEST, SIDE = 4096, 40, 28
WIDTHS = (1, 32, 64)


def weights():
    rng = np.random.default_rng(0)
    shapes = [(3, 3, WIDTHS[0], WIDTHS[1]), (3, 3, WIDTHS[1], WIDTHS[2]), (WIDTHS[2] * 49, 128), (128, 10)]
    return [rng.normal(size=s).astype(np.float32) / np.sqrt(np.prod(s[:-1])) for s in shapes]


def our_model():
    layers, (a, b, c, d) = lrpfast.layers, weights()
    return lrpfast.from_layers(
        [
            layers.Conv(a, padding="same", activation="relu", name="first"),
            layers.MaxPool((2, 2)),
            layers.Conv(b, padding="same", name="second"),
            layers.Activation("relu"),
            layers.MaxPool((2, 2)),
            layers.Flatten(),
            layers.Dense(c, activation="relu"),
            layers.Dense(d),
        ],
        input_shape=(SIDE, SIDE, 1),
    )


def loop(analyzer, x, target):
    """Everything in memory, and one sort at the end."""
    sums = []
    for i in range(0, len(x), 64):
        layers = analyzer.explain(x[i : i + 64], target[i : i + 64], layers=True).layers
        sums.append(layers["second"].sum((1, 2)))
    values = np.concatenate(sums)
    return np.argsort(-values, 0, kind="stable")[:BEST].T


def ours(analyzer, x, target, folder, by):
    found = analyzer.references(
        x, "second", BEST, by=by, target=target, out=f"{folder}/{by}.npz", overwrite=True, progress=False
    )
    return found.indices


def from_masked_relevance(analyzer, x, target):
    """Two explanations: down to the layer, and from its relevance times each mask."""
    relevance = analyzer.explain(x, target, layers=True).layers["second"]
    part = lrpfast.Analyzer(analyzer.model, "epsilon_plus_flat", start="second", target=0, threads=2)
    masks = np.eye(WIDTHS[2], dtype=np.float32)[:, None, None]
    return part.analyze(x, np.ascontiguousarray(relevance[:, None] * masks))


def network():
    """The same network in PyTorch."""
    import torch

    a, b, c, d = (torch.from_numpy(w) for w in weights())
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, WIDTHS[1], 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(WIDTHS[1], WIDTHS[2], 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(WIDTHS[2] * 49, 128),
        torch.nn.ReLU(),
        torch.nn.Linear(128, 10),
    ).eval()
    rows = c.reshape(7, 7, WIDTHS[2], 128).permute(2, 0, 1, 3).reshape(-1, 128)  # channels first
    with torch.no_grad():
        for layer, w in zip(net[::3][:2], (a, b), strict=True):
            layer.weight.copy_(w.permute(3, 2, 0, 1))
            layer.bias.zero_()
        for layer, w in ((net[7], rows), (net[9], d)):
            layer.weight.copy_(w.T)
            layer.bias.zero_()
    return net


def zennit_maps(x, target):
    """zennit-crp's maps through each channel; returns a function that makes them."""
    import torch
    from crp.attribution import CondAttribution
    from zennit.composites import EpsilonPlusFlat

    attribution, data = CondAttribution(network()), torch.from_numpy(x.transpose(0, 3, 1, 2))

    def run():
        maps = np.empty((len(x), WIDTHS[2], SIDE, SIDE, 1), np.float32)
        for i, y in enumerate(target.tolist()):
            conditions = [{"3": [c], "y": [y]} for c in range(WIDTHS[2])]
            batches = attribution.generate(
                data[i : i + 1].requires_grad_(), conditions, EpsilonPlusFlat(), batch_size=64, verbose=False
            )
            maps[i, ..., 0] = np.concatenate([batch.heatmap.numpy() for batch in batches])
        return maps

    return run


def zennit_crp(x, target, folder):
    """zennit-crp's pass over the same samples; returns a function that runs it, and its indices."""
    import torch
    from crp.attribution import CondAttribution
    from crp.concepts import ChannelConcept
    from crp.visualization import FeatureVisualization
    from zennit.composites import EpsilonPlusFlat

    net = network()
    data = [(torch.from_numpy(s.transpose(2, 0, 1)), int(t)) for s, t in zip(x, target, strict=True)]
    view = FeatureVisualization(
        CondAttribution(net), data, {"3": ChannelConcept()}, max_target="sum", abs_norm=False, path=folder
    )
    view.RelMax.SAMPLE_SIZE = view.ActMax.SAMPLE_SIZE = BEST

    def run():
        view.run(EpsilonPlusFlat(), 0, len(data), 64)
        return np.load(view.RelMax.PATH / "3_data.npy").T

    return run


def compare_conditions(analyzer, x, target, peer, runs):
    """Print what maps through each channel take."""
    conditions = [{"second": c} for c in range(WIDTHS[2])]
    calls = {
        "conditions in one call": lambda: analyzer.analyze(x, target, conditions=conditions),
        "one call for each condition": lambda: np.stack(
            [analyzer.analyze(x, target, conditions=condition) for condition in conditions], 1
        ),
        "from masked relevance": lambda: from_masked_relevance(analyzer, x, target),
    }
    if peer:
        calls["zennit-crp"] = zennit_maps(x, target)
    times, found = {name: [] for name in calls}, {}
    for _ in range(runs + 1):  # the first time for warming up
        for name, call in calls.items():
            begin = time.process_time()
            found[name] = call()
            times[name].append(time.process_time() - begin)
    first = found["conditions in one call"]
    for name, seconds in times.items():
        difference = np.abs(found[name] - first).max() / np.abs(first).max()
        print(f"{name}: {statistics.median(seconds[1:]):.3g} s of processor time, off by {difference:.1g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="run zennit-crp too")
    parser.add_argument("--conditions", action="store_true", help="conditions alone")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    x = rng.random((SAMPLES, SIDE, SIDE, 1), dtype=np.float32)
    target = rng.integers(0, 10, SAMPLES)
    analyzer = lrpfast.Analyzer(our_model(), "epsilon_plus_flat", threads=2)
    if options.peer:
        import torch

        torch.set_num_threads(2)
    compare_conditions(analyzer, x[:16], target[:16], options.peer, options.runs)
    if options.conditions:
        return
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "references, by relevance": lambda: ours(analyzer, x, target, folder, "relevance"),
            "references, by activation": lambda: ours(analyzer, x, target, folder, "activation"),
            "a loop of explain(layers=True), by relevance": lambda: loop(analyzer, x, target),
        }
        if options.peer:
            calls["zennit-crp, by both"] = zennit_crp(x, target, folder)
        times, found = {name: [] for name in calls}, {}
        for _ in range(options.runs):
            for name, call in calls.items():
                begin = time.perf_counter()
                found[name] = call()
                times[name].append(time.perf_counter() - begin)
    first = found["references, by relevance"]
    for name, seconds in times.items():
        same = "" if "activation" in name else f", {(found[name] == first).mean():.1%} of the indices as above"
        print(f"{name}: {statistics.median(seconds):.3g} s{same}")


if __name__ == "__main__":
    main()
