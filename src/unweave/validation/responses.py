"""Whether a response graph predicts: its effects beside what the real model does, everything live."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..graphs.graph import Graph
from ..graphs.totals import removals
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .putting import ChangedNeurons, neurons_of
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


def validate_response(
    model: ReplacementModel | LanguageModel, graph: Graph, *, most: int = 100, seed: int = 0
) -> ResponseReport:
    """Take units away one by one, and the strongest together, in the real model with everything live.

    Args:
        most: how many units are taken away, the strongest first.

    Raises:
        GraphError, OptionError: as in `circuit_curve`.

    >>> import unweave
    >>> model = unweave.load_model("organism")
    >>> graph = unweave.response_graph(model, "the capital of Texas is", most=20)
    >>> 0.5 < unweave.validate_response(model, graph, most=20).signed.value <= 1
    True
    """
    neurons = neurons_of(model, graph)
    order = neurons.effect.abs().argsort(descending=True, stable=True)[:most]
    whole, own = neurons.run([_only(neurons, order[:0])])
    targets, seen = neurons.run([_only(neurons, order[i : i + 1]) for i in range(len(order))])
    real, predicted = (targets - whole).double(), neurons.effect[order].double()
    units = graph.nodes.features
    told = removals(graph, order)[units].T.double()
    changed = (seen - own).double()
    later = neurons.layer[order][:, None] < neurons.layer[None]
    pairs = later & (changed.abs() > STRONG)
    removed = torch.arange(len(order))[:, None].expand_as(pairs)
    joint = []
    for size in [size for size in JOINT if size <= len(order)]:
        together, _ = neurons.run([_only(neurons, order[:size])])
        joint.append(JointEffect(size, float(predicted[:size].sum()), float(together[0] - whole[0])))
    return ResponseReport(
        estimate(spearman, predicted, real, seed=seed),
        estimate(same_sign, predicted, real, seed=seed),
        estimate(spearman, told[pairs], changed[pairs], cluster=removed[pairs], seed=seed),
        tuple(joint),
    )


def _only(neurons: ChangedNeurons, which: Tensor) -> Tensor:
    mask = torch.zeros(neurons.baseline.shape, dtype=torch.bool)
    mask[neurons.layer[which], neurons.position[which], neurons.index[which]] = True
    return mask
