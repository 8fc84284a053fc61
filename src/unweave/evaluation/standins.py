"""What can stand in for the MLPs of a model: a dictionary, or an affine map of each MLP's input."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..dense import Dictionary
from ..models import LanguageModel
from ..recording import ReadPoint, WritePoint
from ..transcoders import Gated, Transcoders
from .passes import Step


@dataclass(frozen=True)
class AffineMaps:
    """Each MLP as an affine map of its input; `weight` holds a product of matrices [out, in], the last applied last; empty: a constant."""

    name: str
    weight: tuple[tuple[Float[Tensor, "_ _"], ...], ...]
    bias: tuple[Float[Tensor, " d"], ...]
    read: ReadPoint = "mlp_in"

    def start(self) -> Step:
        """A fresh pass; layers do not depend on each other."""
        return self.apply

    def apply(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output."""
        return self.linear(layer, x) + self.bias[layer]

    def linear(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output without its bias."""
        if not self.weight[layer]:
            return torch.zeros_like(x)
        for matrix in self.weight[layer]:
            x = x @ matrix.T
        return x


@dataclass(frozen=True)
class StrongestNeurons:
    """The model's own neurons: for each token those that write the longest vectors; the others write their mean.

    Source: Ameisen et al. 2025, "Circuit Tracing", where thresholded neurons are the baseline of the replacement model.
    """

    name: str
    model: LanguageModel
    neurons: Transcoders
    write: WritePoint
    count: tuple[int, ...]
    """How many are kept, by layer."""
    rest: tuple[Float[Tensor, " d"], ...]
    """What the others write on average."""
    read: ReadPoint = "mlp_in"

    def start(self) -> Step:
        """A fresh pass; layers do not depend on each other."""
        return self.apply

    def apply(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """One layer's output."""
        kept, _ = self.split(layer, x)
        output = kept @ self._decoder(layer, x) + self.rest[layer] + self.neurons.layers[layer].decoder_bias.to(x)
        after = self.model.after_mlp(layer, output) if self.write == "residual" else None
        return output if after is None else after.forward(output)

    def split(self, layer: int, x: Float[Tensor, "token d"]) -> tuple[Float[Tensor, "token feature"], Float[Tensor, "token feature"]]:
        """Activations of the neurons that are kept, and of the others."""
        activation = self.neurons.layers[layer].activation
        assert isinstance(activation, Gated)
        hidden = activation.hidden(x)
        chosen = (hidden.abs() * self._decoder(layer, x).norm(dim=1)).topk(self.count[layer], dim=1).indices
        kept = torch.zeros_like(hidden).scatter_(1, chosen, hidden.gather(1, chosen))
        return kept, hidden - kept

    def dropped(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What the others write."""
        return self.split(layer, x)[1] @ self._decoder(layer, x)

    def _decoder(self, layer: int, x: Tensor) -> Float[Tensor, "feature d"]:
        return self.neurons.layers[layer].decoder.dense(x.dtype).to(x.device)


StandIn = Dictionary | AffineMaps | StrongestNeurons
"""Something with a `name` that makes MLP outputs from what it `read`s; `start()` begins a pass through the layers."""
