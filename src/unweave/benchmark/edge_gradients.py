"""Derivatives of every neuron by every other at once, all others held: the edges of gradient methods."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.freezing import Hooks, freeze_norm, freeze_norms, freeze_pattern
from ..models.language_model import LanguageModel
from ..models.places import neurons_changed
from .passes import BatchPass


class EdgeSlopes(NamedTuple):
    """The derivatives of some neurons, and last of the target, with all other neurons held."""

    neurons: Float[Tensor, "end layer pos neuron"]
    embeddings: Float[Tensor, "end pos d"]


def edge_slopes(
    model: LanguageModel,
    base: BatchPass,
    ends: Sequence[tuple[int, int, int]],
    tokens: tuple[int, int],
) -> EdgeSlopes:
    """How neurons, and the difference of two logits, answer to each neuron and token at once.

    Args:
        base: a pass of one prompt, or from embeddings between two prompts.
        ends: (layer, position, neuron) of each.
    """
    count = len(ends) + 1
    given = [part.repeat(count, 1, 1).requires_grad_() for part in base.neurons.unbind(1)]
    start = base.embeddings.repeat(count, 1, 1).requires_grad_()
    live: dict[int, Tensor] = {}

    def hold(layer: int, h: Tensor) -> Tensor:
        live[layer] = h
        return given[layer]

    with torch.enable_grad(), neurons_changed(model, hold):
        logits = model.module(inputs_embeds=start, use_cache=False).logits[-1, -1]
        values = [live[layer][row, at, index] for row, (layer, at, index) in enumerate(ends)]
        whole = torch.stack([*values, logits[tokens[0]] - logits[tokens[1]]]).sum()
        *found, embeddings = torch.autograd.grad(whole, (*given, start))
    return EdgeSlopes(torch.stack(found, 1), embeddings)


@contextmanager
def patterns_and_norms_held(model: LanguageModel, prompt: Sequence[int]) -> Iterator[None]:
    """Hold attention patterns and the denominators of norms as they are on a prompt."""
    recording = model.record(torch.tensor(list(prompt)))
    with ExitStack() as stack:
        hooks = Hooks(stack)
        for layer in range(model.n_layers):
            freeze_pattern(hooks, model, recording, layer)
            freeze_norms(hooks, model, recording, layer)
        final = model.module.get_submodule(model.architecture.final_norm)
        freeze_norm(hooks, final, model.frozen_final_norm(recording))
        yield
