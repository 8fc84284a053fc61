"""Hooks that hold attention patterns and norms of the real model as they were on the unchanged prompt."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..models.frozen import FrozenNorm
from ..models.language_model import LanguageModel
from ..models.mixers import Step, affine
from ..models.recording import Recording, first_of, with_first
from ..models.weights import value_channels


@dataclass(frozen=True)
class Hooks:
    """Forward hooks that go when the stack is left; those on the same module run in the order in which they came."""

    stack: ExitStack

    def before(self, module: Any, change: Callable[[Tensor], Tensor | None]) -> None:
        """Hook what enters a module; `change` returns what enters instead, or None."""

        def hook(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
            new = change(args[0] if args else kwargs["hidden_states"])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

        self.stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def after(self, module: Any, change: Callable[[tuple, Tensor], Tensor | None]) -> None:
        """Hook what leaves a module; `change`, of its arguments and what leaves, returns what leaves instead, or
        None."""

        def hook(module: Any, args: tuple, output: Any) -> Any:
            new = change(args, first_of(output))
            return None if new is None else with_first(output, new)

        self.stack.callback(module.register_forward_hook(hook).remove)


def freeze_pattern(hooks: Hooks, model: LanguageModel, recording: Recording, layer: int) -> None:
    """Mix the values of this pass by the recorded pattern, whatever pattern the module computes; where a layer is not
    plain attention, by its recorded gates and coefficients."""
    attention, pattern = model.mixing(layer), recording.patterns[layer]
    if pattern is None or model.mixer_kind(layer) is not None:
        _freeze_mixer(hooks, attention, model.mixer_steps(recording, layer, pattern), model.engine_dtype)
        return
    values: dict[str, Tensor] = {}
    channels = value_channels(model.architecture, attention)

    def save(args: tuple, output: Tensor) -> None:
        values["now"] = output[..., channels]

    def mix(x: Tensor) -> Tensor:
        batch, n, width = x.shape
        heads, channels = len(pattern), width // len(pattern)
        value = values.pop("now").view(batch, n, -1, 1, channels).permute(0, 2, 3, 1, 4)
        mixed = pattern.to(x).view(value.shape[1], -1, n, n) @ value
        return mixed.permute(0, 3, 1, 2, 4).reshape(batch, n, heads * channels)

    hooks.after(attention.get_submodule(model.architecture.value), save)
    hooks.before(attention.get_submodule(model.architecture.output), mix)


def _freeze_mixer(hooks: Hooks, module: Any, steps: Sequence[Step], dtype: torch.dtype) -> None:
    """Put a chain of linear parts in the place of a module."""
    seen: dict[str, Tensor] = {}

    def save(x: Tensor) -> None:
        seen["read"] = x

    def replaced(args: tuple, output: Tensor) -> Tensor:
        read = seen.pop("read")
        return torch.stack([affine(steps, x.to("cpu", dtype)) for x in read]).to(output)

    hooks.before(module, save)
    hooks.after(module, replaced)


def freeze_norms(hooks: Hooks, model: LanguageModel, recording: Recording, layer: int) -> None:
    """Hold the denominators of a block's norms, of which there are one to four."""
    row, block = model.architecture, model.blocks[layer]
    attention, attention_post = model.frozen_attention_norms(recording, layer)
    mlp, mlp_post = model.frozen_mlp_norms(recording, layer)
    for name, frozen in ((row.attention_norm, attention), (row.mlp_norm, mlp)):
        if name is not None:
            freeze_norm(hooks, block.get_submodule(name), frozen)
    for name, frozen in ((row.attention_post_norm, attention_post), (row.mlp_post_norm, mlp_post)):
        if name is not None and frozen is not None:  # the block itself multiplies what leaves these
            scale = frozen.scale / model.residual_multiplier
            freeze_norm(hooks, block.get_submodule(name), replace(frozen, scale=scale))


def freeze_norm(hooks: Hooks, module: Any, frozen: FrozenNorm) -> None:
    """Put a norm with its denominator held in the place of a norm of the model."""

    def replaced(args: tuple, output: Tensor) -> Tensor:
        return torch.stack([frozen.forward(x) for x in args[0].to("cpu", frozen.scale.dtype)]).to(output)

    hooks.after(module, replaced)
