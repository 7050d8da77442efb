# %% [markdown]
"""A climate scientist's day: yearly files of sea surface temperature in, mean maps by season and class out.

    python examples/climate_day.py                   # 1,461 daily maps of 122 × 360, nine networks: some minutes
    python examples/climate_day.py --step 8 --years 2 --seeds 3 --epochs 3     # small, some seconds

The data are made up, one year at a time: smooth noise, a seasonal cycle, and a pattern in the tropical Pacific that
says whether a season will be dry or wet. Then it goes as with files of your own: train networks from several seeds,
check model and data before the run, explain all years by all networks, look at what they have in common, draw it.
docs/climate.md explains every step. Needs the extra 'netcdf'; pictures need 'plot'.
"""

# %% Settings
from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import lrpfast
from lrpfast import cli
from lrpfast.batch import open_source
from trainer import train

parser = argparse.ArgumentParser(description="From yearly files of sea surface temperature to mean relevance maps.")
parser.add_argument("--folder", type=Path, default=Path("climate_day"), help="where files go; default: %(default)s")
parser.add_argument("--years", type=int, default=4, help="default: %(default)s")
parser.add_argument("--step", type=int, default=1, help="degrees between the grid's points; default: %(default)s")
parser.add_argument("--seeds", type=int, default=9, help="networks; default: %(default)s")
parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
if importlib.util.find_spec("netCDF4") is None:
    sys.exit("this example writes NetCDF files: pip install netCDF4 xarray")
import netCDF4  # noqa: E402

folder = options.folder
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(20)

# %% The world: a grid, land, and a pattern that the networks have to find
lat, lon = np.arange(-60.5, 61, options.step), np.arange(0.5, 360, options.step)
north_of, east_of = np.meshgrid(lat, lon, indexing="ij")


def blob(north, east, height, width):
    """A smooth hill on the sphere."""
    return np.exp(-(((north_of - north) / height) ** 2) - ((((east_of - east + 180) % 360) - 180) / width) ** 2)


land = blob(15, 20, 30, 25) + blob(45, 80, 30, 55) + blob(45, 260, 28, 30) + blob(-15, 300, 28, 18) > 0.5
pattern = blob(0, 230, 9, 45) - 0.6 * blob(10, 140, 12, 25) - 0.4 * blob(38, 210, 12, 25)
wave = np.hypot(np.fft.fftfreq(len(lat))[:, None] * len(lat), np.fft.rfftfreq(len(lon)) * len(lon))
smooth = np.exp(-((wave / 9) ** 2))
with netCDF4.Dataset(folder / "ocean.nc", "w") as file:
    for name, values, units in (("lat", lat, "degrees_north"), ("lon", lon, "degrees_east")):
        file.createDimension(name, len(values))
        file.createVariable(name, "f8", (name,))[:] = values
        file[name].units = units
    file.createVariable("ocean", "i1", ("lat", "lon"))[:] = ~land

# %% One file a year, as data centres hand them out: packed, with an axis of depth, times counted from the year's start
strength = 0.0
for year in range(1982, 1982 + options.years):
    days = 365 + (year % 4 == 0)
    index = np.empty(days)
    for day in range(days):
        strength = index[day] = 0.97 * strength + 0.24 * rng.normal()
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(days, *land.shape))) * smooth, s=land.shape)
    cycle = 3 * np.cos(2 * np.pi * (np.arange(days)[:, None, None] / 365.25 - 0.6)) * np.sin(np.deg2rad(north_of))
    maps = 15 + cycle + noise / noise.std() + 1.5 * index[:, None, None] * pattern
    with netCDF4.Dataset(folder / f"sst_{year}.nc", "w") as file:
        columns = {"time": np.arange(days), "zlev": np.zeros(1), "lat": lat, "lon": lon}
        units = (f"days since {year}-01-01", "m", "degrees_north", "degrees_east")
        for (name, values), unit in zip(columns.items(), units, strict=True):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
            file[name].units = unit
        sst = file.createVariable("sst", "i2", tuple(columns), fill_value=-999, zlib=True)
        sst.scale_factor, sst.units, sst.long_name = 0.001, "degC", "sea surface temperature"
        sst[:] = np.ma.masked_array(maps, np.broadcast_to(land, maps.shape))[:, None]
        file.createVariable("wet", "i4", ("time",))[:] = index + 0.3 * rng.normal(size=days) > 0
data, mask, labels = f"{folder}/sst_*.nc:sst", f"{folder}/ocean.nc:ocean", f"{folder}/sst_*.nc:wet"

# %% Networks from several seeds; a normalization is part of each, so that a model takes temperatures as they are
with open_source(data) as source, open_source(labels) as classes:
    print(f"{source.shape[0]:,} maps of {land.shape[0]} × {land.shape[1]} points, {int((~land).sum()):,} of them ocean")
    ocean = np.concatenate([source.read(i, i + 1)[:, 0, ~land] for i in range(source.shape[0])])
    wet = np.asarray(classes.read(0, classes.shape[0]), np.int64)
mean, variance = ocean.mean(0, dtype=np.float64), ocean.var(0, dtype=np.float64)
scaled = ((ocean - mean) / np.sqrt(variance)).astype(np.float32)
split = len(wet) * 4 // 5


