"""The figures of a training on held-out text: a short form of `unweave eval`."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..evaluation.measures import Shift, Truth
from ..models.language_model import LanguageModel
from ..models.passes import batches, counted, replaced_logits, run
from ..transcoders.dense import DenseTranscoders
from ..transcoders.transcoders import Transcoders


def held_out_figures(
    model: LanguageModel, transcoders: Transcoders, blocks: Int[Tensor, "sequence pos"]
) -> dict[str, Any]:
    """Plain FVU (mean, and `by_layer`), active features, and cross-entropy, KL and top-1 agreement with all MLPs
    replaced; position 0 excluded."""
    dictionary, dtype = DenseTranscoders.load(transcoders, torch.float32, model.device), torch.float32
    n, shift, model_loss = model.n_layers, Shift(), 0.0
    missed, squares, active, tokens = torch.zeros(n), torch.zeros(n), torch.zeros(n), 0
    sums = [torch.zeros(model.d_model, device=model.device) for _ in range(n)]
    for ids in batches(blocks, model):
        seen = run(model, ids, transcoders.write)
        assert seen.logits is not None
        truth = Truth.of(ids, seen.logits)
        model_loss += float(truth.loss.double().sum())

        def watch(layer: int, activation: Tensor) -> None:
            active[layer] += (activation != 0).sum().cpu()

        step = dictionary.start(watch)
        for layer in range(n):
            y = counted(seen.outputs[layer], dtype)
            made = step(layer, counted(seen.inputs[layer], dtype))
            missed[layer] += (y - made).square().sum().cpu()
            squares[layer] += y.square().sum().cpu()
            sums[layer] += y.sum(0)
        tokens += ids.shape[0] * (ids.shape[1] - 1)
        shift.add(truth, replaced_logits(model, ids, transcoders.write, transcoders.read, dictionary.start(), dtype))
    around = torch.stack([squares[layer] - sums[layer].square().sum().cpu() / tokens for layer in range(n)]).clamp_min(
        1e-12
    )
    replaced = shift.replaced()
    return {
        "fvu": float((missed / around).mean()),
        "l0": float(active.mean()) / tokens,
        "loss": model_loss / shift.tokens,
        "loss_replaced": replaced.cross_entropy,
        "kl": replaced.kl,
        "top1": replaced.top1,
        "by_layer": [round(value, 4) for value in (missed / around).tolist()],
    }
