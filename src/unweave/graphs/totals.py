"""Total effects: what a graph, as the linear model that it is, predicts for the removal of its nodes along all
paths."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from ..base.kinds import typed
from .graph import Graph
from .influence import levels, runs, spans, sweep
from .nodes import NodeKind, NodeRef


@typed
def total_effects(graph: Graph, target: NodeRef) -> Float[Tensor, " node"]:
    """The signed effect of every node on one target, the direct edge and all paths through features added up.

    Removing the node lowers the target's pre-activation (a logit's value) by this much if the graph's linear model
    holds:
    attention, norm denominators, errors and the set of active features stay as they are.

    Source: Ameisen et al. 2025, "Circuit Tracing", section on attribution graphs: the sum over paths of products of
        weights,
    each feature's activation moving with its pre-activation. Signed, where `influence` takes absolute shares.

    >>> import unweave                                                        # doctest: +SKIP
    >>> graph = unweave.Graph.load("france.graph.safetensors")                # doctest: +SKIP
    >>> unweave.total_effects(graph, graph.nodes[graph.nodes.logits.start])   # doctest: +SKIP
    """
    rows, row = graph.rows, graph.nodes.find(target).row
    weight = torch.zeros(len(graph.nodes), dtype=torch.float64)
    weight[row] = 1.0
    share = _response(graph)
    share[row] = 1.0

    def spread(group: Tensor, amounts: Tensor, received: Tensor) -> None:
        for entries, amount in spans(rows.start, group, amounts * share[group]):
            received.index_add_(0, rows.column[entries].long(), rows.value[entries].double() * amount)

    return sweep(graph.depth, rows.start.diff() > 0, weight, spread)


def removals(graph: Graph, sources: Sequence[int] | Int[Tensor, " source"]) -> Float[Tensor, "node source"]:
    """The change of every node's pre-activation when a source (a row of the graph) is removed, one source at a time.

    Entry [target, source] is minus the total effect; a source's own entry is minus its pre-activation.

    >>> import unweave                                                        # doctest: +SKIP
    >>> graph = unweave.Graph.load("france.graph.safetensors")                # doctest: +SKIP
    >>> removals(graph, range(3)).shape                                       # doctest: +SKIP
    torch.Size([7272, 3])
    """
    chosen = torch.as_tensor(sources, dtype=torch.int64)
    column = torch.arange(len(chosen))
    rows, share = graph.rows, _response(graph)
    change = torch.zeros(len(graph.nodes), len(chosen), dtype=rows.value.dtype)
    moved = change.clone()  # relative to what the node is
    moved[chosen, column] = -1.0
    for group in reversed(list(levels(graph.depth, rows.start.diff() > 0))):
        for first, stop in runs(rows.start, torch.sort(group).values):
            entries = slice(int(rows.start[first]), int(rows.start[stop]))
            offsets = rows.start[first:stop] - rows.start[first]
            change[first:stop] = embedding_bag(
                rows.column[entries].long(), moved, offsets, mode="sum", per_sample_weights=rows.value[entries]
            )
            removed = moved[first:stop] == -1.0
            moved[first:stop] = torch.where(removed, -1.0, change[first:stop] * share[first:stop, None].to(change))
    size = torch.where(graph.preactivation.isfinite(), graph.preactivation, graph.nodes.activation)
    change[chosen, column] = -size[chosen].to(change)
    return change


def _response(graph: Graph) -> Float[Tensor, " node"]:
    """By what share a feature's activation moves when its pre-activation moves by 1; 0 for what does not respond.

    An active feature's activation is its pre-activation (a frozen neuron's is a fixed multiple of it), so this is 1
    over it.
    """
    size = torch.where(
        graph.preactivation.isfinite() & (graph.preactivation != 0), graph.preactivation, graph.nodes.activation
    ).double()
    return torch.where(graph.nodes.kind == NodeKind.FEATURE, 1 / size.where(size != 0, torch.inf), 0.0)
