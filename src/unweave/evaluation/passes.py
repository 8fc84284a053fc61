"""Forward passes over batches of sequences: what the MLPs see and make, and the logits when something stands in for them.

Position 0 holds the model's leading special token, whose enormous norms no dictionary is trained on: its MLP outputs are
always the model's own, and it is counted nowhere.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..architectures import norm_weights
from ..frozen import FrozenNorm
from ..models import LanguageModel
from ..transcoders import ReadPoint, WritePoint

TOKENS_PER_BATCH = 512
"""On the CPU: enough for full matrix speed, few enough for the logits of a large vocabulary."""
TOKENS_PER_BATCH_ELSEWHERE = 8192

Step = Callable[[int, Float[Tensor, "token d"]], Float[Tensor, "token d"]]
"""Called once for each layer, from the first to the last: what is read there to what the MLP is to put out."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of the real model over a batch of sequences."""

    ids: Int[Tensor, "sequence pos"]
    mids: tuple[Float[Tensor, "sequence pos d"], ...]
    """The residual stream before each MLP's norm."""
    inputs: tuple[Float[Tensor, "sequence pos d"], ...]
    """What each MLP sees: the norm's output."""
    outputs: tuple[Float[Tensor, "sequence pos d"], ...]
    """What a dictionary has to make: each MLP's output, or what is added to the residual stream after a norm that follows."""
    logits: Float[Tensor, "sequence pos vocab"] | None
    tuples: bool
    """Whether the model's blocks return tuples."""

    def without_logits(self) -> "Pass":
        """The same without its largest tensor."""
        return replace(self, logits=None)


def counted(x: Float[Tensor, "sequence pos d"], dtype: torch.dtype) -> Float[Tensor, "token d"]:
    """All positions but the first, sequence after sequence.

    >>> counted(torch.arange(6.0).view(1, 3, 2), torch.float32).tolist()
    [[2.0, 3.0], [4.0, 5.0]]
    """
    return x[:, 1:].reshape(-1, x.shape[-1]).to(dtype)


