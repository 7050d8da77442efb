"""What every reader of files does with distrust: errors that name the file, archives without tricks, counted JSON."""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..budget import FREE_BYTES, take
from ..errors import InputError, LrpfastError, ModelFormatError, UnsupportedLayerError
from .input_shape import InputShapeError

#: What a data file stores in more than FREE_BYTES is larger by this factor at most.
MAX_RATIO = 100
#: Products that one operator on constants may add up: some seconds.
MOST_PRODUCTS = 1 << 34
#: What Python's parser makes of a JSON text takes so many bytes for each of these characters, at most.
_JSON_BYTES = {b"{": 240, b"[": 90, b",": 40, b":": 60, b'"': 40}


def unpacks_honestly(size: int, stored: int) -> bool:
    """Whether ``stored`` bytes may be a real file's packed form of ``size`` bytes."""
    return size <= max(FREE_BYTES, MAX_RATIO * stored)


@contextlib.contextmanager
def guarded(source: str) -> Iterator[None]:
    """Name the source in every error, and make one of lrpfast's of whatever a damaged file provokes."""
    try:
        yield
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"{source}: {error}") from error
    except InputShapeError as error:
        raise InputError(f"{source}: {error}") from error
    except LrpfastError as error:
        raise ModelFormatError(f"{source}: {error}") from error
    except RecursionError as error:
        raise ModelFormatError(f"{source}: its configuration is nested too deep to be a model's") from error
    except zipfile.BadZipFile as error:
        raise ModelFormatError(
            f"{source}: damaged or truncated zip archive ({error}); copy or download it again"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise ModelFormatError(
            f"{source}: damaged or truncated ({type(error).__name__}: {error}); copy or download it again"
        ) from error


def parse_json(text: str | bytes, title: str) -> Any:
    """What a JSON text says, after a count of the memory that it takes."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    take(len(data) + sum(size * data.count(char) for char, size in _JSON_BYTES.items()), title)
    return json.loads(text)


def check_names(names: list[str]) -> None:
    """Refuse an archive that has a name twice: programs disagree on which of them counts."""
    counted = Counter(names)
    double = next((name for name in names if counted[name] > 1), None)
    if double is not None:
        raise ModelFormatError(f"the archive holds {double} twice, and does not say which counts")


def check_stored(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse a member that says it takes more bytes than the archive has."""
    if info.compress_size > archive.start_dir - info.header_offset:  # the index begins where the members end
        raise ModelFormatError(f"{info.filename} says it takes {info.compress_size:,} bytes, more than the archive has")


def check_size(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuse a member that says it is larger, packed or unpacked, than it can honestly be."""
    check_stored(archive, info)
    if not unpacks_honestly(info.file_size, info.compress_size):
        raise ModelFormatError(
            f"{info.filename} in the archive unpacks to {info.file_size:,} bytes from {info.compress_size:,}, more "
            "than any model's member does"
        )


def count_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Count a member about to be read, and refuse one that is packed in a way that has no limit."""
    check_stored(archive, info)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ModelFormatError(
            f"{info.filename} in the archive is packed by method {info.compress_type}; models are stored or deflated"
        )
    take(info.file_size, f"{info.filename} in the archive")


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of an archive's member."""
    info = archive.getinfo(name)
    count_member(archive, info)
    with archive.open(info) as file:
        return file.read(info.file_size)  # a size: without one zipfile unpacks all there is, whatever the index says


def check_products(results: int, window: Any) -> None:
    """ModelFormatError where an operator on constants takes minutes, or its results too much memory.

    ``window`` has the values that each of its results adds up: weights, sizes, a number, or None for one.
    """
    if isinstance(window, np.ndarray):
        each = window[0].size if window.ndim > 1 else 1
    else:
        each = math.prod(window) if isinstance(window, (list, tuple)) else window or 1
    take(3 * 8 * results, "what an operator makes of constants")
    if results * each > MOST_PRODUCTS:
        raise ModelFormatError(
            f"an operator on constants adds {results * each:,} products; {MOST_PRODUCTS:,} are the most"
        )
