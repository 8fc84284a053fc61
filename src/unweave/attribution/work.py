"""What an attribution works with: the model on one prompt, its targets, and passes of rows."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..base.choices import Precision
from ..base.devices import usable_device
from ..base.progress import Progress
from ..errors import OptionError
from ..models.workspace import Workspace
from ..transcoders.replacement import LocalReplacement, ReplacementModel, check_model
from ..transcoders.transcoders import Transcoders
from .budget import MemoryPlan, make_plan
from .question import Question
from .rowstore import RowStore
from .sources import Block, Sources, TargetRows, batches
from .targets import LogitTarget, resolve_position, resolve_targets, salient_tokens

logger = logging.getLogger(__name__)

NEURONS_AT_MOST = 20000
"""Without a dictionary nearly every neuron is active; a graph of more has edges beyond any machine's memory."""
DEFAULT_NEURONS = 1000
"""How many the command line and the server take where they are not told."""


class Asked(NamedTuple):
    """A question, and how it will be answered."""

    question: Question
    ids: Int[Tensor, " pos"]
    local: LocalReplacement
    logits: list[LogitTarget]
    most: int | None
    """How many features become nodes; None: all."""
    multiply: torch.dtype | None
    device: torch.device
    plan: MemoryPlan


def prepare(model: ReplacementModel, question: Question, resumable: bool) -> Asked:
    """Run the model once, and plan the rows; errors as for `attribute`."""
    language_model = check_model(model).language_model
    where = language_model.device if question.device is None else usable_device(question.device)
    multiply = _multiply_dtype(question.precision, where)
    ids = language_model.tokenize(question.prompt)
    seen = resolve_position(len(ids), question.position) + 1
    local = model.localize(ids[:seen], question.position_zero)
    wanted: Any = question.targets or salient_tokens(
        language_model, local.recording, question.max_logits, question.logit_mass
    )
    normalized = local.frozen.final.forward(local.recording.final)[-1]
    logits = resolve_targets(language_model, local.recording, wanted, normalized=normalized)
    features, most = len(local.features), question.max_features
    if most is None and local.transcoders.of_neurons and features > NEURONS_AT_MOST:
        raise OptionError(
            f"all {features} neurons at once are too many; limit them with max_features (--max-features), such as "
            f"{DEFAULT_NEURONS}"
        )
    most = most if most is not None and most < features else None
    plan = make_plan(local, len(logits), most, question.memory_limit, resumable, where)
    return Asked(question, ids, local, logits, most, multiply, where, plan)


def bounded(question: Question, transcoders: Transcoders) -> Question:
    """The question, limited to `DEFAULT_NEURONS` where the units are a model's own neurons and nothing is said."""
    unlimited = transcoders.of_neurons and question.max_features is None
    return replace(question, max_features=DEFAULT_NEURONS) if unlimited else question


def _multiply_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    if precision == "exact":
        return None
    if device.type == "cpu" and not has_bfloat16_units():
        logger.warning(
            "precision='fast' needs bfloat16 units (AMX or AVX512-BF16), which this machine lacks; computing exactly "
            "instead"
        )
        return None
    return torch.bfloat16


def has_bfloat16_units() -> bool:
    """Whether products of bfloat16 numbers are faster than those of float32 here."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class Work:
    """The rows still to be computed and how far we are; cost of a row: its layers times the positions it sees."""

    def __init__(self, asked: Asked, progress: Progress):
        self.local, self.logits, self.multiply, self.device, self.plan = (
            asked.local,
            asked.logits,
            asked.multiply,
            asked.device,
            asked.plan,
        )
        self.sources = Sources.gather(asked.local, asked.device, asked.plan.vectors_kept)
        self.progress, self.buffers, self.done, self.total, self.share = progress, Workspace(), 0, 1, 0.0

    def logit_targets(self) -> TargetRows:
        """All logits; names count from the number of columns on."""
        position = torch.full((len(self.logits),), self.local.n_positions - 1)
        names = torch.arange(len(self.logits)) + len(self.sources.layer)
        directions = self.local.frozen.final.transpose(torch.stack([t.direction for t in self.logits]), position)
        return TargetRows(torch.full_like(position, self.local.n_layers), position, names, directions.to(self.device))

    def feature_targets(self, features: Int[Tensor, " feature"]) -> TargetRows:
        """Features by their numbers, from the highest layer down."""
        active = self.local.features
        order = torch.argsort(
            active.layer[features] * self.local.n_positions + active.position[features], descending=True, stable=True
        )
        names = features[order]
        layer, position = active.layer[names], active.position[names]
        directions = []
        for number in layer.unique().flip(0).tolist():
            here = layer == number
            directions.append(
                self.local.frozen.layers[number].read_transpose(
                    self.local.encoders(number, names[here])[0], position[here]
                )
            )
        return TargetRows(layer, position, names, torch.cat(directions).to(self.device))

    def passes(self, features: Int[Tensor, " feature"]) -> Iterator[TargetRows]:
        """Features cut into passes, by position."""
        features = features[torch.argsort(self.local.features.position[features], stable=True)]
        for part in batches(self.local.features.position[features], self.plan.columns, self.plan.least):
            yield self.feature_targets(features[part])

    def blocks(self, targets: TargetRows) -> Iterator[Block]:
        """The rows of one pass."""
        yield from self.sources.sweep(targets, self.buffers, self.multiply)
        self.advance(targets.layer, targets.position)

    def advance(self, layer: Tensor, position: Tensor) -> None:
        """Count rows as done."""
        self.done += int(((layer + 1) * (position + 1)).sum())
        self.share = max(
            self.share, min(1.0, self.done / max(1, self.total))
        )  # no features, no total; it may be corrected on the way
        self.progress(self.share)

    def cost(self, features: Tensor) -> int:
        """The cost of the rows of some features."""
        active = self.local.features
        return int(((active.layer[features] + 1) * (active.position[features] + 1)).sum())

    def fill(self, store: RowStore, passes: Iterable[TargetRows]) -> None:
        """Compute what the store lacks; a pass is kept whole or not at all."""
        for targets in passes:
            names, rows = [], []
            for block in self.blocks(targets):
                names.append(block.name)
                rows.extend(block.weight)
            store.add(torch.cat(names), rows)

    def fill_features(self, store: RowStore, features: Int[Tensor, " feature"]) -> None:
        """Compute the rows of features that the store lacks."""
        there = torch.tensor([name in store for name in features.tolist()], dtype=torch.bool)
        if bool(there.any()):
            self.advance(self.local.features.layer[features[there]], self.local.features.position[features[there]])
        self.fill(store, self.passes(features[~there]))
