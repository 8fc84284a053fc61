"""The columns of a graph: every vector that enters the residual stream, and rows of edges contracted against them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .frozen import Workspace
from .replacement import LocalReplacement

COLUMNS_PER_SWEEP = 6144
"""Columns (targets x positions) in one transposed pass: enough for full matrix speed, few enough for the cache."""
LEAST_BATCH = 32
"""Targets in one transposed pass, however long the prompt."""


class Targets(NamedTuple):
    """Targets at one position, from the highest layer down: directions in the residual stream before a layer's MLP.

    Layer `n_layers` stands for the end of the stream. `name` is whatever the caller knows the targets by.
    """

    position: int
    layer: Int[Tensor, " target"]
    name: Int[Tensor, " target"]
    direction: Float[Tensor, "target d"]


class Block(NamedTuple):
    """Edges from the same columns into several targets of one layer and position."""

    name: Int[Tensor, " target"]
    column: Int[Tensor, " column"]
    weight: Float[Tensor, "target column"]


@dataclass(frozen=True)
class Sources:
    """All source vectors of a local replacement model, ready to be contracted with gradients.

    Columns are numbered as in the graph: features, errors (layer-major), embeddings. While rows are computed, columns
    are kept by (position, layer, feature then error), so that what one target can see is a prefix and each product
    writes one slice.
    """

    layer: Int[Tensor, " column"]
    position: Int[Tensor, " column"]
    place: Int[Tensor, " column"]
    """Where a column is kept while rows are computed."""
    starts: Int[Tensor, "pos layer_plus_one"]
    """Where the columns of a (position, layer) start; the embedding of a position stands at the last entry."""
    vectors: tuple[tuple[Float[Tensor, "_ d"], ...], ...]
    """By layer and position: what is added there by all columns from `first(layer, position)` on."""
    embeddings: Float[Tensor, "pos d"]
    counted: Tensor
    """Mask of the columns that are in the graph: all but dropped errors."""
    cross_layer: bool

    @staticmethod
    def gather(local: LocalReplacement) -> "Sources":
        """Read the decoder rows of all active features."""
        n, layers, features = local.n_positions, local.n_layers, local.features
        grid = torch.cartesian_prod(torch.arange(layers), torch.arange(n))
        layer = torch.cat([features.layer, grid[:, 0], torch.full((n,), layers)])
        position = torch.cat([features.position, grid[:, 1], torch.arange(n)])
        order = torch.argsort(position * (layers + 1) + layer, stable=True)  # features stand before errors
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        counts = torch.bincount(position * (layers + 1) + layer, minlength=n * (layers + 1))
        starts = (counts.cumsum(0) - counts).view(n, layers + 1)
        counted = torch.ones(len(layer), dtype=torch.bool)
        if local.position_zero == "drop":
            counted[len(features) : len(features) + layers * n].view(layers, n)[:, : local.silent] = False
        cross = local.transcoders.kind == "cross-layer"
        vectors = tuple(_layer_vectors(local, at, starts, cross) for at in range(layers))
        layer = torch.where(layer == layers, -1, layer)
        return Sources(layer, position, place, starts, vectors, local.recording.embeddings, counted, cross)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.vectors)

    def first(self, layer: int, position: int) -> int:
        """The first column, as kept, that writes at a (layer, position)."""
        return int(self.starts[position, 0 if self.cross_layer else layer])

    def visible(self, layer: int, position: int) -> Int[Tensor, " column"]:
        """The columns from which a target at (layer, position) can have an edge."""
        return torch.nonzero((self.layer < layer) & (self.position <= position) & self.counted).flatten()

    def rows(self, local: LocalReplacement, targets: Targets, work: Workspace, multiply: torch.dtype | None = None) -> Iterator[Block]:
        """The edges into all targets, in blocks of one layer; each target's row is independent of the others."""
        at_most = max(LEAST_BATCH, COLUMNS_PER_SWEEP // (targets.position + 1))
        for begin in range(0, len(targets.layer), at_most):
            part = slice(begin, begin + at_most)
            yield from self._sweep(local, Targets(targets.position, *(column[part] for column in targets[1:])), work, multiply)

    def _sweep(self, local: LocalReplacement, targets: Targets, work: Workspace, multiply: torch.dtype | None) -> Iterator[Block]:
        position = targets.position
        layers, sizes = torch.unique_consecutive(targets.layer, return_counts=True)
        starts = dict(zip(layers.tolist(), targets.direction.split(sizes.tolist()), strict=True))
        kept = int(self.starts[position, -1]) + 1
        out = work.take("rows", (len(targets.layer), kept), targets.direction).zero_()
        for layer, g in local.frozen.sweep(position, starts, work, multiply):
            batch = len(g)
            for at in range(position + 1):
                if layer < 0:
                    out[:, int(self.starts[at, -1])] = g[:, at] @ self.embeddings[at]
                    continue
                first, vectors = self.first(layer, at), self.vectors[layer][at]
                out[:batch, first : first + len(vectors)].addmm_(g[:, at], vectors.T)
        begin = 0
        for layer, size in zip(layers.tolist(), sizes.tolist(), strict=True):
            visible = self.visible(layer, position)
            part = slice(begin, begin + size)
            yield Block(targets.name[part], visible, out[part].index_select(1, self.place[visible]))
            begin += size


def _layer_vectors(local: LocalReplacement, at: int, starts: Tensor, cross: bool) -> tuple[Tensor, ...]:
    """What is added to the residual stream at layer `at`, by position: rows as `Sources.vectors` keeps them."""
    n, d = local.n_positions, local.errors.shape[-1]
    first = starts[:, 0 if cross else at]
    out = [local.errors.new_zeros(int(starts[p, at + 1] - first[p]), d) for p in range(n)]
    for source in range(0 if cross else at, at + 1):
        span = local.layer_slice(source)
        rows, position = local.vectors(span, at), local.features.position[span]
        counts = torch.bincount(position, minlength=n).tolist()
        for p, part in enumerate(rows.split(counts)):
            offset = int(starts[p, source] - first[p])
            out[p][offset : offset + len(part)] = part
    for p in range(n):
        out[p][-1] = local.errors[at, p]
    return tuple(out)
