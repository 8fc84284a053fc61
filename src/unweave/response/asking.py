"""What a response graph is asked, resolved: the prompt, the target, and what taking away means."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attribution.targets import resolve_position
from ..base.choices import Attention, Baseline, UnitKind, choice
from ..errors import TargetError, TranscoderError
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from ..transcoders.transcoders import Transcoders
from .building import check_supported, watch
from .means import resampled, text_means
from .references import ActiveUnits, ReferenceActivations, aligned, check_contrast, feature_firing, written_outputs
from .tangents import Starts, TangentModel, tangents_of
from .targets import ResponseTarget, ResponseTargetSpec, response_target, unit_of
from .units import Basis, Units

logger = logging.getLogger(__name__)

Prompt = str | Sequence[int] | Tensor


@dataclass(frozen=True)
class ResponseQuestion:
    """A question resolved: the model's derivative on the prompt, the target and what taking away means."""

    model: LanguageModel
    transcoders: Transcoders | None
    prompt: str | None
    instead: str | None
    ids: Int[Tensor, " pos"]
    basis: Basis
    firing: tuple[ActiveUnits, ...] | None
    reference: ReferenceActivations
    other_ids: Int[Tensor, " other_pos"] | None
    places: Int[Tensor, " pos"] | None
    target: ResponseTarget | None
    """None: the target is a unit."""
    unit: tuple[int, int, int] | None
    silent: int

    @property
    def tangent(self) -> TangentModel:
        """The derivative."""
        return self.basis.tangent


def ask(
    model: ReplacementModel | LanguageModel,
    prompt: Prompt,
    target: ResponseTargetSpec | None,
    instead: Prompt | None,
    units: UnitKind,
    baseline: Baseline,
    attention: Attention,
    position: int,
) -> ResponseQuestion:
    """Resolve a question; arguments and errors as in `response_graph`."""
    choice("units", units, UnitKind)
    choice("baseline", baseline, Baseline)
    choice("attention", attention, Attention)
    language_model = model.language_model if isinstance(model, ReplacementModel) else model
    transcoders = None
    if units == "features":
        if not isinstance(model, ReplacementModel):
            raise TranscoderError(
                f"units='features' needs a dictionary, and {language_model.name} was loaded without one; use "
                "unweave.load(model, transcoders) or units='neurons'"
            )
        transcoders = None if model.transcoders.of_neurons else model.transcoders
    check_supported(language_model)
    ids = language_model.tokenize(prompt)
    ids = ids[: resolve_position(len(ids), position) + 1]
    seen = watch(language_model, ids)
    basis = Basis(language_model, tangents_of(language_model, seen, held=attention == "held"), transcoders)
    silent = 1 if len(ids) > 1 else 0
    if transcoders is not None:
        silent = max(silent, transcoders.n_ignored_positions(ids))
    firing = None if transcoders is None else feature_firing(language_model, transcoders, seen.recording, silent)
    other_ids = places = other_logits = None
    if instead is None:
        reference = _without_contrast(basis, ids, units, baseline)
    else:
        other_ids = language_model.tokenize(instead)
        check_contrast(ids, other_ids)
        places = aligned(ids, other_ids)
        if len(ids) != len(other_ids):
            logger.warning(
                "the prompts have %d and %d tokens; %d of the first's have no counterpart and keep their values",
                len(ids), len(other_ids), int((places < 0).sum()),
            )  # fmt: skip
        reference, other_logits = _contrast(basis, other_ids, places)
    unit = unit_of(target)
    found = None
    if unit is None:
        normalized = basis.tangent.final.frozen.forward(seen.recording.final)[-1]
        found = response_target(language_model, seen.recording, normalized, target, other_logits)
        if other_logits is not None and len(found.tokens) == 2:
            there = float(other_logits[found.tokens[0]] - other_logits[found.tokens[1]])
            if abs(there - found.value) < 1e-6 * max(1.0, abs(found.value)):
                raise TargetError(
                    f"the target {found.label!r} is {found.value:.4g} in both prompts; name another target"
                )
    return ResponseQuestion(
        language_model, transcoders, prompt if isinstance(prompt, str) else None,
        instead if isinstance(instead, str) else None, ids, basis, firing, reference, other_ids, places, found, unit,
        silent,
    )  # fmt: skip


