"""Hooks that hold parts of the real model fixed and change what its features write; the model itself stays as it is.

The real MLPs go on running. A change of a feature's activation by `delta` adds `delta` times its decoder row where the
dictionary writes, so what no feature explains stays in the output untouched: MLP(x) + sum_f (new_f - old_f) d_f is the
local replacement model's output with the features changed and its error nodes constant (Ameisen et al. 2025, on
interventions).

In one forward pass, layer by layer:

    block l enters    directions asked for after layer l - 1 are added            `_Writer.push`
    attention, norms  held at the unchanged prompt's, if the mode says so         `freezing`
    MLP l reads       x is what encoders see; old_f is f's activation there, or   `_Reader`
                      on the unchanged prompt where MLP outputs are held;
                      (new_f - old_f) d_f goes to `pending` of every layer that
                      f writes at (all from l on, of cross-layer dictionaries)
    MLP l writes      output = what the module gives, or its value on the         `_Writer`
                      unchanged prompt (plus the skip path's response to
                      x - x_unchanged) where it is held; plus `pending` of l
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.recording import Recording
from ..transcoders.replacement import ReplacementModel
from .freezing import Hooks, freeze_norm, freeze_norms, freeze_pattern
from .plans import EditPlan, FrozenParts, normalized, read, read_points


@dataclass
class Readings:
    """What a hooked forward pass leaves behind."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """[batch, pos, vocab], before a final soft cap."""
    written: dict[int, Float[Tensor, " edit"]] = field(default_factory=dict)
    """By layer, the activation that each changed feature writes with."""
    watched: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By layer, pre-activations and activations [batch, watched]."""


@contextmanager
def patched(
    model: ReplacementModel,
    edits: EditPlan,
    recording: Recording | None = None,
    frozen: FrozenParts | None = None,
    watch: dict[int, tuple[Tensor, Tensor]] | None = None,
) -> Iterator[Readings]:
    """While this lasts, the model's forward passes are changed; on leaving, also by an exception, all hooks are gone.

    Args:
        recording: the unchanged prompt; None for generated tokens, where nothing can be held.
        watch: by layer, (positions, features) whose activations are to be kept.
    """
    with ExitStack() as stack:
        shared = _Pass(model, edits, recording, frozen or FrozenParts(), watch or {})
        _install(Hooks(stack), shared)
        yield shared.seen


@dataclass(frozen=True)
class _Pass:
    """What is asked of one forward pass, and what its hooks hand to each other."""

    model: ReplacementModel
    edits: EditPlan
    recording: Recording | None
    frozen: FrozenParts
    watch: dict[int, tuple[Tensor, Tensor]]
    seen: Readings = field(default_factory=Readings)
    pending: dict[int, Tensor] = field(default_factory=dict)
    """By layer, what is still to be added where the dictionary writes."""
    inputs: dict[int, Tensor] = field(default_factory=dict)
    """By layer, what the encoders see in this pass."""

    @cached_property
    def n_ignored(self) -> int:
        """At how many positions from the first on features are off."""
        if self.recording is None:
            return 0
        return self.model.transcoders.n_ignored_positions(self.recording.input_ids)

    def writes(self, layer: int) -> list[int]:
        """Where changed features of a layer may write."""
        return [at for at in self.model.transcoders.writes(layer) if not self.frozen.layers or at in self.frozen.layers]

    def holds_output(self, layer: int) -> bool:
        """Whether what the MLP of a layer puts out is held."""
        return self.frozen.replaced or layer in self.frozen.layers

    def add(self, layer: int, like: Tensor) -> Tensor:
        """What is pending at a layer, to be added to."""
        return self.pending.setdefault(layer, torch.zeros_like(like))


def _install(hooks: Hooks, shared: _Pass) -> None:
    """Put all hooks in place; those on the same module run in this order."""
    model, recording, frozen = shared.model.language_model, shared.recording, shared.frozen
    reader, writer = _Reader(shared), _Writer(shared)
    pushed = {push.layer for _, _, push in shared.edits.pushes if push.at == "residual"}
    final = model.module.get_submodule(model.architecture.final_norm)
    for layer, block in enumerate(model.blocks):
        if frozen.patterns:
            assert recording is not None
            freeze_pattern(hooks, model, recording, layer)
        if frozen.norms:
            assert recording is not None
            freeze_norms(hooks, model, recording, layer)
        if layer - 1 in pushed:
            hooks.before(block, lambda x, at=layer - 1: writer.push(x, at, "residual"))
        reader.install(hooks, layer)
        writer.install(hooks, layer)
    if model.n_layers - 1 in pushed:
        hooks.before(final, lambda x: writer.push(x, model.n_layers - 1, "residual"))
    if frozen.norms and recording is not None:
        freeze_norm(hooks, final, model.frozen_final_norm(recording))

    def see_logits(args: tuple, output: Tensor) -> None:
        shared.seen.logits = model.raw_logits(output)

    hooks.after(model.module.get_output_embeddings(), see_logits)


