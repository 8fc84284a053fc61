"""A whole dictionary in memory, ready to be run over batches of tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..errors import TranscoderError
from ..models.passes import Step
from ..models.recording import ReadPoint
from .transcoders import Activation, NeuronActivation, Transcoders

Watch = Callable[[int, Float[Tensor, "token feature"]], None]
"""Called with each layer's activations as they are computed."""


@dataclass(frozen=True)
class DenseLayer:
    """The features that read at one layer, ready to be run: encoder and decoders [feature, d], the first decoder for
    this layer."""

    encoder: Float[Tensor, "feature d"]
    encoder_bias: Float[Tensor, " feature"]
    decoders: tuple[Float[Tensor, "feature d"], ...]
    bias: Float[Tensor, " d"]
    skip: Float[Tensor, "d d"] | None
    activation: Activation
    more: tuple[Float[Tensor, " feature"] | None, ...] = ()
    """By decoder, what is added to activations that are on."""


@dataclass(frozen=True)
class DenseTranscoders:
    """A whole dictionary in memory, in the dtype and on the device of the computation."""

    name: str
    read: ReadPoint
    layers: tuple[DenseLayer, ...]

    @staticmethod
    def load(
        transcoders: Transcoders, dtype: torch.dtype, device: torch.device, name: str = "dictionary"
    ) -> "DenseTranscoders":
        """Read all weights of a dictionary.

        Raises:
            TranscoderError: weights that are not finite.
        """
        layers = []
        for number, part in enumerate(transcoders.layers):
            decoder = part.decoder.dense(dtype)
            slots = decoder.unbind(1) if transcoders.kind == "cross-layer" else (decoder,)
            layer = DenseLayer(
                part.encoder.dense(dtype).to(device),
                part.encoder_bias.to(device, dtype),
                tuple(slot.contiguous().to(device) for slot in slots),
                part.decoder_bias.to(device, dtype),
                None if part.skip is None else part.skip.dense(dtype).to(device),
                part.activation,
                tuple(None if added is None else added.to(device, dtype) for added in part.more),
            )
            weights = (
                layer.encoder,
                layer.encoder_bias,
                *layer.decoders,
                layer.bias,
                *(() if layer.skip is None else (layer.skip,)),
            )
            if not all(bool(tensor.isfinite().all()) for tensor in weights):
                raise TranscoderError(
                    f"{transcoders.name}: layer {number} holds NaN or infinite weights; nothing can be measured with it"
                )
            layers.append(layer)
        return DenseTranscoders(name, transcoders.read, tuple(layers))

    def encode(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token feature"]:
        """Activations of one layer's features."""
        part = self.layers[layer]
        assert not isinstance(part.activation, NeuronActivation)  # neurons are not evaluated
        return part.activation(torch.addmm(part.encoder_bias, x, part.encoder.T))

    def start(self, watch: Watch | None = None) -> Step:
        """A fresh pass, which adds up what features of earlier layers write at later ones."""
        pending: dict[int, Tensor] = {}

        def step(layer: int, x: Tensor) -> Tensor:
            part, activation = self.layers[layer], self.encode(layer, x)
            if watch is not None:
                watch(layer, activation)
            for at, written in enumerate(_decoded(activation, part.decoders, part.more), layer):
                pending[at] = pending[at] + written if at in pending else written
            return self._affine(layer, x) + pending.pop(layer)

        return step

    def local(self, layer: int, x: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
        """What one layer puts out on its own: its features, its skip path and its bias, nothing from earlier layers."""
        (written,) = _decoded(self.encode(layer, x), self.layers[layer].decoders[:1], self.layers[layer].more[:1])
        return self._affine(layer, x) + written

    def frozen(
        self, layer: int, activation: Float[Tensor, "token feature"], change: Float[Tensor, "token d"]
    ) -> Float[Tensor, "token d"]:
        """How much one layer's output changes when its input does and the active features, and no others, follow, as
        in a graph."""
        part = self.layers[layer]
        (written,) = _decoded((change @ part.encoder.T) * (activation != 0), part.decoders[:1])
        return written if part.skip is None else torch.addmm(written, change, part.skip.T)

    def _affine(self, layer: int, x: Tensor) -> Tensor:
        part = self.layers[layer]
        return part.bias.expand_as(x) if part.skip is None else torch.addmm(part.bias, x, part.skip.T)


def _decoded(
    activation: Float[Tensor, "token feature"], decoders: tuple[Tensor, ...], more: tuple[Tensor | None, ...] = ()
) -> list[Float[Tensor, "token d"]]:
    """What the active features write through each decoder; touches only their rows, which is several times faster
    than a product."""
    token, feature = activation.nonzero(as_tuple=True)
    if not len(token):
        return [activation.new_zeros(len(activation), decoder.shape[1]) for decoder in decoders]
    value = activation[token, feature]
    starts = torch.searchsorted(token, torch.arange(len(activation), device=token.device))
    values = [value if added is None else value + added[feature] for added in more or [None] * len(decoders)]
    return [
        embedding_bag(feature, decoder, starts, mode="sum", per_sample_weights=strength)
        for decoder, strength in zip(decoders, values, strict=True)
    ]
