"""Groups of a graph that nobody explained: read off its own edges, with nothing measured in the model."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import GraphError
from ..graphs.graph import Graph
from ..graphs.influence import spans, sweep
from ..graphs.nodes import NodeKind
from ..interventions.live import NeuronPlaces
from .groups import DEFAULT, METHODS, Profiles

MOST_GROUPS, MOST_UNITS = 10, 64
"""Groups of a graph, and features or neurons that are put into groups: those with the largest effect on the answer."""
MADE = 2
"""So many times the groups wanted are made: what is left out then is small, and those that stay are of one kind."""
EVERYWHERE = 2 / 3
"""A feature that is active on a larger share of the prompt's tokens says little of this prompt, and is left out."""


@dataclass(frozen=True)
class ReadOff:
    """Nodes of one token and of one sign whose edges are alike."""

    rows: tuple[int, ...]
    effect: float
    """On the answer, signed, see `answer_effects`."""

    @property
    def facts(self) -> dict[str, Any]:
        """Rows and effect as the page takes them."""
        return {"rows": list(self.rows), "effect": self.effect}


def groups_of(graph: Graph, count: int = MOST_GROUPS, method: str = DEFAULT) -> list[ReadOff]:
    """Groups of a graph's features (or neurons), those with the largest effect on the answer first.

    They are made as groups of an explanation are, by signed profiles of edges in and out, token and layer
    (`explanation/groups.py`); the profiles are the graph's own edges in place of measurements. A graph without
    outputs has none.

    >>> import unweave
    >>> graph = unweave.attribute(unweave.load("organism"), "the capital of Texas is")
    >>> [(graph.nodes[group.rows[0]].id, len(group.rows)) for group in groups_of(graph, 2)]  # doctest: +SKIP
    """
    effect = answer_effects(graph)
    units = _units(graph, effect)
    if not len(units):
        return []
    partition = METHODS[method](_profiles(graph, units, effect), MADE * count)
    found = []
    for group in partition:
        rows = units[group]
        order = effect[rows].abs().argsort(descending=True, stable=True)  # those that count most come first
        found.append(ReadOff(tuple(rows[order].tolist()), float(effect[rows].sum())))
    return sorted(found, key=lambda group: -abs(group.effect))[:count]


def answer_effects(graph: Graph) -> Float[Tensor, " node"]:
    """Every node's signed effect on the likeliest output, as the graph has it.

    In a response graph of being there, to first order; else the sum over paths of signed shares of input, and in a
    graph with a cycle the direct share alone."""
    nodes = graph.nodes
    outputs = torch.nonzero(nodes.kind == NodeKind.LOGIT).flatten()
    if not len(outputs):
        return torch.zeros(len(nodes), dtype=torch.float64)
    if graph.effect is not None:  # of taking the node away
        return -graph.effect.double().nan_to_num()
    answer = outputs[nodes.activation[outputs].nan_to_num().argmax()]
    rows, size, weight = graph.rows, graph.input_size.clamp_min(1e-10), torch.zeros(len(nodes), dtype=torch.float64)
    weight[answer] = 1.0

    def spread(group: Tensor, amounts: Tensor, received: Tensor) -> None:
        for entries, amount in spans(rows.start, group, amounts / size[group]):
            received.index_add_(0, rows.column[entries].long(), rows.value[entries].double() * amount)

    try:
        return sweep(graph.depth, rows.start.diff() > 0, weight, spread)
    except GraphError:
        received = torch.zeros(len(nodes), dtype=torch.float64)
        spread(answer[None], weight[answer][None], received)
        return received


def _units(graph: Graph, effect: Float[Tensor, " node"]) -> Int[Tensor, " unit"]:
    """Rows of features that matter to the answer, without those that are active nearly everywhere."""
    nodes = graph.nodes
    rows = torch.nonzero((nodes.kind == NodeKind.FEATURE) & (effect != 0)).flatten()
    which = torch.stack([nodes.layer[rows], nodes.index[rows]], dim=1)
    _, of, places = torch.unique(which, dim=0, return_inverse=True, return_counts=True)
    tokens = len(torch.unique(nodes.position))
    rows = rows[places[of] <= max(EVERYWHERE * tokens, 2)]
    order = effect[rows].abs().argsort(descending=True, stable=True)
    return rows[order[:MOST_UNITS]].sort().values


def _profiles(graph: Graph, units: Int[Tensor, " unit"], effect: Float[Tensor, " node"]) -> Profiles:
    nodes = graph.nodes
    places = NeuronPlaces(nodes.layer[units], nodes.position[units], nodes.index[units])
    column = torch.full((len(nodes),), -1, dtype=torch.int64)
    column[units] = torch.arange(len(units))
    moved = torch.zeros(len(units), len(units))
    for place, row in enumerate(units.tolist()):
        entries = slice(int(graph.rows.start[row]), int(graph.rows.start[row + 1]))
        sources = column[graph.rows.column[entries].long()]
        share = graph.rows.value[entries].float() / float(graph.input_size[row].clamp_min(1e-10))
        moved[sources[sources >= 0], place] = share[sources >= 0]
    return Profiles(places, effect[units].float(), moved, max(1, graph.provenance.n_layers))
