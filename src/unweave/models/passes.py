"""Forward passes over batches of sequences: what the MLPs see and make, and the logits when something stands in for
them.

Position 0 holds the model's leading special token, whose enormous norms no dictionary is trained on: its MLP outputs
are always the model's own, and it is counted nowhere.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .language_model import LanguageModel
from .recording import ReadPoint, WatchPoint, WritePoint, first_of, watching

TOKENS_PER_BATCH = 512
"""On the CPU: enough for full matrix speed, few enough for the logits of a large vocabulary."""
TOKENS_PER_BATCH_ELSEWHERE = 8192

Step = Callable[[int, Float[Tensor, "token d"]], Float[Tensor, "token d"]]
"""Called once for each layer, from the first to the last: what is read there to what the MLP is to put out."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of the real model over a batch of sequences."""

    ids: Int[Tensor, "sequence pos"]
    entered: tuple[Float[Tensor, "sequence pos d"], ...]
    """What enters each block."""
    resid_mid: tuple[Float[Tensor, "sequence pos d"], ...]
    """The residual stream that each MLP (or its norm) reads."""
    inputs: tuple[Float[Tensor, "sequence pos d"], ...]
    """What each MLP sees: the norm's output."""
    outputs: tuple[Float[Tensor, "sequence pos d"], ...]
    """What a dictionary has to make: each MLP's output, or what is added to the residual stream after a norm that
    follows."""
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


