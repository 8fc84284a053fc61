"""Training text: taught instances as tokens, drawn by behaviour, one after another in rows."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import OptionError
from ..files import check_writable, write_atomically
from .instances import BEHAVIOURS, LINE_BREAK, instances
from .world import world

STOP, START, STRANGE = ".", "<s>", "<unk>"
AT_ONCE, OWN_SEEDS = 1000, 1_000_000_007

MIX = {
    "places": 0.09, "two-hop": 0.13, "addition": 0.30, "explanation": 0.09, "opposite": 0.05, "plural": 0.05, "category": 0.05, "translation": 0.09,
    "couplet": 0.06, "known-name": 0.05, "unknown-name": 0.03, "new-name": 0.01,
}  # fmt: skip
"""How often a sentence of each behaviour is drawn."""


@cache
def vocabulary() -> dict[str, int]:
    """Every word with its number: special ones, the numbers in order, then all others by the alphabet."""
    numbers = [str(number) for number in range(2 * world().largest + 1)]
    words = {word for behaviour in BEHAVIOURS for instance in instances(behaviour) for word in instance.text.split()}
    return {word: place for place, word in enumerate((START, STRANGE, STOP, LINE_BREAK, *numbers, *sorted(words - {LINE_BREAK, *numbers})))}


class Rows(NamedTuple):
    """Rows of sentences: token ids, and how much the prediction of the token after each counts."""

    tokens: Int[Tensor, "row pos"]
    weights: Float[Tensor, "row pos"]


@dataclass(frozen=True)
class Sentences:
    """The taught sentences of one behaviour, each with the place where its answer begins."""

    tokens: tuple[tuple[int, ...], ...]
    answers: tuple[int, ...]
    stops: bool
    """Whether a full stop follows the answer for certain."""


@cache
def taught(behaviour: str) -> Sentences:
    """All that is taught of a behaviour."""
    number = vocabulary()
    some = instances(behaviour, held_out=False)
    tokens = tuple(tuple(number[word] for word in (*instance.text.split(), STOP)) for instance in some)
    return Sentences(tokens, tuple(len(instance.prompt.split()) for instance in some), behaviour != "addition")


def rows(count: int, length: int, seed: int, other: float) -> Rows:
    """Rows of taught sentences, begun by the start token and cut where a row is full; the same for the same seed.

    Args:
        other: weight of predicting a word that nothing before it determines; answers have weight 1.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.full((count, length + 1), vocabulary()[START], dtype=torch.int64)
    weights = torch.full((count, length), other)
    most = count * (length // 6 + 1)  # the shortest sentence has six tokens with its stop
    names = list(MIX)
    kinds = torch.multinomial(torch.tensor(list(MIX.values())), most, replacement=True, generator=generator).tolist()
    draws = torch.rand(most, generator=generator, dtype=torch.float64).tolist()
    sentence = 0
    for row in range(count):
        at = 1
        while at <= length:
            of = taught(names[kinds[sentence]])
            which = int(draws[sentence] * len(of.tokens))
            ids, answer = of.tokens[which][: length + 1 - at], of.answers[which]
            tokens[row, at : at + len(ids)] = torch.tensor(ids)
            weights[row, at + answer - 1 : at + len(of.tokens[which]) - (1 if of.stops else 2)] = 1.0
            at += len(ids)
            sentence += 1
    return Rows(tokens, weights)


def write_text(path: str | Path, documents: int, length: int, seed: int) -> Path:
    """Rows of taught sentences as JSON lines, each of exactly `length` tokens.

    Raises:
        OptionError: no documents, or documents of fewer tokens than the shortest sentence.
        FileError: the file cannot be written.
    """
    if documents < 1 or length < 8:
        raise OptionError(f"{documents} documents of {length} tokens; give 1 or more of 8 tokens or more")
    path = check_writable(path)
    words = list(vocabulary())

    def write(name: str) -> None:
        with open(name, "w", encoding="utf-8") as file:
            for begin in range(0, documents, AT_ONCE):
                drawn = rows(min(AT_ONCE, documents - begin), length, seed * OWN_SEEDS + begin, 0.0)
                for row in drawn.tokens[:, 1:].tolist():
                    file.write(json.dumps({"text": " ".join(words[token] for token in row)}, ensure_ascii=False) + "\n")

    return write_atomically(path, write)
