"""Tensors of dictionaries as they lie in files, with errors that name the file."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

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


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, memory-mapped if it is safetensors."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        with safe_open(path, "pt"):  # checks that the file is whole
            pass
        return map_safetensors(path)
    except (SafetensorError, OSError, ValueError, EOFError) as error:
        raise TranscoderError(
            f"cannot read {path}: {error}; the file is damaged or half-written, fetch it again"
        ) from error
    except Exception as error:  # zipfile.BadZipFile and its kin, from numpy
        raise TranscoderError(f"cannot read {path}: {error}") from error


class TensorFile:
    """The tensors of one file, with errors that name the file."""

    def __init__(self, path: Path):
        self.path, self.tensors = path, _tensors(path)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, dimensions: int) -> Tensor:
        """A tensor that must be there with so many dimensions."""
        if name not in self.tensors:
            raise TranscoderError(f"{self.path} has no tensor {name!r} (it has {sorted(self.tensors)})")
        tensor = self.tensors[name]
        if tensor.dim() != dimensions:
            raise TranscoderError(
                f"{self.path}: {name!r} has shape {list(tensor.shape)}, expected {dimensions} dimensions"
            )
        return tensor

    def matrix(self, name: str, dimensions: int = 2, height: int | None = None) -> Matrix:
        """A weight matrix, plain or compact."""
        stored = self.take(name, dimensions)
        if stored.dtype != torch.int8:
            return Matrix(stored)
        scale = self.take(name + SCALE, dimensions - 1)
        if scale.shape != stored.shape[:-1]:
            raise TranscoderError(
                f"{self.path}: {name + SCALE!r} has shape {list(scale.shape)}, expected {list(stored.shape[:-1])}"
            )
        if "rows" not in self or height is None:
            return Matrix(stored, scale)
        rows, n = self.take("rows", 1), len(stored)
        if len(rows) != n or (
            n and not (int(rows[0]) >= 0 and int(rows[-1]) < height and bool((rows.diff() > 0).all()))
        ):
            raise TranscoderError(f"{self.path}: 'rows' must be {n} ascending numbers below {height}")
        return Matrix(stored, scale, rows, height)
