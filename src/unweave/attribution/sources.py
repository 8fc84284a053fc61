"""The columns of a graph: every vector that enters the residual stream, and rows of edges contracted against them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.frozen import FrozenModel
from ..models.workspace import Workspace
from ..transcoders.replacement import LocalReplacement

COLUMNS_PER_SWEEP = 6144
"""Columns (targets x positions) in one transposed pass: enough for full matrix speed, few enough for the cache."""
LEAST_BATCH = 64
"""Targets in one transposed pass, however long the prompt: below, reading the sources' vectors costs as much as the
products."""
LEAST_USE = 0.85
"""Share of the columns of a pass that its targets can see; targets at positions further apart go into passes of
their own."""
VECTORS_KEPT = 1 << 29
"""Bytes of sources' vectors that are kept ready; beyond, each pass picks them from the tables of decoder rows again."""
VECTORS_AT_ONCE = 1 << 26
"""Bytes of vectors that are picked at a time."""


class TargetRows(NamedTuple):
    """Targets of one transposed pass, from the highest layer down: directions in the residual stream before a
    layer's MLP.

    Layer `n_layers` stands for the end of the stream. `name` is whatever the caller knows the targets by.
    """

    layer: Int[Tensor, " target"]
    position: Int[Tensor, " target"]
    name: Int[Tensor, " target"]
    direction: Float[Tensor, "target d"]


class Block(NamedTuple):
    """Edges into several targets of one layer and position, from the columns they can see (`Sources.visible`)."""

    layer: int
    position: int
    name: Int[Tensor, " target"]
    weight: Float[Tensor, "target column"]


@dataclass(frozen=True)
class SourceTable:
    """What is written at one layer: decoder rows of features that are on anywhere in the prompt, and error vectors.

    Columns stand as they are kept (see `Sources`); those of position p begin at `begin[p]`. A column's vector is the
    row of the table that `row` names, times `factor`.
    """

    rows: Float[Tensor, "_ d"]
    row: Int[Tensor, " column"]
    factor: Float[Tensor, " column"]
    begin: list[int]

    @cached_property
    def vectors(self) -> Float[Tensor, "column d"]:
        """The vectors of all columns."""
        return self.rows.index_select(0, self.row) * self.factor[:, None]

    def pick(self, first: int, stop: int, work: Workspace) -> Float[Tensor, "part d"]:
        """The vectors of some columns, in a buffer that the next call overwrites."""
        out = work.take("vectors", (stop - first, self.rows.shape[1]), self.rows)
        return torch.index_select(self.rows, 0, self.row[first:stop], out=out).mul_(self.factor[first:stop, None])