def start(draw, x, is_wet):
    """The first weights: four neurons see what wet days have more than dry ones, four the opposite, each of other days.

    Whatever the day, some neurons are active: a network all of whose neurons are silent explains nothing. And neurons
    that speak for one class do not cancel in the next layer: small sums of large numbers have no telling relevance.
    """
    first = np.empty((x.shape[1], 4))
    for neuron in range(4):
        days = np.sort(draw.choice(len(x), len(x) // 2, replace=False))
        difference = x[days][is_wet[days]].mean(0) - x[days][~is_wet[days]].mean(0)
        first[:, neuron] = difference / (x[days] @ difference).std()
    for_wet = np.repeat([0.5, -0.5], 4)[:, None]
    noise = (0.1 * draw.normal(size=size) for size in ((8, 8), (8, 2)))
    others = (begin + own for begin, own in zip((np.eye(8), np.hstack([-for_wet, for_wet])), noise, strict=True))
    return [(weights, np.zeros(weights.shape[1])) for weights in (np.hstack([first, -first]), *others)]


for seed in range(options.seeds):
    draw = np.random.default_rng(seed)
    kernels = train(
        scaled[:split], wet[:split], (scaled[split:], wet[split:]), (8, 8, 2), epochs=options.epochs, l2=1e-3,
        learning_rate=lambda epoch: 4 / len(mean), nonnegative_bias=True,
        start=start(draw, scaled[:split], wet[:split] == 1), rng=draw,
    )  # fmt: skip
    layers = [lrpfast.layers.BatchNorm(mean, variance, epsilon=0, name="normalization")]
    for i, (kernel, bias) in enumerate(kernels):
        activation = "relu" if i < len(kernels) - 1 else "softmax"
        layers.append(lrpfast.layers.Dense(kernel, bias, activation=activation))
    model = lrpfast.from_layers(layers, input_shape=len(mean), name=f"seed_{seed}")
    model.save(folder / f"seed_{seed}.npz")
    right = np.mean(model.predict(ocean[split:]).argmax(1) == wet[split:])
    print(f"seed {seed}: {right:.0%} of the last fifth of the days classified rightly")
del ocean, scaled

# %% Before a long run: do model and data belong together?
print("\n$ lrpfast doctor")
anomalies = ["--rule", "epsilon", "--epsilon", "0.1", "--rule-for", "BatchNorm=pass"]
cli.main(["doctor", str(folder / "seed_0.npz"), data, "--mask", mask, *anomalies])

# %% All years by all networks: what do they agree on, season by season, class by class?
# What the normalization receives is the relevance of anomalies, which it passes on to the temperatures point by point;
# folded into the next layer, it would share it between temperatures and their climatological mean, which is larger.
by_type = lrpfast.composites.ByType({lrpfast.layers.BatchNorm: "pass"})
rule = by_type | lrpfast.composites.Uniform(lrpfast.rules.Epsilon(0.1))
ensemble = lrpfast.Ensemble(f"{folder}/seed_*.npz", rule)
shared = {"mask": mask, "normalize": "maxabs", "overwrite": True}
seasons = ensemble.stream(data, statistics=folder / "seasons.nc", group_by="time.season", **shared)
by_class = ensemble.stream(data, statistics=folder / "classes.nc", group_by=labels, correct=labels, **shared)
print(f"\nseasons {', '.join(seasons.groups)}: {seasons}")
print(f"classes {by_class.groups}, rightly classified days: {by_class}")

# %% One winter, map by map, with coordinates and provenance: a file for a colleague
winter = {"time": slice("1982-12", "1983-02")}
with open_source(data, select=winter) as source:
    analyzer = lrpfast.Analyzer(folder / "seed_0.npz", rule)
    done = analyzer.stream(source, folder / "winter.nc", mask=mask, overwrite=True, progress=False)
print(f"{done.samples} maps of the winter of 1982: {folder / 'winter.nc'}")

# %% Do the networks look where the season is made? The pattern is known here, as it never is outside
with open_source(folder / "classes.nc:mean") as source:
    means = source.read(0, len(by_class.groups))
relevance = np.abs(means[:, ~land]).sum(0)
print(f"relevance and pattern correlate by {np.corrcoef(relevance, np.abs(pattern[~land]))[0, 1]:.2f}")
agree = np.maximum(by_class.positive, by_class.negative)[:, ~land]
with open_source(folder / "classes_seed_0.nc:significant") as source:
    significant = source.read(0, len(by_class.groups))[:, ~land]
for label, share, marked in zip(("dry", "wet"), agree, significant, strict=False):
    print(
        f"{label}: at {np.mean(share == 1):.0%} of the ocean all networks agree in sign; at {np.mean(marked):.0%} the "
        "first one has one sign on significantly more days"
    )

# %% The pictures: maps with latitudes and longitudes, coast lines where cartopy is installed
if importlib.util.find_spec("matplotlib") is None or importlib.util.find_spec("xarray") is None:
    print("no pictures: they need matplotlib and xarray (pip install matplotlib xarray)")
else:
    import xarray

    for name in ("seasons", "classes"):
        with xarray.open_dataset(folder / f"{name}.nc") as maps:
            figure = lrpfast.plot.heatmap(
                maps["mean"],
                kind="map",
                columns=2,
                labels=["dry days", "wet days"] if name == "classes" else None,
                title=f"mean relevance of {options.seeds} networks, each map divided by its largest |R|",
            )
        for kind in ("pdf", "png"):
            lrpfast.plot.save(figure, folder / f"{name}.{kind}")
        print(f"picture: {folder / name}.pdf")
