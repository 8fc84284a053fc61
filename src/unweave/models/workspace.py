"""Memory for sweeps: buffers that are kept, products added in place, frozen tensors on another device."""

import math
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


class Workspace:
    """Buffers that outlive a step, so that large products do not pay for fresh memory each time."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of `shape` over the named buffer, which grows when it must; its content is undefined."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != like.dtype or buffer.device != like.device:
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(shape)


def add_product(g: Tensor, x: Tensor, weight: Tensor | None, multiply: torch.dtype | None) -> None:
    """`g += x @ weight`, if there is one, in place; the operands rounded to `multiply` if given, the sum kept in g's
    dtype."""
    if weight is None:
        return
    rows, x = g.view(-1, g.shape[-1]), x.view(-1, len(weight))
    if multiply is None:
        rows.addmm_(x, weight)
    else:
        rows.add_(torch.mm(x.to(multiply), weight.to(multiply)))


def moved(value: Any, device: torch.device) -> Any:
    """Frozen tensors (or a tuple or dataclass of them) on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value
