"""Arrays in .npz files: streamed if they are stored uncompressed, else loaded once."""

from __future__ import annotations

import math
import os
import zipfile
from typing import Any

import numpy as np

from ...errors import InputError, LrpfastError
from ...readers.untrusted import check_names, check_stored
from .base import FileSource, check_unpacked, state_of
from .mapped import MappedSource, header

_LOCAL_HEADER = 30  # bytes, before the member's name


def open_npz(path: str, member: str | None) -> FileSource:
    """The array named ``member``, or the only one."""
    state = state_of(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_names(archive.namelist())
            info = _member(path, member, {i.filename: i for i in archive.infolist()})
            name = f"{path}:{info.filename.removesuffix('.npy')}"
            if info.compress_type != zipfile.ZIP_STORED:
                return _loaded(archive, info, path, name, state)
    except LrpfastError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: damaged .npz file ({error})") from None
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(_LOCAL_HEADER)
        # the lengths of the name and the extra field may differ from those in the archive's index
        begin = info.header_offset + _LOCAL_HEADER + int.from_bytes(local[26:28], "little")
        file.seek(begin + int.from_bytes(local[28:30], "little"))
        end = min(file.tell() + info.file_size, os.path.getsize(path))
        shape, dtype, fortran, offset = header(file, name, end)
    return MappedSource(path, name, shape, dtype, offset, fortran, state)


def _member(path: str, member: str | None, infos: dict[str, zipfile.ZipInfo]) -> zipfile.ZipInfo:
    names = [name.removesuffix(".npy") for name in infos if name.endswith(".npy")]
    if member is not None:
        if member.removesuffix(".npy") not in names:
            raise InputError(f"{path}: there is no array {member!r}; there are: {', '.join(names)}")
        return infos[f"{member.removesuffix('.npy')}.npy"]
    if len(names) != 1:
        raise InputError(f"{path}: holds {len(names)} arrays; name one as {path}:NAME of: {', '.join(names)}")
    return infos[f"{names[0]}.npy"]


class _LoadedSource(FileSource):
    """Rows of a compressed member, which can only be read at once."""

    _array: np.ndarray

    def _read(self, first: int, stop: int) -> np.ndarray:
        return self._array[first:stop]


def _loaded(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str, name: str, state: tuple[Any, ...]
) -> _LoadedSource:
    with archive.open(info) as file:
        check_stored(archive, info)
        check_unpacked(name, info.file_size, info.compress_size)
        shape, dtype, fortran, offset = header(file, name, info.file_size)  # type: ignore[arg-type]
        if offset + math.prod(shape) * dtype.itemsize != info.file_size:
            raise InputError(f"{name}: its {info.file_size:,} bytes are not those of shape {shape}, {dtype}")
        source = _LoadedSource(path, name, shape, dtype, state)
        try:
            source._array = np.empty(shape, dtype, order="F" if fortran else "C")
        except MemoryError:
            text = "which do not fit in memory; np.savez stores arrays so that they can be streamed"
            raise InputError(f"{name}: unpacks to {info.file_size:,} bytes, {text}") from None
        flat = source._array.reshape(-1, order="A").view(np.uint8)
        position = 0
        while position < len(flat):
            count = file.readinto(flat[position : position + (1 << 24)])  # type: ignore[attr-defined]
            if not count:
                raise InputError(f"{name}: truncated after {position:,} of {len(flat):,} bytes")
            position += count
        if file.read(1):  # also checks the checksum
            raise InputError(f"{name}: holds more bytes than its header says")
    return source
