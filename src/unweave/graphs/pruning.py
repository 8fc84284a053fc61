"""Pruning: keep the nodes and edges through which most of the influence flows."""

from dataclasses import replace

import torch
from torch import Tensor

from ..base.choices import EDGE_THRESHOLD, NODE_THRESHOLD
from ..base.kinds import typed
from ..errors import OptionError
from .graph import Graph
from .influence import Rows, influence, keep_share
from .nodes import NodeKind


@typed
def prune(graph: Graph, node_threshold: float = NODE_THRESHOLD, edge_threshold: float = EDGE_THRESHOLD) -> Graph:
    """The subgraph that carries most of the influence, with what was removed kept on account.

    Nodes: the smallest set that holds `node_threshold` of all influence, and every embedding and logit. Edges: among
    those nodes, the smallest set that holds `edge_threshold` of the edges' influence. Features without a way to a
    logit or without input, and errors without a way to a logit, then go too (Ameisen et al. 2025, appendix on
    pruning; the rule of circuit-tracer's `prune_graph`). What rows lost stays in `removed` and `removed_size`, so
    `residual` still holds and `scores` counts it as error. A graph already pruned at least this far is returned as it
    is; thresholds of 1 keep everything.

    Raises:
        OptionError: a threshold outside (0, 1].

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> len(unweave.prune(graph, 0.6).nodes) < len(graph.nodes)
    True
    """
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 < value <= 1:
            raise OptionError(f"{name} is {value:g}; it must lie above 0 and at most at 1")
    before = graph.provenance.pruning or (1.0, 1.0)
    if node_threshold >= before[0] and edge_threshold >= before[1]:
        return graph
    kind = graph.nodes.kind
    node = keep_share(graph.influence(), node_threshold)
    node |= (kind == NodeKind.EMBEDDING) | (kind == NodeKind.LOGIT)
    row, column, value = _between(graph.rows, node)
    edge = keep_share(_edge_influence(graph, row, column, value), edge_threshold)
    node, edge = _without_dead_ends(kind, node, edge, row, column)
    return _subgraph(
        graph,
        node,
        row[edge],
        column[edge],
        value[edge],
        (min(node_threshold, before[0]), min(edge_threshold, before[1])),
    )


def _between(rows: Rows, node: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of the edges between some nodes (a mask)."""
    found = []
    for targets, entries in rows.pieces():
        column = rows.column[entries].long()
        row = torch.repeat_interleave(
            torch.arange(targets.start, targets.stop), rows.start[targets.start : targets.stop + 1].diff()
        )
        kept = torch.nonzero(node[row] & node[column]).flatten()
        found.append((row[kept], column[kept], rows.value[entries][kept]))
    row, column, value = (torch.cat(part) for part in zip(*found, strict=True))
    return row, column, value


def _edge_influence(graph: Graph, row: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """What each remaining edge passes on: its share of its target's input times the target's influence."""
    rows = Rows(_starts(row, len(graph.nodes)), column, value)
    reached = influence(rows, graph.depth, graph.logit_weight) + graph.logit_weight.double()
    total = rows.row_sizes().clamp_min(1e-10)
    return value.abs().double() * (reached / total)[row]


def _starts(row: Tensor, n: int) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=n).cumsum(0)])


def _without_dead_ends(kind: Tensor, node: Tensor, edge: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    feature, error = kind == NodeKind.FEATURE, kind == NodeKind.ERROR
    while True:
        feeds = torch.zeros_like(node).index_fill_(0, column[edge], True)
        fed = torch.zeros_like(node).index_fill_(0, row[edge], True)
        kept = node & (feeds | ~(feature | error)) & (fed | ~feature)
        if torch.equal(kept, node):
            return node, edge
        node = kept
        edge = edge & node[row] & node[column]


def _subgraph(
    graph: Graph, node: Tensor, row: Tensor, column: Tensor, value: Tensor, thresholds: tuple[float, float]
) -> Graph:
    n = len(graph.nodes)
    kept = Rows(_starts(row, n), column, value)
    lost = graph.rows.row_sums() - kept.row_sums()
    lost_size = graph.rows.row_sizes() - kept.row_sizes()
    place = torch.cumsum(node, 0) - 1
    dtype = graph.bias.dtype
    return replace(
        graph,
        nodes=graph.nodes.select(node),
        rows=Rows(_starts(place[row], int(node.sum())), place[column].to(torch.int32), value),
        bias=graph.bias[node],
        preactivation=graph.preactivation[node],
        removed=(graph.removed + lost.to(dtype))[node],
        removed_size=(graph.removed_size + lost_size.clamp_min(0).to(dtype))[node],
        effect=None if graph.effect is None else graph.effect[node],
        full_influence=graph.influence()[node],
        full_rank=graph.influence_rank()[node],
        provenance=replace(
            graph.provenance,
            pruning=thresholds,
            unpruned_nodes=graph.provenance.unpruned_nodes or n,
            unpruned_edges=graph.provenance.unpruned_edges or graph.n_edges,
            scores=graph.provenance.scores or tuple(graph.scores()),
            scores_peer=graph.provenance.scores_peer
            or (None if graph.provenance.pruning else tuple(graph.scores("drop"))),
        ),
    )
