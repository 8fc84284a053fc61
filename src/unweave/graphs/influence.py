"""How much of the answer flows through each node: one reverse sweep over the graph.

The graph is a DAG, so influence needs no power iteration: `I = w N + w N^2 + ...` (w the logits' probabilities, N the
rows of absolute weights, each divided by its sum) is had exactly by visiting targets from the last layer to the first
and passing on what each has received (Ameisen et al. 2025, "Circuit Tracing", appendix on pruning).
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.mapped import release
from ..errors import GraphError


class Scores(NamedTuple):
    """How far a graph explains the answer, by named features rather than by errors (both between 0 and 1)."""

    replacement: float
    """Share of the paths from the logits back to the start that end in tokens, not in errors."""
    completeness: float
    """Influence-weighted share of every node's input that does not come from errors."""


class Rows(NamedTuple):
    """Weights by target row in compressed sparse form (CSR): row `r` holds entries `start[r]` to `start[r + 1]`."""

    start: Int[Tensor, " node_plus_one"]
    column: Int[Tensor, " edge"]
    value: Float[Tensor, " edge"]

    def row_numbers(self) -> Int[Tensor, " edge"]:
        """The target row of every entry."""
        counts = self.start.diff()
        return torch.repeat_interleave(torch.arange(len(counts)), counts)

    def row_sums(self, of: Callable[[slice], Float[Tensor, " piece"]] | None = None) -> Float[Tensor, " node"]:
        """The sum of every row's entries, or of what `of` makes of a piece of them; accumulated in float64.

        Piece by piece, because float64 copies of all entries of a large graph would double its memory.
        """
        sums = torch.zeros(len(self.start) - 1, dtype=torch.float64)
        for rows, entries in self.pieces():
            values = self.value[entries] if of is None else of(entries)
            offsets = self.start[rows.start : rows.stop + 1] - entries.start
            sums[rows] = torch.segment_reduce(values.double(), "sum", offsets=offsets, unsafe=True)
        return sums

    def row_sizes(self) -> Float[Tensor, " node"]:
        """The sum of every row's absolute entries."""
        return self.row_sums(lambda entries: self.value[entries].abs())

    def pieces(self) -> Iterator[tuple[slice, slice]]:
        """Rows in runs of at most 2^21 entries (or one row), with their entries; those of a mapped file are let go
        again."""
        row, last = 0, len(self.start) - 1
        while row < last:
            stop = int(torch.searchsorted(self.start, self.start[row] + (1 << 21), right=True)) - 1
            stop = min(max(stop, row + 1), last)
            yield slice(row, stop), slice(int(self.start[row]), int(self.start[stop]))
            self.release()
            row = stop

    def release(self) -> None:
        """Let go of pages of entries that lie in a file."""
        release(self.column, self.value)


def levels(depth: Int[Tensor, " node"], has_row: Tensor) -> Iterator[Int[Tensor, " level_node"]]:
    """Nodes with incoming edges, grouped by depth, the deepest group first."""
    targets = torch.nonzero(has_row).flatten()
    order = torch.argsort(depth[targets], descending=True, stable=True)
    targets = targets[order]
    _, sizes = torch.unique_consecutive(depth[targets], return_counts=True)
    yield from torch.split(targets, sizes.tolist())


def sweep(
    depth: Int[Tensor, " node"],
    has_row: Tensor,
    weight: Float[Tensor, " node"],
    spread: Callable[[Tensor, Tensor, Tensor], object],
) -> Float[Tensor, " node"]:
    """Visit targets from the deepest to the shallowest and pass on what each has received, plus its own weight.

    `spread(targets, amounts, received)` adds what nodes receive from these targets to `received`, in place: a long
    chain has as many groups as nodes.
    """
    received = torch.zeros(len(depth), dtype=torch.float64)
    for group in levels(depth, has_row):
        amounts = received[group] + weight[group].double()
        live = amounts != 0
        if bool(live.any()):
            spread(group[live], amounts[live], received)
    return received


