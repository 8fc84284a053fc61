"""Whether a response graph predicts: its effects beside what the real model does, everything live."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..attribution.attribution import answer
from ..attribution.question import Question
from ..attribution.targets import Difference
from ..base.kinds import typed
from ..errors import OptionError
from ..graphs.graph import Graph
from ..graphs.totals import removals, total_effects
from ..models.language_model import LanguageModel
from ..transcoders.neurons import most_neurons, neurons
from ..transcoders.replacement import ReplacementModel
from .joint import JointEffect, joint_changes, joint_effects, joint_sets
from .putting import Changed, ChangedFeatures, changed_of, mask_of, put_to_zero
from .statistics import Estimate, estimate, same_sign, spearman

STRONG = 0.02
"""Changes of an activation smaller than this are not compared."""
NODES = 1000
"""At most so many neurons in an attribution graph beside."""


@dataclass(frozen=True)
class AttributionBeside:
    """The same figures for predictions by an attribution graph of the same prompt, target and kind of unit.

    Its total effect of a unit, times the share of the activation that is taken away; 0 for units it left out.
    """

    signed: Estimate
    sign_share: Estimate
    unit_on_unit: Estimate
    joint: tuple[JointEffect, ...]
    known: int
    """How many of the units taken away it has."""


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
    """Taken away as in the graph: with a contrast, swapped for the other prompt's values."""
    ablated: tuple[JointEffect, ...] = ()
    """With a contrast, the same put to zero."""
    attribution: AttributionBeside | None = None
    """What the attribution graph of the same units predicts, if it was asked for."""


@typed
def validate_response(
    model: ReplacementModel | LanguageModel,
    graph: Graph,
    *,
    most: int = 100,
    attribution: bool = False,
    seed: int = 0,
) -> ResponseReport:
    """Take units away one by one, and sets of them together, in the real model with everything live.

    Args:
        most: how many units are taken away, the strongest first.
        attribution: also compute the attribution graph of the same kind of units (of neurons: the 1,000 of largest
            influence), and judge its predictions by the same measurements.

    Raises:
        GraphError, OptionError: as in `circuit_curve`; `most` is under 1.

    >>> import unweave
    >>> model = unweave.load_model("organism")
    >>> graph = unweave.response_graph(model, "the capital of Texas is", most=20)
    >>> 0.5 < unweave.validate_response(model, graph, most=20).signed.value <= 1
    True
    """
    if most < 1:
        raise OptionError(f"most is {most}; take away at least 1 unit")
    changed = changed_of(model, graph)
    order = changed.effect.abs().argsort(descending=True, stable=True)[:most]
    variants = [mask_of(changed, changed.own[which]) for which in (order[:0], *order.split(1))]
    found = changed.run(variants)
    targets, seen = found.target, found.seen
    whole = targets[0]
    real, predicted = (targets[1:] - whole).double(), changed.effect[order].double()
    units = graph.nodes.features
    told = removals(graph, order)[units].T.double()
    moved = (seen[1:] - seen[0]).double()
    later = changed.layer[order][:, None] < changed.layer[None]
    pairs = later & (moved.abs() > STRONG)
    removed = torch.arange(len(order))[:, None].expand_as(pairs)
    sets = joint_sets(order, seed)
    together = joint_changes(changed, sets, whole)
    beside = None
    if attribution:
        total, reached, known = _attributed(changed, order)
        everything = torch.zeros(len(changed.effect), dtype=total.dtype)
        everything[order] = total
        beside = AttributionBeside(
            estimate(spearman, total, real, seed=seed),
            estimate(same_sign, total, real, seed=seed),
            estimate(spearman, reached[pairs], moved[pairs], cluster=removed[pairs], seed=seed),
            joint_effects(everything, sets, together, seed),
            known,
        )
    return ResponseReport(
        estimate(spearman, predicted, real, seed=seed),
        estimate(same_sign, predicted, real, seed=seed),
        estimate(spearman, told[pairs], moved[pairs], cluster=removed[pairs], seed=seed),
        joint_effects(changed.effect, sets, together, seed),
        _ablated(changed, most, whole, seed) if graph.provenance.baseline == "contrast" else (),
        beside,
    )


def _ablated(changed: Changed, most: int, whole: Tensor, seed: int) -> tuple[JointEffect, ...]:
    """The strongest by what putting them to zero is predicted to do."""
    zeroed = put_to_zero(changed)
    effect = changed.effect * (changed.activation / changed.taken)
    sets = joint_sets(effect.abs().argsort(descending=True, stable=True)[:most], seed)
    return joint_effects(effect, sets, joint_changes(zeroed, sets, whole), seed)


def _attributed(changed: Changed, order: Tensor) -> tuple[Tensor, Tensor, int]:
    """What an attribution graph says of some units: changes of the target, and of all the graph's units; and how many
    of the units it has."""
    tokens, most = changed.tokens, None
    target = Difference(*tokens) if len(tokens) == 2 else tokens[0]
    if isinstance(changed, ChangedFeatures):
        model = changed.model
    else:
        model = ReplacementModel(changed.model, neurons(changed.model))
        most = min(most_neurons(model.transcoders, len(changed.ids), NODES), changed.size)
    graph = answer(model, Question(changed.ids, [target], max_features=most))
    nodes = graph.nodes
    columns = (part[nodes.features].tolist() for part in (nodes.layer, nodes.position, nodes.index))
    row = {place: number for number, place in enumerate(zip(*columns, strict=True))}
    own = zip(changed.layer.tolist(), changed.position.tolist(), changed.index.tolist(), strict=True)
    rows = torch.tensor([row.get(place, -1) for place in own])
    share = (changed.taken / changed.activation.masked_fill(changed.activation == 0, torch.inf)).double()
    taken = rows[order]
    known, there = taken >= 0, rows >= 0
    total = torch.zeros(len(order), dtype=torch.float64)
    total[known] = -total_effects(graph, nodes[nodes.logits.start])[taken[known]].double()
    reached = torch.zeros(len(order), len(rows), dtype=torch.float64)
    reached[known[:, None] & there] = removals(graph, taken[known])[rows[there]].T.double().flatten()
    return total * share[order], reached * share[order][:, None], int(known.sum())
