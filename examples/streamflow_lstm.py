"""Which days carried a flood: a daily streamflow LSTM on made data, explained through time.

Twenty years of weather (precipitation and temperature) fall on a made catchment, where snow lies while it is cold and
melts when it is warm, and soil lets the water go slowly. A small LSTM learns the discharge of a day from the weather
and the snow of the days before. Then every flood of the last years is explained by LRP (Arras et al. 2019): how much of
the predicted discharge each day's precipitation, temperature and snow carried, day by day for one flood, and, as a mean
by lag, for all of them.

    python examples/streamflow_lstm.py                      writes streamflow_lstm/, about 20 s
    python examples/streamflow_lstm.py --years 6 --steps 60 --days 30 --folder flow

It needs lrpfast alone; matplotlib for the pictures (pip install matplotlib). `lrpfast.load` reads a network of your
own, of PyTorch or Keras: everything from "The floods" on stays the same.
"""

# %% What is needed
import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import lrpfast

parser = argparse.ArgumentParser(description="Which days carried a flood: a streamflow LSTM on made data.")
parser.add_argument("--folder", type=Path, default=Path("streamflow_lstm"), help="where files go; default: %(default)s")
parser.add_argument("--years", type=int, default=20, help="default: %(default)s")
parser.add_argument("--days", type=int, default=60, help="days that a prediction looks back; default: %(default)s")
parser.add_argument("--steps", type=int, default=600, help="of training; default: %(default)s")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
folder, days = options.folder, options.days
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(7)
features = ["precipitation", "temperature", "snow"]

# %% The data: weather, snow by degree-days, and two reservoirs
count = 365 * options.years
season = np.cos(2 * np.pi * (np.arange(count) - 200) / 365)  # warmest in mid-July
temperature = 6 + 11 * season + np.convolve(rng.normal(size=count + 4) * 3.5, np.ones(5) / 2.2, "valid")
precipitation = np.where(rng.random(count) < 0.35, rng.gamma(0.8, 9.0, count), 0.0)
snow, discharge = np.zeros(count), np.zeros(count)
pack = fast = slow = 0.0
for day in range(count):
    falls = temperature[day] < 0.5
    melt = min(pack, 3.0 * max(temperature[day], 0.0))
    pack += precipitation[day] * falls - melt
    water = precipitation[day] * (not falls) + melt
    loss = 0.09 * max(temperature[day], 0.0)  # evaporation
    fast += 0.6 * water
    slow = max(0.0, slow + 0.4 * water - loss)
    snow[day], discharge[day] = pack, 0.2 * fast + 0.03 * slow
    fast, slow = 0.8 * fast, 0.97 * slow
weather = np.stack([precipitation, temperature, snow], 1)
scale = weather.std(0)
x = (weather / scale).astype(np.float32)  # not centred: a day without rain is 0, and can carry nothing
y = (discharge / discharge.std()).astype(np.float32)
print(f"{options.years} years; mean discharge {discharge.mean():.1f} mm a day, highest {discharge.max():.1f}")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


# %% The network: an LSTM and a dense layer, trained by back-propagation through time and Adam
class Network:
    """An LSTM of 16 units and one output, on batches (samples, days, features)."""

    def __init__(self, units=16, inputs=3):
        self.units = units
        kernel = rng.normal(size=(inputs, 4 * units)) / np.sqrt(inputs)
        recurrent = rng.normal(size=(units, 4 * units)) / np.sqrt(units)
        bias = np.zeros(4 * units)
        bias[units : 2 * units] = 2.0  # to remember at first
        self.weights = [kernel, recurrent, bias, rng.normal(size=(units, 1)) / np.sqrt(units), np.zeros(1)]
        self.moments = [(np.zeros_like(w), np.zeros_like(w)) for w in self.weights]

    def gradients(self, x, y):
        """The loss, and its gradient by each array of weights."""
        kernel, recurrent, bias, head, offset = self.weights
        n, h, c, steps = self.units, np.zeros((len(x), self.units)), np.zeros((len(x), self.units)), []
        for t in range(x.shape[1]):
            z = x[:, t] @ kernel + h @ recurrent + bias
            i, f, o = sigmoid(z[:, :n]), sigmoid(z[:, n : 2 * n]), sigmoid(z[:, 3 * n :])
            g = np.tanh(z[:, 2 * n : 3 * n])
            steps.append((h, c, i, f, g, o))
            c = f * c + i * g
            h = o * np.tanh(c)
        error = (h @ head + offset)[:, 0] - y
        slope = 2 * error[:, None] / len(x)
        slopes = [np.zeros_like(w) for w in self.weights]
        slopes[3], slopes[4] = h.T @ slope, slope.sum(0)
        dh, dc = slope @ head.T, 0.0
        for t in range(x.shape[1] - 1, -1, -1):
            before, c_before, i, f, g, o = steps[t]
            s = np.tanh(f * c_before + i * g)
            dc = dc + dh * o * (1 - s * s)
            dz = [dc * g * i * (1 - i), dc * c_before * f * (1 - f), dc * i * (1 - g * g), dh * s * o * (1 - o)]
            dz = np.concatenate(dz, 1)
            slopes[0] += x[:, t].T @ dz
            slopes[1] += before.T @ dz
            slopes[2] += dz.sum(0)
            dh, dc = dz @ recurrent.T, dc * f
        return (error**2).mean(), slopes

    def step(self, number, gradients, rate):
        """One step of Adam, of gradients that are cut off at a length of 1."""
        length = np.sqrt(sum((g**2).sum() for g in gradients))
        for w, (m, v), g in zip(self.weights, self.moments, gradients, strict=True):
            g = g / max(1.0, length)
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            w -= rate * (m / (1 - 0.9**number)) / (np.sqrt(v / (1 - 0.999**number)) + 1e-8)


