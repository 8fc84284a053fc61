"""Graphs of the most influential features alone: which they are, and the rows among them.

Influence (Ameisen et al. 2025, on pruning) is what reaches a node from the logits when each node passes on what it
received in proportion to the absolute weights of its row: `received = sum_k weights A^k`, A being the rows scaled to
sum to 1. It needs all rows; here rows are computed for the features that lead so far, the ranking is made anew with
them, and so on. A feature without a row receives but passes nothing on yet, so what is known is a lower bound.
"""

from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..graphs.influence import Rows, sweep
from .rowstore import RowStore
from .sources import Sources

FEATURES_IN_FIRST_ROUND = 256
"""How many features are added between two rankings at first; later as many as there are, so that all rankings together
read every row about twice."""
NUMBERS_AT_ONCE = 1 << 20
"""Of rows that are ranked or folded at a time, on all columns; of long prompts that is a single row."""


def most_influential(
    store: RowStore,
    sources: Sources,
    features: Tensor,
    weights: Float[Tensor, " logit"],
    most: int,
    take: int | None = None,
) -> Int[Tensor, " chosen"]:
    """The next features to compute the rows of, by the influence that the rows so far give them; ascending, empty
    when done.

    Args:
        store: rows of logits, named from the number of columns on, and of features.
        features: those whose rows are there.
        weights: what influence starts from at the logits.
        take: how many; None: as many as there are, see `FEATURES_IN_FIRST_ROUND`.
    """
    n_columns, n_features, n_logits = len(sources.layer), sources.n_features, len(weights)
    take = min(take or max(FEATURES_IN_FIRST_ROUND, len(features)), most - len(features))
    if take <= 0:
        return torch.empty(0, dtype=torch.int64)
    position = torch.zeros(n_columns + n_logits, dtype=torch.int64)
    position[:n_features] = feature_positions(sources)
    position[n_columns:] = len(sources.embeddings) - 1
    # Layers order the graph: all of a node's targets lie above it, so one sweep from the top settles influence.
    depth = torch.cat([sources.layer, torch.full((n_logits,), sources.n_layers + 1)])
    has_row = torch.zeros(n_columns + n_logits, dtype=torch.bool)
    has_row[features] = True
    has_row[n_columns:] = True
    weight = torch.zeros(n_columns + n_logits)
    weight[n_columns:] = weights

    each = max(1, NUMBERS_AT_ONCE // n_columns)

    def spread(group: Tensor, amounts: Tensor, received: Tensor) -> None:
        # A layer's targets of one position see the same columns.
        for where in position[group].unique().tolist():
            here = position[group] == where
            names, shares = group[here].tolist(), amounts[here]
            seen = sources.visible(min(int(depth[names[0]]), sources.n_layers), where)
            for begin in range(0, len(names), each):
                rows = torch.stack([store.row(name) for name in names[begin : begin + each]]).abs()
                sums = rows.sum(1, dtype=torch.float64).clamp_min(1e-10)
                part = shares[begin : begin + each].double() / sums
                received.index_add_(0, seen, (part.to(rows) @ rows).to(received))

    ranking = sweep(depth, has_row, weight, spread)[:n_features]
    ranking[features] = -1
    return torch.sort(torch.topk(ranking, take).indices).values


def feature_positions(sources: Sources) -> Int[Tensor, " feature"]:
    """The position of every feature."""
    counts = sources.first_feature.diff(dim=1)
    return torch.repeat_interleave(torch.arange(counts.shape[1]).repeat(len(counts)), counts.flatten())


def folded_rows(store: RowStore, sources: Sources, chosen: Int[Tensor, " chosen"], n_logits: int) -> Rows:
    """Sparse rows in which the columns of features not chosen are added to the error of their layer and position.

    That is what the error then is: all that the MLP put out there and the features in the graph do not. So the sum of a
    row, and with it the node's pre-activation, stays what it was.
    """
    n_features, n_columns, n = sources.n_features, len(sources.layer), len(sources.embeddings)
    layer, position = sources.layer, feature_positions(sources)
    number = torch.full((n_columns,), -1)  # of a column among those that stay
    number[chosen] = torch.arange(len(chosen))
    number[n_features:] = torch.arange(len(chosen), len(chosen) + n_columns - n_features)
    logits = [(n_columns + logit, sources.n_layers, n - 1) for logit in range(n_logits)]
    asked = [*zip(chosen.tolist(), layer[chosen].tolist(), position[chosen].tolist(), strict=True), *logits]
    # Room for all there may be, of which only what is filled takes memory: thousands of small pieces kept between large
    # passing ones would scatter the heap, and joining them would take as much again.
    most = sum(
        int(torch.searchsorted(chosen, int(sources.first_feature[at - 1, -1]))) + (at + 1) * n if at else n
        for _, at, _ in asked
    )
    column, value = torch.empty(most, dtype=torch.int32), torch.empty(most, dtype=store.dtype)
    counts, end, each = [], 0, max(1, NUMBERS_AT_ONCE // n_columns)
    errors = torch.arange(n_features, n_columns)
    for (at, where), same in groupby(asked, key=lambda one: one[1:]):
        names = [name for name, _, _ in same]
        seen = sources.visible(at, where)
        below = int(sources.first_feature[at - 1, -1]) if at else 0
        here = chosen[: int(torch.searchsorted(chosen, below))]
        # A layer's features of one position are neighbours, so sums over neighbours are what goes to each error.
        lengths = sources.first_feature[:at].diff(dim=1).flatten()
        columns = torch.cat([here, errors])
        for begin in range(0, len(names), each):
            rows = torch.stack([store.row(name) for name in names[begin : begin + each]])
            dense = rows.new_zeros(len(rows), n_columns)
            dense[:, seen] = rows
            # Chosen features below the target keep their weights; they are set to 0, so that the sums over a layer's
            # features at one position hold the others alone.
            kept = dense[:, here]
            dense[:, here] = 0
            if at:
                sums = torch.segment_reduce(dense[:, :below].T.double(), "sum", lengths=lengths, unsafe=True)
                dense[:, n_features : n_features + at * n] += sums.T.to(dense.dtype)
            weights = torch.cat([kept, dense[:, n_features:]], 1)
            live = weights != 0
            counts += live.sum(1).tolist()
            filled = slice(end, end := end + sum(counts[len(counts) - len(rows) :]))
            column[filled] = number[columns[live.nonzero()[:, 1]]].to(torch.int32)
            value[filled] = weights[live]
    sizes = torch.zeros(len(chosen) + n_columns - n_features + n_logits, dtype=torch.int64)
    sizes[: len(chosen)] = torch.tensor(counts[: len(chosen)])
    sizes[len(sizes) - n_logits :] = torch.tensor(counts[len(chosen) :])
    start = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    return Rows(start, column[:end], value[:end])
