"""What pages are of: the features of a dictionary, or the two signs of every neuron."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import OptionError
from ..interventions.edits import Feature, check_feature
from ..models.language_model import LanguageModel
from ..models.passes import counted, read_at, run
from ..models.recording import WatchPoint, WritePoint, watching
from ..transcoders.dense import DenseTranscoders
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import Transcoders

FIRING = 0.01
"""The share of positions at which each sign of a neuron counts as on: those where it is strongest."""


@dataclass(frozen=True)
class SignedNeurons:
    """Every neuron as two units, on where its activation is far above, or far below, zero; those of the negative sign
    come after all others and count by magnitude."""

    levels: tuple[Float[Tensor, " unit"], ...]
    """By layer, what a unit must be above to be on."""

    @staticmethod
    def from_blocks(
        model: LanguageModel, blocks: Int[Tensor, "sequence pos"], share: float = FIRING
    ) -> "SignedNeurons":
        """Levels that each unit is above at a share of some text's positions."""
        seen = hidden(model, blocks.to(model.device))
        return SignedNeurons(
            tuple(_exceeded(both_signs(seen[layer]), share).clamp(min=1e-6).cpu() for layer in range(model.n_layers))
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of units of every layer."""
        return tuple(len(level) for level in self.levels)


Units = DenseTranscoders | SignedNeurons


def units_of(model: ReplacementModel, levels: Sequence[Any] = ()) -> Units:
    """What is run to see which units of a dictionary are on; `levels` of neurons, by layer, as their pages have them.

    Raises:
        OptionError: neurons without levels.
        TranscoderError: weights that are not finite.
    """
    language_model = model.language_model
    if not model.transcoders.of_neurons:
        return DenseTranscoders.load(model.transcoders, language_model.engine_dtype, language_model.device)
    if not levels:
        raise OptionError("when a neuron counts as on, its pages say; give a folder of pages of these neurons")
    return SignedNeurons(tuple(torch.as_tensor(level) for level in levels))


def n_units(transcoders: Transcoders) -> tuple[int, ...]:
    """By layer, how many units there are pages of: all features, or both signs of all neurons."""
    return tuple((1 + transcoders.of_neurons) * width for width in transcoders.widths)


def check_unit(transcoders: Transcoders, layer: int, unit: int) -> None:
    """Refuse a feature, or a sign of a neuron, that there is not.

    Raises:
        InterventionError: its layer or number is outside, or it was left out because it never fires.
    """
    signs, layers = 1 + transcoders.of_neurons, len(transcoders.layers)
    index = (
        unit % transcoders.widths[layer] if 0 <= layer < layers and unit < signs * transcoders.widths[layer] else unit
    )
    check_feature(Feature(layer, 0, index), transcoders)


def both_signs(x: Float[Tensor, "token neuron"]) -> Float[Tensor, "token unit"]:
    """Positive parts of all neurons, then the magnitudes of their negative parts.

    >>> both_signs(torch.tensor([[2.0, -3.0]])).tolist()
    [[2.0, 0.0, 0.0, 3.0]]
    """
    return torch.cat([x, -x], dim=1).relu_()


def hidden(model: LanguageModel, ids: Int[Tensor, "sequence pos"]) -> dict[int, Float[Tensor, "token neuron"]]:
    """By layer, what enters each MLP's last linear map, from position 1 on."""
    with watching(_downs(model)) as saved, torch.no_grad():
        model.module.base_model(input_ids=ids, use_cache=False)
    return {layer: counted(x, model.engine_dtype) for layer, x in saved.items()}


def activations_of(
    model: LanguageModel, write: WritePoint, units: Sequence[Units], ids: Int[Tensor, "sequence pos"]
) -> Iterator[tuple[int, int, Float[Tensor, "sequence pos unit"], Float[Tensor, "sequence pos unit"]]]:
    """From one pass over blocks: which of the units, layer, activations from position 1 on, and the same of units that
    are not on as well, where there is such a thing."""
    dtype, signed = model.engine_dtype, any(isinstance(part, SignedNeurons) for part in units)
    with watching(_downs(model) if signed else []) as saved:
        clean = run(model, ids, write, logits=False)
    for layer in range(model.n_layers):
        for number, part in enumerate(units):
            if isinstance(part, SignedNeurons):
                shown = both_signs(counted(saved[layer], dtype))
                found = shown * (shown > part.levels[layer].to(shown))
            else:
                mid, inside = counted(clean.resid_mid[layer], dtype), counted(clean.inputs[layer], dtype)
                found = shown = part.encode(layer, read_at(model, layer, part.read, mid, inside))
            shape = (len(ids), ids.shape[1] - 1, -1)
            yield number, layer, found.view(shape), shown.view(shape)


def _exceeded(x: Float[Tensor, "token unit"], share: float) -> Float[Tensor, " unit"]:
    """What each unit exceeds at a share of the positions."""
    rank = max(1, math.ceil((1 - share) * len(x)))
    return x.T.contiguous().kthvalue(rank, dim=1).values


def _downs(model: LanguageModel) -> list[WatchPoint]:
    row: Any = model.architecture
    return [
        WatchPoint(layer, block.get_submodule(row.mlp).get_submodule(row.down), "in")
        for layer, block in enumerate(model.blocks)
    ]
