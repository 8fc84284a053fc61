"""Dictionaries: sparse features that stand in for MLPs; per-layer (with or without skip) and cross-layer."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.mapped import release
from ..errors import TranscoderError, TranscoderMismatch
from ..models.recording import ReadPoint, WritePoint

Kind = Literal["per-layer", "cross-layer"]


BYTES_AT_ONCE = 1 << 26
"""Of an encoder, how much is in memory at a time."""
ROWS_AT_ONCE = 1024
"""Of rows picked from a file, how many are read before their pages are let go: a page brings up to 64 kB with it."""


@dataclass(frozen=True)
class ReLU:
    """`max(x, 0)`."""

    def __call__(self, pre: Float[Tensor, "pos feature"]) -> Float[Tensor, "pos feature"]:
        """Negative ones to zero."""
        return pre.relu()

    def of(self, which: slice | Tensor) -> "ReLU":
        """The same for some features alone."""
        return self


@dataclass(frozen=True)
class JumpReLU:
    """`x` where it is above the feature's threshold, else 0 (Rajamanoharan et al. 2024)."""

    threshold: Float[Tensor, " feature"]

    def __call__(self, pre: Float[Tensor, "pos feature"]) -> Float[Tensor, "pos feature"]:
        """Those above their feature's threshold, unchanged."""
        return pre * (pre > self.threshold.to(pre))

    def of(self, which: slice | Tensor) -> "JumpReLU":
        """The same for some features alone."""
        return JumpReLU(self.threshold[which])


@dataclass(frozen=True)
class TopK:
    """The k largest pre-activations of each position as they are, also negative ones (unless `rectified`); the rest
    0."""

    k: int
    rectified: bool = False
    shift: Float[Tensor, " feature"] | None = None
    """Part of the pre-activation that has no say in which are the largest and positive: sparsify's `post_enc`."""

    def __call__(self, pre: Float[Tensor, "pos feature"]) -> Float[Tensor, "pos feature"]:
        """The k largest of each position, unchanged."""
        judged = pre if self.shift is None else pre - self.shift.to(pre)
        kept = judged.topk(self.k, dim=-1)
        values = pre.gather(-1, kept.indices)
        if self.rectified:
            values = torch.where(kept.values > 0, values, 0.0)
        return torch.zeros_like(pre).scatter_(-1, kept.indices, values)


@dataclass(frozen=True, eq=False)
class NeuronActivation:
    """A neuron's activation, which its gate decides; the pre-activation is what the gate multiplies."""

    hidden: Callable[[Float[Tensor, "pos d"]], Float[Tensor, "pos feature"]]
    """From what the MLP reads to its neurons' activations."""


Sparse = ReLU | JumpReLU | TopK
"""Pre-activations to activations, position by position."""
Activation = Sparse | NeuronActivation
"""The same; a gate also needs what is read."""


