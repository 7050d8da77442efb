"""A climate scientist's day (docs/climate.md), by command and in Python: from yearly files to labelled maps.

What the day asks for, and the tests that hold it, here and elsewhere:

=====================================================  ================================================================
several files and patterns, in order, with resume      test_datasets_in: test_files_are_one_source_in_the_order_of_time
a window of any coordinate; regions with their mask    test_datasets_in: test_a_window_of_time, test_regions;
                                                       test_the_mask_is_selected_like_the_data
``zlev`` dropped; (time, lat, lon) to (lat, lon, 1)    test_datasets_in: test_axes_of_length_one_are_those_of_the_model;
                                                       test_every_command_takes_grids
models of (lag, points) with a mask                    test_datasets_in: test_lags_before_a_mask
NaN filled; calendars; flipped or shifted grids        test_datasets_in: test_missing_values_are_filled_on_request,
                                                       test_calendars, test_a_file_that_lies_otherwise_is_turned
Fortran-ordered .npy                                   test_sources: test_an_array_in_fortran_order_…
groups by season, month, variable, text; their names   test_datasets_in: test_groups_of_seasons_in_their_order, …
a question before many groups; regressions refused     test_datasets_in: test_groups_that_are_none, test_a_regression_…
targets from a NetCDF variable                         test_datasets_in: test_labels_and_targets_from_variables
live Keras models; xarray in, xarray out               test_live_keras, test_readers_keras; test_xarray
ensembles                                              test_ensemble; test_one_warning_for_all_members
prediction, target, share beside each map; bounds      test_sample_arrays
names, units, history, CF; compression; two rules      test_sample_arrays; test_statistics_are_compressed_by_threads
``--force`` names what would be lost                   test_sample_arrays: test_an_error_names_what_replacing_removes
statistics on the grid; agreement and significance     test_statistics: test_results_are_on_the_grid_of_a_mask, …
maps that are zero; parts and normalizations           test_statistics: test_zero_maps_are_counted_…; test_cli
pictures                                               test_plot; test_pictures_have_dates; test_examples
help and errors; doctor                                test_cli; test_doctor; test_warnings_are_printed_once
the day's script                                       test_examples: test_the_climate_scientists_day
=====================================================  ================================================================
"""

import re

import numpy as np
import pytest

import lrpfast
from lrpfast import cli
from lrpfast.batch import open_source
from lrpfast.errors import InputError

netCDF4 = pytest.importorskip("netCDF4")

LAT, LON = np.arange(-55.0, 56, 10), np.arange(5.0, 360, 20)
LAND = np.add.outer(np.cos(np.deg2rad(3 * LAT)), np.cos(np.deg2rad(2 * LON))) > 0.9
DAYS = 40


