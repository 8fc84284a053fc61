"""How often the organism is right, by behaviour, on instances that it was never taught."""

import random
from collections.abc import Sequence

import torch

from ..errors import ModelError
from ..models.language_model import LanguageModel
from .instances import BEHAVIOURS, TAUGHT_ONLY, Instance, instances
from .sentences import vocabulary

AT_ONCE = 256


def asked(behaviour: str, limit: int | None = None, seed: int = 0) -> tuple[Instance, ...]:
    """The instances that measure a behaviour: those held out, or where all are taught those; a random `limit` of
    them if there are more.

    Raises:
        OptionError: an unknown behaviour.
    """
    some = instances(behaviour, held_out=None if behaviour in TAUGHT_ONLY else True)
    if limit is None or limit >= len(some):
        return some
    return tuple(random.Random(f"{behaviour} {seed}").sample(some, limit))


def check_organism(model: LanguageModel) -> None:
    """Refuse a model of other words, whose answers would be right by chance at best.

    Raises:
        ModelError: it is one.
    """
    if model.unembedding.shape[0] != len(vocabulary()):
        raise ModelError(f"{model.name} is no organism: its vocabulary has {model.unembedding.shape[0]:,} tokens")


def right(model: LanguageModel, some: Sequence[Instance]) -> list[bool]:
    """Whether the model, writing on greedily, gives exactly each answer.

    Raises:
        ModelError: the model has no tokenizer.
        PromptError: a word that the tokenizer does not know.
    """
    if model.tokenizer is None:
        raise ModelError(f"{model.name} comes without a tokenizer; the organism's behaviours are asked in words")
    lengths: dict[int, list[int]] = {}
    ids = [model.tokenize(instance.text).tolist() for instance in some]
    for place, row in enumerate(ids):
        lengths.setdefault(len(row), []).append(place)
    found = [False] * len(some)
    for places in lengths.values():
        for begin in range(0, len(places), AT_ONCE):
            part = places[begin : begin + AT_ONCE]
            tokens = torch.tensor([ids[place] for place in part], device=model.device)
            with torch.no_grad():
                hits = model.module(input_ids=tokens[:, :-1], use_cache=False).logits.argmax(-1) == tokens[:, 1:]
            for place, row in zip(part, hits, strict=True):
                # Greedy writing is right to the end exactly if each next word is, given the right ones before it.
                found[place] = bool(row[-len(some[place].answer.split()) :].all())
    return found


def accuracies(
    model: LanguageModel, behaviours: Sequence[str] = BEHAVIOURS, limit: int | None = None
) -> dict[str, tuple[float, int]]:
    """Share of right answers and number of instances, by behaviour.

    Raises:
        OptionError: an unknown behaviour.
    """
    found = {}
    for behaviour in behaviours:
        hits = right(model, asked(behaviour, limit))
        found[behaviour] = (sum(hits) / len(hits), len(hits))
    return found