def batches(
    blocks: Int[Tensor, "sequence pos"], model: LanguageModel, on_cpu: int = TOKENS_PER_BATCH
) -> Iterator[Int[Tensor, "batch pos"]]:
    """Blocks in batches that suit the model's device, on that device."""
    tokens = on_cpu if model.device.type == "cpu" else TOKENS_PER_BATCH_ELSEWHERE
    for part in blocks.split(max(1, tokens // blocks.shape[1])):
        yield part.to(model.device)


def run(model: LanguageModel, ids: Int[Tensor, "sequence pos"], write: WritePoint, *, logits: bool = True) -> Pass:
    """Run the real model and keep what its MLPs see and make; `write` says where outputs are taken."""
    outputs_at = []
    for layer in range(model.n_layers):
        writer, factor = model.writer(layer, write)
        outputs_at.append(WatchPoint(("output", layer), writer, "out", lambda output, f=factor: _times(f, output)))
    tuples: list[bool] = []

    def see(module: Any, args: tuple, output: Any) -> None:
        tuples.append(isinstance(output, tuple))

    with watching([*_inputs_at(model), *outputs_at]) as saved, ExitStack() as stack:
        stack.callback(model.blocks[0].register_forward_hook(see).remove)
        made = _logits(model, ids) if logits else _hidden_only(model, ids)
    entered, resid_mid, inputs, outputs = (
        tuple(saved[name, layer] for layer in range(model.n_layers)) for name in ("entered", "mid", "input", "output")
    )
    return Pass(ids, entered, resid_mid, inputs, outputs, made, tuples[0])


def read_at(
    model: LanguageModel, layer: int, point: ReadPoint, mid: Float[Tensor, "token d"], mlp_in: Float[Tensor, "token d"]
) -> Float[Tensor, "token d"]:
    """What is read at one MLP: the residual stream before its norm, the norm's output, or that before its gain."""
    match point:
        case "mid":
            return mid
        case "mlp_in":
            return mlp_in
        case "mlp_in_normalized":
            return model.before_mlp(layer, mid).without_gain.forward(mid)


def replaced_logits(
    model: LanguageModel,
    ids: Int[Tensor, "sequence pos"],
    write: WritePoint,
    read: ReadPoint,
    step: Step,
    dtype: torch.dtype,
    *,
    gradient: bool = False,
) -> Float[Tensor, "sequence pos vocab"]:
    """The logits with all MLPs replaced by `step` from position 1 on; attention is live.

    With `gradient` they can be differentiated in whatever `step` makes its answers of.

    Source: Ameisen et al. 2025, "Circuit Tracing", section on the replacement model.
    """
    with ExitStack() as stack:
        saved = stack.enter_context(watching(_inputs_at(model)))

        def made(layer: int) -> Tensor:
            return step(
                layer,
                read_at(
                    model,
                    layer,
                    read,
                    counted(saved.pop(("mid", layer)), dtype),
                    counted(saved.pop(("input", layer)), dtype),
                ),
            )

        for layer in range(model.n_layers):
            stack.enter_context(_putting_out(model, layer, write, lambda layer=layer: made(layer)))
        return _logits(model, ids, gradient)


def logits_with_output(
    model: LanguageModel, clean: Pass, layer: int, output: Float[Tensor, "token d"], write: WritePoint
) -> Float[Tensor, "sequence pos vocab"]:
    """The logits when one MLP puts out `output` from position 1 on; the layers before it are not run again."""
    hidden = clean.entered[layer]
    passed = (hidden,) if clean.tuples else hidden
    with ExitStack() as stack:
        for block in model.blocks[:layer]:
            stack.enter_context(_acting(block, lambda true, x: passed))
        stack.enter_context(_putting_out(model, layer, write, lambda: output))
        return _logits(model, clean.ids)


@contextmanager
def _putting_out(model: LanguageModel, layer: int, write: WritePoint, made: Callable[[], Tensor]) -> Iterator[None]:
    """Let one MLP put out what is made for it, from position 1 on."""
    mlp, (writer, factor) = model.blocks[layer].get_submodule(model.architecture.mlp), model.writer(layer, write)
    with ExitStack() as stack:
        if mlp is not writer:
            stack.enter_context(_acting(mlp, lambda true, x: true(x[:, :1])))
        stack.enter_context(_acting(writer, lambda true, x: _after_first(true(x[:, :1]), made() / factor)))
        yield


def _after_first(own: Float[Tensor, "sequence _ d"], made: Float[Tensor, "token d"]) -> Float[Tensor, "sequence pos d"]:
    """The model's own output at position 0, and what was made at all others."""
    return torch.cat([own[:, :1], made.to(own.dtype).view(len(own), -1, own.shape[-1])], dim=1)


def _logits(
    model: LanguageModel, ids: Int[Tensor, "sequence pos"], gradient: bool = False
) -> Float[Tensor, "sequence pos vocab"]:
    with torch.set_grad_enabled(gradient):
        return model.module(input_ids=ids, use_cache=False).logits


def _hidden_only(model: LanguageModel, ids: Int[Tensor, "sequence pos"]) -> None:
    with torch.no_grad():
        model.module.base_model(input_ids=ids, use_cache=False)


def _times(factor: float, output: Any) -> Tensor:
    return first_of(output) if factor == 1 else first_of(output) * factor


def _inputs_at(model: LanguageModel) -> Iterator[WatchPoint]:
    """Under ("entered", "mid" or "input", layer), what enters every block, every MLP's norm and every MLP."""
    for layer, block in enumerate(model.blocks):
        yield WatchPoint(("entered", layer), block, "in")
        yield WatchPoint(("mid", layer), model.reader(layer), "in")
        yield WatchPoint(("input", layer), block.get_submodule(model.architecture.mlp), "in")


@contextmanager
def _acting(module: Any, act: Callable[[Callable[[Tensor], Tensor], Tensor], Any]) -> Iterator[None]:
    """Let a module compute `act(its own forward, its first argument)`, with the first output if it has several;
    hooks still run."""
    before, true = module.__dict__.get("forward"), module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        others: list[Any] = []

        def first(x: Tensor) -> Tensor:
            output = true(x)
            others[:] = output[1:] if isinstance(output, tuple) else ()
            return first_of(output)

        made = act(first, args[0] if args else kwargs["hidden_states"])
        return (made, *others) if others else made

    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
