"""Layers without a plain attention pattern that respond: the derivative of the module itself, taken by autograd.

Gates, decays, keys and queries of a recurrence all respond, in ways that differ from family to family; the module of
the model knows them. This is the one place where a response graph leaves its explicit transposes. With `held` the
coefficients do not respond, and the chain of linear parts of `models/mixers.py` is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.mixers import Step
from .norms import TangentNorm

COPIES_AT_ONCE = 32
"""Gradients whose passes through the module are made together, each with a copy of what it read."""


@dataclass(frozen=True)
class TangentMixer:
    """The derivative of a recurrence, a convolution or gated attention, from residual stream to residual stream."""

    before: TangentNorm
    after: TangentNorm | None
    run: Callable[[Float[Tensor, "copy pos d"]], Float[Tensor, "copy pos d"]]
    """The module as it was called."""
    read: Float[Tensor, "pos d"]
    """What it read."""
    steps: tuple[Step, ...]
    """The same with its coefficients held."""

    def transpose(self, g: Float[Tensor, "batch pos d"], *, held: bool = False) -> Float[Tensor, "batch pos d"]:
        """The gradient at the layer's input for gradients at what it adds; `held`: coefficients do not respond."""
        n = g.shape[1]
        g = g if self.after is None else self.after.transpose(g)
        if held:
            for step in reversed(self.steps):
                g = step.cut(n).transpose(g)
            return self.before.transpose(g)
        into = torch.cat([self._gradient(some) for some in g.split(COPIES_AT_ONCE)])
        return self.before.transpose(into)

    def forward(self, x: Float[Tensor, "pos d"], *, held: bool = False) -> Float[Tensor, "pos d"]:
        """The change of what the layer adds for a change of its input: the adjoint of `transpose`."""
        places = torch.arange(len(x), device=x.device)
        moved = self.before.forward(x, places)
        if held:
            for step in self.steps:
                moved = step.cut(len(x)).forward(moved)
        else:
            moved = self._change(moved)
        return moved if self.after is None else self.after.forward(moved, places)

    def _gradient(self, g: Tensor) -> Tensor:
        read, n = self.read[: g.shape[1]], len(g)
        with torch.enable_grad():
            copies = read.expand(n, *read.shape).clone().requires_grad_()
            (into,) = torch.autograd.grad(self.run(copies), copies, g)
        return into

    def _change(self, x: Tensor) -> Tensor:
        """A product with the derivative, as the derivative of a product with its transpose."""
        with torch.enable_grad():
            copy = self.read[None, : len(x)].clone().requires_grad_()
            made = self.run(copy)
            weight = torch.zeros_like(made).requires_grad_()
            (into,) = torch.autograd.grad(made, copy, weight, create_graph=True)
            (moved,) = torch.autograd.grad(into, weight, x[None])
        return moved[0].detach()


def as_called(module: Any, kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The module with the keyword arguments of a recorded call, for copies of what it read at the first so many
    positions."""

    def run(read: Tensor) -> Tensor:
        n = read.shape[1]
        words = {name: _cut(value, n) for name, value in kwargs.items() if name != "hidden_states"}
        like = next(module.parameters())
        output = module(hidden_states=read.to(like), **words)
        return (output[0] if isinstance(output, tuple) else output).to(read)

    return run


def _cut(value: Any, n: int) -> Any:
    """Masks and rotations of the first `n` positions."""
    if isinstance(value, tuple):
        return tuple(_cut(part, n) for part in value)
    if isinstance(value, Tensor) and value.dim() == 4:
        return value[:, :, :n, :n]
    return value[:, :n] if isinstance(value, Tensor) and value.dim() in (2, 3) else value