def influence(
    rows: Rows,
    depth: Int[Tensor, " node"],
    weight: Float[Tensor, " node"],
    total: Float[Tensor, " node"] | None = None,
) -> Float[Tensor, " node"]:
    """The influence of every node on the weighted logits, `w ((I - N)^-1 - I)`, in one sweep, linear in the edges.

    Args:
        rows: the graph's weights, row = target.
        depth: a number per node; every edge must go from a smaller to a larger one.
        weight: what each node starts with: its probability for a logit, 0 elsewhere.
        total: absolute weight into each node; more than the row's own sum where pruning took some out, which takes its
            share and passes nothing on. None: the row's own sum.

    >>> rows = Rows(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1]), torch.tensor([2.0, -1.0, 3.0]))
    >>> influence(rows, torch.tensor([0, 1, 2]), torch.tensor([0.0, 0.0, 1.0]))
    tensor([1.0000, 0.7500, 0.0000], dtype=torch.float64)
    """
    size = rows.row_sizes() if total is None else total

    def spread(group: Tensor, amounts: Tensor, received: Tensor) -> None:
        for entries, amount in spans(rows.start, group, amounts / size[group].clamp_min(1e-10)):
            received.index_add_(0, rows.column[entries].long(), rows.value[entries].abs().double() * amount)
            rows.release()

    return sweep(depth, rows.start.diff() > 0, weight, spread)


def spans(
    start: Int[Tensor, " node_plus_one"], group: Int[Tensor, " row"], passed: Float[Tensor, " row"]
) -> Iterator[tuple[slice, Tensor]]:
    """Neighbouring rows as one slice of entries, with each entry's share of what its row passes on."""
    group, order = torch.sort(group)
    passed, lengths = passed[order], (start[group + 1] - start[group])
    done = 0
    for first, stop in runs(start, group):
        rows = slice(done, done + stop - first)
        yield slice(int(start[first]), int(start[stop])), torch.repeat_interleave(passed[rows], lengths[rows])
        done = rows.stop


def runs(start: Int[Tensor, " node_plus_one"], group: Int[Tensor, " row"]) -> Iterator[tuple[int, int]]:
    """Sorted rows as runs of neighbours, (first, one past the last); a layer's rows lie side by side.

    At most about 2^22 entries a run bounds memory.
    """
    if len(group) == 1:  # a long chain is made of these
        yield int(group[0]), int(group[0]) + 1
        return
    lengths = start[group + 1] - start[group]
    piece = torch.cumsum(lengths, 0).div(1 << 22, rounding_mode="floor")
    breaks = torch.nonzero((group.diff() != 1) | (piece.diff() != 0)).flatten() + 1
    for first, last in pairwise([0, *breaks.tolist(), len(group)]):
        yield int(group[first]), int(group[last - 1]) + 1


def keep_share(values: Float[Tensor, " item"], share: float) -> Tensor:
    """The mask of the smallest set of largest values that holds `share` of their sum; ties are kept together.

    >>> keep_share(torch.tensor([5.0, 1.0, 3.0, 1.0]), 0.8)
    tensor([ True, False,  True, False])
    """
    if not len(values):
        return torch.zeros(0, dtype=torch.bool)
    ranked = torch.sort(values, descending=True).values
    running = torch.cumsum(ranked, 0, dtype=torch.float64)
    if running[-1] <= 0 or share >= 1:
        return values > 0 if share < 1 else torch.ones_like(values, dtype=torch.bool)
    last = int(torch.searchsorted(running, share * running[-1]).clamp_max(len(values) - 1))
    return values >= ranked[last]


def longest_path(rows: Rows, n: int) -> Tensor:
    """Depth of every node as the longest path that leads to it, linear in nodes and edges; refuses a cycle."""
    target, source = rows.row_numbers().numpy(), rows.column.numpy()
    targets = target[np.argsort(source, kind="stable")]  # by source
    start = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=n))])
    missing = np.bincount(target, minlength=n)  # inputs whose own depth is not known yet
    depth, front, level = np.zeros(n, dtype=np.int64), np.flatnonzero(missing == 0), 0
    seen = len(front)
    while len(front):
        level += 1
        reached = np.concatenate([targets[start[node] : start[node + 1]] for node in front])
        np.subtract.at(missing, reached, 1)
        front = np.unique(reached[missing[reached] == 0])
        depth[front] = level
        seen += len(front)
    if seen < n:
        raise GraphError("the graph has a cycle, so influence is not defined on it")
    return torch.from_numpy(depth)
