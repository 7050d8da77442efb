"""Packages that are installed only on request."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

from ..errors import MissingPackageError, install_text

#: lrpfast's extra that installs a package; others are installed by themselves.
_EXTRA = {
    "netCDF4": "netcdf",
    "cftime": "netcdf",
    "xarray": "netcdf",
    "dask": "dask",
    "distributed": "dask",
    "zarr": "dask",
    "numcodecs": "dask",
}


def import_optional(package: str, purpose: str) -> ModuleType:
    """The package; MissingPackageError, which says what needs it and how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        cure = install_text(name, _EXTRA[name]) if name in _EXTRA else f"pip install {name}"
        message = f"{purpose} needs {name}: {cure}"
        raise MissingPackageError(message, name=name) from None


def open_netcdf(path: str, purpose: str, mode: str = "r", **options: Any) -> Any:
    """A ``netCDF4.Dataset`` of a path in any bytes: the package knows only those that are text in one encoding.

    An absolute path is no address of the network, which the package would fetch.
    """
    dataset, path = import_optional("netCDF4", purpose).Dataset, os.path.abspath(path)
    if sys.platform == "win32":
        return dataset(path, mode, **options)
    return dataset(os.fsencode(path).decode("latin-1"), mode, encoding="latin-1", **options)