@dataclass(frozen=True)
class Matrix:
    """Weights as they lie in a file, memory-mapped: plain, or int8 with one float scale a row.

    `rows` numbers the rows that are stored when those of features that never fire were left out.
    """

    stored: Tensor
    scale: Tensor | None = None
    rows: Int[Tensor, " stored"] | None = None
    height: int | None = None
    """Number of rows, stored or not; None: all are stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the rows that were left out."""
        return (self.height or self.stored.shape[0], *self.stored.shape[1:])

    def dense(self, dtype: torch.dtype) -> Tensor:
        """All rows; those left out are zero."""
        values = self._scaled(self.stored, self.scale, dtype)
        if values is not self.stored:
            release(self.stored, self.scale)
        if self.rows is None:
            return values
        return values.new_zeros(self.shape).index_copy_(0, self.rows.long(), values)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """All stored rows, a part of them at a time, with their places among the stored ones; memory holds one part."""
        at_once = max(1, BYTES_AT_ONCE // (self.stored[:1].numel() * dtype.itemsize))
        for begin in range(0, len(self.stored), at_once):
            part = slice(begin, begin + at_once)
            yield part, self._scaled(self.stored[part], None if self.scale is None else self.scale[part], dtype)
            release(self.stored, self.scale)

    def select(self, index: Int[Tensor, " row"], dtype: torch.dtype, slot: int | None = None) -> Tensor:
        """Some rows (of one slot of the second axis, if given), touching no others on disk."""
        if self.rows is not None:
            index = torch.searchsorted(self.rows.long(), index)
        stored, scale = self.stored, self.scale
        if slot is not None:
            stored, scale = stored[:, slot], None if scale is None else scale[:, slot]
        out = torch.empty(len(index), *stored.shape[1:], dtype=dtype)
        for begin in range(0, len(index), ROWS_AT_ONCE):
            part = index[begin : begin + ROWS_AT_ONCE]
            out[begin : begin + len(part)] = self._scaled(stored[part], None if scale is None else scale[part], dtype)
            release(stored, scale)
        return out

    @staticmethod
    def _scaled(values: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
        return values.to(dtype) if scale is None else values.to(dtype) * scale.to(dtype)[..., None]


@dataclass(frozen=True)
class Slots:
    """Decoders of one layer's features, each a matrix of its own: slot j writes at layer l + j, None nothing."""

    slots: tuple[Matrix | None, ...]
    rows = None

    @property
    def shape(self) -> tuple[int, ...]:
        """[feature, write, d]."""
        height, d = next(slot.shape for slot in self.slots if slot is not None)
        return (height, len(self.slots), d)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """All of them."""
        out = torch.zeros(self.shape, dtype=dtype)
        for number, slot in enumerate(self.slots):
            if slot is not None:
                out[:, number] = slot.dense(dtype)
        return out

    def select(self, index: Int[Tensor, " row"], dtype: torch.dtype, slot: int | None = None) -> Tensor:
        """Some rows of one slot, touching no others on disk."""
        assert slot is not None
        part = self.slots[slot]
        return torch.zeros(len(index), self.shape[2], dtype=dtype) if part is None else part.select(index, dtype)


@dataclass(frozen=True)
class TranscoderLayer:
    """The features that read at one layer.

    `encoder` is [feature, d]. `decoder` is [feature, d] in a per-layer set and [feature, write, d] in a cross-layer
    one, whose slot j writes at layer l + j. `decoder_bias` is the output bias of this layer; `skip` is [d out, d in].
    """

    encoder: Matrix
    encoder_bias: Float[Tensor, " feature"]
    decoder: Matrix | Slots
    decoder_bias: Float[Tensor, " d"]
    activation: Activation
    skip: Matrix | None = None
    more: tuple[Float[Tensor, " feature"] | None, ...] = ()
    """By slot, what a feature that is on writes beyond its activation, in units of it: a constant, as the bias is."""

    @property
    def width(self) -> int:
        """Number of features."""
        return self.encoder.shape[0]

    def preactivations(
        self, x: Float[Tensor, "pos d"]
    ) -> Iterator[tuple[slice | Tensor, Float[Tensor, "pos feature"]]]:
        """Pre-activations of all features, a part of the features at a time: which (a slice, or numbers), and
        theirs."""
        bias, rows = self.encoder_bias.to(x.dtype), self.encoder.rows
        if rows is not None:  # features whose rows were left out have their bias alone
            absent = torch.ones(self.width, dtype=torch.bool).index_fill_(0, rows.long(), False).nonzero().flatten()
            yield absent, bias[absent].expand(len(x), -1)
        for part, weight in self.encoder.pieces(x.dtype):
            which = part if rows is None else rows[part].long()
            yield which, torch.addmm(bias[which], x, weight.T)

    def encode(self, x: Float[Tensor, "pos d"]) -> tuple[Float[Tensor, "pos feature"], Float[Tensor, "pos feature"]]:
        """Pre-activations and activations."""
        pre = x.new_empty(len(x), self.width)
        for which, part in self.preactivations(x):
            pre[:, which] = part
        return pre, self.activation.hidden(x) if isinstance(self.activation, NeuronActivation) else self.activation(pre)


@dataclass(frozen=True)
class Transcoders:
    """A dictionary for every layer of a model."""

    kind: Kind
    layers: tuple[TranscoderLayer, ...]
    read: ReadPoint
    write: WritePoint
    name: str = ""
    model_name: str = ""
    sha256: str = ""
    ignored_prefix: tuple[int, ...] = ()
    """Tokens of a chat's opening that it was not trained on: where a prompt begins with these, their positions have
    no features."""
    weights_sha256: str = ""
    """Of the files alone; what `sha256` was before it covered the configuration."""

    def is_of(self, sha256: str) -> bool:
        """Whether a recorded hash, or the beginning of one, is this dictionary's; those of earlier versions, which
        covered the weights alone, are taken too."""
        return bool(sha256) and any(own.startswith(sha256) for own in (self.sha256, self.weights_sha256))

    def __repr__(self) -> str:
        skip = ", skip" if self.has_skip else ""
        return (
            f"Transcoders({self.name!r}: {self.kind}{skip}, {len(self.layers)} layers, widths "
            f"{_spread(self.widths)}, d {self.d_model})"
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of features of every layer."""
        return tuple(layer.width for layer in self.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream it was made for."""
        return self.layers[0].encoder.shape[1]

    @property
    def has_skip(self) -> bool:
        """Whether any layer has a skip matrix."""
        return any(layer.skip is not None for layer in self.layers)

    @property
    def of_neurons(self) -> bool:
        """Whether its features are the model's own neurons."""
        return isinstance(self.layers[0].activation, NeuronActivation)

    def n_ignored_positions(self, input_ids: Int[Tensor, " pos"]) -> int:
        """How many positions at the start of a prompt have no features: one, whose enormous norms no dictionary is
        trained on, or those of its `ignored_prefix`; none for neurons."""
        prefix = self.ignored_prefix
        if prefix and tuple(input_ids[: len(prefix)].tolist()) == prefix:
            return len(prefix)
        return 0 if self.of_neurons else 1

    def writes(self, layer: int) -> range:
        """The layers at which features of `layer` write."""
        return range(layer, len(self.layers)) if self.kind == "cross-layer" else range(layer, layer + 1)

    def sources(self, layer: int) -> range:
        """The layers whose features write at `layer`."""
        return range(layer + 1) if self.kind == "cross-layer" else range(layer, layer + 1)

    def encode(self, layer: int, x: Float[Tensor, "pos d"]) -> tuple[Tensor, Tensor]:
        """Pre-activations and activations [pos, feature] of one layer.

        Raises:
            TranscoderError: they are not finite.
        """
        pre, activation = self.layers[layer].encode(x)
        self._check_finite(layer, pre)
        return pre, activation

    def active(
        self, layer: int, x: Float[Tensor, "pos d"], n_ignored: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Position, index, activation and pre-activation of a layer's features that are on, none of the first
        `silent` positions.

        Where the activation looks at one feature at a time, no more than a part of all pre-activations is in memory.

        Raises:
            TranscoderError: they are not finite.
        """
        part, found = self.layers[layer], []
        if isinstance(part.activation, ReLU | JumpReLU):
            made = ((which, pre, part.activation.of(which)(pre)) for which, pre in part.preactivations(x))
        else:
            made = ((slice(None), *part.encode(x)),)
        numbers = torch.arange(part.width)
        for which, pre, activation in made:
            self._check_finite(layer, pre)
            activation[:n_ignored] = 0
            position, place = activation.nonzero(as_tuple=True)
            found.append((position, numbers[which][place], activation[position, place], pre[position, place]))
        columns = [torch.cat(column) for column in zip(*found, strict=True)]
        order = torch.argsort(columns[0] * part.width + columns[1])
        position, index, activation, pre = (column[order] for column in columns)
        return position, index, activation, pre

    def _check_finite(self, layer: int, pre: Tensor) -> None:
        if not bool(pre.isfinite().all()):
            raise TranscoderError(
                f"{self.name}: layer {layer} gives activations that are not finite; its encoder holds NaN or infinite "
                f"weights"
            )

    def decoder_rows(
        self, layer: int, features: Int[Tensor, " feature"], at: int, dtype: torch.dtype
    ) -> Float[Tensor, "feature d"]:
        """What features of `layer` write at layer `at`, for an activation of one.

        Raises:
            TranscoderError: they are not finite.
        """
        decoder = self.layers[layer].decoder
        rows = decoder.select(features, dtype, at - layer if self.kind == "cross-layer" else None)
        if not bool(rows.isfinite().all()):
            raise TranscoderError(f"{self.name}: the decoder of layer {layer} holds NaN or infinite weights")
        return rows

    def more(self, layer: int, at: int) -> Float[Tensor, " feature"] | None:
        """What features of `layer` write at layer `at` when they are on, beyond their activation; None: nothing."""
        more = self.layers[layer].more
        return more[at - layer] if more else None

    def check(self, n_layers: int, d_model: int, model: str) -> None:
        """Refuse a dictionary whose shape is not that of a model.

        Raises:
            TranscoderMismatch: another number of layers or another width of the residual stream.
        """
        if len(self.layers) != n_layers:
            raise TranscoderMismatch(
                f"dictionary {self.name} has {len(self.layers)} layers, model {model} has {n_layers}; give "
                f"--transcoders made for it"
            )
        if self.d_model != d_model:
            raise TranscoderMismatch(
                f"dictionary {self.name} has d_model {self.d_model}, model {model} has {d_model}; give --transcoders "
                f"made for it"
            )


def check_layers(name: str, kind: Kind, layers: tuple[TranscoderLayer, ...]) -> None:
    """Refuse layers whose tensors do not fit together.

    Raises:
        TranscoderError: naming the layer, the tensor and both shapes.
    """
    if not layers:
        raise TranscoderError(f"{name} holds no layers")
    d = layers[0].encoder.shape[-1]
    for number, layer in enumerate(layers):
        width = layer.encoder.shape[0]
        slots = (len(layers) - number,) if kind == "cross-layer" else ()
        wanted = {
            "encoder": (layer.encoder.shape, (width, d)),
            "encoder bias": (tuple(layer.encoder_bias.shape), (width,)),
            "decoder": (layer.decoder.shape, (width, *slots, d)),
            "decoder bias": (tuple(layer.decoder_bias.shape), (d,)),
        }
        if layer.skip is not None:
            wanted["skip"] = (layer.skip.shape, (d, d))
        if isinstance(layer.activation, JumpReLU):
            wanted["threshold"] = (tuple(layer.activation.threshold.shape), (width,))
        for tensor, (shape, expected) in wanted.items():
            if shape != expected:
                raise TranscoderError(
                    f"{name}: layer {number} has a {tensor} of shape {list(shape)}, expected {list(expected)}"
                )
        if isinstance(layer.activation, TopK) and not 0 < layer.activation.k <= width:
            raise TranscoderError(
                f"{name}: layer {number} keeps the top {layer.activation.k} of {width} features; k must lie between 1 "
                f"and the width"
            )


def _spread(numbers: tuple[int, ...]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"
