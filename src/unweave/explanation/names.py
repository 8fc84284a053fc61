"""Names of groups, each from evidence: the tokens a group sits on, what it pushes for on average over texts, and the
labels of its members' pages."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..interventions.live import Put, Variant, heads_of, next_logits, run_logits
from ..interventions.parts import Part
from ..interventions.slopes import slopes
from ..models.language_model import LanguageModel
from ..response.means import other_contexts
from .groups import PartGroup
from .maps import Contrast

CONTEXTS, CONTEXT = 16, 8
"""Other contexts in which a group's push is tried, at the last token of each, and how many tokens they have."""
SURE = 4.0
"""How many standard errors over contexts a pushed token's logit must rise."""
PUSHED = 3
"""Tokens in a name."""
LIKELY = 50
"""A name is made of so many tokens, the likeliest on either prompt: what is pushed beside them does not matter here."""
MOST_OF = 0.5
"""The share of members that must push for the tokens of a name, or have its label."""
_BYTES = re.compile(r"(?:<0x[0-9A-F]{2}>)+")


def with_names(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    effects: dict[tuple[int, int, int], float],
    labels: Mapping[tuple[int, int], str] | None = None,
) -> tuple[PartGroup, ...]:
    """Groups by names, with what each rests on; where that is thin the evidence says so.

    A group's push is the causal readout of what it writes here and does not in the other prompt: that much more of it
    at the last token of other contexts, through the whole model, as a mean over contexts. A name holds if most members
    push for its tokens too, each by the mean derivative over contexts.
    """
    prompts = other_contexts(contrast.model, CONTEXTS, CONTEXT, int(contrast.ids[0]))
    pushed = [_named_tokens(contrast, push) for push in _pushes(contrast, groups, prompts)]
    members = _members(contrast, groups, pushed, prompts)
    made = []
    for group, tokens, pushing in zip(groups, pushed, members, strict=True):
        where, size = place(contrast, group), len(group)
        known, evidence = "", []
        if tokens and pushing >= MOST_OF * size:
            words = ", ".join(repr(contrast.model.token_text(token)) for token in tokens)
            count = f" ({pushing} of {size} do)" if size > 1 else ""
            known = f" that push{'es' * (size == 1)} {words}{count}"
            evidence.append(f"{pushing} of {size} members push for these in {len(prompts)} other contexts")
        else:
            tokens = []
            evidence.append("(unnamed) no token is surely pushed by most members")
        label = _label(group, labels or {})
        if label is not None:
            known = f" labelled {label[0]!r} ({label[1]} of {size})" + (f",{known}" if known else "")
            evidence.append(f"pages of {label[1]} of {size} members are labelled {label[0]!r}")
        if group.kind == "neurons" and size > 1:
            alike = sum((effects.get(triple, 0.0) < 0) == group.against for triple in group.part.units.triples)
            evidence.append(f"{alike} of {size} members {'work against' if group.against else 'help'} it alone")
        made.append(
            replace(
                group, name=where + known, place=where, evidence="; ".join(evidence),
                pushes=tuple(contrast.model.token_text(token) for token in tokens), support=pushing if tokens else None,
                label=None if label is None else label[0],
            )
        )  # fmt: skip
    return tuple(_told_apart(made))


def _told_apart(groups: Sequence[PartGroup]) -> list[PartGroup]:
    """No two groups of one name."""
    met, made = Counter[str](), []
    for group in groups:
        met[group.name] += 1
        again = f" (group {met[group.name]})" if met[group.name] > 1 else ""
        made.append(replace(group, name=group.name + again, place=group.place + again))
    return made


def place(contrast: Contrast, group: PartGroup) -> str:
    """Where a group sits, in words."""
    at = listed([token_name(contrast, position) for position in group.part.positions])
    layers = group.part.layers
    span = f"layer {layers.start}" if len(layers) == 1 else f"layers {layers.start}-{layers.stop - 1}"
    if group.kind == "heads":
        names = listed([f"{layer}.{head}" for layer, head, _ in group.part.heads])
        return f"{'heads' if len(group.part.heads) > 1 else 'head'} {names} at {at}"
    if group.kind == "MLPs":
        return f"the {'MLPs of ' if len(layers) > 1 else 'MLP of '}{span} at {at}"
    count = len(group.part.units)
    if count > 1:
        return f"{count} neurons at {at}, {span}"
    return f"neuron {int(group.part.units.index[0])} of layer {layers.start} at {at}"


