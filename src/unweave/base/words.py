"""Tokens as people see them, and texts as names of files."""

import hashlib
import json
import re
from typing import Any

SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """A token with all that leaves no mark on a screen shown: line breaks, tabs, blanks alone, nothing at all.

    >>> [visible(text) for text in ("a\\n", " Paris", "  ", "", "\\u200b", "\\x1b[")]
    ['a⏎', ' Paris', '␣␣', '∅', '‹200b›', '‹1b›[']
    """
    if not text:
        return "∅"
    if not text.strip(" "):
        return "␣" * len(text)
    return "".join(SIGNS.get(sign, sign if sign == " " or sign.isprintable() else f"‹{ord(sign):x}›") for sign in text)


def slug_of(text: str) -> str:
    """A file name for a prompt: letters, digits and dashes, at most 48.

    >>> slug_of("The capital of France is")
    'the-capital-of-france-is'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-") or "graph"


def name_of_question(prompt: str, question: dict[str, Any]) -> str:
    """A file name for a prompt together with all that is asked about it: readable, and another for another question.

    >>> name_of_question("2 + 3 =", {"target": [" 5"]})
    '2-3-13c41bc2'
    """
    digest = hashlib.sha256(json.dumps([prompt, question], sort_keys=True, default=str).encode()).hexdigest()
    return f"{slug_of(prompt)}-{digest[:8]}"
