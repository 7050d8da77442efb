"""Stored numbers, type by type, attribute by attribute and format by format: what netCDF4, xarray and h5py read."""

import h5py
import numpy as np
import pytest

from lrpfast.batch.sources import open_source
from lrpfast.errors import InputError

netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4 is not installed; lrpfast[test] brings it")
xarray = pytest.importorskip("xarray", reason="xarray is not installed; lrpfast[test] brings it")
zarr = pytest.importorskip("zarr", reason="zarr is not installed; lrpfast[test] brings it")

INTEGERS = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
FLOATS = ["f4", "f8"]
#: Which types each format has; a type with ">" is stored with its largest byte first.
FORMATS = {
    "NETCDF4": [*INTEGERS, *FLOATS, ">i2", ">f4", ">f8"],
    "NETCDF3_CLASSIC": ["i1", "i2", "i4", *FLOATS],
    "NETCDF3_64BIT_DATA": [*INTEGERS, *FLOATS],
    "HDF5": [*INTEGERS, *FLOATS, ">i2", ">u4", ">f4", ">f8", "f2", ">f2"],
    "ZARR": [*INTEGERS, *FLOATS, ">i2", ">f4", "f2"],
}
#: Attributes; numbers get the type of the values but for those in `float`, which stay what they are.
NOTES = {
    "nothing": {},
    "packed": {"scale_factor": 0.5, "add_offset": -3.25},
    "scaled": {"scale_factor": 0.01},
    "scale as text": {"scale_factor": "0.5"},
    "a fill value": {"_FillValue": 7},
    "packed, with a fill value": {"scale_factor": 0.5, "_FillValue": 7},
    "a missing value": {"missing_value": 7},
    "missing values": {"missing_value": [7, 100]},
    "missing and fill values": {"missing_value": 7, "_FillValue": 100},
    "a missing value as text": {"missing_value": "7"},
    "a missing value that is none": {"missing_value": "none"},
    "missing values that are none": {"missing_value": ["n/a", "-"]},
    "least": {"valid_min": 1},
    "largest": {"valid_max": 99},
    "range": {"valid_range": [1, 99]},
    "packed range": {"valid_range": [1, 99], "scale_factor": 0.5},
    "range of what is packed": {"valid_range": [0.4, 10.0], "scale_factor": 0.125},
    "range as text": {"valid_range": "1 to 99"},
    "unsigned": {"_Unsigned": "true"},
    "unsigned, with a fill value": {"_Unsigned": "true", "_FillValue": -1},
    "unsigned, packed": {"_Unsigned": "true", "_FillValue": -1, "scale_factor": 0.5},
    "signed": {"_Unsigned": "false"},
    "no sign": {"_Unsigned": 3},
}
#: What netCDF4 does not do: text as numbers, ranges of the unpacked numbers (it takes them for stored values).
NOT_NETCDF4 = {"scale as text", "a missing value as text", "range of what is packed", "signed"}
#: What xarray does not do, which knows no valid range and stops at several texts.
NOT_XARRAY = NOT_NETCDF4 | {"missing values that are none"}
NOT_XARRAY |= {key for key, notes in NOTES.items() if any("valid" in note for note in notes)}
#: What leaves integers what they are.
WHOLE = {"nothing", "a missing value that is none", "missing values that are none", "range as text"}
WHOLE |= {"unsigned", "signed", "no sign"}


