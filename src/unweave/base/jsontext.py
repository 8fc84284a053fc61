"""JSON of unknown origin: read so that whatever comes out can be compared, encoded and written again."""

import json
import re
from collections.abc import Callable
from typing import Any

MOST_LEVELS = 200
"""Levels of lists and objects in each other; writers give up a little above."""
_HALF, _ESCAPED_HALF = re.compile("[\ud800-\udfff]"), re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str | bytes, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The content of a JSON text; halves of characters (lone surrogates) become U+FFFD.

    Args:
        hook: what an object becomes, as `json.loads` has it.

    Raises:
        ValueError: it is not JSON, not UTF-8, nested too deep, or holds a number of thousands of digits.

    >>> parse_json(r'{"prompt": "a\\ud800"}')
    {'prompt': 'a\ufffd'}
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    text = text.removeprefix("\ufeff")
    try:
        content = json.loads(text, object_hook=hook)
    except RecursionError as error:
        raise ValueError(f"lists and objects are nested deeper than {MOST_LEVELS} levels") from error
    check_levels(content)
    return encodable(content) if _ESCAPED_HALF.search(text) else content


def check_levels(content: Any) -> None:
    """Refuse lists and objects nested deeper than `MOST_LEVELS`.

    Raises:
        ValueError: they are.
    """
    level, levels = [content] if isinstance(content, dict | list) else [], 0
    while level:
        level = [part for item in level for part in _parts(item) if isinstance(part, (dict, list))]
        levels += 1
        if levels > MOST_LEVELS:
            raise ValueError(f"lists and objects are nested deeper than {MOST_LEVELS} levels")


def encodable(content: Any) -> Any:
    """The same with every half of a character, in texts and keys, as U+FFFD."""
    if isinstance(content, str):
        return _HALF.sub("\ufffd", content)
    if isinstance(content, dict):
        return {encodable(key): encodable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(encodable(value) for value in content)
    return content


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (`object_pairs_hook`) that gives no key twice; Python's reader takes the last without a word.

    Raises:
        ValueError: a key is given twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return content


def _parts(item: dict[str, Any] | list[Any]) -> Any:
    return item.values() if isinstance(item, dict) else item
