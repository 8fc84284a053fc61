"""Layers that carry tokens to later ones without an attention pattern, their coefficients held fixed: linear maps of
known parts, and their transposes.

A gated delta rule, a state-space recurrence or a short convolution is linear in what it carries once its gates,
decays, keys and queries are held. Per head the whole recurrence is then one matrix over positions, as a pattern is
(with entries of any sign, and rows that need not sum to 1). A layer is a chain of the parts below; each has `forward`,
its adjoint `transpose`, and `affine`, which adds biases.

Index letters as in `frozen.py`: b target, p and q positions (q <= p), h head, c channel of a head, d channel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .frozen import FrozenNorm
from .weights import Linear
from .workspace import Workspace


@dataclass(frozen=True)
class Project:
    """A linear map of channels, the same at every position."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None = None

    @staticmethod
    def of(map_: Linear, like: Tensor) -> "Project":
        """The map in the dtype of `like`."""
        return Project(map_.weight.to(like), None if map_.bias is None else map_.bias.to(like))

    def forward(self, x: Float[Tensor, "*b p in"]) -> Float[Tensor, "*b p out"]:
        """Without the bias."""
        return x @ self.weight.T

    def affine(self, x: Float[Tensor, "*b p in"]) -> Float[Tensor, "*b p out"]:
        """With the bias."""
        return self.forward(x) if self.bias is None else self.forward(x) + self.bias

    def transpose(self, g: Float[Tensor, "*b p out"]) -> Float[Tensor, "*b p in"]:
        """The adjoint of `forward`."""
        return g @ self.weight

    def cut(self, n: int) -> "Project":
        """The same on the first `n` positions."""
        return self


@dataclass(frozen=True)
class Scale:
    """A factor for every position and channel: a gate, or a norm's denominator and gain."""

    factor: Float[Tensor, "p c"]

    def forward(self, x: Float[Tensor, "*b p c"]) -> Float[Tensor, "*b p c"]:
        """The product."""
        return x * self.factor

    affine = transpose = forward

    def cut(self, n: int) -> "Scale":
        """The same on the first `n` positions."""
        return Scale(self.factor[:n])


@dataclass(frozen=True)
class Normed:
    """A norm with its denominator held."""

    norm: FrozenNorm

    def forward(self, x: Float[Tensor, "*b p d"]) -> Float[Tensor, "*b p d"]:
        """Without the norm's bias."""
        return self.norm.linear(x)

    def affine(self, x: Float[Tensor, "*b p d"]) -> Float[Tensor, "*b p d"]:
        """With it."""
        return self.norm.forward(x)

    def transpose(self, g: Float[Tensor, "*b p d"]) -> Float[Tensor, "*b p d"]:
        """The adjoint of `forward`."""
        scaled = g * self.norm.gain * self.norm.scale[:, None]
        return scaled - scaled.mean(-1, keepdim=True) if self.norm.centred else scaled

    def cut(self, n: int) -> "Normed":
        """The same on the first `n` positions."""
        return Normed(replace(self.norm, scale=self.norm.scale[:n]))


@dataclass(frozen=True)
class Convolve:
    """A short causal convolution of each channel with a kernel of its own; the kernel's last entry meets the position
    itself."""

    kernel: Float[Tensor, "c width"]
    bias: Float[Tensor, " c"] | None = None

    def forward(self, x: Float[Tensor, "*b p c"]) -> Float[Tensor, "*b p c"]:
        """Without the bias."""
        out = x * self.kernel[:, -1]
        for back in range(1, min(self.kernel.shape[1], x.shape[-2])):
            out[..., back:, :] += x[..., :-back, :] * self.kernel[:, -1 - back]
        return out

    def affine(self, x: Float[Tensor, "*b p c"]) -> Float[Tensor, "*b p c"]:
        """With the bias."""
        return self.forward(x) if self.bias is None else self.forward(x) + self.bias

    def transpose(self, g: Float[Tensor, "*b p c"]) -> Float[Tensor, "*b p c"]:
        """The adjoint of `forward`."""
        into = g * self.kernel[:, -1]
        for back in range(1, min(self.kernel.shape[1], g.shape[-2])):
            into[..., :-back, :] += g[..., back:, :] * self.kernel[:, -1 - back]
        return into

    def cut(self, n: int) -> "Convolve":
        """The same on the first `n` positions."""
        return self


