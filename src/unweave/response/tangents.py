"""The model's derivative on one prompt, and its transpose with chosen units held: one sweep gives rows of a graph."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.recording import Recording
from ..models.workspace import moved
from .attention import TangentAttention
from .building import Seen, check_supported, tangent_attention, tangent_final, tangent_mlp, watch
from .mixing import TangentMixer
from .mlps import NEURONS_AT_ONCE, Neurons, TangentMLP
from .norms import TangentNorm


@dataclass(frozen=True)
class TangentLayer:
    """One transformer block."""

    attention: TangentAttention | TangentMixer
    mlp: TangentMLP
    parallel: bool


@dataclass(frozen=True)
class Held:
    """Neurons of one layer that do not respond: where they are, and which columns of a row they fill."""

    columns: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    index: Int[Tensor, " unit"]


class HeldFeatures(NamedTuple):
    """Features that read at one layer and do not respond there."""

    columns: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    reads: Float[Tensor, "unit d"]
    """The derivatives of their activations by what they read, in the residual stream before the MLP."""


class Writes(NamedTuple):
    """What features write at one layer."""

    columns: Int[Tensor, " unit"]
    position: Int[Tensor, " unit"]
    vectors: Float[Tensor, "unit d"]


@dataclass(frozen=True)
class Cut:
    """The units that are held while everything else responds; empty: nothing is."""

    size: int = 0
    neurons: dict[int, Held] | None = None
    features: dict[int, HeldFeatures] | None = None
    writes: dict[int, Writes] | None = None
    write_residual: bool = False
    """Whether features write into the residual stream, or where the MLP does, before a norm that may follow."""


class Starts(NamedTuple):
    """Targets of one sweep: directions in the residual stream before their layer's MLP (or at the end), from the
    highest layer down."""

    layer: Int[Tensor, " target"]
    position: Int[Tensor, " target"]
    vector: Float[Tensor, "target d"]


class Swept(NamedTuple):
    """Gradients of targets."""

    units: Float[Tensor, "target unit"]
    """At the units' activations, all other units held."""
    rests: Float[Tensor, "target layer pos"]
    """Times what is taken away at each MLP's output."""
    tokens: Float[Tensor, "target pos d"]
    """At what enters layer 0."""


Watcher = Callable[[int, Tensor, Tensor, TangentMLP], None]
"""Called at each layer with the gradients after it and at its MLP's output."""