class _Reader:
    """Where encoders read: activations before and after, and what their difference is going to write."""

    def __init__(self, shared: _Pass):
        self.shared, self.transcoders = shared, shared.model.transcoders
        dtype = shared.model.language_model.engine_dtype
        self.decoders = {
            layer: {at: self.transcoders.decoder_rows(layer, part.index, at, dtype) for at in shared.writes(layer)}
            for layer, part in shared.edits.layers.items()
        }

    def install(self, hooks: Hooks, layer: int) -> None:
        """See what the encoders of a layer see, if anything depends on it."""
        shared, model = self.shared, self.shared.model.language_model
        skips = shared.holds_output(layer) and self.transcoders.layers[layer].skip is not None
        if not (skips or shared.frozen.replaced or layer in shared.edits.layers or layer in shared.watch):
            return

        def see(x: Tensor) -> None:
            x = x.to("cpu", model.engine_dtype)
            if self.transcoders.read == "mlp_in_normalized":
                held = shared.recording if shared.frozen.norms else None
                like = x if held is None else held.resid_mid[layer].expand_as(x)
                x = torch.stack([normalized(model, layer, *pair) for pair in zip(x, like, strict=True)])
            self._read(layer, x)

        mlp = model.blocks[layer].get_submodule(model.architecture.mlp)
        hooks.before(mlp if self.transcoders.read == "mlp_in" else model.reader(layer), see)

    def _read(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        if layer in self.shared.watch:
            self._watch(layer, x)
        if layer in self.shared.edits.layers:
            self._change(layer, x)
        if self.shared.frozen.replaced:
            self._respond(layer, x)
        self.shared.inputs[layer] = x

    def _watch(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        position, index = self.shared.watch[layer]
        gates = self._gates(layer, position.repeat(len(x)))
        part = self.transcoders.layers[layer]
        pre, activation = read(part, x[:, position].flatten(0, 1), index.repeat(len(x)), gates)
        activation = activation.view(len(x), -1).masked_fill(position < self.shared.n_ignored, 0.0)
        self.shared.seen.watched[layer] = pre.view(len(x), -1), activation

    def _change(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        """What the changed features of a layer write more, or less."""
        edits, activation = self.shared.edits.layers[layer], self.shared.edits.layers[layer].clean
        if not self.shared.frozen.layers:  # else MLP outputs are held, and old activations with them
            _, activation = read(self.transcoders.layers[layer], x[edits.row, edits.position], edits.index)
            if self.shared.recording is not None:
                activation = activation.masked_fill(edits.position < self.shared.n_ignored, 0.0)
        new = edits.slope * activation + edits.offset
        self.shared.seen.written[layer] = new
        where = (edits.row, edits.position)
        for at, decoder in self.decoders[layer].items():
            self.shared.add(at, x).index_put_(where, decoder * (new - activation)[:, None], accumulate=True)

    def _respond(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        """What all features of a layer write more, or less, than on the unchanged prompt."""
        model, recording, first = self.shared.model, self.shared.recording, self.shared.n_ignored
        assert recording is not None
        _, clean = self.transcoders.encode(layer, read_points(model, recording, layer)[first:])
        moved = self.transcoders.encode(layer, x[:, first:].flatten(0, 1))[1].view(len(x), *clean.shape) - clean
        index = moved.flatten(0, 1).any(0).nonzero().flatten()
        for at in self.shared.writes(layer) if len(index) else ():
            rows = self.transcoders.decoder_rows(layer, index, at, x.dtype)
            self.shared.add(at, x)[:, first:] += moved[..., index] @ rows

    def _gates(self, layer: int, position: Int[Tensor, " entry"]) -> Float[Tensor, "entry d"] | None:
        """Where all is held, what neurons' gates are held at."""
        model, recording = self.shared.model, self.shared.recording
        if not (self.shared.frozen.norms and recording is not None and self.transcoders.of_neurons):
            return None
        return read_points(model, recording, layer)[position]


class _Writer:
    """Where the dictionary writes: outputs held or not, and what is added to them."""

    def __init__(self, shared: _Pass):
        self.shared = shared

    def install(self, hooks: Hooks, layer: int) -> None:
        """Change what leaves the place where the dictionary writes at a layer."""
        model = self.shared.model
        module, factor = model.language_model.writer(layer, model.transcoders.write)
        hooks.after(module, lambda args, output: self._written(output, layer, factor))

    def push(self, x: Tensor, layer: int, at: str, factor: float = 1.0) -> Tensor:
        """With the directions that are to be added there."""
        here = [
            (row, position, push.vector)
            for row, position, push in self.shared.edits.pushes
            if (push.layer, push.at) == (layer, at)
        ]
        if here:
            x = x.clone()
        for row, position, vector in here:
            x[row, position] += vector.to(x) / factor
        return x

    def _written(self, output: Tensor, at: int, factor: float) -> Tensor:
        """What leaves; the residual stream takes it `factor` times."""
        added, x = self.shared.pending.pop(at, None), self.shared.inputs.pop(at, None)
        if self.shared.holds_output(at) and self.shared.recording is not None:
            base = self._clean_output(self.shared.recording, at).expand_as(output)
            skip = self.shared.model.transcoders.layers[at].skip
            if skip is not None and x is not None:
                base = base + (x - read_points(self.shared.model, self.shared.recording, at)) @ skip.dense(x.dtype).T
            output = ((base if added is None else base + added) / factor).to(output)
        elif added is not None:
            output = output + added.to(output) / factor
        return self.push(output, at, "mlp_out", factor)

    def _clean_output(self, recording: Recording, layer: int) -> Float[Tensor, "pos d"]:
        """What is written at a layer on the unchanged prompt."""
        output, model = recording.mlp_outputs[layer], self.shared.model
        if model.transcoders.write != "residual":
            return output
        post = model.language_model.frozen_mlp_norms(recording, layer)[1]
        return output if post is None else post.forward(output)