def values(dtype):
    dtype = np.dtype(dtype)
    listed = [0, 1, 7, 99, 100, 3]
    if dtype.kind == "f":
        return np.array([*listed, -1.5, np.nan, 0.1], dtype)
    most = int(np.iinfo(dtype).max)  # what NetCDF puts where nothing was written lies near it, and is no value
    return np.array([*listed, *((-1, -2, most) if dtype.kind == "i" else (most - 3, most - 4, most // 2 + 2))], dtype)


def typed(notes, dtype):
    """Numbers as attributes of the values' type; those of how they are packed are of float64."""
    kept = {}
    for key, value in notes.items():
        if isinstance(value, (str, float)) or key == "_Unsigned" or isinstance(np.ravel(value)[0], (str, float)):
            kept[key] = value
        else:
            kept[key] = np.array(value).astype(np.dtype(dtype).newbyteorder("="))[()]
    return kept


def oracle(x, notes):
    """The numbers in float64, by hand."""
    notes = dict(notes)
    if x.dtype.kind in "iu" and notes.get("_Unsigned") in ("true", "false"):
        x = x.view(x.dtype.str.replace(x.dtype.kind, {"true": "u", "false": "i"}[notes["_Unsigned"]]))
    number = x.astype(np.float64) * float(notes.get("scale_factor", 1)) + float(notes.get("add_offset", 0))
    gone = np.zeros(x.shape, bool)
    for key in ("_FillValue", "missing_value"):
        for value in np.ravel(notes.get(key, [])):
            if not isinstance(value, str) or value.isdigit():
                gone |= x == (x.dtype.type(int(value)) if int(value) >= 0 else x.dtype.type(np.iinfo(x.dtype).max))
    low, high = notes.get("valid_min", -np.inf), notes.get("valid_max", np.inf)
    compared = x
    if isinstance(notes.get("valid_range"), list):
        low, high = notes["valid_range"]
        if isinstance(low, float):  # "of what is packed"
            compared = number if x.dtype.kind in "iu" else x.astype(np.float64)
            low, high = (low, high) if x.dtype.kind in "iu" else (float(x.dtype.type(low)), high)
    with np.errstate(invalid="ignore"):
        gone |= (compared < low) | (compared > high)
    return np.where(gone, np.nan, number)


def write(path, form, x, notes):
    if form == "HDF5":
        with h5py.File(path, "w") as file:
            file["x"] = x
            file["x"].attrs.update(notes)
    elif form == "ZARR":
        root = zarr.open_group(path, mode="w", **({"zarr_format": 2} if zarr.__version__ >= "3" else {}))
        create = getattr(root, "create_array", None) or root.create
        array = create("x", shape=x.shape, dtype=x.dtype, chunks=x.shape)
        array[:] = x
        plain = {key: np.asarray(value).tolist() for key, value in notes.items()}
        array.attrs.update({**plain, "_ARRAY_DIMENSIONS": ["n"]})
    else:
        with netCDF4.Dataset(path, "w", format=form) as file:
            file.createDimension("n", len(x))
            notes = dict(notes)
            how = {"fill_value": notes.pop("_FillValue")} if "_FillValue" in notes else {}
            order = "big" if x.dtype.byteorder == ">" else "native"
            made = file.createVariable("x", x.dtype, ("n",), endian=order, **how)
            made.set_auto_maskandscale(False)
            for key, value in notes.items():
                if isinstance(value, list) and isinstance(value[0], str):
                    made.setncattr_string(key, value) if form == "NETCDF4" else made.setncattr(key, " ".join(value))
                else:
                    made.setncattr(key, value)
            made[:] = x


def read(path):
    with open_source(f"{path}:x") as source:
        rows = source.read(0, source.shape[0])
        assert rows.dtype == source.dtype
        return rows


def same(rows, wanted):
    """Equal in the type that was read."""
    rounded = wanted.astype(rows.dtype) if rows.dtype.kind == "f" else wanted
    np.testing.assert_array_equal(rows.astype(np.float64), rounded.astype(np.float64))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("note", NOTES)
def test_numbers_are_what_the_conventions_say(note, form, tmp_path):
    for dtype in FORMATS[form]:
        if np.dtype(dtype).kind == "f" and "unsigned" in note:
            continue  # floats have a sign
        path, x = str(tmp_path / f"{dtype.strip('>')}{'>' in dtype}"), values(dtype)
        notes = NOTES[note]
        if np.dtype(dtype).kind == "u" and notes.get("_FillValue") == -1:
            continue  # only a signed type holds it
        write(path, form, x, typed(notes, dtype))
        rows = read(path)
        same(rows, oracle(x, notes))
        if np.dtype(dtype).kind != "f":
            size = np.dtype(dtype).itemsize
            wanted = np.dtype("f4" if size <= 2 else "f8") if note not in WHOLE else None
            assert rows.dtype == wanted if wanted else rows.dtype.kind in "iu", (note, dtype)
        if form.startswith("NETCDF"):
            # xarray compares integers of 64 bits as floats, in which neighbours are the same
            check_libraries(path, rows, note, xarrays=np.dtype(dtype).itemsize < 8 or "_Unsigned" not in notes)


def check_libraries(path, rows, note, xarrays):
    rounding = {"rtol": 2 * np.finfo(np.float32).eps, "atol": 0}  # xarray computes in float32
    if note not in NOT_NETCDF4:
        with netCDF4.Dataset(path) as file:
            theirs = np.ma.filled(file["x"][:].astype(np.float64), np.nan)
        np.testing.assert_allclose(rows.astype(np.float64), theirs, **rounding)
    if xarrays and note not in NOT_XARRAY:
        with xarray.open_dataset(path, engine="netcdf4") as file:
            np.testing.assert_allclose(rows.astype(np.float64), file["x"].values.astype(np.float64), **rounding)


def test_the_usual_fill_values_are_gaps_but_in_bytes(tmp_path):
    """A byte has no value to spare: netCDF4 1.7.5 takes 255 for a gap, xarray does not."""
    path = str(tmp_path / "x.nc")
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", 3)
        for dtype in ("u1", "i1", "i2", "u2", "f4"):
            file.createVariable(dtype, dtype, ("n",))[:] = [1, netCDF4.default_fillvals[dtype], 3]
        file.createVariable("packed", "i2", ("n",))[:] = [1, netCDF4.default_fillvals["i2"], 3]
        file["packed"].scale_factor = 0.5
        file["i2"].set_auto_maskandscale(False)
    for name in ("u1", "i1"):
        with open_source(f"{path}:{name}") as source:
            assert source.read(0, 3).tolist() == [1, netCDF4.default_fillvals[name], 3]
    for name in ("i2", "u2"):
        with open_source(f"{path}:{name}") as source, pytest.raises(InputError, match="never written"):
            source.read(0, 3)
    for name, wanted in (("f4", [1, np.nan, 3]), ("packed", [0.5, np.nan, 1.5])):
        with open_source(f"{path}:{name}") as source:
            np.testing.assert_array_equal(source.read(0, 3), np.array(wanted))


@pytest.mark.parametrize("form", ["NETCDF4", "HDF5", "ZARR"])
@pytest.mark.parametrize(
    ("notes", "match"),
    [
        ({"scale_factor": "much"}, "scale_factor is .*much.*, where one number belongs"),
        ({"scale_factor": [1.0, 2.0]}, "scale_factor is .*, where one number belongs"),
        ({"add_offset": "nan"}, "add_offset is nan"),
    ],
)
def test_a_scale_that_is_no_number_is_refused(notes, match, form, tmp_path):
    write(str(tmp_path / "x"), form, np.arange(3, dtype=np.int16), notes)
    with pytest.raises(InputError, match=match):
        read(str(tmp_path / "x"))


#: HDF5's own types, and what h5py has no type of NumPy for.
ODD = {
    "precision": lambda: whole("STD_I16LE", precision=12),
    "offset": lambda: whole("STD_I16LE", precision=12, offset=4),
    "largest byte first": lambda: whole("STD_I32BE", precision=20, offset=3),
    "no sign": lambda: whole("STD_U32LE", precision=24, offset=8),
    "bias": lambda: real("IEEE_F32LE", (31, 23, 8, 0, 23), 100),
    "long mantissa": lambda: real("IEEE_F32LE", (31, 24, 7, 0, 24), 63),
    "24 bits": lambda: real("IEEE_F32LE", (23, 15, 8, 0, 15), 127, 24),
    "48 bits": lambda: real("IEEE_F64LE", (47, 36, 11, 0, 36), 1023, 48),
    "bfloat16": lambda: real("IEEE_F16LE", (15, 7, 8, 0, 7), 127),
}


def whole(name, precision, offset=0):
    kind = getattr(h5py.h5t, name).copy()
    kind.set_precision(precision)
    kind.set_offset(offset)
    return kind


def real(name, fields, bias, precision=None):
    kind = getattr(h5py.h5t, name).copy()
    kind.set_fields(*fields)
    if precision:
        kind.set_precision(precision)
    kind.set_ebias(bias)
    return kind


@pytest.mark.parametrize("odd", ODD)
def test_hdf5_numbers_of_unusual_layout(odd, tmp_path):
    path, kind = tmp_path / "x.h5", ODD[odd]()
    x = np.arange(12.0).reshape(3, 4) + 1
    if isinstance(kind, h5py.h5t.TypeIntegerID) and kind.get_sign() == h5py.h5t.SGN_2:
        x[1] *= -1
    with h5py.File(path, "w") as file:
        made = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(x.shape))
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, x.astype(np.float64 if "F" in type(kind).__name__ else np.int64))
    np.testing.assert_array_equal(read(path), x)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["x"][()], x)


def test_hdf5_and_netcdf_types_that_are_numbers_or_none(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["bool"] = np.array([True, False])
        file.create_dataset("enum", data=np.array([0, 2]), dtype=h5py.enum_dtype({"a": 0, "b": 2}, "i2"))
        file["half"] = np.array([1.5, 2], ">f2")
        file["named"] = np.dtype("i4")
        file.create_dataset("of it", data=np.arange(2), dtype=file["named"])
        file["complex"], file["opaque"] = np.zeros(2, complex), np.array([b"ab", b"cd"], "V2")
        file.create_dataset("lists", (2,), h5py.vlen_dtype("i4"))[0] = [1, 2]
        file.create_dataset("arrays", (2,), np.dtype(("i4", (3,))))[...] = np.ones((2, 3))
        bits = h5py.h5d.create(file.id, b"bits", h5py.h5t.STD_B16LE, h5py.h5s.create_simple((2,)))
        bits.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([1, 65535], np.uint16))
    for name, wanted in {"bool": [1, 0], "enum": [0, 2], "half": [1.5, 2], "of it": [0, 1], "bits": [1, 65535]}.items():
        with open_source(f"{path}:{name}") as source:
            assert source.read(0, 2).tolist() == wanted
    for name in ("complex", "opaque", "lists", "arrays"):
        with pytest.raises(InputError, match="no real numbers"):
            open_source(f"{path}:{name}")
    path = tmp_path / "x.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("n", 2)
        kind = file.createEnumType(np.uint8, "kinds", {"a": 0, "b": 1})
        file.createVariable("enum", kind, ("n",))[:] = [0, 1]
        file.createVariable("lists", file.createVLType(np.int32, "ints"), ("n",))
        file.createVariable("pairs", file.createCompoundType(np.dtype([("r", "f4"), ("i", "f4")]), "pair"), ("n",))
        file.createVariable("letters", "S1", ("n",))[:] = np.array([b"a", b"b"])
        file.createVariable("texts", str, ("n",))[:] = np.array(["a", "b"], object)
    with open_source(f"{path}:enum") as source:
        assert source.read(0, 2).tolist() == [0, 1]
    for name in ("lists", "pairs", "letters", "texts"):
        with pytest.raises(InputError, match="no real numbers"):
            open_source(f"{path}:{name}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["NETCDF4", "HDF5", "ZARR"])
@pytest.mark.parametrize("name", ["coordinates", "grid_mapping", "units", "valid_min", "missing_value", "_Unsigned"])
@pytest.mark.parametrize("value", [1.5, [1, 2], "", "a b", ["a", "b"]])
def test_attributes_of_any_type_make_no_file_damaged(value, name, form, tmp_path):
    x = np.array([100, 200], np.int16)
    write(str(tmp_path / "x"), form, x, {name: value})
    with open_source(str(tmp_path / "x")) as source:  # by itself: it is found, too
        np.testing.assert_array_equal(source.read(0, 2), x)


def test_what_hdf5_and_netcdf_cannot_read_is_no_attribute(tmp_path):
    path = str(tmp_path / "x.nc")
    write(path, "NETCDF4", np.array([1.0, 2.0]), {})
    with h5py.File(path, "a") as file:
        attrs = file["x"].attrs
        attrs["record"], attrs["reference"] = np.array([(1, 2.0)], "i4, f8"), file["x"].ref
        attrs["empty"], attrs["latin"] = h5py.Empty("f4"), np.bytes_("\u00b0C".encode("latin-1"))
        attrs["missing_value"], attrs["coordinates"] = h5py.Empty("f4"), file["x"].ref
    assert read(path).tolist() == [1, 2]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.array([1.0, 2.0])
        attrs = file["x"].attrs
        attrs["missing_value"], attrs["coordinates"], attrs["_FillValue"] = h5py.Empty("f4"), [1.0], file["x"].ref
    assert read(str(tmp_path / "x.h5")).tolist() == [1, 2]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["NETCDF4", "ZARR"])
def test_coordinates_are_decoded_too(form, tmp_path):
    path = str(tmp_path / "x")
    packed = {"scale_factor": 0.5, "add_offset": -90.0, "_Unsigned": "true", "units": "degrees_north"}
    if form == "ZARR":
        root = zarr.open_group(path, mode="w", **({"zarr_format": 2} if zarr.__version__ >= "3" else {}))
        create = getattr(root, "create_array", None) or root.create
        lat = np.array([0, 100, -16], "i1")
        for name, dims, x in (("x", ["t", "lat"], np.ones((2, 3), "f4")), ("lat", ["lat"], lat)):
            made = create(name, shape=x.shape, dtype=x.dtype, chunks=x.shape)
            made[:] = x
            made.attrs.update({"_ARRAY_DIMENSIONS": dims, **(packed if name == "lat" else {})})
    else:
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("t", 2)
            file.createDimension("lat", 3)
            file.createVariable("x", "f4", ("t", "lat"))[:] = 1
            made = file.createVariable("lat", "i1", ("lat",))
            made.set_auto_maskandscale(False)
            made.setncatts(packed)
            made[:] = [0, 100, -16]
    with open_source(f"{path}:x") as source:
        assert source.labels.coords["lat"].values.tolist() == [-90, -40, 30]
        assert source.labels.coords["lat"].attrs == {"units": "degrees_north"}
