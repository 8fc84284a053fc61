"""Labels that a machine can check: a condition on a position's token, its neighbours, or the text shortly before it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import FileError

Where = Literal["token", "previous", "next", "near"]
"""Of which token a rule speaks: the one at the position, the one before or after it, or any of it and the `NEAR` before it."""
NEAR = 12


def _is(pattern: str) -> "re.Pattern[str]":
    return re.compile(pattern)


CLASSES: dict[str, re.Pattern[str]] = {
    "digits": _is(r"\s*\d+"),
    "capitalised words": _is(r"\s*[A-Z][a-z]+"),
    "words in capitals": _is(r"\s*[A-Z]{2,}"),
    "single capital letters": _is(r"\s*[A-Z]"),
    "single small letters": _is(r"\s*[a-z]"),
    "punctuation": _is(r"\s*[^\w\s]+"),
    "line breaks": _is(r"[ \t]*\n\s*"),
    "blanks and indentation": _is(r"[ \t]+"),
    "brackets": _is(r"\s*[()\[\]{}<>]+"),
    "quotation marks": _is(r"\s*[\"'`“”‘’]+"),
    "operators and code symbols": _is(r"\s*[=+*/%&|^~<>#$@\\_:;{}\[\]()!-]*[=+*/%&|^~<>#$@\\_{}\[\]()]+[=+*/%&|^~<>#$@\\_:;{}\[\]()!-]*"),
    "pieces inside or at the end of words": _is(r"[a-z]+"),
    "special tokens": _is(r"<\|.*\|>"),
    **{f"words in -{end}": _is(rf"\s*[A-Za-z]*{end}") for end in "ing ed ly tion ment ness ity able er est al ive ous ism ist ology".split()},
    **{f"words beginning with {begin}-": _is(rf" {begin}[a-z]+") for begin in "un re in dis pre con inter over under out".split()},
    "plural or third-person words in -s": _is(r"\s*[a-z]{2,}[^su\W]s"),
}
"""Classes of tokens by their whole text."""


@dataclass(frozen=True)
class Rule:
    """Holds at a position if the token `where` is one of `tokens`, or is of a class.

    >>> Rule("token", (5,)).to_json()
    '{"where": "token", "tokens": [5], "kind": ""}'
    """

    where: Where
    tokens: tuple[int, ...] = ()
    kind: str = ""
    """One of `CLASSES`; empty: `tokens` counts."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"where": self.where, "tokens": list(self.tokens), "kind": self.kind})

    @staticmethod
    def from_json(text: str) -> "Rule":
        """What `to_json` wrote.

        Raises:
            FileError: it is something else.
        """
        try:
            found = json.loads(text)
            rule = Rule(found["where"], tuple(int(token) for token in found["tokens"]), found["kind"])
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(f"a label's rule is damaged: {text[:60]!r}") from error
        if rule.where not in get_args(Where) or (rule.kind and rule.kind not in CLASSES):
            raise FileError(f"a label's rule is of an unknown kind: {text[:60]!r}")
        return rule


def class_members(vocabulary: Sequence[str]) -> dict[str, np.ndarray]:
    """Of every class, which tokens are in it, [vocab] each."""
    return {name: np.array([pattern.fullmatch(text) is not None for text in vocabulary]) for name, pattern in CLASSES.items()}


def holds(rule: Rule, ids: np.ndarray, members: dict[str, np.ndarray]) -> np.ndarray:
    """At which positions of blocks of tokens [sequence, pos] a rule holds, never at the first."""
    if rule.kind:
        inside = members[rule.kind]
    else:
        inside = np.zeros(len(next(iter(members.values()))), bool)
        inside[list(rule.tokens)] = True
    return placed(inside[ids], rule.where)


def placed(hit: np.ndarray, where: Where) -> np.ndarray:
    """From where tokens match, [sequence, pos], to where a rule about them holds."""
    found = np.zeros_like(hit)
    if where == "token":
        found[:, 1:] = hit[:, 1:]
    elif where == "previous":
        found[:, 2:] = hit[:, 1:-1]
    elif where == "next":
        found[:, 1:-1] = hit[:, 2:]
    else:
        running = np.cumsum(hit[:, 1:].astype(np.int32), axis=1)
        before = np.zeros_like(running)
        before[:, NEAR + 1 :] = running[:, : -NEAR - 1]
        found[:, 1:] = running > before
    return found
