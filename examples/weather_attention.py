"""Where a forecast came from: a small Swin transformer from field to field, explained point by point.

Plumes of a tracer drift with a jet that blows from the west or from the east, on a grid that is periodic in longitude.
A transformer whose attention is within windows, shifted ones in every second block (Liu et al. 2021), learns the next
field of the tracer from the field and the wind. Then LRP explains single points of its forecasts: relevance lies
upwind, where the tracer came from, on the other side when the wind turns.

    python examples/weather_attention.py                    writes weather_attention/, about 20 s
    python examples/weather_attention.py --steps 20 --samples 20 --folder drift

It needs lrpfast alone; matplotlib for the pictures (pip install matplotlib). `lrpfast.load` reads a transformer of your
own, of PyTorch, ONNX or Keras: everything from "The explanations" on stays the same.
"""

# %% What is needed
import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import lrpfast

sys.path.insert(0, str(Path(__file__).parent if "__file__" in globals() else Path("examples")))
from tiny_autograd import Adam, Variable  # noqa: E402

parser = argparse.ArgumentParser(description="Where a forecast came from: a Swin transformer from field to field.")
parser.add_argument(
    "--folder", type=Path, default=Path("weather_attention"), help="where files go; default: %(default)s"
)
parser.add_argument("--steps", type=int, default=300, help="of training; default: %(default)s")
parser.add_argument("--samples", type=int, default=200, help="forecasts that are explained; default: %(default)s")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
folder = options.folder
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(5)

# %% The data: plumes, and a jet that moves them
ROWS, COLUMNS = 16, 32
latitude, longitude = np.arange(ROWS)[:, None], np.arange(COLUMNS)


def fields(count):
    """Tracer and wind (count, rows, columns, 2), and the tracer one step later, (count, rows, columns, 1)."""
    x, y = np.zeros((count, ROWS, COLUMNS, 2)), np.zeros((count, ROWS, COLUMNS, 1))
    for sample in range(count):
        wind = rng.choice([-1, 1]) * rng.uniform(2.0, 5.0) * np.exp(-(((latitude - 7.5) / 7) ** 2))  # points a step
        for _ in range(6):
            row, column, width, height = (
                rng.uniform(1, ROWS - 1),
                rng.uniform(0, COLUMNS),
                *rng.uniform((1, 0.5), (2, 1.5)),
            )
            for moved, field in ((0.0, x[sample, :, :, 0]), (wind, y[sample, :, :, 0])):
                east = (longitude - column - moved + COLUMNS / 2) % COLUMNS - COLUMNS / 2
                field += height * np.exp(-(east**2 + (latitude - row) ** 2) / (2 * width**2))
        x[sample, :, :, 1] = wind / 4
    return x, y


