"""MLPs that respond: gated, plain, or of experts with the router's choice and weights held."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .norms import TangentNorm

NEURONS_AT_ONCE = 1 << 22
"""Gradients at neurons (targets x positions x neurons) that are in memory at a time."""


@dataclass(frozen=True)
class Neurons:
    """The neurons of an MLP, or of one of its experts, at the positions where they work.

    A neuron's activation is what its row of the MLP's last linear map is multiplied by; `reads` are the maps from what
    the MLP reads, each with the derivative of the activation by its output.
    """

    first: int
    """The number of its first neuron among the layer's."""
    positions: Int[Tensor, " here"] | None
    """None: all."""
    reads: tuple[tuple[Float[Tensor, "neuron d"], Float[Tensor, "here neuron"]], ...]
    writes: Float[Tensor, "neuron d"]
    activation: Float[Tensor, "here neuron"]

    def places(self, n: int) -> slice | Tensor:
        """Which of the first `n` positions it works at."""
        return slice(0, n) if self.positions is None else self.positions[self.positions < n]

    def read_rows(self, here: Int[Tensor, " row"], index: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
        """The gradients of some activations (by place in `activation`) at what the MLP reads."""
        return sum((weight[index] * slope[here, index, None] for weight, slope in self.reads), start=torch.zeros(()))


@dataclass(frozen=True)
class TangentMLP:
    """The derivative of an MLP from residual stream to residual stream, as it was on one prompt."""

    before: TangentNorm
    after: TangentNorm | None
    parts: tuple[Neurons, ...]
    output: Float[Tensor, "pos d"]
    """What the MLP put out, before a norm that may follow."""
    width: int

    def activations(self) -> Float[Tensor, "pos neuron"]:
        """Every neuron's activation at every position."""
        made = self.output.new_zeros(len(self.output), self.width)
        for part in self.parts:
            made[part.places(len(made)), part.first : part.first + len(part.writes)] = part.activation
        return made

    def neuron_gradients(self, g: Float[Tensor, "batch pos d"], part: Neurons) -> Float[Tensor, "batch here neuron"]:
        """Gradients at a part's neurons for gradients at the MLP's output."""
        return g[:, part.places(g.shape[1])] @ part.writes.T

    def into(self, h: Float[Tensor, "batch here neuron"], part: Neurons) -> Float[Tensor, "batch here d"]:
        """Gradients at what the MLP reads for gradients at a part's neurons."""
        (batch, here, _), made = h.shape, None
        for weight, slope in part.reads:
            rows = (h * slope[:here]).view(batch * here, -1)
            made = rows @ weight if made is None else made.addmm_(rows, weight)
        assert made is not None
        return made.view(batch, here, -1)

    def forward(self, x: Float[Tensor, "pos d"]) -> Float[Tensor, "pos d"]:
        """The change of what the MLP adds for a change of the residual stream."""
        places = torch.arange(len(x), device=x.device)
        read, out = self.before.forward(x, places), torch.zeros_like(x)
        for part in self.parts:
            at = part.places(len(x))
            here = read[at]
            for weight, slope in part.reads:
                out[at] += (here @ weight.T * slope[: len(here)]) @ part.writes
        return out if self.after is None else self.after.forward(out, places)