@dataclass(frozen=True)
class Mix:
    """A matrix over positions for each head, from the values of key-value heads that groups of heads may share."""

    pattern: Float[Tensor, "heads p q"]
    groups: int = 1
    """Heads that share one head of values."""

    def forward(self, x: Float[Tensor, "*b q kvc"]) -> Float[Tensor, "*b p hc"]:
        """Values of earlier positions, added up."""
        heads = self.pattern.shape[0]
        values = x.unflatten(-1, (heads // self.groups, -1)).repeat_interleave(self.groups, -2)
        return torch.einsum("hpq,...qhc->...phc", self.pattern, values).flatten(-2)

    affine = forward

    def transpose(self, g: Float[Tensor, "*b p hc"]) -> Float[Tensor, "*b q kvc"]:
        """The adjoint of `forward`."""
        heads = self.pattern.shape[0]
        made = torch.einsum("hpq,...phc->...qhc", self.pattern, g.unflatten(-1, (heads, -1)))
        return made.unflatten(-2, (heads // self.groups, self.groups)).sum(-2).flatten(-2)

    def cut(self, n: int) -> "Mix":
        """The same on the first `n` positions."""
        return Mix(self.pattern[:, :n, :n], self.groups)


Step: TypeAlias = Project | Scale | Normed | Convolve | Mix


def affine(steps: Sequence[Step], x: Float[Tensor, "*b p d"]) -> Float[Tensor, "*b p out"]:
    """A chain of parts, biases included."""
    for step in steps:
        x = step.affine(x)
    return x


@dataclass(frozen=True)
class FrozenMixer:
    """A layer that carries tokens to later ones, from residual stream to residual stream; as `FrozenAttention`."""

    steps: tuple[Step, ...]
    constant: Float[Tensor, "pos d"]
    """What the layer adds whatever its input."""

    @staticmethod
    def freeze(norm: FrozenNorm, steps: Sequence[Step], post: FrozenNorm | None) -> "FrozenMixer":
        """The chain between the norms around it."""
        chain = (Normed(norm), *steps, *(() if post is None else (Normed(post),)))
        return FrozenMixer(chain, affine(chain, norm.scale.new_zeros(len(norm.scale), len(norm.gain))))

    @property
    def value(self) -> Float[Tensor, "values d"]:
        """The projection that comes first."""
        return next(step.weight for step in self.steps if isinstance(step, Project))

    @property
    def output(self) -> Float[Tensor, "d values"]:
        """The projection that comes last."""
        return next(step.weight for step in reversed(self.steps) if isinstance(step, Project))

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """What the layer adds to the residual stream `x`, without `constant`."""
        for step in self.steps:
            x = step.forward(x)
        return x

    def cut(self, position: int) -> "FrozenMixer":
        """The same map on positions 0 to `position` alone."""
        n = position + 1
        return FrozenMixer(tuple(step.cut(n) for step in self.steps), self.constant[:n])

    def transpose(self, g: Float[Tensor, "batch pos d"]) -> Float[Tensor, "batch pos d"]:
        """The adjoint of `forward`, for a batch of gradients at all positions."""
        for step in reversed(self.steps):
            g = step.transpose(g)
        return g

    def add_transpose(self, g: Float[Tensor, "batch pos d"], work: Workspace, multiply: torch.dtype | None) -> None:
        """Add the transpose to the gradients, in place; always in their own dtype."""
        g += self.transpose(g)

    def start(self, r: Float[Tensor, "batch d"], positions: Int[Tensor, " batch"]) -> Float[Tensor, "batch pos d"]:
        """`transpose` of gradients that are zero but at one position each, plus those gradients themselves."""
        g = r.new_zeros(len(r), len(self.constant), r.shape[1])
        g[torch.arange(len(r), device=r.device), positions] = r
        return g + self.transpose(g)
