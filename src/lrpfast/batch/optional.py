"""Packages that are installed only on request."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..errors import MissingPackageError

#: Which extra of lrpfast brings what.
_EXTRA = {"netCDF4": "netcdf", "xarray": "netcdf", "dask": "dask", "zarr": "dask"}


def needed(package: str, what: str) -> ModuleType:
    """The package; MissingPackageError that says for what it is needed and how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingPackageError(
            f"{what} needs {package}: pip install 'lrpfast[{_EXTRA[package]}]'", name=package
        ) from None
