"""Whether a response graph predicts: its effects beside what the real model does, everything live."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attribution.targets import Difference
from ..errors import OptionError
from ..features.attribute import attribute
from ..graphs.graph import Graph
from ..graphs.totals import removals, total_effects
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .putting import ChangedFeatures, changed_of, mask_of
from .statistics import Estimate, estimate, same_sign, spearman

JOINT = (1, 2, 4, 8, 16, 32, 64)
STRONG = 0.02
"""Changes of an activation smaller than this are not compared."""


@dataclass(frozen=True)
class JointEffect:
    """The strongest units taken away together, beside the sum of their predicted effects."""

    size: int
    predicted: float
    measured: float


@dataclass(frozen=True)
class ResponseReport:
    """Predicted and measured effects of single units, of units on one another, and of the strongest together."""

    signed: Estimate
    """Spearman correlation of signed effects on the target, unit by unit."""
    sign_share: Estimate
    """Share of the measured changes, by size, whose sign was predicted."""
    unit_on_unit: Estimate
    """Spearman correlation of changes of other units' activations, those above `STRONG`."""
    joint: tuple[JointEffect, ...]
    attribution: "AttributionBeside | None" = None
    """What the attribution graph of the same features predicts, if it was asked for."""


@dataclass(frozen=True)
class AttributionBeside:
    """The same three figures for predictions by an attribution graph of the same prompt and target.

    Its total effect of a feature, times the share of the activation that is taken away; 0 for features it left out.
    """

    signed: Estimate
    sign_share: Estimate
    unit_on_unit: Estimate


def validate_response(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    *,
    most: int = 100,
    attribution: bool = False,
    seed: int = 0,
) -> ResponseReport:
    """Take units away one by one, and the strongest together, in the real model with everything live.

    Args:
        most: how many units are taken away, the strongest first.
        attribution: also compute the attribution graph, and judge its predictions by the same measurements; of
            features alone.

    Raises:
        GraphError, OptionError: as in `circuit_curve`.

    >>> import unweave
    >>> model = unweave.load_model("organism")
    >>> graph = unweave.response_graph(model, "the capital of Texas is", most=20)
    >>> 0.5 < unweave.validate_response(model, graph, most=20).signed.value <= 1
    True
    """
    changed = changed_of(model, graph)
    order = changed.effect.abs().argsort(descending=True, stable=True)[:most]
    variants = [mask_of(changed, changed.own[which]) for which in (order[:0], *order.split(1))]
    targets, _, seen = changed.run(variants)
    whole = targets[0]
    real, predicted = (targets[1:] - whole).double(), changed.effect[order].double()
    units = graph.nodes.features
    told = removals(graph, order)[units].T.double()
    moved = (seen[1:] - seen[0]).double()
    later = changed.layer[order][:, None] < changed.layer[None]
    pairs = later & (moved.abs() > STRONG)
    removed = torch.arange(len(order))[:, None].expand_as(pairs)
    sizes = [size for size in JOINT if size <= len(order)]
    together = changed.run([mask_of(changed, changed.own[order[:size]]) for size in sizes]).target
    joint = [
        JointEffect(size, float(predicted[:size].sum()), float(target - whole))
        for size, target in zip(sizes, together, strict=True)
    ]
    beside = None
    if attribution:
        if not isinstance(changed, ChangedFeatures):
            raise OptionError("an attribution graph beside needs a response graph of features (units='features')")
        total, reached = _attributed(changed, order)
        beside = AttributionBeside(
            estimate(spearman, total, real, seed=seed),
            estimate(same_sign, total, real, seed=seed),
            estimate(spearman, reached[pairs], moved[pairs], cluster=removed[pairs], seed=seed),
        )
    return ResponseReport(
        estimate(spearman, predicted, real, seed=seed),
        estimate(same_sign, predicted, real, seed=seed),
        estimate(spearman, told[pairs], moved[pairs], cluster=removed[pairs], seed=seed),
        tuple(joint),
        beside,
    )


def _attributed(changed: ChangedFeatures, order: Tensor) -> tuple[Tensor, Tensor]:
    """What an attribution graph says of some units: changes of the target, and of all the graph's units."""
    tokens = changed.tokens
    target = Difference(*tokens) if len(tokens) == 2 else tokens[0]
    graph = attribute(changed.model, changed.recording.input_ids, targets=[target])
    nodes = graph.nodes
    columns = (part[nodes.features].tolist() for part in (nodes.layer, nodes.position, nodes.index))
    row = {place: number for number, place in enumerate(zip(*columns, strict=True))}
    own = zip(changed.layer.tolist(), changed.position.tolist(), changed.index.tolist(), strict=True)
    rows = torch.tensor([row.get(place, -1) for place in own])
    units = changed.everything.select(changed.own)
    share = (units.taken / units.activation.masked_fill(units.activation == 0, torch.inf)).double()
    taken = rows[order]
    known, there = taken >= 0, rows >= 0
    total = torch.zeros(len(order), dtype=torch.float64)
    total[known] = -total_effects(graph, nodes[nodes.logits.start])[taken[known]].double()
    reached = torch.zeros(len(order), len(rows), dtype=torch.float64)
    reached[known[:, None] & there] = removals(graph, taken[known])[rows[there]].T.double().flatten()
    return total * share[order], reached * share[order][:, None]