def _contrast(
    basis: Basis, other_ids: Int[Tensor, " other_pos"], places: Int[Tensor, " pos"]
) -> tuple[ReferenceActivations, Float[Tensor, " vocab"]]:
    """The other prompt's values at the places that stand for this one's, and its logits."""
    model, transcoders = basis.model, basis.transcoders
    other = watch(model, other_ids)
    took = places.clamp_min(0)
    neurons = features = None
    if transcoders is None:
        tangent = tangents_of(model, other)
        neurons = tuple(layer.mlp.activations()[took] for layer in tangent.layers)
    else:
        found = feature_firing(model, transcoders, other.recording, transcoders.n_ignored_positions(other_ids))
        features = tuple(_moved(firing, places) for firing in found)
    outputs = written_outputs(model, other.recording, residual=basis.residual)[:, took]
    kept = torch.nonzero(places < 0).flatten()
    reference = ReferenceActivations("contrast", neurons, features, outputs, other.recording.embeddings[took], kept)
    return reference, model.capped(other.recording.logits[-1])


def _moved(firing: ActiveUnits, places: Int[Tensor, " pos"]) -> ActiveUnits:
    """Another prompt's firing, at this one's positions."""
    position, which = torch.nonzero(places[:, None] == firing.position[None], as_tuple=True)
    return ActiveUnits(position, firing.index[which], firing.activation[which])


def _without_contrast(
    basis: Basis, ids: Int[Tensor, " pos"], units: UnitKind, baseline: Baseline
) -> ReferenceActivations:
    """What takes the place of units where no other prompt says."""
    model = basis.model
    if baseline == "mean" or (baseline == "auto" and units == "neurons" and model.tokenizer is not None):
        return _mean(basis, len(ids))
    if baseline == "resampled":
        drawn = resampled(model, ids)
        return replace(_contrast(basis, drawn, torch.arange(len(ids)))[0], name="resampled")
    return ReferenceActivations("zero", None, None, None, None, torch.empty(0, dtype=torch.int64))


def _mean(basis: Basis, n: int) -> ReferenceActivations:
    means = text_means(basis.model, basis.transcoders)
    neurons = features = None
    if basis.transcoders is None:
        neurons = tuple(part.expand(n, -1) for part in means.units)
    else:
        features = tuple(_everywhere(part, n) for part in means.units)
    return ReferenceActivations(
        "mean", neurons, features, means.outputs[:, None].expand(-1, n, -1), means.embeddings.expand(n, -1),
        torch.empty(0, dtype=torch.int64),
    )  # fmt: skip


def _everywhere(mean: Float[Tensor, " unit"], n: int) -> ActiveUnits:
    (index,) = mean.nonzero(as_tuple=True)
    position = torch.arange(n).repeat_interleave(len(index))
    return ActiveUnits(position, index.repeat(n), mean[index].repeat(n))


def target_start(asked: ResponseQuestion) -> Starts:
    """Where the target's own sweep begins.

    Raises:
        TargetError: a unit that the prompt does not have.
    """
    tangent, n = asked.tangent, len(asked.ids)
    if asked.unit is None:
        assert asked.target is not None
        at = torch.tensor([n - 1])
        vector = tangent.final.transpose_at(asked.target.direction[None], at)
        return Starts(torch.tensor([len(tangent.layers)]), at, vector)
    layer, position, _ = asked.unit
    reads = asked.basis.reads(layer, target_unit(asked))
    return Starts(torch.tensor([layer]), torch.tensor([position]), reads)


def target_unit(asked: ResponseQuestion) -> Units:
    """The unit that is the target."""
    assert asked.unit is not None
    (layer, position, index), depth = asked.unit, len(asked.tangent.layers)
    name = f"{layer}_{index}_{position}"
    if not (0 <= layer < depth and 0 <= position < len(asked.ids)):
        raise TargetError(
            f"target {name!r} is outside the model's {depth} layers or the prompt's {len(asked.ids)} tokens"
        )
    width = asked.tangent.layers[layer].mlp.width if asked.transcoders is None else asked.transcoders.widths[layer]
    if not 0 <= index < width:
        raise TargetError(f"target {name!r}: layer {layer} has {width} {asked.basis.kind}")
    found = asked.basis.all_units(
        asked.firing,
        ReferenceActivations("zero", None, None, None, None, torch.empty(0, dtype=torch.int64)),
        0,
        position,
    )[layer]
    which = torch.nonzero((found.position == position) & (found.index == index)).flatten()
    if not len(which):
        raise TargetError(f"target {name!r} is off on this prompt, so nothing changes it to first order")
    return found.select(which)
