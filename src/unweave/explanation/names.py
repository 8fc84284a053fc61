"""Names of groups, each from evidence: the tokens a group sits on, and what it pushes for, on average over contexts."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.live import Put, Variant, next_logits, run_logits
from .groups import PartGroup
from .maps import Contrast

CONTEXTS = 8
"""Other contexts in which a group's push is tried, at the last token of each."""
CONTEXT = 8
SURE = 2.0
"""How many standard errors over contexts a pushed token's logit must rise."""
PUSHED = 3
"""Tokens in a name."""
LIKELY = 200
"""A name is made of the tokens that are so likely on either prompt: what is pushed beside them does not matter here."""


def with_names(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    effects: dict[tuple[int, int, int], float],
    contexts: Sequence[Sequence[int]] = (),
) -> tuple[PartGroup, ...]:
    """Groups by names, with what each rests on; where that is thin the evidence says so.

    A group's push is the causal readout of what it writes here and does not in the other prompt: that much more of its
    neurons at the last token of other contexts, through the whole model, as a mean over contexts.
    """
    pushes = _pushes(contrast, groups, contexts)
    made = []
    for group, push in zip(groups, pushes, strict=True):
        where = place(contrast, group)
        name, evidence = where, "its place alone"
        if group.kind == "neurons":
            signs = [effects.get(triple, 0.0) < 0 for triple in group.part.units.triples]
            alike = sum(sign == group.against for sign in signs)
            evidence = f"{alike} of {len(signs)} members each do so alone" if len(signs) > 1 else "a single neuron"
            tokens = _named_tokens(contrast, push)
            if tokens:
                name = f"{where} that push{'es' * (len(signs) == 1)} {', '.join(map(repr, tokens))}"
            evidence += f"; push in {len(contexts)} other contexts" if tokens else "; (unnamed) no token surely pushed"
        made.append(replace(group, name=name, place=where, evidence=evidence))
    return tuple(made)


def place(contrast: Contrast, group: PartGroup) -> str:
    """Where a group sits, in words."""
    at = " and ".join(token_name(contrast, position) for position in group.part.positions)
    layers = group.part.layers
    span = f"layer {layers.start}" if len(layers) == 1 else f"layers {layers.start}-{layers.stop - 1}"
    if group.kind == "heads":
        names = " and ".join(f"{layer}.{head}" for layer, head, _ in group.part.heads)
        return f"{'heads' if len(group.part.heads) > 1 else 'head'} {names} at {at}"
    if group.kind == "MLPs":
        return f"the {'MLPs of ' if len(layers) > 1 else 'MLP of '}{span} at {at}"
    count = len(group.part.units)
    return f"{count} neurons at {at}, {span}" if count > 1 else f"neuron {group.part.units.ids[0]} at {at}"


def token_name(contrast: Contrast, position: int) -> str:
    """A token of the prompt in quotes, with its number where the prompt has it twice."""
    text, ids = contrast.token(position), contrast.ids.tolist()
    return repr(text) if ids.count(ids[position]) == 1 else f"{text!r} (token {position})"


def _pushes(
    contrast: Contrast, groups: Sequence[PartGroup], contexts: Sequence[Sequence[int]]
) -> list[Float[Tensor, "context vocab"] | None]:
    """By group, what its push does to the logits in each context, less the mean over the vocabulary."""
    asked = [n for n, group in enumerate(groups) if group.kind == "neurons" and group.position == len(contrast.ids) - 1]
    found: list[Tensor | None] = [None] * len(groups)
    if not asked or not contexts:
        return found
    prompts = torch.tensor([list(ids) for ids in contexts])
    plain = next_logits(contrast.model, prompts)
    for number in asked:
        pushed = run_logits(
            contrast.model, prompts, [_push(contrast, groups[number], prompts.shape[1] - 1)] * len(prompts)
        )
        change = pushed - plain
        found[number] = change - change.mean(-1, keepdim=True)
    return found


def _push(contrast: Contrast, group: PartGroup, position: int) -> Variant:
    units = group.part.units
    amounts = contrast.here.units(units) - contrast.there.units(units)
    return [
        Put("neurons", layer, torch.full_like(units.layer[here], position), units.index[here], amounts[here], add=True)
        for layer in units.layer.unique().tolist()
        for here in [units.layer == layer]
    ]


def _named_tokens(contrast: Contrast, push: Float[Tensor, "context vocab"] | None) -> list[str]:
    if push is None or len(push) < 2:
        return []
    likely = torch.maximum(contrast.here.logits, contrast.there.logits)
    asked = likely.topk(min(LIKELY, len(likely))).indices
    mean, error = push.mean(0), push.std(0) / len(push) ** 0.5
    sure = torch.zeros_like(mean)
    sure[asked] = torch.where(mean > SURE * error, mean, torch.zeros_like(mean))[asked]
    best = sure.topk(PUSHED)
    texts = [contrast.model.token_text(int(token)) for token in best.indices[best.values > 0]]
    return [text for text in texts if text.isprintable() and text.strip()]
