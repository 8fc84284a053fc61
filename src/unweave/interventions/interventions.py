"""Interventions on the real model: what happens to the prediction when features are changed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..attribution.targets import resolve_targets
from ..base.choices import Mode
from ..base.progress import Progress
from ..errors import InterventionError, OptionError
from ..models.language_model import LanguageModel, Recording
from ..transcoders.replacement import ReplacementModel, check_model
from .edits import Change, Feature, NodeLike, changes_of, check_feature, features_of, prompt_positions
from .patching import Readings, patched
from .plans import EditPlan, FrozenParts, check_reach, frozen_parts, model_writes, prompt_edits, read, read_points

TOKENS_PER_PASS = 256
"""Interventions in one forward pass, times tokens of the prompt: enough for full matrix speed, little enough memory."""

Prompt = str | Sequence[int] | Tensor | Recording
"""Text, token ids, or the recording of a prompt that was run before (`model.language_model.record(ids)`)."""


class TokenChange(NamedTuple):
    """One token's prediction before and after; logits as the model gives them, log-probabilities in nats."""

    id: int
    text: str
    probability_before: float
    probability_after: float
    logit_before: float
    logit_after: float
    log_probability_before: float
    log_probability_after: float

    @property
    def logit_change(self) -> float:
        """Logit after minus logit before; alone it says little, since all logits may rise together."""
        return self.logit_after - self.logit_before

    @property
    def log_probability_change(self) -> float:
        """Log-probability after minus before, in nats."""
        return self.log_probability_after - self.log_probability_before


