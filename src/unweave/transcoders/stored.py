"""Tensors of dictionaries as they lie in files, with errors that name the file."""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..base.hub import first_line
from ..base.mapped import map_safetensors
from ..errors import TranscoderError
from .transcoders import Matrix

SCALE = ".scale"
"""Our compact form: an int8 tensor `X` has a float scale a row in `X.scale`; `rows`, if present, numbers the stored
rows."""


def numbered(folder: Path, prefix: str) -> list[Path]:
    """The files `PREFIX0.safetensors`, `PREFIX1.safetensors`, ... of a folder.

    Raises:
        TranscoderError: there are none, or there are gaps.
    """
    files = sorted(folder.glob(f"{prefix}*.safetensors"), key=lambda path: (len(path.name), path.name))
    if not files:
        raise TranscoderError(f"{folder} holds no {prefix}0.safetensors, ...; is it a dictionary folder?")
    names = {path.name for path in files}
    missing = [number for number in range(len(files)) if f"{prefix}{number}.safetensors" not in names]
    if missing:
        raise TranscoderError(
            f"{folder} has {len(files)} {prefix}*.safetensors files but no {prefix}{missing[0]}.safetensors; layers "
            f"must run from 0 without gaps"
        )
    return [folder / f"{prefix}{number}.safetensors" for number in range(len(files))]


def _mapped(path: Path) -> Mapping[str, Tensor]:
    """All tensors of a safetensors file, memory-mapped."""
    try:
        with safe_open(path, "pt"):  # checks that the file is whole
            pass
        return map_safetensors(path)
    except (SafetensorError, OSError, ValueError, EOFError, RecursionError) as error:
        raise TranscoderError(
            f"cannot read {path}: {first_line(error)[:200]}; the file is damaged or half-written, fetch it again"
        ) from error


class PackedArrays(Mapping[str, Tensor]):
    """The arrays of an `npz` file, each unpacked when it is asked for.

    A few bytes of a zip can stand for gigabytes: names are had without unpacking, sizes from the arrays' own headers.
    """

    def __init__(self, path: Path):
        self.path, self.kept = path, {}
        with self._reading() as archive:
            self.names = {name.removesuffix(".npy"): name for name in archive.namelist()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.kept:
            with self._reading() as archive, archive.open(self.names[name]) as file:
                self.kept[name] = torch.from_numpy(np.lib.format.read_array(file, allow_pickle=False))
        return self.kept[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """What an array's header says, and the file has room for."""
        with self._reading() as archive, archive.open(self.names[name]) as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
            room = archive.getinfo(self.names[name]).file_size
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > room:
                raise ValueError(f"array {name!r} of shape {list(shape)} does not fit into the {room} bytes it has")
        return shape

    @contextmanager
    def _reading(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except (OSError, ValueError, EOFError, SyntaxError, TypeError, KeyError, zipfile.BadZipFile, zlib.error,
                NotImplementedError, RuntimeError, struct.error, MemoryError, OverflowError) as error:  # fmt: skip
            raise TranscoderError(
                f"cannot read {self.path}: {first_line(error)[:200]}; the file is damaged or half-written, "
                f"fetch it again"
            ) from error


class TensorFile:
    """The tensors of one file, with errors that name the file; of an `npz` each is unpacked when it is asked for."""

    def __init__(self, path: Path):
        self.path, self.tensors = path, PackedArrays(path) if path.suffix == ".npz" else _mapped(path)
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def only(self, *known: str) -> None:
        """Refuse a file with other tensors than these: what is not understood may change what a dictionary computes.

        Raises:
            TranscoderError: naming them.
        """
        strange = sorted(set(self.tensors) - set(known))
        if strange:
            raise TranscoderError(
                f"{self.path} holds tensors that this format does not know: {', '.join(strange)}; what they do to the "
                f"features is not covered"
            )

    def finish(self) -> None:
        """Refuse a file of which something was not used.

        Raises:
            TranscoderError: naming the tensors.
        """
        self.only(*self.used)

    def take(self, name: str, dimensions: int, *whole: torch.dtype) -> Tensor:
        """A tensor that must be there with so many dimensions, of floating-point numbers or a kind in `whole`."""
        tensors = self.tensors
        if name not in tensors:
            raise TranscoderError(f"{self.path} has no tensor {name!r} (it has {sorted(tensors)})")
        shape = tensors.shape(name) if isinstance(tensors, PackedArrays) else tuple(tensors[name].shape)
        if len(shape) != dimensions:
            raise TranscoderError(f"{self.path}: {name!r} has shape {list(shape)}, expected {dimensions} dimensions")
        tensor = tensors[name]
        if not tensor.is_floating_point() and tensor.dtype not in whole:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise TranscoderError(f"{self.path}: {name!r} holds {kind} numbers, which are no weights")
        self.used.add(name)
        return tensor

    def matrix(self, name: str, dimensions: int = 2, height: int | None = None) -> Matrix:
        """A weight matrix, plain or compact."""
        stored = self.take(name, dimensions, torch.int8)
        if stored.dtype != torch.int8:
            return Matrix(stored)
        scale = self.take(name + SCALE, dimensions - 1)
        if scale.shape != stored.shape[:-1]:
            raise TranscoderError(
                f"{self.path}: {name + SCALE!r} has shape {list(scale.shape)}, expected {list(stored.shape[:-1])}"
            )
        if "rows" not in self or height is None:
            return Matrix(stored, scale)
        rows, n = self.take("rows", 1, torch.int32, torch.int64), len(stored)
        if len(rows) != n or (
            n and not (int(rows[0]) >= 0 and int(rows[-1]) < height and bool((rows.diff() > 0).all()))
        ):
            raise TranscoderError(f"{self.path}: 'rows' must be {n} ascending numbers below {height}")
        return Matrix(stored, scale, rows, height)
