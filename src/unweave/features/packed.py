"""circuit-tracer's packed feature pages: `index.json.gz`, and in each `layer_N.bin` one compressed record a feature."""

import gzip
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

from ..errors import FileError

INDEX = "index.json.gz"
MOST_INDEX = 128 << 20
"""Bytes of an index, unpacked: 26 layers of 163,840 features take about 50 MB."""
MOST_RECORD = 32 << 20
"""Bytes of one feature's record, unpacked: a damaged file must not fill the memory."""


def read_index(folder: Path) -> dict[int, tuple[Path, list[int]]]:
    """Of every layer its file and the offsets of its features' records in it; one offset more than features.

    Raises:
        FileError: no index, or one that is damaged or unpacks to more than `MOST_INDEX` bytes.
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO((folder / INDEX).read_bytes())) as file:
            text = file.read(MOST_INDEX + 1)
        if len(text) > MOST_INDEX:
            raise ValueError(f"it unpacks to more than {MOST_INDEX >> 20} MB")
        listed = json.loads(text)
        layers = {
            int(key): part for key, part in (listed.items() if isinstance(listed, dict) else enumerate(listed)) if part
        }
        return {
            layer: (folder / Path(part["filename"]).name, [int(offset) for offset in part["offsets"]])
            for layer, part in layers.items()
        }
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(
            f"{folder / INDEX} is not an index of feature pages ({type(error).__name__}: {error})"
        ) from error


def read_record(path: Path, layer: int, index: int, offsets: list[int]) -> dict[str, Any] | None:
    """The record of a feature, or None where the file has none for it.

    Raises:
        FileError: it is damaged, or unpacks to more than `MOST_RECORD` bytes.
    """
    if not 0 <= index < len(offsets) - 1 or offsets[index + 1] - offsets[index] <= 4:
        return None
    try:
        with open(path, "rb") as file:
            file.seek(offsets[index])
            (length,) = struct.unpack("<I", file.read(4))
            packed = file.read(min(length, offsets[index + 1] - offsets[index] - 4))
        record = json.loads(zlib.decompressobj(47).decompress(packed, MOST_RECORD))  # 47: zlib or gzip, whichever it is
        if not isinstance(record, dict):
            raise ValueError("not an object")
        return record
    except (OSError, struct.error, zlib.error, ValueError, RecursionError) as error:
        raise FileError(
            f"the page of feature {index} of layer {layer} in {path} is damaged ({type(error).__name__}: {error})"
        ) from error