def windows(last):
    """The weather of the days up to each of some days, that day included."""
    return x[np.asarray(last)[:, None] + np.arange(1 - days, 1)]


network = Network()
split = count * 3 // 4
highest = days + np.argsort(y[days:split])[-split // 20 :]
for number in range(1, options.steps + 1):
    last = rng.integers(days, split, 64)
    last[::4] = rng.choice(highest, 16)  # high flows are rare
    loss, gradients = network.gradients(windows(last).astype(np.float64), y[last])
    network.step(number, gradients, 0.01 * 0.995 ** (number / 4))

kernel, recurrent, bias, head, offset = network.weights
layers = [
    lrpfast.layers.LSTM(kernel, recurrent, bias, name="lstm"),
    lrpfast.layers.Dense(head, offset, name="discharge"),
]
model = lrpfast.from_layers(layers, input_shape=(days, 3), name="streamflow")
model.save(folder / "streamflow.npz")
test = np.arange(split + days, count)
predicted = model.predict(windows(test))[:, 0]
nse = 1 - ((predicted - y[test]) ** 2).sum() / ((y[test] - y[test].mean()) ** 2).sum()
print(f"Nash-Sutcliffe efficiency of the last quarter: {nse:.2f}")

# %% The floods: days in the last quarter with more discharge than 98% of all, the highest within a week of each
high = test[y[test] > np.quantile(y, 0.98)]
floods = np.array([day for day in high if y[day] == y[day - 7 : day + 8].max()])
samples = windows(floods)
np.save(folder / "floods.npy", samples)
print(f"{len(floods)} floods")

# %% One flood: how much of the predicted discharge each day carried
analyzer = lrpfast.Analyzer(model, lrpfast.rules.Recurrent(epsilon=0.01), target=0)
worst = int(y[floods].argmax())
explanation = analyzer.explain(samples[worst : worst + 1])
by_day = explanation.relevance[0].sum(1)
print(explanation.conservation)
print("the highest flood, the five days that carried most of it:")
for lag in np.argsort(-by_day)[:5]:
    day = floods[worst] - (days - 1 - lag)
    p, t, s = weather[day]
    print(f"  {days - 1 - lag:3d} days before: {by_day[lag]:+.2f} ({p:.0f} mm, {t:+.0f} °C, snow {s:.0f} mm)")

# %% All floods: the mean relevance by lag, in winter and spring (melt) and in summer and autumn (rain)
months = floods % 365 // 30
kind = np.where((months >= 1) & (months < 5), 0, 1)
done = analyzer.stream(
    folder / "floods.npy",
    folder / "relevance.npy",
    statistics=folder / "by_lag.npz",
    group_by=kind,
    overwrite=True,
    progress=False,
)
names = ["February to May", "other months"]
for group, mean, number in zip(done.statistics.groups, done.statistics.mean, done.statistics.count, strict=True):
    shares = np.abs(mean).sum(0) / np.abs(mean).sum()
    half = days - 1 - np.flatnonzero(np.cumsum(np.abs(mean).sum(1)) >= 0.5 * np.abs(mean).sum())[0]
    listed = ", ".join(f"{name} {share:.0%}" for name, share in zip(features, shares, strict=True))
    print(f"{names[int(group)]}, {number} floods: {listed}; half of it from day {-half} on")

# %% The pictures
if importlib.util.find_spec("matplotlib") is None:
    print("\nno pictures: they need matplotlib (pip install matplotlib)")
else:
    lags = [f"−{days - 1 - k} d" if k < days - 1 else "0 d" for k in range(days)]
    figure = lrpfast.plot.timeline(
        explanation, samples[worst : worst + 1] * scale, features=features, steps=lags, labels=["the highest flood"]
    )
    lrpfast.plot.save(figure, folder / "flood.png")
    figure = lrpfast.plot.heatmap(
        done.statistics.mean,
        features=features,
        scale="shared",
        labels=[names[int(group)] for group in done.statistics.groups],
        title=f"mean relevance of the {days} days up to a flood",
    )
    lrpfast.plot.save(figure, folder / "by_lag.png")
    print(f"\npictures: {folder / 'flood.png'}, {folder / 'by_lag.png'}")