@dataclass(frozen=True)
class Sources:
    """All source vectors of a local replacement model, ready to be contracted with gradients, on the device of the
    work.

    Columns are numbered as in the graph: features, errors (layer-major), embeddings. While rows are computed, columns
    are kept by (position, layer, feature then error), so that what one target can see is a prefix and each product
    writes one slice. With 2 layers and 2 positions, `f..` being as many features as are on there:

        numbered  f.. f..   f.. f..   e   e     e   e     x   x
        layer     0   0     1   1     0   0     1   1     -   -
        position  0   1     0   1     0   1     0   1     0   1

        kept      f.. e   f.. e   x   f.. e   f.. e   x
        layer     0       1       -   0       1       -
        position  0                   1
                  ^       ^       ^   ^       ^       ^
        starts    [0, 0]  [0, 1]  [0, 2]  ...           `place` leads from the first order to the second

    What is written at layer `at` (its `SourceTable`) are per position the columns of that layer, for per-layer
    dictionaries; for cross-layer ones also those of all layers below, which is why a position's lower layers stand
    just before. An error of a lower layer writes nothing there and points to a row of zeros.
    """

    frozen: FrozenModel
    layer: Int[Tensor, " column"]
    place: Int[Tensor, " column"]
    """Where a column is kept while rows are computed."""
    starts: Int[Tensor, "pos layer_plus_one"]
    """Where the columns of a (position, layer) start; the embedding of a position stands at the last entry."""
    first_feature: Int[Tensor, "layer pos_plus_one"]
    """The first feature of a (layer, position), as numbered in the graph; at the last entry, of the next layer."""
    tables: tuple[SourceTable, ...]
    embeddings: Float[Tensor, "pos d"]
    dropped: int
    """At how many positions from the first on errors are no nodes, being constants."""
    lowest: tuple[int, ...]
    """By layer, the lowest one whose features write there."""
    keeps_vectors: bool

    @staticmethod
    def gather(local: LocalReplacement, device: torch.device | str = "cpu", kept: int | None = None) -> "Sources":
        """Read the decoder rows of all active features; vectors of at most `kept` bytes are kept ready (None:
        `VECTORS_KEPT`)."""
        n, layers, features, device = local.n_positions, local.n_layers, local.features, torch.device(device)
        grid = torch.cartesian_prod(torch.arange(layers), torch.arange(n))
        layer = torch.cat([features.layer, grid[:, 0], torch.full((n,), layers)])
        position = torch.cat([features.position, grid[:, 1], torch.arange(n)])
        order = torch.argsort(position * (layers + 1) + layer, stable=True)  # features stand before errors
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        counts = torch.bincount(position * (layers + 1) + layer, minlength=n * (layers + 1))
        starts = (counts.cumsum(0) - counts).view(n, layers + 1)
        edges = torch.arange(layers)[:, None] * n + torch.arange(n + 1)
        first_feature = torch.searchsorted(features.layer * n + features.position, edges.flatten()).view(layers, n + 1)
        tables = tuple(_table(local, at, order, starts, device) for at in range(layers))
        size = sum(table.row.numel() for table in tables) * local.errors.shape[-1] * local.errors.itemsize
        return Sources(
            local.frozen.to(device), torch.where(layer == layers, -1, layer), place, starts, first_feature, tables,
            local.recording.embeddings.to(device),
            local.n_ignored if local.position_zero == "drop" else 0,
            tuple(local.transcoders.sources(at).start for at in range(layers)),
            size <= (VECTORS_KEPT if kept is None else kept),
        )  # fmt: skip

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.tables)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.first_feature[-1, -1])

    def runs(self, layer: int, position: int) -> list[slice]:
        """The columns from which a target at (layer, position) can have an edge, as runs of neighbours in ascending
        order."""
        n = len(self.embeddings)
        errors = self.n_features
        runs = [
            slice(int(self.first_feature[below, 0]), int(self.first_feature[below, position + 1]))
            for below in range(layer)
        ]
        runs += [slice(errors + below * n + self.dropped, errors + below * n + position + 1) for below in range(layer)]
        runs.append(slice(errors + self.n_layers * n, errors + self.n_layers * n + position + 1))
        return [run for run in runs if run.stop > run.start]

    def visible(self, layer: int, position: int) -> Int[Tensor, " column"]:
        """The same as one list of columns."""
        return torch.cat([torch.arange(run.start, run.stop) for run in self.runs(layer, position)])

    @cached_property
    def lengths(self) -> Int[Tensor, "layer_plus_one pos"]:
        """How many columns a target at a (layer, position) can see."""
        n, layers = len(self.embeddings), self.n_layers
        features = torch.zeros(layers + 1, n, dtype=torch.int64)
        features[1:] = (self.first_feature[:, 1:] - self.first_feature[:, :1]).cumsum(0)
        seen = torch.arange(1, n + 1)
        return features + torch.arange(layers + 1)[:, None] * (seen - self.dropped).clamp_min(0) + seen

    def sweep(self, targets: TargetRows, work: Workspace, multiply: torch.dtype | None = None) -> Iterator[Block]:
        """The edges into targets, in blocks of one layer and position; each target's row is independent of the
        others."""
        layers, sizes = torch.unique_consecutive(targets.layer, return_counts=True)
        directions = dict(zip(layers.tolist(), targets.direction.split(sizes.tolist()), strict=True))
        last = int(targets.position.max())
        out = work.take("rows", (len(targets.layer), int(self.starts[last, -1]) + 1), targets.direction).zero_()
        # An edge is the source's vector times the gradient where it is added: embeddings at the bottom (layer -1),
        # features and errors after their layer's MLP. `g` holds the targets above that layer, which stand first.
        for layer, g in self.frozen.sweep(targets.position, directions, work, multiply):
            if layer < 0:
                ends = self.starts[: last + 1, -1].to(out.device)
                out[:, ends] = torch.einsum("bpd,pd->bp", g, self.embeddings[: last + 1])
            else:
                self._contract(layer, g, out[: len(g)], work)
        where = torch.stack([targets.layer, targets.position], dim=1)
        groups, sizes = torch.unique_consecutive(where, dim=0, return_counts=True)
        begin = 0
        for (layer, position), size in zip(groups.tolist(), sizes.tolist(), strict=True):
            part = slice(begin, begin + size)
            columns = self.place[self.visible(layer, position)].to(out.device)
            yield Block(layer, position, targets.name[part], out[part].index_select(1, columns).cpu())
            begin += size

    def _contract(
        self, layer: int, g: Float[Tensor, "batch pos d"], out: Float[Tensor, "batch kept"], work: Workspace
    ) -> None:
        """Write the edges from all that is added at a layer into its columns."""
        table, n = self.tables[layer], g.shape[1]
        at_once = max(1, VECTORS_AT_ONCE // (g.shape[2] * g.itemsize))
        first = self.starts[:, self.lowest[layer]].tolist()
        begin = 0
        while begin < n:
            stop = begin + 1
            while stop < n and table.begin[stop + 1] - table.begin[begin] <= at_once:
                stop += 1
            here = slice(table.begin[begin], table.begin[stop])
            vectors = table.vectors[here] if self.keeps_vectors else table.pick(here.start, here.stop, work)
            for at in range(begin, stop):
                part = vectors[table.begin[at] - here.start : table.begin[at + 1] - here.start]
                out[:, first[at] : first[at] + len(part)].addmm_(g[:, at], part.T)
            begin = stop


def _table(local: LocalReplacement, at: int, order: Tensor, starts: Tensor, device: torch.device) -> SourceTable:
    """What is written at layer `at`."""
    n, n_features, features = local.n_positions, len(local.features), local.features
    layers = local.transcoders.sources(at)
    first, stop = starts[:, layers.start], starts[:, layers.stop]
    sizes = stop - first
    begin = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    # For each position the columns first[p] to stop[p] in the order in which they are kept, one after the other.
    kept = torch.arange(int(begin[-1])) + torch.repeat_interleave(first - begin[:-1], sizes)
    column, position = order[kept], torch.repeat_interleave(torch.arange(n), sizes)
    # A feature that is on at many positions has one decoder row in the table: `number` says which.
    rows, number, total = [], torch.zeros(n_features, dtype=torch.int64), 0
    for source in layers:
        span = local.layer_slice(source)
        index, number[span] = torch.unique(features.index[span], return_inverse=True)
        number[span] += total
        rows.append(local.written_rows(source, index, at))
        total += len(index)
    nothing = local.errors.new_zeros(1, local.errors.shape[-1])  # what an error of a lower layer writes here
    write = local.frozen.layers[at].write
    scale = torch.ones(n, dtype=local.errors.dtype) if write is None else write.scale
    # The table is [decoder rows, this layer's errors by position, zeros]; a feature's vector is its decoder row times
    # its activation and the scale of the norm after the MLP, if there is one.
    is_feature = column < n_features
    feature = column.clamp_max(n_features - 1) if n_features else column
    error = torch.where(column - n_features == at * n + position, total + position, total + n)
    row = torch.where(is_feature, number[feature], error) if n_features else error
    factor = (
        torch.where(is_feature, features.activation[feature].to(scale.dtype) * scale[position], 1.0)
        if n_features
        else torch.ones_like(scale[position])
    )
    return SourceTable(
        torch.cat([*rows, local.errors[at], nothing]).to(device),
        row.to(device, torch.int32),
        factor.to(device),
        begin.tolist(),
    )


def batches(position: Int[Tensor, " target"], columns: int, least: int) -> Iterator[slice]:
    """Targets in ascending order of position, cut into passes of at most `columns` columns, or `least` targets.

    >>> [(part.start, part.stop) for part in batches(torch.tensor([1, 1, 1, 9, 9, 9]), 20, 2)]
    [(0, 3), (3, 5), (5, 6)]
    """
    where, begin = position.tolist(), 0
    seen = 0
    for number, at in enumerate(where):
        count = number - begin + 1
        if number > begin and (count > max(least, columns // (at + 1)) or seen + at + 1 < LEAST_USE * count * (at + 1)):
            yield slice(begin, number)
            begin, seen = number, 0
        seen += at + 1
    if len(where) > begin:
        yield slice(begin, len(where))