def write(path, year, values, lat=LAT, lon=LON):
    """A year's maps as data centres hand them out, with an axis of depth and times of a calendar without leap days."""
    with netCDF4.Dataset(path, "w") as file:
        columns = {"time": np.arange(len(values)) * 9.0, "zlev": np.zeros(1), "lat": lat, "lon": lon}
        units = (f"days since {year}-01-01", "m", "degrees_north", "degrees_east")
        for (name, column), unit in zip(columns.items(), units, strict=True):
            file.createDimension(name, len(column))
            file.createVariable(name, "f8", (name,))[:] = column
            file[name].units = unit
        file["time"].calendar = "noleap"
        sst = file.createVariable("sst", "f4", tuple(columns), fill_value=np.float32(-999))
        sst[:] = np.ma.masked_invalid(values)[:, None]
        file.createVariable("wet", "i4", ("time",))[:] = np.nanmean(values, (1, 2)) > 15


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Two years, the second upside down; a mask of the other convention of longitudes; three networks of its points."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    maps = rng.normal(15, 3, size=(2, DAYS, *LAND.shape)).astype(np.float32)
    maps[..., LAND] = np.nan
    write("sst_1982.nc", 1982, maps[0])
    write("sst_1983.nc", 1983, maps[1][:, ::-1], lat=LAT[::-1])
    with netCDF4.Dataset("ocean.nc", "w") as file:
        for name, column in (("lat", LAT), ("lon", (LON + 180) % 360 - 180)):
            file.createDimension(name, len(column))
            file.createVariable(name, "f8", (name,))[:] = np.sort(column)
        file.createVariable("ocean", "i1", ("lat", "lon"))[:] = np.roll(~LAND, len(LON) // 2, axis=1)
    for seed in range(3):
        network(int((~LAND).sum()), seed).save(f"seed_{seed}.npz")
    return maps.reshape(-1, *LAND.shape)


def network(points, seed=0):
    rng = np.random.default_rng(seed)
    return lrpfast.from_layers(
        [
            lrpfast.layers.BatchNorm(np.full(points, 15.0), np.full(points, 9.0), name="normalization"),
            lrpfast.layers.Dense(rng.normal(size=(points, 6)) / 8, activation="relu", name="hidden"),
            lrpfast.layers.Dense(rng.normal(size=(6, 2)), activation="softmax", name="last"),
        ],
        input_shape=points,
    )


DATA = ["sst_*.nc:sst", "--mask", "ocean.nc:ocean"]


def command(capsys, *arguments, code=0):
    """What a command prints, and its warnings."""
    assert cli.main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    return out, err.splitlines()


# Warnings


def test_warnings_are_printed_once(world, capsys):
    """In the command's words, without a line of Python's code, by every command."""
    for arguments in (["explain", "seed_0.npz", *DATA, "-o", "r.nc", "--quiet"], ["doctor", "seed_0.npz", *DATA]):
        _, warnings = command(capsys, *arguments)
        aligned = [line for line in warnings if "lies otherwise" in line]
        assert len(aligned) == 1 and all(line.startswith("lrpfast: warning: ") for line in warnings), warnings


def test_one_warning_for_all_members(world, capsys):
    out, warnings = command(capsys, "explain", "--models", "seed_*.npz", *DATA, "--statistics", "maps.nc")
    assert "3 members explained 80 samples each" in out
    assert len([line for line in warnings if "lies otherwise" in line]) == 1


# Every command takes what `explain` takes


def test_every_command_takes_grids(world, capsys):
    """Yearly files with an axis of depth, a mask and a window, in all commands that read samples."""
    window = [*DATA, "--select", "time=1982-03:1983-02"]
    selected = world[7:47]  # a map in nine days
    with open_source("sst_*.nc:sst", select={"time": slice("1982-03", "1983-02")}) as source:
        np.testing.assert_array_equal(source.read(0, 41)[:, 0], selected)
    out, _ = command(capsys, "evaluate", "seed_0.npz", *window, "--rule", "epsilon,z_plus", "--steps", "5")
    assert "40 samples" in out and "z_plus" in out
    out, _ = command(capsys, "references", "seed_0.npz", *window, "--layer", "hidden", "-k", "3")
    assert "3 samples for each of 6 channels" in out
    options = ["--layer", "last", "--channel", "1", "--sample", "2", "--target", "0"]
    out, _ = command(capsys, "graph", "seed_0.npz", *window, *options)
    analyzer = lrpfast.Analyzer("seed_0.npz", "epsilon")
    assert out.strip() == str(analyzer.attribution_graph(selected[2:3, ~LAND], "last", 1, target=0))


def test_a_report_of_a_part_of_yearly_files(world, capsys):
    pytest.importorskip("matplotlib")
    options = ["--select", "time.season=DJF,JJA", "--labels", "time.season", "--samples", "8"]
    command(capsys, "report", "seed_0.npz", *DATA, "-o", "seasons.html", "--quiet", *options)
    with open("seasons.html", encoding="utf-8") as file:
        text = re.sub('data:image[^"]*', "", file.read())
    assert "DJF" in text and "JJA" in text and "SON" not in text
    options[3] = "sst_*.nc:wet"
    command(capsys, "report", "seed_0.npz", *DATA, "-o", "wet.html", "--quiet", *options)
    analyzer = lrpfast.Analyzer("seed_0.npz", "epsilon")
    with pytest.raises(InputError, match="has no coordinate 'phase'"), pytest.warns(UserWarning, match="otherwise"):
        lrpfast.report(analyzer, "sst_*.nc:sst", "r.html", mask="ocean.nc:ocean", labels="phase", progress=False)


def test_the_mask_is_selected_like_the_data(world, capsys):
    """A network of a region's points takes the mask of the whole ocean; one of all points takes no part."""
    inside = (np.abs(LAT) <= 30)[:, None] & ((LON <= 60) | (LON >= 330))[None, :]
    points = ~LAND & inside
    model = network(int(points.sum()), 7)
    model.save("region.npz")
    region = ["--select", "lat=-30:30", "--select", "lon=-30:60"]
    command(capsys, "explain", "region.npz", *DATA, *region, "-o", "r.nc", "--quiet")
    order = np.argsort((LON + 30) % 360)  # from west to east
    x = world[:, :, order][:, points[:, order]]
    with open_source("r.nc") as source:
        relevance, labels = source.read(0, len(world)), source.labels
    np.testing.assert_array_equal(labels.coords["lat"].values, LAT[np.abs(LAT) <= 30])
    kept = points[:, order][np.abs(LAT) <= 30][:, : relevance.shape[-1]]
    expected = lrpfast.Analyzer(model, "epsilon").analyze(x)
    np.testing.assert_array_equal(relevance[:, kept], expected)
    _, errors = command(capsys, "explain", "seed_0.npz", *DATA, *region, "-o", "no.nc", "--quiet", code=2)
    assert "the mask has" in errors[-1] and "the model" in errors[-1]
    _, errors = command(capsys, "explain", "seed_0.npz", "part.nc:sst", *DATA[1:], "-o", "no.nc", code=2)
    assert "there is no such file" in errors[-1]
    with netCDF4.Dataset("part.nc", "w") as file:  # a part that nobody asked for
        for name, column in (("time", [0.0]), ("lat", LAT[3:]), ("lon", LON)):
            file.createDimension(name, len(column))
            file.createVariable(name, "f8", (name,))[:] = column
        file.createVariable("sst", "f4", ("time", "lat", "lon"))[:] = world[:1, 3:]
    _, errors = command(capsys, "explain", "seed_0.npz", "part.nc:sst", *DATA[1:], "-o", "no.nc", code=2)
    assert "points that the data do not have" in errors[-1] and "--select takes the mask's part" in errors[-1]


def test_missing_values_name_all_cures(world, capsys):
    conv = [lrpfast.layers.Conv(np.ones((3, 3, 1, 2), np.float32)), lrpfast.layers.Flatten()]
    shape = (*LAND.shape, 1)
    size = int(np.prod(lrpfast.from_layers(conv, input_shape=shape).output_shape))
    lrpfast.from_layers([*conv, lrpfast.layers.Dense(np.ones((size, 2)))], input_shape=shape).save("cnn.npz")
    _, errors = command(capsys, "explain", "cnn.npz", DATA[0], "-o", "r.nc", "--quiet", code=2)
    assert "--mask FILE" in errors[-1] and "--mask-nan" in errors[-1] and "--fill-nan 0" in errors[-1]
    command(capsys, "explain", "cnn.npz", DATA[0], "-o", "r.nc", "--quiet", "--fill-nan", "0")


def test_many_groups_are_allowed_by_what_the_error_says(world, capsys, monkeypatch):
    monkeypatch.setattr("lrpfast.batch.groups._FREE_BYTES", 10_000)
    arguments = ["explain", "seed_0.npz", *DATA, "--statistics", "maps.nc", "--group-by", "time.dayofyear", "--quiet"]
    _, errors = command(capsys, *arguments, code=2)
    option, value = errors[-1].split("allow it with ")[1].split()
    command(capsys, *arguments, option, value)


# Files of statistics


@pytest.mark.parametrize("kind", ["nc", "h5"])
def test_statistics_are_compressed_by_threads(kind, tmp_path, monkeypatch):
    """Large arrays, in chunks of whole groups: the same values, and the same bytes for any number of threads."""
    import h5py

    monkeypatch.setattr("lrpfast.batch.map_writer.LARGE", 1)
    monkeypatch.setattr("lrpfast.batch.sinks.packing.CHUNK_BYTES", 4096)
    x = np.random.default_rng(0).normal(size=(60, 7, 31)).astype(np.float32)
    x[:, :3] = np.nan  # runs
    x[:, 3] = x[0, 3]  # repetition
    mask = np.ones((7, 31), bool)
    analyzer = lrpfast.Analyzer(network(217), "epsilon", mask_nan=True)
    written = []
    for threads in (1, 3):
        lrpfast.set_num_threads(threads)
        path = tmp_path / f"maps.{kind}"
        done = analyzer.stream(
            x, statistics=path, group_by=np.arange(60) // 2, mask=mask, overwrite=True, progress=False
        )
        written.append(path.read_bytes())
    lrpfast.set_num_threads(None)
    assert written[0] == written[1]
    with h5py.File(path) as file:
        for name in ("mean", "std", "minimum", "valid", "p_value"):
            values = getattr(done.statistics, name)
            np.testing.assert_array_equal(file[name][()], values() if callable(values) else values)
            assert file[name].compression == "gzip" and file[name].shuffle and file[name].chunks[1:] == (7, 31)


def test_a_chunk_is_deflated_in_the_better_way():
    """Noise with runs by runs alone, and what repeats by any repetition; both are what zlib reads."""
    import zlib

    from lrpfast.batch.sinks.packing import _chunk_bytes

    rng = np.random.default_rng(1)
    noise = rng.normal(size=(8, 4000))
    noise[:, 1000:2000] = np.nan
    for rows, most in ((noise, 0.75), (np.tile(rng.normal(size=(1, 500)), (8, 8)), 0.3)):
        data = _chunk_bytes(rows, 9)
        planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(8, -1)
        np.testing.assert_array_equal(np.ascontiguousarray(planes.T).view(np.float64).reshape(9, -1)[:8], rows)
        assert len(data) < most * rows.nbytes


def test_files_of_an_ensemble_are_compressed(world):
    h5py = pytest.importorskip("h5py")
    ensemble = lrpfast.Ensemble("seed_*.npz", "epsilon")
    options = {"mask": ~LAND, "group_by": "time.season", "progress": False}
    ensemble.stream("sst_*.nc:sst", statistics="maps.nc", **options)
    ensemble.stream("sst_*.nc:sst", statistics="plain.nc", compression="none", **options)
    for name, compression in (("maps.nc", "gzip"), ("plain.nc", None)):
        with h5py.File(name) as file:
            assert file["mean"].compression == compression


def test_a_run_of_many_groups_stopped_while_its_file_is_written(world, monkeypatch):
    """Without a record of the end, what is finished is recorded when writing stops; a full disk gets a second try."""
    analyzer = lrpfast.Analyzer("seed_0.npz", "epsilon")
    options = {"statistics": "maps.npz", "group_by": "time.dayofyear", "mask": ~LAND, "progress": False}
    expected = analyzer.stream("sst_*.nc:sst", **{**options, "statistics": True}).statistics
    save = lrpfast.batch.run.save_statistics
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        raise KeyboardInterrupt if len(calls) == 1 else OSError(28, "No space left on device", "maps.npz")

    monkeypatch.setattr("lrpfast.batch.run.save_statistics", stopped)
    with pytest.raises(KeyboardInterrupt):
        analyzer.stream("sst_*.nc:sst", **options)
    with pytest.raises(OSError, match="what is done is kept"):
        analyzer.stream("sst_*.nc:sst", **options)
    assert len(calls) == 3
    monkeypatch.setattr("lrpfast.batch.run.save_statistics", save)
    done = analyzer.stream("sst_*.nc:sst", **options)
    assert done.resumed == 80
    np.testing.assert_array_equal(done.statistics.mean, expected.mean)


def test_room_is_reserved_on_any_file_system(tmp_path, monkeypatch):
    """At once where the system can; by writing where it cannot."""
    from lrpfast.batch.journal import _allocate

    def refused(*_):
        raise OSError(95, "Operation not supported")

    for name in ("at once", "written"):
        with open(tmp_path / name, "wb") as file:
            _allocate(file, (3 << 20) + 5)
        assert (tmp_path / name).stat().st_size == (3 << 20) + 5
        monkeypatch.setattr("os.posix_fallocate", refused, raising=False)


# Pictures


def test_pictures_have_dates(world, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr("lrpfast.plot.save", lambda figure, path: drawn.append(figure))
    options = ["--plot", "r.png", "--plot-limit", "2", "--quiet", "--force"]
    for target, suffix in (("max", ": output"), ("1", ""), ("all", "")):
        command(capsys, "explain", "seed_0.npz", *DATA, "-o", "r.nc", "--target", target, *options)
        titles = [ax.get_title() for ax in drawn[-1].axes if ax.get_title()]
        assert [title[:10] for title in titles] == ["1982-01-01", "1982-01-10"]
        assert all(title[10:].startswith(suffix) for title in titles)
    np.save("targets.npy", np.zeros((len(world), 2), np.int64) + [0, 1])
    command(capsys, "explain", "seed_0.npz", *DATA, "-o", "r.nc", "--target", "targets.npy", *options)
    texts = {text.get_text() for ax in drawn[-1].axes for text in ax.findobj() if hasattr(text, "get_text")}
    assert {"1982-01-01", "1982-01-10", "target 0", "target 1"} <= texts
