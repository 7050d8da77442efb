"""What a network's channels stand for: find the channels behind a class, their reference samples, and draw both.

    python examples/concepts.py
    python examples/concepts.py --plot channels.png

The network tells handwritten digits apart; it and its samples are those of lrpfast's tests. The script needs lrpfast
and, for the picture, matplotlib (pip install matplotlib). It takes a few seconds.
"""

import argparse
from pathlib import Path

import numpy as np

import lrpfast

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
LAYER = "conv2d_1"

parser = argparse.ArgumentParser(description="What a network's channels stand for.")
parser.add_argument("--digit", type=int, default=3, choices=range(10), help="default: %(default)s")
parser.add_argument("--plot", metavar="FILE", help="draw the channels' reference samples (.png, .pdf, .svg)")
options = parser.parse_args()

with np.load(DATA / "digits_cnn.npz") as file:
    x, labels = file["x"], file["label"]
model = lrpfast.load(DATA / "digits_cnn.h5")
analyzer = lrpfast.Analyzer(model, "z_plus")

# Which channels speak for this digit? The mean share of the channels' relevance in each class, in one pass.
means = analyzer.stream(
    x, statistics=True, layers=LAYER, reduce="channels", normalize="l1", group_by=labels, progress=False
).statistics.mean  # (classes, channels)
other = np.delete(means, options.digit, 0).mean(0)
best = np.argsort(other - means[options.digit])[:3].tolist()
print(f"channels of {LAYER!r} that speak for a {options.digit}: share of relevance there, in all other digits")
for channel in best:
    print(f"  channel {channel:2}: {means[options.digit, channel]:6.1%}, {other[channel]:6.1%}")

# The samples in which each channel contributes most, whatever their class.
found = analyzer.references(x, LAYER, k=8, progress=False)
print("\nlabels of the 8 samples in which each contributes most")
for channel in best:
    print(f"  channel {channel:2}: {' '.join(map(str, labels[found.indices[channel]]))}")

# What the first of them is made of, in its own best sample.
sample = found.indices[best[0], 0]
print(f"\nsample {sample}, below channel {best[0]}")
print(analyzer.attribution_graph(x[sample : sample + 1], LAYER, best[0], width=4))

# Where in this sample each channel found what it contributes.
maps = analyzer.analyze(x[sample : sample + 1], conditions=[{LAYER: channel} for channel in best])[0]
rows = [int(np.abs(m).sum((1, 2)).argmax()) for m in maps]
print("\nrow of pixels with most of each channel's relevance: " + ", ".join(map(str, rows)))

if options.plot:
    title = f"the 8 samples in which the channels that speak for a {options.digit} contribute most"
    lrpfast.plot.save(lrpfast.plot.references(found, analyzer, x, best, title=title), options.plot)
    print(f"wrote {options.plot}")
