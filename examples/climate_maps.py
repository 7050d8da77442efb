"""The climate pipeline from end to end, on made data: sea surface temperatures in, mean relevance maps out.

Two thousand daily maps of sea surface temperature, NaN on land, come with a class for each: whether the following
season is wet or dry. A dense network learns the class from the ocean points alone, once for the same day and once for
a lead of thirty days. Then every map is explained, and the mean relevance map of each class and lead, of rightly
classified days only, goes to a file that says how it was made, and into a picture.

    python examples/climate_maps.py                       writes climate_maps/, about 20 s
    python examples/climate_maps.py --days 500 --epochs 5 --folder maps

It needs lrpfast and `trainer.py` beside it; matplotlib for the picture (pip install matplotlib) and netCDF4 for
NetCDF files (pip install netCDF4): without them there is no picture, and files are .npy and .npz.
"""

# %% What is needed
import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np

import lrpfast
from lrpfast.batch import open_source
from trainer import train

parser = argparse.ArgumentParser(description="Sea surface temperatures in, mean relevance maps out, on made data.")
parser.add_argument("--folder", type=Path, default=Path("climate_maps"), help="where files go; default: %(default)s")
parser.add_argument("--days", type=int, default=2_000, help="default: %(default)s")
parser.add_argument("--epochs", type=int, default=12, help="default: %(default)s")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
folder, netcdf = options.folder, importlib.util.find_spec("netCDF4") is not None
folder.mkdir(exist_ok=True)
rng = np.random.default_rng(20)

# %% The data: smooth noise, and a pattern in the tropical Pacific that says what the season will be
# A grid of 4 degrees; land is made too: three continents and Antarctica.
lat, lon = np.arange(-88.0, 90, 4), np.arange(0.0, 360, 4)
north_of, east_of = np.meshgrid(lat, lon, indexing="ij")


def blob(north, east, height, width):
    """A smooth hill on the sphere."""
    return np.exp(-(((north_of - north) / height) ** 2) - ((((east_of - east + 180) % 360) - 180) / width) ** 2)


continents = blob(15, 20, 30, 25) + blob(45, 80, 30, 55) + blob(45, 260, 28, 30) + blob(-15, 300, 28, 18)
land = (continents > 0.5) | (north_of < -72)
pattern = blob(0, 230, 9, 45) - 0.6 * blob(10, 140, 12, 25) - 0.4 * blob(38, 210, 12, 25)

# Daily noise that is smooth in space; the pattern's strength wanders from day to day, as El Niño does.
rough = np.fft.rfft2(rng.normal(size=(options.days, *land.shape)))
wave = np.hypot(np.fft.fftfreq(len(lat))[:, None] * len(lat), np.fft.rfftfreq(len(lon)) * len(lon))
noise = np.fft.irfft2(rough * np.exp(-((wave / 9) ** 2)), s=land.shape)
strength = np.zeros(options.days)
for day in range(1, options.days):
    strength[day] = 0.99 * strength[day - 1] + 0.14 * rng.normal()
maps = (noise / noise.std() + 1.5 * strength[:, None, None] * pattern).astype(np.float32)
maps[:, land] = np.nan
print(f"{options.days:,} maps of {land.shape[0]} × {land.shape[1]} points, {(~land).sum():,} of them ocean")

# %% To files, as a data centre would hand them out
if netcdf:
    import netCDF4

    with netCDF4.Dataset(folder / "sst.nc", "w") as file:
        for name, values, units in (
            ("time", np.arange(options.days), "days since 1990-01-01"),
            ("lat", lat, "degrees_north"),
            ("lon", lon, "degrees_east"),
        ):
            file.createDimension(name, len(values))
            file.createVariable(name, "f8", (name,))[:] = values
            file[name].units = units
        file.createVariable("sst", "f4", ("time", "lat", "lon"), fill_value=np.float32(np.nan))[:] = maps
        file["sst"].setncatts({"units": "K", "long_name": "sea surface temperature anomaly"})
    source, ending = f"{folder / 'sst.nc'}:sst", "nc"
else:
    np.save(folder / "sst.npy", maps)
    source, ending = str(folder / "sst.npy"), "npz"
np.save(folder / "ocean.npy", ~land)

# %% For each lead: a network, its file, and the mean relevance map of each class
ocean = maps[:, ~land]
mean_maps, titles = [], []
for lead in (0, 30):
    # the season after `lead` days: the pattern then, and some chance
    later = np.roll(strength, -lead) + 0.3 * rng.normal(size=options.days)
    labels = (later > 0).astype(np.int64)
    labels_file = folder / f"labels_{lead}.npy"
    np.save(labels_file, labels)

    # the last fifth is for validation, and for choosing the best epoch
    split = options.days * 4 // 5
    parts = train(
        ocean[:split], labels[:split], (ocean[split:], labels[split:]), (8, 8, 2), epochs=options.epochs, l2=1e-3,
        rng=np.random.default_rng(lead),
    )  # fmt: skip
    layers = [
        lrpfast.layers.Dense(kernel, bias, activation="relu" if i < len(parts) - 1 else "softmax")
        for i, (kernel, bias) in enumerate(parts)
    ]
    lrpfast.from_layers(layers, name=f"lead_{lead}").save(folder / f"model_{lead}.npz")

    # from here on it is what a user does with files of their own
    model = lrpfast.load(folder / f"model_{lead}.npz")
    predicted = model.predict(ocean).argmax(1)
    print(
        f"\nlead {lead} days: {(predicted[split:] == labels[split:]).mean():.0%} of the last fifth classified rightly"
    )

    # α1β0 without bias, and z-box on the first layer between each point's lowest and highest temperature
    low, high = lrpfast.data_bounds(source, "minmax", mask=folder / "ocean.npy")
    analyzer = lrpfast.create_analyzer("lrp.alpha_1_beta_0_IB", model, input_layer_rule=(low, high))
    print(analyzer.explain(ocean[:200]).conservation)

    made = folder / f"relevance_{lead}.{ending}"
    done = analyzer.stream(
        source,
        mask=folder / "ocean.npy",
        statistics=made,
        group_by=labels_file,
        correct=labels_file,
        normalize="maxabs",
        overwrite=True,
    )
    counts = ", ".join(
        f"{n:,} of class {g}" for g, n in zip(done.statistics.groups, done.statistics.count, strict=True)
    )
    print(f"{done.samples:,} maps explained in {done.seconds:.2g} s; {counts} classified rightly: {made}")

    with open_source(f"{made}:mean") as means:
        mean_maps.extend(means.read(0, 2))
    titles.append(f"lead {lead} days")

# %% Does the network look where the season is made? The pattern is known here, as it never is outside
for title, low_class, high_class in zip(titles, mean_maps[::2], mean_maps[1::2], strict=True):
    seen = np.abs(high_class[~land]) + np.abs(low_class[~land])
    print(f"{title}: relevance and pattern correlate by {np.corrcoef(seen, np.abs(pattern[~land]))[0, 1]:.2f}")

# %% The picture
if importlib.util.find_spec("matplotlib") is None:
    print("\nno picture: it needs matplotlib (pip install matplotlib)")
else:
    figure = lrpfast.plot.heatmap(
        np.stack(mean_maps),
        kind="image",
        origin="lower",
        scale="shared",
        rows=titles,
        columns=["dry", "wet"],
        title="mean relevance, rightly classified days, each map divided by its largest |R|",
    )
    lrpfast.plot.save(figure, folder / "relevance.png")
    print(f"\npicture: {folder / 'relevance.png'}")