def batches(blocks: Int[Tensor, "sequence pos"], model: LanguageModel) -> Iterator[Int[Tensor, "batch pos"]]:
    """Blocks in batches that suit the model's device, on that device."""
    tokens = TOKENS_PER_BATCH if model.device.type == "cpu" else TOKENS_PER_BATCH_ELSEWHERE
    for part in blocks.split(max(1, tokens // blocks.shape[1])):
        yield part.to(model.device)


def run(model: LanguageModel, ids: Int[Tensor, "sequence pos"], write: WritePoint, *, logits: bool = True) -> Pass:
    """Run the real model and keep what its MLPs see and make; `write` says where outputs are taken."""
    tuples: list[bool] = []
    with ExitStack() as stack:
        saved = stack.enter_context(_watched(model))

        def keep(layer: int) -> Callable:
            return lambda module, args, output: saved.update({("output", layer): output})

        for layer, block in enumerate(model.blocks):
            stack.callback(block.get_submodule(_writer(model, write)).register_forward_hook(keep(layer)).remove)
        stack.callback(model.blocks[0].register_forward_hook(lambda module, args, output: tuples.append(isinstance(output, tuple))).remove)
        made = _logits(model, ids) if logits else _hidden_only(model, ids)
    mids, inputs, outputs = (tuple(saved[name, layer] for layer in range(model.n_layers)) for name in ("mid", "input", "output"))
    return Pass(ids, mids, inputs, outputs, made, tuples[0])


def read_at(model: LanguageModel, layer: int, point: ReadPoint, mid: Float[Tensor, "token d"], mlp_in: Float[Tensor, "token d"]) -> Float[Tensor, "token d"]:
    """What is read at one MLP: the residual stream before its norm, the norm's output, or that before its gain."""
    match point:
        case "mid":
            return mid
        case "mlp_in":
            return mlp_in
        case "mlp_in_normalized":
            return without_gain(mlp_norm(model, layer, mid)).forward(mid)


def mlp_norm(model: LanguageModel, layer: int, mid: Float[Tensor, "token d"]) -> FrozenNorm:
    """The norm before one layer's MLP, its denominators as they are for `mid`."""
    weights = norm_weights(model.architecture, model.blocks[layer].get_submodule(model.architecture.mlp_norm))
    weights = weights._replace(gain=weights.gain.to(mid.device), bias=None if weights.bias is None else weights.bias.to(mid.device))
    return FrozenNorm.freeze(weights, mid, model.epsilon)


def without_gain(norm: FrozenNorm) -> FrozenNorm:
    """A norm before its gain and bias."""
    return replace(norm, gain=torch.ones_like(norm.gain), bias=None)


def replaced_logits(
    model: LanguageModel, ids: Int[Tensor, "sequence pos"], write: WritePoint, read: ReadPoint, step: Step, dtype: torch.dtype
) -> Float[Tensor, "sequence pos vocab"]:
    """The logits with all MLPs replaced by `step` from position 1 on; attention is live.

    Source: Ameisen et al. 2025, "Circuit Tracing", section on the replacement model.
    """
    with ExitStack() as stack:
        saved = stack.enter_context(_watched(model))

        def put_out(layer: int, first: Tensor) -> Tensor:
            seen = read_at(model, layer, read, counted(saved.pop(("mid", layer)), dtype), counted(saved.pop(("input", layer)), dtype))
            return _after_first(first, step(layer, seen))

        for layer, block in enumerate(model.blocks):
            mlp, writer = (block.get_submodule(name) for name in (model.architecture.mlp, _writer(model, write)))
            if mlp is writer:
                stack.enter_context(_acting(mlp, lambda true, x, layer=layer: put_out(layer, true(x[:, :1]))))
            else:
                stack.enter_context(_acting(mlp, lambda true, x: true(x[:, :1])))
                stack.enter_context(_acting(writer, lambda true, y, layer=layer: put_out(layer, true(y))))
        return _logits(model, ids)


def logits_with_output(
    model: LanguageModel, clean: Pass, layer: int, output: Float[Tensor, "token d"], write: WritePoint
) -> Float[Tensor, "sequence pos vocab"]:
    """The logits when one MLP puts out `output` from position 1 on; the layers up to it are not run again."""
    added, post = _after_first(clean.outputs[layer], output), model.architecture.mlp_post_norm
    if write == "mlp_out" and post is not None:
        with torch.no_grad():
            added = model.blocks[layer].get_submodule(post)(added)
    hidden = clean.mids[layer] + added
    passed = (hidden,) if clean.tuples else hidden
    with ExitStack() as stack:
        for block in model.blocks[: layer + 1]:
            stack.enter_context(_acting(block, lambda true, x: passed))
        return _logits(model, clean.ids)


def _after_first(own: Float[Tensor, "sequence _ d"], made: Float[Tensor, "token d"]) -> Float[Tensor, "sequence pos d"]:
    """The model's own output at position 0, and what was made at all others."""
    return torch.cat([own[:, :1], made.to(own.dtype).view(len(own), -1, own.shape[-1])], dim=1)


def _writer(model: LanguageModel, write: WritePoint) -> str:
    """The module, by its name within a block, whose output a dictionary makes."""
    row = model.architecture
    return row.mlp_post_norm if write == "residual" and row.mlp_post_norm is not None else row.mlp


def _logits(model: LanguageModel, ids: Int[Tensor, "sequence pos"]) -> Float[Tensor, "sequence pos vocab"]:
    with torch.no_grad():
        return model.module(input_ids=ids, use_cache=False).logits


def _hidden_only(model: LanguageModel, ids: Int[Tensor, "sequence pos"]) -> None:
    with torch.no_grad():
        model.module.base_model(input_ids=ids, use_cache=False)


@contextmanager
def _watched(model: LanguageModel) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Keeps, under ("mid" or "input", layer), what enters every MLP's norm and every MLP."""
    saved: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, layer: int) -> Callable:
        return lambda module, args: saved.update({(name, layer): args[0]})

    with ExitStack() as stack:
        for layer, block in enumerate(model.blocks):
            for name, module in (("mid", model.architecture.mlp_norm), ("input", model.architecture.mlp)):
                stack.callback(block.get_submodule(module).register_forward_pre_hook(keep(name, layer)).remove)
        yield saved


@contextmanager
def _acting(module: Any, act: Callable[[Callable[[Tensor], Tensor], Tensor], Any]) -> Iterator[None]:
    """Let a module compute `act(its own forward, its first argument)`; hooks still run."""
    before, true = module.__dict__.get("forward"), module.forward
    module.forward = lambda x, *args, **kwargs: act(true, x)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
