"""What stands beside a dictionary's weights: files of keys and values, of which none may be overlooked."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import TranscoderError

LARGEST = 1 << 22
"""Bytes of a config that are read; real ones have some thousand."""


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MB")
    return path.read_text(encoding="utf-8-sig")


def _mapping(path: Path, found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise TranscoderError(f"{path} is not a {what} of keys and values")
    return {str(key): value for key, value in found.items()}


def shown(value: Any) -> str:
    """A value as an error names it: short, whatever it is.

    >>> shown("topk"), shown([[1]]), shown(True)
    ("'topk'", 'a list', 'True')
    """
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 63 else "a number of many digits"
    return repr(value[:60]) if isinstance(value, str) else f"a {type(value).__name__}"


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values.

    Raises:
        TranscoderError: it is none.
    """
    try:
        found = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, OSError, RecursionError, OverflowError, TypeError, KeyError,
            AttributeError, IndexError) as error:  # fmt: skip  # the last four: PyYAML, of damaged tags
        raise TranscoderError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    return _mapping(path, found, "list")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of keys and values.

    Raises:
        TranscoderError: it is none, or not there.
    """
    try:
        found = json.loads(_text(path))
    except FileNotFoundError as error:
        raise TranscoderError(f"{path.parent} has no {path.name}, which says what the weights beside it are") from error
    except (OSError, ValueError, RecursionError) as error:
        raise TranscoderError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    return _mapping(path, found, "set")


def refuse_unknown(path: Path, config: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse keys that are not known: they may change what a dictionary computes.

    Raises:
        TranscoderError: naming them.
    """
    strange = sorted(set(config) - set(known))
    if strange:
        raise TranscoderError(
            f"{path} has keys that this format does not know: {', '.join(strange)[:200]}; what they do to the features "
            f"is not covered (take out those that do nothing)"
        )


def whole(path: Path, key: str, value: Any, least: int) -> int:
    """A whole number from a config.

    Raises:
        TranscoderError: anything else, `true` included.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 31:
        raise TranscoderError(f"{path}: {key} is {shown(value)}; it must be a whole number of at least {least}")
    return value