@dataclass(frozen=True)
class TangentModel:
    """The derivative of a whole model on one prompt, everything responding (or patterns held)."""

    layers: tuple[TangentLayer, ...]
    final: TangentNorm
    recording: Recording
    held: bool
    """Whether attention patterns are held."""

    def to(self, device: torch.device) -> "TangentModel":
        """The same on another device."""
        return moved(self, device)

    def sweep(
        self,
        starts: Starts,
        cut: Cut,
        rests: Float[Tensor, "layer pos d"] | None = None,
        watcher: Watcher | None = None,
    ) -> Swept:
        """The transposed pass for a batch of targets; what lies after the last of them is cut away.

        Args:
            rests: what is taken away where each MLP (or what stands for it) writes, to be weighed by the gradients
                there.
            watcher: told the gradients at every layer.
        """
        n, depth = int(starts.position.max()) + 1, len(self.layers)
        like = starts.vector
        targets, d = like.shape
        whole = like.new_zeros(targets, n, d)
        rows = torch.arange(targets, device=like.device)
        units = like.new_zeros(targets, cut.size)
        rest = like.new_zeros(targets, depth, n)
        batch = int((starts.layer == depth).sum())
        whole[rows[:batch], starts.position[:batch]] = starts.vector[:batch]
        for number in range(min(int(starts.layer.max()), depth - 1), -1, -1):
            layer = self.layers[number]
            if batch:
                weighed = None if rests is None else (rests[number, :n], rest[:batch, number])
                pieces = self._pieces(whole[:batch], layer), self._pieces(units[:batch], layer, n)
                for part, into in zip(*pieces, strict=True):
                    through = self._mlp(number, part, into, cut, weighed, watcher)
                    if layer.parallel:
                        through += layer.attention.transpose(part, held=self.held)
                    part += through
                    if weighed is not None:
                        weighed = (weighed[0], weighed[1][len(part) :])
            joining = int((starts.layer == number).sum())
            new = slice(batch, batch + joining)
            whole[rows[new], starts.position[new]] = starts.vector[new]
            batch += joining
            if batch and not layer.parallel:
                whole[:batch] += layer.attention.transpose(whole[:batch], held=self.held)
        return Swept(units, rest, whole)

    def walk(self, start: Starts, cut: Cut) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """The sweep of one target, step by step: the layer, the gradient at what its attention adds [1, pos, d], and
        what its MLP passes back from the residual stream after it (None at the target's own layer)."""
        n, top, depth = int(start.position[0]) + 1, int(start.layer[0]), len(self.layers)
        g, units = start.vector.new_zeros(1, n, start.vector.shape[1]), start.vector.new_zeros(1, cut.size)
        g[0, n - 1] = start.vector[0]
        for number in range(min(top, depth - 1), -1, -1):
            layer = self.layers[number]
            through = None if number == top else self._mlp(number, g, units, cut, None, None)
            if layer.parallel:
                if through is not None:
                    yield number, g, through
                    g = g + through + layer.attention.transpose(g, held=self.held)
                continue
            g = g if through is None else g + through
            yield number, g, through
            g = g + layer.attention.transpose(g, held=self.held)

    def _pieces(self, x: Tensor, layer: TangentLayer, n: int | None = None) -> tuple[Tensor, ...]:
        """Targets a few at a time, so that gradients at neurons stay small."""
        return x.split(max(1, NEURONS_AT_ONCE // ((n or x.shape[1]) * layer.mlp.width)))

    def _mlp(
        self,
        number: int,
        g: Float[Tensor, "batch pos d"],
        units: Float[Tensor, "batch unit"],
        cut: Cut,
        weighed: tuple[Tensor, Tensor] | None,
        watcher: Watcher | None,
    ) -> Float[Tensor, "batch pos d"]:
        """The gradient before one MLP by way of it, with held units left out; their entries go into `units`."""
        mlp, n = self.layers[number].mlp, g.shape[1]
        inside = g if mlp.after is None else mlp.after.transpose(g)
        if watcher is not None:
            watcher(number, g, inside, mlp)
        if weighed is not None:
            at = g if cut.write_residual else inside
            weighed[1][: len(g)] = torch.einsum("bpd,pd->bp", at, weighed[0])
        written = (cut.writes or {}).get(number)
        if written is not None:
            _weigh(units, g if cut.write_residual else inside, written)
        held = (cut.neurons or {}).get(number)
        read = torch.zeros_like(inside)
        for part in mlp.parts:
            h = mlp.neuron_gradients(inside, part)
            if held is not None:
                _hold(h, units, held, part, n)
            into = mlp.into(h, part)
            if part.positions is None:
                read = into
            else:
                read[:, part.places(n)] += into
        through = mlp.before.transpose(read)
        stopped = (cut.features or {}).get(number)
        if stopped is not None:
            for position in stopped.position.unique().tolist():
                if position < n:
                    which = stopped.position == position
                    through[:, position] -= units[:, stopped.columns[which]] @ stopped.reads[which]
        return through


def _hold(h: Tensor, units: Tensor, held: Held, part: Neurons, n: int) -> None:
    """Move the gradients at held neurons into their columns."""
    mine = (held.index >= part.first) & (held.index < part.first + len(part.writes)) & (held.position < n)
    columns, position, index = held.columns[mine], held.position[mine], held.index[mine]
    if part.positions is not None:
        position = torch.searchsorted(part.positions, position)
    units[:, columns] = h[:, position, index - part.first]
    h[:, position, index - part.first] = 0


def _weigh(units: Tensor, g: Float[Tensor, "batch pos d"], written: Writes) -> None:
    """Add the gradients at features' activations that arrive by what they write at one layer."""
    for position in written.position.unique().tolist():
        if position < g.shape[1]:
            which = written.position == position
            units[:, written.columns[which]] += g[:, position] @ written.vectors[which].T


def tangent_model(model: LanguageModel, ids: Int[Tensor, " pos"], *, held: bool = False) -> TangentModel:
    """Run the model once and take its derivative there.

    Raises:
        ModelError, UnsupportedModel, InexactAttribution: it cannot be run, or its derivative is not described.
    """
    check_supported(model)
    return tangents_of(model, watch(model, ids), held=held)


def tangents_of(model: LanguageModel, seen: Seen, *, held: bool = False) -> TangentModel:
    """The derivative at a recorded pass."""
    layers = tuple(
        TangentLayer(tangent_attention(model, seen, number), tangent_mlp(model, seen, number), model.parallel)
        for number in range(model.n_layers)
    )
    return TangentModel(layers, tangent_final(model, seen.recording), seen.recording, held)
