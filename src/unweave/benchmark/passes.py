"""Passes through a small model with neurons, heads or embeddings given, many variants at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..models.language_model import LanguageModel
from ..models.places import Place, hooked

AT_ONCE = 1024
"""Variants in one pass."""


@dataclass(frozen=True)
class BatchPass:
    """What a model did on prompts of one length."""

    embeddings: Float[Tensor, "prompt pos d"]
    neurons: Float[Tensor, "prompt layer pos neuron"]
    """As they come out of the activation function, before they are put to anything."""
    heads: Float[Tensor, "prompt layer pos channel"]
    logits: Float[Tensor, "prompt vocab"]
    """At the last position."""


@dataclass(frozen=True)
class GivenValues:
    """What variants of a prompt are given; None: as it comes."""

    embeddings: Float[Tensor, "variant pos d"] | None = None
    neurons: tuple[Bool[Tensor, "variant layer pos neuron"], Float[Tensor, "variant layer pos neuron"]] | None = None
    """Which, and their values."""
    heads: tuple[Bool[Tensor, "variant layer pos channel"], Float[Tensor, "variant layer pos channel"]] | None = None

    def part(self, which: slice) -> "GivenValues":
        """Some of the variants."""
        return GivenValues(
            None if self.embeddings is None else self.embeddings[which],
            None if self.neurons is None else (self.neurons[0][which], self.neurons[1][which]),
            None if self.heads is None else (self.heads[0][which], self.heads[1][which]),
        )


def run(model: LanguageModel, prompts: Sequence[Sequence[int]]) -> BatchPass:
    """Run prompts of one length as they are."""
    return run_put(model, torch.tensor([list(prompt) for prompt in prompts]), GivenValues())


def run_put(model: LanguageModel, ids: Int[Tensor, "variant pos"], put: GivenValues) -> BatchPass:
    """Run variants of a prompt, everything that is not given live."""
    passes = [
        _run_put(model, ids[begin : begin + AT_ONCE], put.part(slice(begin, begin + AT_ONCE)))
        for begin in range(0, len(ids), AT_ONCE)
    ]
    names = ("embeddings", "neurons", "heads", "logits")
    return BatchPass(*(torch.cat([getattr(one, name) for one in passes]) for name in names))


def _run_put(model: LanguageModel, ids: Int[Tensor, "variant pos"], put: GivenValues) -> BatchPass:
    seen: dict[tuple[Place, int], Tensor] = {}
    given = {"neurons": put.neurons, "heads": put.heads}

    def change(place: Place, layer: int, x: Tensor) -> Tensor | None:
        seen[place, layer] = x.detach()
        found = given[place]
        return None if found is None else torch.where(found[0][:, layer], found[1][:, layer], x)

    embeddings = model.module.get_input_embeddings()(ids) if put.embeddings is None else put.embeddings
    with torch.no_grad(), hooked(model, change, ("neurons", "heads")):
        logits = model.module(inputs_embeds=embeddings, use_cache=False).logits[:, -1]
    return BatchPass(embeddings.detach(), _stacked(seen, "neurons"), _stacked(seen, "heads"), logits)


def gradients(
    model: LanguageModel,
    embeddings: Float[Tensor, "variant pos d"],
    measure: Callable[[Float[Tensor, "variant vocab"]], Float[Tensor, " variant"]],
) -> tuple[Float[Tensor, "variant layer pos neuron"], Float[Tensor, "variant layer pos channel"]]:
    """The gradients of a number from the last logits with respect to neurons and to what heads bring, at embeddings
    that need not be a prompt's."""
    seen: dict[tuple[Place, int], Tensor] = {}

    def keep(place: Place, layer: int, x: Tensor) -> Tensor:
        seen[place, layer] = x if x.requires_grad else x.detach().requires_grad_()
        return seen[place, layer]

    with torch.enable_grad(), hooked(model, keep, ("neurons", "heads")):
        start = embeddings.detach().requires_grad_()
        value = measure(model.module(inputs_embeds=start, use_cache=False).logits[:, -1]).sum()
        slopes = dict(zip(seen, torch.autograd.grad(value, list(seen.values())), strict=True))
    return _stacked(slopes, "neurons"), _stacked(slopes, "heads")


@dataclass(frozen=True)
class DirectEffects:
    """What sources do to neurons and to the logits at once, all other neurons held."""

    neurons: Float[Tensor, "source layer pos neuron"]
    logits: Float[Tensor, "source vocab"]


def direct_effects(
    model: LanguageModel,
    prompt: Sequence[int],
    base: BatchPass,
    other: BatchPass,
    sources: Sequence[tuple[int, int, int]],
    *,
    hold: Sequence[tuple[int, int, int]] = (),
) -> DirectEffects:
    """Changes of neurons and logits when each source takes its value in another pass and all other neurons keep theirs.

    Args:
        sources: (layer, position, neuron); layer -1 is the token at a position.
        hold: for each source the (layer, position, head) that keeps what it brings.
    """
    count, put = len(sources), base.neurons.repeat(len(sources), 1, 1, 1)
    embeddings = base.embeddings.repeat(count, 1, 1)
    for row, (layer, position, index) in enumerate(sources):
        if layer < 0:
            embeddings[row, position] = other.embeddings[0, position]
        else:
            put[row, layer, position, index] = other.neurons[0, layer, position, index]
    heads = None
    if hold:
        heads = head_mask(model, hold, base), base.heads.repeat(count, 1, 1, 1)
    ids = torch.tensor([list(prompt)]).repeat(count, 1)
    made = run_put(model, ids, GivenValues(embeddings, (torch.ones_like(put, dtype=torch.bool), put), heads))
    return DirectEffects(made.neurons - base.neurons, made.logits - base.logits)


def head_mask(
    model: LanguageModel, heads: Sequence[tuple[int, int, int]], like: BatchPass
) -> Bool[Tensor, "variant layer pos channel"]:
    """The channels of one head a variant, given by (layer, position, head)."""
    mask = torch.zeros(len(heads), *like.heads.shape[1:], dtype=torch.bool)
    size = like.heads.shape[-1] // model.config.num_attention_heads
    for row, (layer, position, head) in enumerate(heads):
        mask[row, layer, position, head * size : (head + 1) * size] = True
    return mask


def _stacked(seen: dict[tuple[Place, int], Tensor], place: Place) -> Tensor:
    return torch.stack([seen[key] for key in sorted(key for key in seen if key[0] == place)], 1)
