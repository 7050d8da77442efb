"""Packages that are installed only on request."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import MissingPackageError

#: Which extra of lrpfast brings what.
_EXTRA = {"netCDF4": "netcdf", "xarray": "netcdf", "dask": "dask", "distributed": "dask", "zarr": "dask"}


def needed(package: str, what: str) -> ModuleType:
    """The package; MissingPackageError that says for what it is needed and how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.partition(".")[0]
        raise MissingPackageError(f"{what} needs {name}: pip install 'lrpfast[{_EXTRA[name]}]'", name=name) from None
