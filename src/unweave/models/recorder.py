"""Inputs and outputs of all MLPs on batches of text, with MLPs already replaced where asked."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .language_model import LanguageModel
from .recording import first_of, with_first

Replace = Callable[[int, Float[Tensor, "token d"]], Float[Tensor, "token d"]]
"""(layer, inputs of its MLP) to what stands in for its outputs; called for all layers in order."""


def record(
    model: LanguageModel, blocks: Int[Tensor, "sequence pos"], layers: range, replace: Replace | None = None,
    where: Bool[Tensor, "sequence layer"] | None = None, precision: torch.dtype = torch.float32,
) -> tuple[list[Float[Tensor, "token d"]], list[Float[Tensor, "token d"]]]:  # fmt: skip
    """Inputs and outputs of the MLPs of `layers`, as lists of [token, d] in float32, position 0 of each sequence
    left out.

    With `replace`, the sequences and layers named by `where` go on with its answer in place of their MLP's output, so
    that later layers see what they would see in the replacement model; outputs are still those of the true MLPs. This
    is imitation learning on the learner's own inputs (Ross et al. 2011, DAgger).
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    chosen = None if where is None or not bool(where.any()) else where.any(1).nonzero()[:, 0].to(model.device)

    def hook(layer: int) -> Callable[..., Any]:
        def after(module: Any, args: tuple, put_out: Any) -> Any:
            x, output = args[0], first_of(put_out)
            if layer in layers:
                inputs.append(x[:, 1:].reshape(-1, x.shape[-1]).float())
                outputs.append(output[:, 1:].reshape(-1, x.shape[-1]).float())
            if replace is None or chosen is None or where is None:
                return None
            part = x[chosen, 1:]
            instead = replace(layer, part.reshape(-1, x.shape[-1]).float()).view(part.shape).to(output.dtype)
            use = where[chosen.cpu(), layer].to(output.device)
            output = output.clone()
            output[chosen, 1:] = torch.where(use[:, None, None], instead, output[chosen, 1:])
            return with_first(put_out, output)

        return after

    with (
        ExitStack() as stack,
        torch.no_grad(),
        torch.autocast(model.device.type, precision, enabled=precision != torch.float32),
    ):
        for layer, block in enumerate(model.blocks):
            handle = block.get_submodule(model.architecture.mlp).register_forward_hook(hook(layer))
            stack.callback(handle.remove)
        model.module.base_model(input_ids=blocks.to(model.device), use_cache=False)
    return inputs, outputs


def batches(blocks: Int[Tensor, "sequence pos"], size: int) -> Iterator[Int[Tensor, "part pos"]]:
    """Blocks in runs of at most `size`."""
    for begin in range(0, len(blocks), size):
        yield blocks[begin : begin + size]
