"""Checks of a Zarr store before the package zarr opens it: the location of its files, and their codecs.

Some codecs run code from the store (numcodecs' pickle), and the installed packages' versions decide which codecs they
know. So every codec in the store's metadata must be known to handle nothing but data.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from typing import Any

from ...budget import FREE_BYTES
from ...errors import InputError
from ...readers.untrusted import check_names, check_size

#: The files with the metadata of a group or an array.
METADATA = ("zarr.json", ".zarray", ".zgroup")
#: … and the file at the top with all of them.
_DESCRIPTIONS = {*METADATA, ".zmetadata"}
#: numcodecs' names. Not among them: pickle, and n5_wrapper, which names another codec.
_NUMCODECS = {
    *("adler32", "astype", "base64", "bitround", "blosc", "bz2", "categorize", "crc32", "crc32c", "delta"),
    *("fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma", "msgpack2", "packbits"),
    *("pcodec", "quantize", "shuffle", "vlen-array", "vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd"),
}
#: Codecs that run no code from the store, in any version of zarr and numcodecs.
CODECS = {
    *_NUMCODECS,
    *(f"numcodecs.{name}" for name in _NUMCODECS),
    *("bytes", "endian", "transpose", "sharding_indexed", "cast_value", "scale_offset"),
}


def check_store(path: str) -> int:
    """Check all names and metadata of a store; returns the number of members of a zip archive.

    Raises
    ------
    InputError
        As `files`, and for a name that leads out of the store, unreadable metadata, or a codec that is not in
        `CODECS`.
    """
    if os.path.isdir(path):
        for file_path in files(path):
            if os.path.basename(file_path).lower() in _DESCRIPTIONS:  # as on a disk that ignores case
                with open(file_path, "rb") as file:
                    _check_metadata(path, os.path.relpath(file_path, path), file.read(FREE_BYTES + 1))
        return 0
    with zipfile.ZipFile(path) as archive:
        check_names(archive.namelist())
        for info in archive.infolist():
            _check_name(path, info.filename.rstrip("/"))
            check_size(archive, info)
            if info.filename.split("/")[-1] in _DESCRIPTIONS:
                with archive.open(info) as member:
                    _check_metadata(path, info.filename, member.read(FREE_BYTES + 1))
        return len(archive.infolist())


def files(folder: str) -> Iterator[str]:
    """The paths of all files in a store's folder, in order; InputError for links, pipes and the like."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_symlink() or getattr(entry, "is_junction", bool)():  # Windows' junctions, since Python 3.12
            text = "is a link to another place; links in a store are not followed, a copy without them can be read"
            raise InputError(f"{entry.path}: {text} (cp -rL)")
        if entry.is_dir(follow_symlinks=False):
            yield from files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path
        else:
            raise InputError(f"{entry.path}: is neither a file nor a folder, as all of a store is")


def _check_name(path: str, name: str) -> None:
    """Raise InputError if the path of a group, an array or a chunk leads out of the store."""
    if name and {"", ".", ".."} & set(name.replace("\\", "/").split("/")):
        raise InputError(f"{path}: damaged Zarr store (its member {name!r} lies outside it)")


def _check_metadata(path: str, file_path: str, raw: bytes) -> None:
    if len(raw) > FREE_BYTES:
        raise InputError(f"{path}: {file_path} has more than {FREE_BYTES:,} bytes of metadata, more than any store's")
    try:
        description = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged Zarr store ({file_path} is no JSON: {error})") from None
    descriptions = [description]
    if os.path.basename(file_path).lower() == ".zmetadata":  # format 2: by the files' names; ".zattrs" may be anything
        several = _members(path, description)
        descriptions = [node for name, node in several.items() if name.split("/")[-1] != ".zattrs"]
    for codec in (codec for node in descriptions for codec in _codecs(path, node)):
        if not isinstance(codec, str) or codec not in CODECS:
            raise InputError(
                f"{path}: {file_path} names the codec {codec!r}, which is not known to be data alone and could run "
                "code; write the array with one of zarr's own codecs, such as blosc, zstd or gzip"
            )


def _members(path: str, description: Any) -> dict[str, Any]:
    """The descriptions in a file of several, by name."""
    several = description.get("metadata") if isinstance(description, dict) else None
    if not isinstance(several, dict):
        return {}
    for name in several:
        _check_name(path, name)
    return several


def _codecs(path: str, node: Any) -> Iterator[Any]:
    """The names of all codecs in the description of an array, or in those of a group's members."""
    if isinstance(node, dict):
        for codec in (*_as_list(node.get("compressor")), *_as_list(node.get("filters"))):
            yield codec.get("id") if isinstance(codec, dict) else codec
        yield from _inner_codecs(node.get("codecs"))
        for inner in _members(path, node.get("consolidated_metadata")).values():
            yield from _codecs(path, inner)


def _inner_codecs(codecs: Any) -> Iterator[Any]:
    """The names of Zarr 3's codecs, including those inside shards."""
    for codec in _as_list(codecs):
        yield codec.get("name") if isinstance(codec, dict) else codec
        configuration = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(configuration, dict):
            for key in ("codecs", "index_codecs"):
                yield from _inner_codecs(configuration.get(key))


def _as_list(codecs: Any) -> list[Any]:
    return codecs if isinstance(codecs, list) else [] if codecs is None else [codecs]
