"""One backward pass through the real model, block by block: the measure that a response graph has to agree with."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.recording import first_of, with_first
from .experts import choosers

Measure = Callable[[Float[Tensor, " d"], Float[Tensor, " vocab"]], Float[Tensor, ""]]
"""A number from what the final norm gives and from capped logits, both at the last position."""


def real_gradients(
    model: LanguageModel,
    ids: Int[Tensor, " pos"],
    measure: Measure,
    *,
    residual: bool,
    entered: Float[Tensor, "pos d"] | None = None,
) -> tuple[Float[Tensor, "layer pos d"], Float[Tensor, "pos d"]]:
    """The gradients of a measure where each MLP writes, and at what enters layer 0, by PyTorch's own derivative.

    Blocks are run again one at a time, so that memory holds one block's pass. Routers of experts are held.

    Args:
        residual: gradients after a norm that may follow the MLP.
        entered: what enters layer 0 in place of the prompt's own embeddings.
    """
    row, calls = model.architecture, {}
    with ExitStack() as stack:
        if entered is not None:
            hook = model.blocks[0].register_forward_pre_hook(_entering(entered), with_kwargs=True)
            stack.callback(hook.remove)
        for layer, block in enumerate(model.blocks):
            hook = block.register_forward_pre_hook(_keep(calls, layer), with_kwargs=True)
            stack.callback(hook.remove)
        final = model.module.get_submodule(row.final_norm)
        stack.callback(final.register_forward_pre_hook(_keep(calls, model.n_layers), with_kwargs=True).remove)
        with torch.no_grad():
            model.module(input_ids=ids[None].to(model.device), use_cache=False)
    dtype, found = model.engine_dtype, []
    with torch.enable_grad(), ExitStack() as stack:
        if row.up is None:
            for block in model.blocks:
                for module in choosers(row, block.get_submodule(row.mlp)):
                    stack.callback(module.register_forward_hook(_detached).remove)
        x = _input(*calls.pop(model.n_layers)).requires_grad_()
        normalized = final(x)[0, -1]
        logits = model.capped(model.raw_logits(model.module.get_output_embeddings()(normalized)))
        (g,) = torch.autograd.grad(measure(normalized, logits), x)
        for layer in range(model.n_layers - 1, -1, -1):
            args, kwargs = calls.pop(layer)
            x = _input(args, kwargs).requires_grad_()
            push = torch.zeros_like(x).requires_grad_()
            writer, factor = model.writer(layer, "residual" if residual else "mlp_out")
            hook = writer.register_forward_hook(
                lambda module, args, output, push=push, factor=factor: with_first(
                    output, first_of(output) + push / factor
                )
            )
            try:
                out = model.blocks[layer](*_with_input(args, x), **_with_keyword(kwargs, x))
            finally:
                hook.remove()
            g, at_write = torch.autograd.grad(first_of(out), (x, push), g)
            found.append(at_write[0].to("cpu", dtype))
    return torch.stack(found[::-1]), g[0].to("cpu", dtype)


def _keep(calls: dict[int, tuple[Any, Any]], layer: int) -> Callable:
    return lambda module, args, kwargs: calls.update({layer: (args, kwargs)})


def _entering(entered: Float[Tensor, "pos d"]) -> Callable:
    def put(module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        x = entered[None].to(_input(args, kwargs))
        return _with_input(args, x), _with_keyword(kwargs, x)

    return put


def _detached(module: Any, args: Any, output: Any) -> Any:
    return tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return (args[0] if args else kwargs["hidden_states"]).detach()


def _with_input(args: tuple[Any, ...], x: Tensor) -> tuple[Any, ...]:
    return (x, *args[1:]) if args else ()


def _with_keyword(kwargs: dict[str, Any], x: Tensor) -> dict[str, Any]:
    return {**kwargs, "hidden_states": x} if "hidden_states" in kwargs else kwargs
