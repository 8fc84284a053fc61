"""The strongest paths through a graph."""

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

from ..base.kinds import typed
from .graph import Edge, Graph
from .influence import influence, levels, runs
from .nodes import Node, NodeRef


class Path(NamedTuple):
    """A chain of edges from a source to a target.

    `share` is the product of the edges' shares: the part of the target's absolute input that arrives this way.
    `sign` is +1 if the chain as a whole pushes the target up, -1 if down.
    """

    edges: tuple[Edge, ...]
    share: float
    sign: int

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes passed, source first."""
        return (self.edges[0].source, *(edge.target for edge in self.edges))


@typed
def strongest_paths(
    graph: Graph,
    sources: NodeRef | Iterable[NodeRef],
    target: NodeRef,
    limit: int = 5,
    *,
    direct: bool = True,
) -> list[Path]:
    """The `limit` paths of largest share from any of `sources` to `target`, strongest first, exactly.

    A best-first search back from the target, led by the best share with which each node can be reached from a source;
    with that lead every expansion lies on a best remaining path, so the order is exact. `direct=False` leaves out paths
    of a single edge.

    Source: the path products of Ameisen et al. 2025, "Circuit Tracing", section on graph pruning.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> answer = graph.nodes[graph.nodes.logits.start]
    >>> [path] = unweave.strongest_paths(graph, "0_233_4", answer, limit=1)
    >>> [node.id for node in path.nodes]
    ['0_233_4', '7_230_5']
    """
    one = isinstance(sources, (Node, str)) or (isinstance(sources, tuple) and all(isinstance(i, int) for i in sources))
    listed: Any = [sources] if one else sources
    starts = {graph.nodes.find(source).row for source in listed}
    found = (path for path in _paths(graph, starts, graph.nodes.find(target).row) if direct or len(path.edges) > 1)
    return list(itertools.islice(found, limit))


def _paths(graph: Graph, starts: set[int], target: int) -> Iterator[Path]:
    reach = _best_reach(graph, starts)
    rows, nodes, size = graph.rows, graph.nodes, graph.input_size
    ticket = itertools.count()
    queue: list[tuple[float, int, float, int, tuple[Edge, ...], bool]] = [
        (-float(reach[target]), next(ticket), 1.0, target, (), False)
    ]
    while queue:
        bound, _, share, at, tail, complete = heapq.heappop(queue)
        if bound == 0:
            return
        if complete:
            negative = sum(edge.weight < 0 for edge in tail)
            yield Path(tail, share, -1 if negative % 2 else 1)
            continue
        if at in starts and tail:
            heapq.heappush(queue, (-share, next(ticket), share, at, tail, True))
        for entry in range(int(rows.start[at]), int(rows.start[at + 1])):
            source, weight = int(rows.column[entry]), float(rows.value[entry])
            step = abs(weight) / max(float(size[at]), 1e-10)
            best = share * step * float(reach[source])
            if best > 0:
                edge = Edge(nodes[source], nodes[at], weight, step)
                heapq.heappush(queue, (-best, next(ticket), share * step, source, (edge, *tail), False))


def _best_reach(graph: Graph, starts: set[int]) -> torch.Tensor:
    """For every node the largest share product of a path from a source to it (1 for a source), 0 if there is none."""
    reach = torch.zeros(len(graph.nodes), dtype=torch.float64)
    reach[list(starts)] = 1.0
    rows, row = graph.rows, graph.rows.row_numbers()
    share = rows.value.abs().double() / graph.input_size.clamp_min(1e-10)[row]
    for group in reversed(list(levels(graph.depth, rows.start.diff() > 0))):
        for first, stop in runs(rows.start, torch.sort(group).values):
            entries = slice(int(rows.start[first]), int(rows.start[stop]))
            reach.scatter_reduce_(0, row[entries], share[entries] * reach[rows.column[entries].long()], "amax")
    return reach


def average_path_length(graph: Graph) -> float:
    """The mean number of edges of the paths from the logits back to token embeddings, weighted by what flows along
    them.

    Paths that end in errors do not count. With N the graph's normalised weights, paths of i edges carry w N^i, so their
    sum and their sum times i are two sweeps. Cross-layer features shorten it (Ameisen et al. 2025, "Circuit Tracing").

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> round(unweave.average_path_length(graph), 1)
    2.2
    """
    weight, total = graph.logit_weight, graph.rows.row_sizes() + graph.removed_size.double()
    once = influence(graph.rows, graph.depth, weight, total)
    again = influence(graph.rows, graph.depth, weight + once, total)
    mass = float(once[graph.nodes.embeddings].sum())
    return float(again[graph.nodes.embeddings].sum()) / mass if mass else float("nan")
