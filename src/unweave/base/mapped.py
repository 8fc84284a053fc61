"""Tensors whose memory is a file: pages come when they are touched and can be let go again.

Pages of a mapped file that were touched count as memory of the process until they are released, and a touched page
brings its neighbours along. Whoever works through more of a mapped tensor than may stay in memory calls `release` as
it goes.
"""

import json
import mmap
import os
import sys
import tempfile
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..errors import FileError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""What safetensors calls the kinds of number."""
_PRIVATE: dict[str, int] = {"access": mmap.ACCESS_COPY}
"""How a file is mapped: what is written to the tensors never reaches it."""
if sys.platform == "linux":  # else a file larger than memory would be refused, as if it were to be rewritten
    _NO_RESERVE = 0x4000
    _PRIVATE = {"flags": mmap.MAP_PRIVATE | _NO_RESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
_maps: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""The mapping under every mapped tensor, by the address of its storage; nothing else may be released."""


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file that is known to be whole, without reading them.

    Raises:
        ValueError: a kind of number that is not known here.
    """
    with path.open("rb") as file:
        begin = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(begin - 8))
        mapping = mmap.mmap(file.fileno(), 0, **_PRIVATE)
    found = {}
    for name, facts in header.items():
        if name == "__metadata__":
            continue
        if facts["dtype"] not in DTYPES:
            raise ValueError(f"tensor {name!r} is of kind {facts['dtype']}, which is not read")
        count, dtype = torch.Size(facts["shape"]).numel(), DTYPES[facts["dtype"]]
        found[name] = _over(mapping, dtype, count, begin + facts["data_offsets"][0]).view(facts["shape"])
    return found


def scratch(count: int, dtype: torch.dtype, folder: Path | None = None) -> Tensor:
    """A tensor of zeros over a nameless file, which goes away with it; `folder` None: where temporary files go.

    Raises:
        FileError: the disk is full or the folder not writable.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            size = max(1, count) * dtype.itemsize
            file.truncate(size)
            if hasattr(
                os, "posix_fallocate"
            ):  # a full disk must be noticed here: written to by way of memory it kills the process
                os.posix_fallocate(file.fileno(), 0, size)
            return _over(mmap.mmap(file.fileno(), 0), dtype, count, 0)
    except OSError as error:
        raise FileError(
            f"cannot make a scratch file of {count * dtype.itemsize / 1e9:.1f} GB in "
            f"{folder or tempfile.gettempdir()}: {error}"
        ) from error


def _over(mapping: mmap.mmap, dtype: torch.dtype, count: int, offset: int) -> Tensor:
    if not count:
        return torch.empty(0, dtype=dtype)
    tensor = torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset)
    _maps[tensor.untyped_storage().data_ptr()] = mapping
    return tensor


def is_mapped(tensor: Tensor) -> bool:
    """Whether its memory is a file."""
    return tensor.untyped_storage().data_ptr() in _maps


def release(*tensors: Tensor | None) -> None:
    """Let go of the pages under mapped tensors; what was written to a scratch file stays in it. Others are left
    alone."""
    for tensor in tensors:
        mapping = None if tensor is None else _maps.get(tensor.untyped_storage().data_ptr())
        if mapping is not None and hasattr(mapping, "madvise"):  # not on Windows
            mapping.madvise(mmap.MADV_DONTNEED)
