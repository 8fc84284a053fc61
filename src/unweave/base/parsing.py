"""Small texts that people give, such as tokens, layers and token ids, as values; needs nothing else, so that it is
checked first."""

import operator
import re
from typing import Any

from ..errors import OptionError, PromptError, TargetError

MOST_DIGITS = 18
"""Of a number that could be meant."""
_UNITS = {
    "": 1,
    "B": 1,
    "K": 10**3,
    "KB": 10**3,
    "M": 10**6,
    "MB": 10**6,
    "G": 10**9,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}


def target_of(text: str) -> str | int:
    """A token given as text, or as `#id`.

    Raises:
        TargetError: it is empty.
    """
    if text.startswith("#") and text[1:].isdecimal():
        if len(text) > MOST_DIGITS:
            raise TargetError(f"target {text[:MOST_DIGITS]}... is no token's id; ids are below the vocabulary's size")
        return int(text[1:])
    if not text:
        raise TargetError("a target is empty; give a token such as ' Paris', or '#7042' for an id")
    return text


def feature_of(text: str) -> tuple[int, int]:
    """A feature's layer and index, given as `layer_index`; a position after it is ignored.

    Raises:
        OptionError: anything else.
    """
    parts = text.split("_")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdecimal() for part in parts[:2]):
        raise OptionError(f"{text[:60]!r} is no feature; give layer_index, such as 12_345")
    return int(parts[0]), int(parts[1])


def layer_range(text: str, what: str = "layers") -> range:
    """Layers given as the first and the last, such as `3-7`, or as one.

    Raises:
        OptionError: anything else; `what` says of which option.
    """
    first, sign, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not sign)) or len(text) > 2 * MOST_DIGITS:
        raise OptionError(f"{what} {text[:60]}: give the first and the last layer, such as 3-7")
    return range(int(first), int(last or first) + 1)


def token_ids(text: str) -> list[int]:
    """Token ids from text such as `1 504 3575`.

    Raises:
        PromptError: anything but whole numbers.
    """
    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not part.isdecimal() or len(part) > MOST_DIGITS), None)
    if wrong is not None:
        raise PromptError(f"--ids takes whole numbers, not {wrong[:60]!r}")
    return [int(part) for part in parts]


def prompt_of(text: str, ids: bool = False) -> str | list[int]:
    """A prompt as text, or as ids if it is a list of those.

    Raises:
        PromptError: it is empty, or not whole numbers.
    """
    prompt = token_ids(text) if ids else text
    if not prompt:
        raise PromptError("the prompt is empty; give at least one word, such as 'The capital of France is'")
    return prompt


def checked_prompt(given: Any) -> str | tuple[int, ...]:
    """A prompt, given as text or as a sequence, array or tensor of token ids.

    Raises:
        PromptError: it is empty, or anything else.

    >>> checked_prompt(["36"])
    Traceback (most recent call last):
    unweave.errors.PromptError: '36' in the prompt is not a whole number; give text, or a list of token ids
    """
    if isinstance(given, str):
        if not given:
            raise PromptError("the prompt is empty; give at least one word")
        return given
    listed = given.tolist() if hasattr(given, "tolist") else given
    if not hasattr(listed, "__iter__") or isinstance(listed, (bytes, dict)):
        raise PromptError(f"the prompt is {given!r}; give text, or a list of token ids")
    ids = []
    for one in listed:
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise PromptError(f"{one!r} in the prompt is not a whole number; give text, or a list of token ids")
        ids.append(operator.index(one))
    if not ids:
        raise PromptError("the prompt is an empty list of token ids")
    return tuple(ids)


def parse_bytes(text: str | int) -> int:
    """A size such as `2GB`, `500 MB`, `1.5GiB`, or bytes.

    Raises:
        OptionError: anything else.

    >>> parse_bytes("1.5 GB")
    1500000000
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) == 0:
        raise OptionError(f"{text!r} is not a size of memory; give one such as 2GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])
