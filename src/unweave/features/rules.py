"""Labels that a machine can check: a condition on a position's token, its neighbours, or the text shortly before it."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import FileError

Where = Literal["token", "previous", "next", "near", "start"]
"""Of which token a rule speaks: the one at the position, the one before or after it, any of it and the `NEAR` before
it; or of none, but of the start of a block of text."""
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
    "operators and code symbols": _is(
        r"\s*[=+*/%&|^~<>#$@\\_:;{}\[\]()!-]*[=+*/%&|^~<>#$@\\_{}\[\]()]+[=+*/%&|^~<>#$@\\_:;{}\[\]()!-]*"
    ),
    "pieces inside or at the end of words": _is(r"[a-z]+"),
    "special tokens": _is(r"<\|.*\|>"),
    **{
        f"words in -{end}": _is(rf"\s*[A-Za-z]*{end}")
        for end in "ing ed ly tion ment ness ity able er est al ive ous ism ist ology".split()
    },
    **{
        f"words beginning with {begin}-": _is(rf" {begin}[a-z]+")
        for begin in "un re in dis pre con inter over under out".split()
    },
    "plural or third-person words in -s": _is(r"\s*[a-z]{2,}[^su\W]s"),
}
"""Classes of tokens by their whole text."""
_ENDING, _BEGINNING, _FIRST = (
    re.compile(text) for text in (r"words in -([A-Za-z]+)", r"words beginning with ([A-Za-z]+)-", r"first ([1-9]\d*)")
)


def pattern_of(kind: str) -> re.Pattern[str] | None:
    """What the tokens of a class look like: one of `CLASSES`, words with any ending, words with any beginning; None:
    no class.

    >>> bool(pattern_of("words in -burg").fullmatch(" Hamburg")), pattern_of("words")
    (True, None)
    """
    if kind in CLASSES:
        return CLASSES[kind]
    ending, beginning = _ENDING.fullmatch(kind), _BEGINNING.fullmatch(kind)
    if ending is not None:
        return _is(rf"\s*[A-Za-z]*{ending[1]}")
    return None if beginning is None else _is(rf" {beginning[1]}[a-z]+")


class Members(dict[str, np.ndarray]):
    """Which tokens of a vocabulary are in a class, [vocab], by the class; found when first asked for."""

    def __init__(self, vocabulary: Sequence[str]):
        self.vocabulary = vocabulary

    def __missing__(self, kind: str) -> np.ndarray:
        pattern = pattern_of(kind)
        if pattern is None:
            raise KeyError(kind)
        self[kind] = np.array([pattern.fullmatch(text) is not None for text in self.vocabulary])
        return self[kind]


@dataclass(frozen=True)
class Rule:
    """Holds at a position if the token `where` is one of `tokens`, or is of a class; or at the `first N` positions
    of a block.

    >>> Rule("token", (5,)).to_json()
    '{"where": "token", "tokens": [5], "kind": ""}'
    """

    where: Where
    tokens: tuple[int, ...] = ()
    kind: str = ""
    """A class (`pattern_of`), or with `start` `first N`; empty: `tokens` counts."""

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
        known = _FIRST.fullmatch(rule.kind) if rule.where == "start" else not rule.kind or pattern_of(rule.kind)
        if rule.where not in get_args(Where) or not known:
            raise FileError(f"a label's rule is of an unknown kind: {text[:60]!r}")
        return rule


def holds(rule: Rule, ids: np.ndarray, members: Members) -> np.ndarray:
    """At which positions of blocks of tokens [sequence, pos] a rule holds, never at the first, which is not counted."""
    if rule.where == "start":
        found = np.zeros(ids.shape, bool)
        found[:, 1 : 1 + first(rule)] = True
        return found
    if rule.kind:
        inside = members[rule.kind]
    else:
        inside = np.zeros(len(members.vocabulary), bool)
        inside[list(rule.tokens)] = True
    return placed(inside[ids], rule.where)


def first(rule: Rule) -> int:
    """At how many positions a rule about the start of a block holds."""
    return int(rule.kind.removeprefix("first "))


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