# %% The network: patches of 2 x 2 points, two blocks with attention in windows of 4 x 4 patches, the second shifted
PATCH, WINDOW, HEADS, SIZE, BLOCKS = 2, 4, 4, 32, 2
high, wide = ROWS // PATCH, COLUMNS // PATCH  # in patches
positions = WINDOW * WINDOW  # in a window
windows = high * wide // positions
shifts = [0 if b % 2 == 0 else WINDOW // 2 for b in range(BLOCKS)]

# by how many rows and columns two positions of a window differ, as one number
row, column = np.divmod(np.arange(positions), WINDOW)
distance = (row - row[:, None] + WINDOW - 1) * (2 * WINDOW - 1) + column - column[:, None] + WINDOW - 1


def in_windows(array):
    """(high, wide, …) as (windows, positions, …)."""
    rest = array.shape[2:]
    parts = array.reshape(high // WINDOW, WINDOW, wide // WINDOW, WINDOW, *rest).swapaxes(1, 2)
    return parts.reshape(windows, positions, *rest)


# a shifted window must not join the first and the last rows, as it may join the first and the last columns
band = in_windows(np.broadcast_to(np.arange(high)[:, None] >= high - WINDOW // 2, (high, wide)))
joinable = band[:, :, None] == band[:, None, :]
masks = [None if shift == 0 else joinable[:, None] for shift in shifts]

parameters = {"patches": rng.normal(size=(PATCH * PATCH * 2, SIZE)) / np.sqrt(8), "patches.bias": np.zeros(SIZE)}
parameters |= {"field": rng.normal(size=(SIZE, PATCH * PATCH)) * 0.1, "field.bias": np.zeros(PATCH * PATCH)}
for b in range(BLOCKS):
    for part in "qkvo":
        parameters[f"{b}.{part}"] = rng.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    parameters[f"{b}.up"] = rng.normal(size=(SIZE, 2 * SIZE)) * np.sqrt(2 / SIZE)
    parameters[f"{b}.down"] = rng.normal(size=(2 * SIZE, SIZE)) * 0.3 / np.sqrt(2 * SIZE)
    parameters[f"{b}.near"] = np.zeros(((2 * WINDOW - 1) ** 2, HEADS))
    for norm in ("n1", "n2"):
        parameters[f"{b}.{norm}.gamma"], parameters[f"{b}.{norm}.beta"] = np.ones(SIZE), np.zeros(SIZE)
p = {name: Variable(value) for name, value in parameters.items()}


def forward(x):
    """The next field of the tracer."""
    n = len(x)
    x = x.reshape(n, high, PATCH, wide, PATCH, 2).transpose(0, 1, 3, 2, 4, 5).reshape(n, high, wide, -1)
    h = Variable(x) @ p["patches"] + p["patches.bias"]
    for b, (shift, mask) in enumerate(zip(shifts, masks, strict=True)):
        y = h.norm(p[f"{b}.n1.gamma"], p[f"{b}.n1.beta"]).roll((-shift, -shift), (1, 2))
        y = y.reshape(n, high // WINDOW, WINDOW, wide // WINDOW, WINDOW, SIZE).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, windows, positions, SIZE)
        q, k, v = (
            (y @ p[f"{b}.{part}"]).reshape(n, windows, positions, HEADS, -1).transpose(0, 1, 3, 2, 4) for part in "qkv"
        )
        scores = (q @ k.transpose(0, 1, 2, 4, 3)) * (SIZE // HEADS) ** -0.5
        scores = scores + p[f"{b}.near"].rows(distance).transpose(2, 0, 1)
        scores = scores if mask is None else scores + np.where(mask, 0.0, -1e9)
        y = (scores.softmax() @ v).transpose(0, 1, 3, 2, 4).reshape(n, windows, positions, SIZE) @ p[f"{b}.o"]
        y = y.reshape(n, high // WINDOW, wide // WINDOW, WINDOW, WINDOW, SIZE).transpose(0, 1, 3, 2, 4, 5)
        h = h + y.reshape(n, high, wide, SIZE).roll((shift, shift), (1, 2))
        y = h.norm(p[f"{b}.n2.gamma"], p[f"{b}.n2.beta"])
        h = h + (y @ p[f"{b}.up"]).relu() @ p[f"{b}.down"]
    y = (h @ p["field"] + p["field.bias"]).reshape(n, high, wide, PATCH, PATCH).transpose(0, 1, 3, 2, 4)
    return y.reshape(n, ROWS, COLUMNS, 1)


optimizer = Adam(p)
for number in range(1, options.steps + 1):
    x, y = fields(16)
    forecast = forward(x)
    forecast.backward(2 * (forecast.value - y) / len(x))
    optimizer.step(0.006 * min(1.0, number / 20) * 0.996 ** (number / 2))

# %% The same network as an lrpfast model
L = lrpfast.layers
w = {name: variable.value for name, variable in p.items()}
graph = lrpfast.Graph()
cut, joined = (
    (high // WINDOW, WINDOW, wide // WINDOW, WINDOW, SIZE),
    (high // WINDOW, wide // WINDOW, WINDOW, WINDOW, SIZE),
)
kernel = w["patches"].reshape(PATCH, PATCH, 2, SIZE)
h = graph.add(
    L.Conv(kernel, w["patches.bias"], strides=PATCH, name="patches"), graph.input((ROWS, COLUMNS, 2), "fields")
)
for b, (shift, mask) in enumerate(zip(shifts, masks, strict=True)):
    y = graph.add(L.LayerNorm(w[f"{b}.n1.gamma"], w[f"{b}.n1.beta"], epsilon=1e-5, name=f"{b}.n1"), h)
    if shift:
        y = graph.add(L.Take([np.roll(np.arange(size), -shift) for size in (high, wide)]), y)
    y = graph.add(L.Permute((0, 2, 1, 3, 4)), graph.add(L.Reshape(cut), y))
    y = graph.add(L.Reshape((windows, positions, SIZE)), y)
    q, k, v = (graph.add(L.Dense(w[f"{b}.{part}"], name=f"{b}.{part}"), y) for part in "qkv")
    near = w[f"{b}.near"][distance].transpose(2, 0, 1)
    y = graph.add(L.Attention(HEADS, bias=near, mask=mask, name=f"{b}.attention"), q, k, v)
    y = graph.add(L.Reshape(joined), graph.add(L.Dense(w[f"{b}.o"], name=f"{b}.o"), y))
    y = graph.add(L.Reshape((high, wide, SIZE)), graph.add(L.Permute((0, 2, 1, 3, 4)), y))
    if shift:
        y = graph.add(L.Take([np.roll(np.arange(size), shift) for size in (high, wide)]), y)
    h = graph.add(L.Add(name=f"{b}.attended"), h, y)
    y = graph.add(L.LayerNorm(w[f"{b}.n2.gamma"], w[f"{b}.n2.beta"], epsilon=1e-5, name=f"{b}.n2"), h)
    y = graph.add(L.Dense(w[f"{b}.up"], activation="relu", name=f"{b}.up"), y)
    h = graph.add(L.Add(name=f"{b}.out"), h, graph.add(L.Dense(w[f"{b}.down"], name=f"{b}.down"), y))
y = graph.add(L.Dense(w["field"], w["field.bias"], name="points"), h)
y = graph.add(L.Permute((0, 2, 1, 3)), graph.add(L.Reshape((high, wide, PATCH, PATCH)), y))
model = graph.model(graph.add(L.Reshape((ROWS, COLUMNS, 1), name="tracer"), y), name="drift")
model.save(folder / "drift.npz")
x, y = fields(options.samples)
forecast = model.predict(x)
skill = 1 - ((forecast - y) ** 2).sum() / ((x[..., :1] - y) ** 2).sum()
print(f"skill of {len(x)} new forecasts, 1 being perfect and 0 the field as it was: {skill:.2f}")

# %% The explanations: of each forecast, the point with most of the tracer where the jet blows
middle = slice(4, 12)
points = forecast[:, middle, :, 0].reshape(len(x), -1).argmax(1) + middle.start * COLUMNS
analyzer = lrpfast.Analyzer(model, "cp_lrp", target=points)
explanation = analyzer.explain(x)
relevance = explanation.relevance
print(explanation.conservation)

# %% Upwind: how far from the point its relevance lies, in points to the east, and how far the tracer moved
tracer = np.maximum(relevance[..., 0], 0)
east = (longitude - (points % COLUMNS)[:, None] + COLUMNS / 2) % COLUMNS - COLUMNS / 2
lies = (tracer.sum(1) * east).sum(1) / tracer.sum((1, 2))
moved = 4 * x[np.arange(len(x)), points // COLUMNS, 0, 1]
for name, which in (("from the west", moved > 0), ("from the east", moved < 0)):
    print(
        f"wind {name}: the tracer moved {moved[which].mean():+.1f} points, relevance lies {lies[which].mean():+.1f} off"
    )
print(f"correlation of the two over all forecasts: {np.corrcoef(moved, lies)[0, 1]:.2f}")

# %% The picture: two forecasts, and what one point of each came from
if importlib.util.find_spec("matplotlib") is None:
    print("\nno picture: it needs matplotlib (pip install matplotlib)")
else:
    import matplotlib.pyplot as plt

    chosen = [int(np.flatnonzero(which)[0]) for which in (moved > 0, moved < 0)]
    figure, axes = plt.subplots(2, 3, figsize=(11, 4.4), constrained_layout=True)
    for panels, sample in zip(axes, chosen, strict=True):
        r = relevance[sample, :, :, 0]
        panels[0].imshow(x[sample, :, :, 0], cmap="Greys", origin="lower")
        panels[1].imshow(forecast[sample, :, :, 0], cmap="Greys", origin="lower")
        panels[2].imshow(r, cmap="RdBu_r", vmin=-np.abs(r).max(), vmax=np.abs(r).max(), origin="lower")
        direction = "west" if moved[sample] > 0 else "east"
        for panel, title in zip(panels, (f"tracer, wind from the {direction}", "forecast", "relevance"), strict=True):
            panel.set_title(title, fontsize=10)
            panel.plot(points[sample] % COLUMNS, points[sample] // COLUMNS, "x", color="black")
            panel.set(xticks=[], yticks=[])
    figure.savefig(folder / "relevance.png", dpi=110)
    print(f"\npicture: {folder / 'relevance.png'}")
