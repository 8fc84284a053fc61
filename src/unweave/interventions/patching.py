"""Hooks that hold parts of the real model fixed and change what its features write; the model itself stays as it is.

The real MLPs go on running. A change of a feature's activation by `delta` adds `delta` times its decoder row where the
dictionary writes, so what no feature explains stays in the output untouched.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.frozen import FrozenNorm
from ..models.recording import Recording, first_of, with_first
from ..models.weights import value_channels
from ..transcoders.replacement import ReplacementModel
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
        patch = _Patch(
            model, edits, recording, frozen or FrozenParts(), watch or {}, lambda handle: stack.callback(handle.remove)
        )
        patch.install()
        yield patch.seen


class _Patch:
    """The hooks of one forward pass and what they hand to each other."""

    def __init__(
        self,
        model: ReplacementModel,
        edits: EditPlan,
        recording: Recording | None,
        frozen: FrozenParts,
        watch: dict[int, tuple[Tensor, Tensor]],
        keep: Callable[[Any], Any],
    ):
        self.model, self.edits, self.recording, self.frozen, self.watch, self.keep = (
            model,
            edits,
            recording,
            frozen,
            watch,
            keep,
        )
        self.language_model, self.transcoders, self.row = (
            model.language_model,
            model.transcoders,
            model.language_model.architecture,
        )
        self.n_ignored = 0 if recording is None else self.transcoders.n_ignored_positions(recording.input_ids)
        self.seen = Readings()
        self.pending: dict[int, Tensor] = {}
        """By layer, what is still to be added where the dictionary writes."""
        self.inputs: dict[int, Tensor] = {}
        """By layer, what the encoders see in this pass."""
        dtype = self.language_model.engine_dtype
        self.decoders = {
            layer: {at: self.transcoders.decoder_rows(layer, part.index, at, dtype) for at in self._writes(layer)}
            for layer, part in edits.layers.items()
        }

    def _writes(self, layer: int) -> list[int]:
        return [at for at in self.transcoders.writes(layer) if not self.frozen.layers or at in self.frozen.layers]

    def install(self) -> None:
        """Put all hooks in place; those on the same module run in this order."""
        residual = {push.layer for _, _, push in self.edits.pushes if push.at == "residual"}
        for layer, block in enumerate(self.language_model.blocks):
            if self.frozen.patterns:
                self._hold_pattern(layer, block.get_submodule(self.row.attention))
            if self.frozen.norms:
                self._hold_norms(layer, block)
            if layer - 1 in residual:
                self._before(block, lambda x, at=layer - 1: self._pushed(x, at, "residual"))
            self._read_at(layer, block)
            writer, factor = self.language_model.writer(layer, self.transcoders.write)
            self.keep(
                writer.register_forward_hook(
                    lambda module, args, output, at=layer, f=factor: with_first(
                        output, self._written(first_of(output), at, f)
                    )
                )
            )
        final = self.language_model.module.get_submodule(self.row.final_norm)
        if self.language_model.n_layers - 1 in residual:
            self._before(final, lambda x: self._pushed(x, self.language_model.n_layers - 1, "residual"))
        if self.frozen.norms and self.recording is not None:
            self._hold_norm(final, self.language_model.frozen_final_norm(self.recording))
        self.keep(self.language_model.module.get_output_embeddings().register_forward_hook(self._see_logits))

    def _see_logits(self, module: Any, args: tuple, output: Tensor) -> None:
        self.seen.logits = self.language_model.raw_logits(output)

    def _before(self, module: Any, change: Callable[[Tensor], Tensor | None]) -> None:
        """Hook what enters a module; `change` returns what enters instead, or None."""

        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            new = change(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        self.keep(module.register_forward_pre_hook(hook, with_kwargs=True))

    def _hold_pattern(self, layer: int, attention: Any) -> None:
        """Mix the values of this pass by the recorded pattern, whatever pattern the module computes."""
        assert self.recording is not None
        pattern, values = self.recording.patterns[layer], {}
        channels = value_channels(self.row, attention)

        def save(module: Any, args: tuple, output: Tensor) -> None:
            values["now"] = output[..., channels]

        def mix(x: Tensor) -> Tensor:
            batch, n, width = x.shape
            heads, channels = len(pattern), width // len(pattern)
            value = values.pop("now").view(batch, n, -1, 1, channels).permute(0, 2, 3, 1, 4)
            mixed = pattern.to(x).view(value.shape[1], -1, n, n) @ value
            return mixed.permute(0, 3, 1, 2, 4).reshape(batch, n, heads * channels)

        self.keep(attention.get_submodule(self.row.value).register_forward_hook(save))
        self._before(attention.get_submodule(self.row.output), mix)

    def _hold_norms(self, layer: int, block: Any) -> None:
        assert self.recording is not None
        model, row = self.language_model, self.row
        (attention, attention_post), (mlp, mlp_post) = (
            model.frozen_attention_norms(self.recording, layer),
            model.frozen_mlp_norms(self.recording, layer),
        )
        for name, frozen in ((row.attention_norm, attention), (row.mlp_norm, mlp)):
            if name is not None:
                self._hold_norm(block.get_submodule(name), frozen)
        for name, frozen in ((row.attention_post_norm, attention_post), (row.mlp_post_norm, mlp_post)):
            if name is not None and frozen is not None:  # the block itself multiplies what leaves these
                self._hold_norm(
                    block.get_submodule(name), replace(frozen, scale=frozen.scale / model.residual_multiplier)
                )

    def _hold_norm(self, module: Any, frozen: FrozenNorm) -> None:
        def replaced(module: Any, args: tuple, output: Tensor) -> Tensor:
            return torch.stack([frozen.forward(x) for x in args[0].to("cpu", frozen.scale.dtype)]).to(output)

        self.keep(module.register_forward_hook(replaced))

    def _read_at(self, layer: int, block: Any) -> None:
        """See what the encoders of a layer see, if anything depends on it."""
        skips = (self.frozen.replaced or layer in self.frozen.layers) and self.transcoders.layers[
            layer
        ].skip is not None
        if layer not in self.edits.layers and layer not in self.watch and not skips and not self.frozen.replaced:
            return

        def see(x: Tensor) -> None:
            x = x.to("cpu", self.language_model.engine_dtype)
            if self.transcoders.read == "mlp_in_normalized":
                like = (
                    self.recording.resid_mid[layer].expand_as(x)
                    if self.frozen.norms and self.recording is not None
                    else x
                )
                x = torch.stack([normalized(self.language_model, layer, *pair) for pair in zip(x, like, strict=True)])
            self._read(layer, x)

        mlp = block.get_submodule(self.row.mlp)
        self._before(mlp if self.transcoders.read == "mlp_in" else self.language_model.reader(layer), see)

    def _read(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        part = self.transcoders.layers[layer]
        if layer in self.watch:
            position, index = self.watch[layer]
            pre, activation = read(
                part, x[:, position].flatten(0, 1), index.repeat(len(x)), self._gates(layer, position.repeat(len(x)))
            )
            activation = activation.view(len(x), -1).masked_fill(position < self.n_ignored, 0.0)
            self.seen.watched[layer] = pre.view(len(x), -1), activation
        edits = self.edits.layers.get(layer)
        if edits is not None:
            activation = edits.clean
            if not self.frozen.layers:
                _, activation = read(part, x[edits.row, edits.position], edits.index)
                if self.recording is not None:
                    activation = activation.masked_fill(edits.position < self.n_ignored, 0.0)
            new = edits.slope * activation + edits.offset
            self.seen.written[layer] = new
            for at, decoder in self.decoders[layer].items():
                target = self.pending.setdefault(at, torch.zeros_like(x))
                target.index_put_((edits.row, edits.position), decoder * (new - activation)[:, None], accumulate=True)
        if self.frozen.replaced:
            self._respond(layer, x)
        self.inputs[layer] = x

    def _respond(self, layer: int, x: Float[Tensor, "batch pos d"]) -> None:
        """What all features of a layer write more, or less, than on the unchanged prompt."""
        assert self.recording is not None
        n_ignored = self.n_ignored
        _, clean = self.transcoders.encode(layer, read_points(self.model, self.recording, layer)[n_ignored:])
        moved = self.transcoders.encode(layer, x[:, n_ignored:].flatten(0, 1))[1].view(len(x), *clean.shape) - clean
        index = moved.flatten(0, 1).any(0).nonzero().flatten()
        for at in self._writes(layer) if len(index) else ():
            target = self.pending.setdefault(at, torch.zeros_like(x))
            target[:, n_ignored:] += moved[..., index] @ self.transcoders.decoder_rows(layer, index, at, x.dtype)

    def _gates(self, layer: int, position: Int[Tensor, " entry"]) -> Float[Tensor, "entry d"] | None:
        """Where all is held, what neurons' gates are held at."""
        if not (self.frozen.norms and self.recording is not None and self.transcoders.of_neurons):
            return None
        return read_points(self.model, self.recording, layer)[position]

    def _written(self, output: Tensor, at: int, factor: float) -> Tensor:
        """What leaves the place where the dictionary writes at a layer; the residual stream takes it `factor` times."""
        added, x = self.pending.pop(at, None), self.inputs.pop(at, None)
        if (self.frozen.replaced or at in self.frozen.layers) and self.recording is not None:
            base = self._clean_output(at).expand_as(output)
            skip = self.transcoders.layers[at].skip
            if skip is not None and x is not None:
                base = base + (x - read_points(self.model, self.recording, at)) @ skip.dense(x.dtype).T
            output = ((base if added is None else base + added) / factor).to(output)
        elif added is not None:
            output = output + added.to(output) / factor
        return self._pushed(output, at, "mlp_out", factor)

    def _clean_output(self, layer: int) -> Float[Tensor, "pos d"]:
        assert self.recording is not None
        output = self.recording.mlp_outputs[layer]
        post = (
            self.language_model.frozen_mlp_norms(self.recording, layer)[1]
            if self.transcoders.write == "residual"
            else None
        )
        return output if post is None else post.forward(output)

    def _pushed(self, x: Tensor, layer: int, at: str, factor: float = 1.0) -> Tensor:
        here = [
            (row, position, push.vector)
            for row, position, push in self.edits.pushes
            if (push.layer, push.at) == (layer, at)
        ]
        if here:
            x = x.clone()
        for row, position, vector in here:
            x[row, position] += vector.to(x) / factor
        return x
