"""Changes worked out for one prompt: what to do to which feature of which layer, and what a mode holds fixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.choices import Mode, choice
from ..errors import InterventionError, OptionError
from ..models.language_model import LanguageModel, Recording
from ..models.passes import read_at
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import JumpReLU, NeuronActivation, TopK, TranscoderLayer
from .edits import Change, Feature, Intervention, SteeringVector, check_feature, goes_on, prompt_positions

MODES: dict[Mode, str] = {
    "frozen_attention": "attention patterns held, all else live",
    "frozen_norms": "attention patterns and norms held, MLPs live",
    "open": "all live",
    "frozen": "all held but what the features write: linear",
    "replacement": "the dictionary in place of the MLPs, errors constant; attention patterns held",
    "replacement_frozen": "the dictionary in place of the MLPs, errors constant; attention patterns and norms held",
    "replacement_open": "the dictionary in place of the MLPs, errors constant; all else live",
}


class FrozenParts(NamedTuple):
    """What a forward pass holds at its value on the unchanged prompt."""

    patterns: bool = False
    norms: bool = False
    layers: range = range(0)
    """Whose MLP outputs are held, apart from what changed features write there."""
    replaced: bool = False
    """Whether MLP outputs are held apart from what features write there, all of which respond."""


def frozen_parts(mode: Mode, layers: range | None, n_layers: int) -> FrozenParts:
    """What a mode, perhaps constrained to a range of layers, holds fixed.

    Raises:
        OptionError: an unknown mode, an empty range or one outside the model, a range in a mode that holds all layers.
    """
    choice("mode", mode, Mode)
    if mode.startswith("replacement"):
        if layers is not None:
            raise OptionError(
                f"mode {mode!r} replaces the MLPs of all layers; leave the range of layers out, or use "
                f"'frozen_attention'"
            )
        return FrozenParts(mode != "replacement_open", mode == "replacement_frozen", replaced=True)
    if layers is None:
        return FrozenParts(
            mode != "open", mode in ("frozen", "frozen_norms"), range(n_layers) if mode == "frozen" else range(0)
        )
    if not layers or layers.step != 1 or layers.start < 0 or layers.stop > n_layers:
        raise OptionError(
            f"layers {layers.start} to {layers.stop - 1} are not a range within the model's layers 0 to {n_layers - 1}"
        )
    if mode == "frozen" and len(layers) < n_layers:
        raise OptionError("mode 'frozen' holds all layers; leave the range of layers out, or use 'frozen_attention'")
    everything = mode == "frozen_norms" or (len(layers) == n_layers and mode != "open")
    return FrozenParts(patterns=mode != "open", norms=everything, layers=layers)


@dataclass(frozen=True)
class LayerEdits:
    """Changes of one layer's features, one entry a (row of the batch, position, feature): `new = slope * activation
    + offset`."""

    row: Int[Tensor, " edit"]
    position: Int[Tensor, " edit"]
    index: Int[Tensor, " edit"]
    slope: Float[Tensor, " edit"]
    offset: Float[Tensor, " edit"]
    clean: Float[Tensor, " edit"]
    """Activations on the unchanged prompt; zero at generated tokens, where there is no such thing."""


@dataclass(frozen=True)
class EditPlan:
    """All that is changed in one batched forward pass."""

    layers: dict[int, LayerEdits]
    pushes: tuple[tuple[int, int, SteeringVector], ...]
    """(row, position, direction)."""

    def __bool__(self) -> bool:
        return bool(self.layers or self.pushes)


def prompt_edits(model: ReplacementModel, recording: Recording, variants: Sequence[Sequence[Change]]) -> EditPlan:
    """The changes at the prompt's own positions, one row of the batch a variant.

    Raises:
        InterventionError: a feature the dictionary does not have, a position outside the prompt, a feature that is set
            or scaled twice.
    """
    n = len(recording.input_ids)
    entries, pushes = _Entries(), []
    for row, changes in enumerate(variants):
        for change in changes:
            if isinstance(change, SteeringVector):
                _check_push(change, model.language_model)
                pushes += [
                    (row, position, change) for position in prompt_positions("the added direction", change.position, n)
                ]
                continue
            for feature in change.features:
                check_feature(feature, model.transcoders)
                for position in prompt_positions(feature.id, feature.position, n):
                    entries.put(row, position, feature, change)
    layers = {}
    for layer, (edits, added) in entries.by_layer(model.language_model.engine_dtype).items():
        x = read_points(model, recording, layer)[edits.position]
        _, clean = read(model.transcoders.layers[layer], x, edits.index)
        clean = clean.masked_fill(edits.position < model.transcoders.n_ignored_positions(recording.input_ids), 0.0)
        # "Twice" and "up by 3" mean the activation on the unchanged prompt, so they are constants here. What is only
        # added to moves with its activation, whatever that will be.
        offset = edits.offset + torch.where(added, 0.0, edits.slope * clean)
        layers[layer] = replace(edits, slope=added.to(clean), offset=offset, clean=clean)
    return EditPlan(layers, tuple(pushes))


def generation_edits(model: ReplacementModel, changes: Sequence[Change], row: int) -> EditPlan:
    """The changes at every generated token, in one row of the batch: those at positions `*` and `+`."""
    entries, pushes = _Entries(), []
    for change in changes:
        if isinstance(change, SteeringVector):
            pushes += [(row, 0, change)] if goes_on(change.position) else []
            continue
        for feature in change.features:
            if goes_on(feature.position):
                entries.put(row, 0, feature, change)
    layers = {layer: edits for layer, (edits, _) in entries.by_layer(model.language_model.engine_dtype).items()}
    return EditPlan(layers, tuple(pushes))


@dataclass
class _Entry:
    """What becomes of one activation: `slope` times it plus `offset`."""

    slope: float | None = None
    """None: nothing but additions was asked for."""
    offset: float = 0.0


class _Entries:
    """Changes collected by (layer, row, position, feature)."""

    def __init__(self) -> None:
        self.found: dict[int, dict[tuple[int, int, int], _Entry]] = {}

    def put(self, row: int, position: int, feature: Feature, change: Intervention) -> None:
        entry = self.found.setdefault(feature.layer, {}).setdefault((row, position, feature.index), _Entry())
        if change.action != "add":
            if entry.slope is not None:
                raise InterventionError(
                    f"{feature.id} is set or scaled twice; one change a feature and position (additions come on top)"
                )
            entry.slope = {"scale": change.value, "set": 0.0, "shift": 1.0}[change.action]
        if change.action != "scale":
            entry.offset += change.value

    def by_layer(self, dtype: torch.dtype) -> dict[int, tuple[LayerEdits, Bool[Tensor, " edit"]]]:
        """The edits of each layer, and which of them only add."""
        layers = {}
        for layer, entries in sorted(self.found.items()):
            row, position, index = torch.tensor(list(entries)).T.contiguous()
            added = torch.tensor([entry.slope is None for entry in entries.values()])
            slope = torch.tensor(
                [1.0 if entry.slope is None else entry.slope for entry in entries.values()], dtype=dtype
            )
            offset = torch.tensor([entry.offset for entry in entries.values()], dtype=dtype)
            layers[layer] = LayerEdits(row, position, index, slope, offset, torch.zeros_like(offset)), added
        return layers


def _check_push(push: SteeringVector, model: LanguageModel) -> None:
    lowest = -1 if push.at == "residual" else 0
    if not lowest <= push.layer < model.n_layers:
        raise InterventionError(
            f"a direction cannot be added at layer {push.layer}; the model has layers 0 to {model.n_layers - 1}"
        )
    if push.vector.shape != (model.d_model,):
        raise InterventionError(
            f"the direction to be added has shape {list(push.vector.shape)}, the model's d_model is {model.d_model}"
        )


def read_points(model: ReplacementModel, recording: Recording, layer: int) -> Float[Tensor, "pos d"]:
    """What the encoders of one layer saw on the unchanged prompt."""
    mid, mlp_in = recording.resid_mid[layer], recording.mlp_inputs[layer]
    return read_at(model.language_model, layer, model.transcoders.read, mid, mlp_in)


def normalized(
    model: LanguageModel, layer: int, x: Float[Tensor, "pos d"], like: Float[Tensor, "pos d"]
) -> Float[Tensor, "pos d"]:
    """`x` through the norm before an MLP, without its gain, the denominator being that of `like`."""
    return model.before_mlp(layer, like).without_gain.forward(x)


def read(
    part: TranscoderLayer,
    x: Float[Tensor, "entry d"],
    index: Int[Tensor, " entry"],
    gates_at: Float[Tensor, "entry d"] | None = None,
) -> tuple[Tensor, Tensor]:
    """Pre-activation and activation of one feature per row of `x`; gates of neurons are those at `gates_at`, if given.

    Of a neuron both are its activation, as in a graph.
    """
    if isinstance(part.activation, NeuronActivation):
        entry = torch.arange(len(x))
        if gates_at is None:
            activation = part.activation.hidden(x)[entry, index]
        else:
            now, then = (
                (rows * part.encoder.select(index, x.dtype)).sum(-1) + part.encoder_bias.to(x.dtype)[index]
                for rows in (x, gates_at)
            )
            activation = now * (part.activation.hidden(gates_at)[entry, index] / then)
        return activation, activation
    if isinstance(part.activation, TopK):  # whether one is among the largest, all must tell
        different, place = torch.unique(x.detach(), dim=0, return_inverse=True)
        rows = x[
            place.new_empty(len(different)).scatter_(0, place, torch.arange(len(x)))
        ]  # unique itself has no gradient
        pre = rows @ part.encoder.dense(x.dtype).T + part.encoder_bias.to(x.dtype)
        return pre[place, index], part.activation(pre)[place, index]
    pre = (x * part.encoder.select(index, x.dtype)).sum(-1) + part.encoder_bias.to(x.dtype)[index]
    single = JumpReLU(part.activation.threshold[index]) if isinstance(part.activation, JumpReLU) else part.activation
    return pre, single(pre[None])[0]


def model_writes(model: ReplacementModel, layer: int, frozen: FrozenParts) -> bool:
    """Whether features of a layer write anywhere that a mode lets them."""
    return not frozen.layers or any(at in frozen.layers for at in model.transcoders.writes(layer))


def check_reach(part: Sequence[Sequence[Change]], plan: EditPlan, model: ReplacementModel, frozen: FrozenParts) -> None:
    """Refuse a variant none of whose changes can do anything to the prompt.

    Raises:
        InterventionError: saying why.
    """
    for row, changes in enumerate(part):
        layers = [layer for layer, edits in plan.layers.items() if bool((edits.row == row).any())]
        pushed = any(at == row for at, _, _ in plan.pushes)
        if changes and not layers and not pushed:
            raise InterventionError(
                "all changes are at generated tokens (+), so the prompt stays as it is; use generate (--generate N)"
            )
        if layers and not pushed and not any(model_writes(model, layer, frozen) for layer in layers):
            names = f"layers {frozen.layers.start} to {frozen.layers.stop - 1}"
            raise InterventionError(
                f"the changed features (layer {', '.join(map(str, layers))}) write nowhere in the constrained "
                f"{names}; widen them"
            )
