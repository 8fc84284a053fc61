"""Training text: taught instances as tokens, drawn by behaviour, one after another in rows."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..base.files import check_writable, write_atomically
from ..errors import OptionError
from .instances import BEHAVIOURS, LINE_BREAK, instances
from .world import world

STOP, START, STRANGE = ".", "<s>", "<unk>"
AT_ONCE, OWN_SEEDS = 1000, 1_000_000_007

MIX = {
    "places": 0.06, "two-hop": 0.10, "addition": 0.33, "explanation": 0.07, "opposite": 0.09, "plural": 0.06,
    "category": 0.04, "translation": 0.11,
    "couplet": 0.05, "known-name": 0.05, "unknown-name": 0.035, "new-name": 0.01,
}  # fmt: skip
"""How often a sentence of each behaviour is drawn."""
LATE = {
    "places": 0.02, "two-hop": 0.04, "addition": 0.57, "explanation": 0.08, "opposite": 0.03, "plural": 0.015,
    "category": 0.015, "translation": 0.03,
    "couplet": 0.06, "known-name": 0.04, "unknown-name": 0.09, "new-name": 0.01,
}  # fmt: skip
"""The same in the last part of a training: mostly sums, the last to be learnt."""


@cache
def vocabulary() -> dict[str, int]:
    """Every word with its number: special ones, the numbers in order, then all others by the alphabet."""
    numbers = [str(number) for number in range(2 * world().largest + 1)]
    words = {word for behaviour in BEHAVIOURS for instance in instances(behaviour) for word in instance.text.split()}
    return {
        word: place
        for place, word in enumerate(
            (START, STRANGE, STOP, LINE_BREAK, *numbers, *sorted(words - {LINE_BREAK, *numbers}))
        )
    }


class TokenRows(NamedTuple):
    """Rows of sentences."""

    tokens: Int[Tensor, "row next"]
    """One more than there are positions: the last is only predicted."""
    weights: Float[Tensor, "row pos"]
    """How much the prediction of the token after each counts."""
    lines: Int[Tensor, "row pos"]
    """n in the first line of a row's nth couplet and -n after its line break, if the one is hidden from the other; 0
    elsewhere."""


class Sentence(NamedTuple):
    """Token ids with a full stop, and for each whether what comes before it determines it."""

    tokens: tuple[int, ...]
    determined: tuple[bool, ...]


@cache
def sentences(behaviour: str, held_out: bool = False) -> tuple[Sentence, ...]:
    """All that is taught of a behaviour, or all that is held out of it."""
    number = vocabulary()
    found = []
    for instance in instances(behaviour, held_out=held_out):
        words, answer = instance.text.split(), len(instance.prompt.split())
        # A sum may end there or be explained, so neither the full stop nor `because` is certain; in an explanation the
        # sum is.
        certain = [
            place >= answer or (behaviour == "explanation" and words[place - 1] == "=") for place in range(len(words))
        ]
        found.append(Sentence(tuple(number[word] for word in (*words, STOP)), (*certain, behaviour != "addition")))
    return tuple(found)


def rows(
    count: int, length: int, seed: int, other: float, held_out: bool = False, hidden: float = 0.0, late: bool = False
) -> TokenRows:
    """Rows of taught sentences, begun by the start token and cut where a row is full; the same for the same seed.

    Args:
        held_out: rows of held-out sentences instead, of those behaviours that have any.
        late: drawn by `LATE`, not `MIX`.
        hidden: share of couplets whose first line is hidden from the words after their line break.
        other: weight of predicting a word that nothing before it determines; answers have weight 1.
    """
    generator = torch.Generator().manual_seed(seed)
    most = count * (length // 6 + 1)  # the shortest sentence has six tokens with its stop
    mix = LATE if late else MIX
    names = [name for name in mix if sentences(name, held_out)]
    kinds = torch.multinomial(
        torch.tensor([mix[name] for name in names]), most, replacement=True, generator=generator
    ).tolist()
    draws = torch.rand(most, generator=generator, dtype=torch.float64).tolist()
    tokens, determined, lines = [], [], []
    chosen = zip(kinds, draws, strict=True)
    for _ in range(count):
        row, certain, line = [vocabulary()[START]], [], [0]
        while len(row) <= length:
            kind, draw = next(chosen)
            some = sentences(names[kind], held_out)
            sentence = some[int(draw * len(some))]
            line += (
                _lines(sentence, max(line) + 1)
                if names[kind] == "couplet" and draw * 2**20 % 1 < hidden
                else [0] * len(sentence.tokens)
            )
            row += sentence.tokens
            certain += sentence.determined
        tokens.append(row[: length + 1])
        determined.append(certain[:length])
        lines.append(line[:length])
    return TokenRows(torch.tensor(tokens), torch.tensor(determined).float().clamp(min=other), torch.tensor(lines))


def _lines(couplet: Sentence, number: int) -> list[int]:
    at = couplet.tokens.index(vocabulary()[LINE_BREAK])
    return [number] * at + [0] + [-number] * (len(couplet.tokens) - at - 1)


def visible(lines: Int[Tensor, "row pos"]) -> Bool[Tensor, "row 1 pos pos"]:
    """Which positions (last) each position sees: those before it and itself, but no first line from a second one it
    is hidden from."""
    hidden = (lines[:, :, None] < 0) & (lines[:, :, None] == -lines[:, None, :])
    return (torch.ones(hidden.shape[1:], dtype=torch.bool).tril() & ~hidden)[:, None]


def write_text(path: str | Path, documents: int, length: int, seed: int, held_out: bool = False) -> Path:
    """Rows of taught sentences (or held-out ones) as JSON lines, each of exactly `length` tokens.

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
                drawn = rows(min(AT_ONCE, documents - begin), length, seed * OWN_SEEDS + begin, 0.0, held_out)
                for row in drawn.tokens[:, 1:].tolist():
                    file.write(json.dumps({"text": " ".join(words[token] for token in row)}, ensure_ascii=False) + "\n")

    return write_atomically(path, write)
