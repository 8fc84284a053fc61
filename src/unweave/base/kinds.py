"""Arguments of the wrong type are refused in one line, at the door of a public function rather than deep inside it."""

import operator
import os
import types
from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import OptionError

P = ParamSpec("P")
R = TypeVar("R")


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function refuse arguments that are not of the plain types it asks for: numbers, text, paths, and classes of
    this package. What its annotation says in other words (tensors, sequences, words to choose among) is its own affair.

    >>> @typed
    ... def double(number: int) -> int:
    ...     return 2 * number
    >>> double("two")
    Traceback (most recent call last):
    unweave.errors.OptionError: double: number is 'two' (str); give int
    """
    asked = signature(function)

    @cache
    def plain() -> dict[str, tuple[type, ...]]:
        hints = get_type_hints(function)
        found = {name: _plain(hint) for name, hint in hints.items() if name != "return"}
        return {name: kinds for name, kinds in found.items() if kinds}

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = asked.bind(*args, **kwargs).arguments
        except TypeError:  # Python says it best: a missing argument, or an unknown one
            return function(*args, **kwargs)
        for name, kinds in plain().items():
            if name in given and not any(_is(given[name], kind) for kind in kinds):
                raise OptionError(f"{function.__name__}: {name} is {_shown(given[name])}; give {_said(kinds)}")
        return function(*args, **kwargs)

    return checked


def _plain(hint: Any) -> tuple[type, ...]:
    """The plain types that an annotation lists; none if it says anything else too."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    ours = [one for one in parts if isinstance(one, type) and get_origin(one) is None]
    known = [one for one in ours if one in (int, float, str, bool, Path, type(None)) or _of_package(one)]
    return tuple(known) if len(known) == len(parts) else ()


def _of_package(kind: type) -> bool:
    return kind.__module__.startswith("unweave.") and not getattr(kind, "_is_protocol", False)


def _is(value: Any, kind: type) -> bool:
    if kind is Path:
        return isinstance(value, os.PathLike)
    if isinstance(value, bool) or kind not in (int, float):
        return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    try:  # NumPy's numbers and tensors of one number are as good
        operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return not isinstance(value, str)


def _shown(value: Any) -> str:
    """A value and its type, on one line."""
    text = " ".join(repr(value).split())
    return f"{text if len(text) <= 60 else f'{text[:60]}...'} ({type(value).__name__})"


def _said(kinds: tuple[type, ...]) -> str:
    names = ["None" if kind is type(None) else kind.__name__ for kind in kinds]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