class FeatureChange(NamedTuple):
    """One changed feature: its activation on the unchanged prompt, and the one it now writes with."""

    feature: Feature
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model gives after an intervention, beside what it gave before."""

    model: LanguageModel
    recording: Recording
    changes: tuple[Change, ...]
    mode: Mode
    layers: range | None
    raw_logits: Float[Tensor, "pos vocab"]
    """Before a final soft cap."""
    changed: tuple[FeatureChange, ...]
    idle: tuple[Feature, ...]
    """Changed features that write nowhere inside the constrained layers."""
    watched: tuple[Feature, ...]
    """The features that were asked for, one a position."""
    activations: Float[Tensor, "2 watched"]
    """Of the watched features, before and after: what their encoders read, also where an intervention makes them
    write something else."""
    preactivations: Float[Tensor, "2 watched"]
    """The same before the activation function."""

    def __repr__(self) -> str:
        top = ", ".join(
            f"{token.text!r} {token.probability_before:.3f} -> {token.probability_after:.3f}"
            for token in self.tokens(count=1)
        )
        return f"Outcome({len(self.changes)} changes, mode {self.mode!r}: {top})"

    @cached_property
    def logits(self) -> Float[Tensor, "pos vocab"]:
        """The logits after the intervention."""
        return self.model.capped(self.raw_logits)

    @cached_property
    def baseline(self) -> Float[Tensor, "pos vocab"]:
        """The logits of the unchanged model."""
        return self.model.capped(self.recording.logits)

    def kl(self, position: int = -1) -> float:
        """Kullback-Leibler divergence of the prediction after from the one before, in nats."""
        before, after = (logits[position].double().log_softmax(-1) for logits in (self.baseline, self.logits))
        return max(0.0, float((before.exp() * (before - after)).sum()))

    def tokens(self, tokens: Sequence[str | int] = (), *, count: int = 5, position: int = -1) -> list[TokenChange]:
        """The tokens asked for, then the `count` likeliest before and after, the likeliest after first.

        Raises:
            TargetError: text that is not exactly one token, an id outside the vocabulary.
        """
        before, after = self.baseline[position], self.logits[position]
        log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
        p, q = log_p.exp(), log_q.exp()
        count = min(count, len(p))
        likely = torch.cat([q.topk(count).indices, p.topk(count).indices]).tolist()
        likely = sorted(dict.fromkeys(likely), key=lambda token: -float(q[token]))
        chosen = dict.fromkeys([*token_ids(self.model, self.recording, tokens), *likely])
        columns = (p, q, before, after, log_p, log_q)
        return [TokenChange(i, self.model.token_text(i), *(float(column[i]) for column in columns)) for i in chosen]


def token_ids(model: LanguageModel, recording: Recording, tokens: Sequence[str | int]) -> list[int]:
    """The ids of tokens given as text or ids.

    Raises:
        TargetError: text that is not exactly one token, an id outside the vocabulary.
    """
    return (
        [target.token for target in resolve_targets(model, recording, list(tokens), normalized=recording.final[-1])]
        if tokens
        else []
    )


def record(model: ReplacementModel, prompt: Prompt) -> Recording:
    """A prompt's recording; one that is a recording already stays as it is, unless it has lost its attention
    patterns (a local replacement's).

    Raises:
        PromptError: the prompt cannot be run.
    """
    if isinstance(prompt, Recording):
        return prompt if prompt.patterns else check_model(model).language_model.record(prompt.input_ids)
    model = check_model(model)
    return model.language_model.record(model.language_model.tokenize(prompt))


def intervene(
    model: ReplacementModel,
    prompt: Prompt,
    changes: Change | Sequence[Change],
    mode: Mode = "frozen_attention",
    *,
    layers: range | None = None,
    watch: Sequence[NodeLike] = (),
) -> Outcome:
    """Run the real model with features changed, and compare.

    Args:
        changes: made by `ablate`, `scale`, `set_to`, `add`, `add_direction`, `swap`: one or several; their order does
            not matter.
        mode: "frozen_attention" holds attention patterns, "open" nothing, "frozen" everything but what the features
            write: then effects are linear and equal the graph's edges. See `docs/interventions.md`.
        layers: MLP outputs in this range are held, apart from what changed features write there.
        watch: features whose activations are wanted before and after.

    Raises:
        PromptError, OptionError, InterventionError: the question cannot be asked like this.

    Source: Ameisen et al. 2025, "Circuit Tracing", sections on validation; Lindsey et al. 2025, "On the Biology of a
    Large Language Model", for constrained and open patching.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load("smollm2")                                       # doctest: +SKIP
    >>> unweave.intervene(model, "The capital of France is", [unweave.scale("20_345_4", -2.0)])    # doctest: +SKIP
    """
    return next(intervene_each(model, prompt, [changes], mode, layers=layers, watch=watch))


def intervene_each(
    model: ReplacementModel,
    prompt: Prompt,
    variants: Sequence[Change | Sequence[Change]],
    mode: Mode = "frozen_attention",
    *,
    layers: range | None = None,
    watch: Sequence[NodeLike] = (),
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Many interventions on one prompt, each by itself, as batches of one forward pass; outcomes in the order given.

    The prompt is recorded once. `batch` is the number in one pass (None: as many as 256 tokens allow). Other arguments
    and errors as in `intervene`; all variants are checked before the first run.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> variants = [unweave.ablate("0_233_4"), unweave.scale("0_233_4", -2.0)]
    >>> len(list(unweave.intervene_each(model, "the capital of Texas is", variants, mode="open")))
    2
    """
    if batch is not None and batch < 1:
        raise OptionError(f"batch is {batch}; it must be at least 1")
    recording = record(model, prompt)
    frozen = frozen_parts(mode, layers, model.language_model.n_layers)
    watched = _Watch.over(model, len(recording.input_ids), watch)
    clean = _joined({layer: _clean(model, recording, layer, *places) for layer, places in watched.places.items()})
    size = batch or max(1, TOKENS_PER_PASS // len(recording.input_ids))
    asked = [changes_of(changes) for changes in variants]
    parts = [asked[begin : begin + size] for begin in range(0, len(asked), size)]
    plans = [prompt_edits(model, recording, part) for part in parts]
    for part, plan in zip(parts, plans, strict=True):
        check_reach(part, plan, model, frozen)
    return _outcomes(
        model, recording, mode, layers, list(zip(parts, plans, strict=True)), frozen, watched, clean, progress
    )


def _outcomes(
    model: ReplacementModel,
    recording: Recording,
    mode: Mode,
    layers: range | None,
    work: list[tuple[Sequence[Sequence[Change]], EditPlan]],
    frozen: FrozenParts,
    watched: "_Watch",
    clean: Float[Tensor, "2 watched"],
    progress: Progress | None,
) -> Iterator[Outcome]:
    for number, (part, plan) in enumerate(work):
        seen = _run(model, recording, plan, frozen, watched, len(part))
        logits = seen.logits.to("cpu", recording.logits.dtype)
        after = _joined(seen.watched).unbind(1) if watched.features else [clean] * len(part)
        for row, (changes, changed) in enumerate(zip(part, _changed(plan, seen, len(part)), strict=True)):
            if not bool(logits[row].isfinite().all()):
                raise InterventionError(
                    "the model's logits are not finite after this intervention; use smaller numbers"
                )
            both = torch.stack([clean, after[row]], 1)[:, :, watched.order]
            idle = tuple(change.feature for change in changed if not model_writes(model, change.feature.layer, frozen))
            yield Outcome(
                model.language_model, recording, tuple(changes), mode, layers, logits[row], changed, idle,
                watched.features, activations=both[1], preactivations=both[0],
            )  # fmt: skip
        if progress is not None:
            progress((number + 1) / len(work))


def _run(
    model: ReplacementModel, recording: Recording, plan: EditPlan, frozen: FrozenParts, watched: "_Watch", batch: int
) -> Readings:
    language_model = model.language_model
    ids = recording.input_ids[None].expand(batch, -1).to(language_model.device)
    with patched(model, plan, recording, frozen, watched.places) as seen, torch.no_grad():
        language_model.module(input_ids=ids, use_cache=False)
    return seen


@dataclass(frozen=True)
class _Watch:
    """Features whose activations are wanted: as the user listed them, and by layer as (positions, features)."""

    features: tuple[Feature, ...]
    places: dict[int, tuple[Tensor, Tensor]]
    order: Int[Tensor, " watched"]
    """Where each of `features` is when the layers are joined."""

    @staticmethod
    def over(model: ReplacementModel, n_positions: int, nodes: Sequence[NodeLike]) -> "_Watch":
        features = []
        for feature in features_of(nodes) if nodes else ():
            check_feature(feature, model.transcoders)
            features += [
                replace(feature, position=position)
                for position in prompt_positions(feature.id, feature.position, n_positions)
            ]
        layers = torch.tensor([feature.layer for feature in features], dtype=torch.int64)
        places = {}
        for layer in sorted(set(layers.tolist())):
            here = [feature for feature in features if feature.layer == layer]
            places[layer] = (
                torch.tensor([feature.position for feature in here]),
                torch.tensor([feature.index for feature in here]),
            )
        return _Watch(tuple(features), places, torch.argsort(torch.argsort(layers, stable=True)))


def _clean(
    model: ReplacementModel, recording: Recording, layer: int, position: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    pre, activation = read(model.transcoders.layers[layer], read_points(model, recording, layer)[position], index)
    return pre, activation.masked_fill(position < model.transcoders.n_ignored_positions(recording.input_ids), 0.0)


def _joined(layers: dict[int, tuple[Tensor, Tensor]]) -> Float[Tensor, "2 *batch watched"]:
    """Pre-activations and activations of all layers side by side."""
    if not layers:
        return torch.zeros(2, 0)
    return torch.stack(
        [torch.cat(columns, -1) for columns in zip(*(layers[layer] for layer in sorted(layers)), strict=True)]
    )


def _changed(plan: EditPlan, seen: Readings, rows: int) -> list[tuple[FeatureChange, ...]]:
    """What was changed, by row of the batch."""
    changed: list[list[FeatureChange]] = [[] for _ in range(rows)]
    for layer, edits in plan.layers.items():
        columns = (edits.row, edits.position, edits.index, edits.clean, seen.written[layer])
        for row, position, index, before, after in zip(*(column.tolist() for column in columns), strict=True):
            changed[row].append(FeatureChange(Feature(layer, position, index), before, after))
    return [tuple(part) for part in changed]