def listed(words: Sequence[str]) -> str:
    """Words one after another.

    >>> listed(["25.2", "26.2", "27.5"])
    '25.2, 26.2 and 27.5'
    """
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def token_name(contrast: Contrast, position: int) -> str:
    """A token of the prompt in quotes, with its number where the prompt has it twice; of a piece of a character, the
    character."""
    ids = contrast.ids.tolist()
    text = readable([contrast.model.token_text(token) for token in ids])[position]
    return text if ids.count(ids[position]) == 1 else f"{text} (token {position})"


def readable(texts: Sequence[str]) -> list[str]:
    """A prompt's tokens in quotes; pieces of one character are called by the character and their number.

    >>> readable([" a", "<0xE2><0x82>", "<0xAC>"])
    ["' a'", "'€' (piece 1 of 2)", "'€' (piece 2 of 2)"]
    """
    names, start = [repr(text) for text in texts], 0
    while start < len(texts):
        stop = start
        while stop < len(texts) and _BYTES.fullmatch(texts[stop]):
            stop += 1
        data = bytes.fromhex("".join(texts[start:stop]).replace("<0x", "").replace(">", ""))
        with_text = data.decode("utf-8", "replace")
        if stop > start and "\ufffd" not in with_text:
            for number in range(start, stop):
                piece = f"piece {number - start + 1} of {stop - start}"
                names[number] = f"{with_text!r} ({piece})" if stop - start > 1 else repr(with_text)
        start = max(stop, start + 1)
    return names


def _pushes(
    contrast: Contrast, groups: Sequence[PartGroup], prompts: Int[Tensor, "context pos"]
) -> list[Float[Tensor, "context vocab"]]:
    """By group, what its push does to the logits in each context, less the mean over the vocabulary."""
    if not groups:
        return []
    plain, found = next_logits(contrast.model, prompts), []
    for group in groups:
        push = _push(contrast, group.part, prompts.shape[1])
        change = run_logits(contrast.model, prompts, [push] * len(prompts)) - plain
        found.append(change - change.mean(-1, keepdim=True))
    return found


def _push(contrast: Contrast, part: Part, length: int) -> Variant:
    """What a part has here and not in the other prompt, added at the last token."""
    puts = []
    at = torch.tensor([length - 1])
    for place, layer, _, line in part.differences(contrast.here, contrast.there, heads_of(contrast.model)):
        puts.append(Put(place, layer, at, None, line[None], add=True))
    return puts


def _named_tokens(contrast: Contrast, push: Float[Tensor, "context vocab"]) -> list[int]:
    """The likely tokens that are surely pushed, those first that are pushed most at least."""
    likely = torch.maximum(contrast.here.logits, contrast.there.logits)
    order = likely.argsort(descending=True)[: 4 * LIKELY].tolist()
    words = [token for token in order if _is_word(contrast.model, token)]
    asked = torch.tensor(words[:LIKELY], dtype=torch.int64)
    least = push.mean(0)[asked] - SURE * push.std(0)[asked] / len(push) ** 0.5
    order = least.argsort(descending=True, stable=True)[:PUSHED]
    return asked[order[least[order] > 0]].tolist()


def _is_word(model: LanguageModel, token: int) -> bool:
    text = model.token_text(token)
    return text.isprintable() and bool(text.strip()) and _BYTES.fullmatch(text) is None


def _members(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    pushed: Sequence[Sequence[int]],
    prompts: Int[Tensor, "context pos"],
) -> list[int]:
    """How many members of each group push for its tokens more than for others, to first order."""
    asked = [number for number, tokens in enumerate(pushed) if tokens]
    if not asked:
        return [0] * len(groups)

    def numbers(logits: Tensor, shown: Tensor, span: range) -> Tensor:
        return torch.stack([logits[:, list(pushed[number])].mean(-1) - logits.mean(-1) for number in asked])

    places = sorted({place for number in asked for place in groups[number].part.places})
    last = [prompts.shape[1] - 1]
    found = slopes(contrast.model, prompts, [[]] * len(prompts), places, last, numbers)
    mean = {key: slope.mean(1)[:, 0] for key, slope in found.at.items()}
    count, counts = heads_of(contrast.model), [0] * len(groups)
    for row, number in enumerate(asked):
        for member in groups[number].part.members:
            change = sum(
                float(mean[place, layer][row] @ line)
                for place, layer, _, line in member.differences(contrast.here, contrast.there, count)
            )
            counts[number] += change > 0
    return counts


def _label(group: PartGroup, labels: Mapping[tuple[int, int], str]) -> tuple[str, int] | None:
    """The label that most members' pages have, and how many have it."""
    members = [(layer, index) for layer, _, index in group.part.units.triples]
    counts = Counter(labels[member] for member in members if labels.get(member))
    if not counts:
        return None
    label, count = counts.most_common(1)[0]
    return (label, count) if count >= MOST_OF * len(members) else None
