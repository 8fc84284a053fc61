"""Norms that respond: the derivative of a norm at a prompt's own values, and its transpose."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.frozen import FrozenNorm
from ..models.weights import NormWeights


@dataclass(frozen=True)
class TangentNorm:
    """The derivative of a norm at its input: `dx -> gain scale (dx - unit <unit, dx> / d)`, centred if it centres.

    `forward` and `transpose` are each other's adjoint. The first term is the norm with its denominator held; the second
    is how the denominator answers. Without `unit` there is no norm, only a factor for each position.
    """

    frozen: FrozenNorm
    unit: Float[Tensor, "pos d"] | None
    """The norm's output before its gain and bias."""

    @staticmethod
    def at(
        weights: NormWeights | None, x: Float[Tensor, "pos d"], epsilon: float, factor: float = 1.0
    ) -> "TangentNorm":
        """The derivative at `x`, times a factor; without weights, the factor alone."""
        if weights is None:
            return TangentNorm(FrozenNorm.uniform(factor, x), None)
        frozen = FrozenNorm.freeze(weights, x, epsilon)
        unit = frozen.without_gain.linear(x)
        return TangentNorm(FrozenNorm(frozen.scale * factor, frozen.gain, frozen.bias, frozen.centred), unit)

    @property
    def without_gain(self) -> "TangentNorm":
        """The norm before its gain."""
        return TangentNorm(self.frozen.without_gain, self.unit)

    @property
    def held(self) -> "TangentNorm":
        """The norm with its denominator held."""
        return TangentNorm(self.frozen, None)

    def forward(self, x: Float[Tensor, "pos d"], positions: slice | Tensor = slice(None)) -> Float[Tensor, "pos d"]:
        """The change of the norm's output for a change of its input; `positions` says where each row is."""
        moved = self._centre(x)
        answered = moved if self.unit is None else self._answered(moved, self.unit[positions])
        return answered * self.frozen.scale[positions][:, None] * self.frozen.gain

    def transpose(self, g: Float[Tensor, "*batch pos d"]) -> Float[Tensor, "*batch pos d"]:
        """The adjoint of `forward`, for gradients at the first so many positions."""
        n = g.shape[-2]
        scaled = g * self.frozen.gain
        if self.unit is not None:
            scaled = self._answered(scaled, self.unit[:n])
        scaled = self._centre(scaled)
        return scaled * self.frozen.scale[:n, None]

    def transpose_at(self, g: Float[Tensor, "row d"], positions: Tensor) -> Float[Tensor, "row d"]:
        """The adjoint at one position for each row."""
        part = TangentNorm(
            FrozenNorm(self.frozen.scale[positions], self.frozen.gain, self.frozen.bias, self.frozen.centred),
            None if self.unit is None else self.unit[positions],
        )
        return part.transpose(g)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.frozen.centred else x

    @staticmethod
    def _answered(x: Tensor, unit: Tensor) -> Tensor:
        along = torch.einsum("...d,...d->...", x, unit).unsqueeze(-1) / x.shape[-1]
        return torch.addcmul(x, along, unit, value=-1)
