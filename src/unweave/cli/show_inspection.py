"""The facts about a file, a model or a dictionary, in a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from .show_trace import show_reasons

SUMMARY = ("input", "paths", "most_influential", "largest_effects", "bands")
"""Facts of a graph that are shown as a trace shows them."""


def show_inspection(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `inspect` for a person."""
    console.print(f"[bold]{escape(facts['name'])}[/]: {facts['kind']}", highlight=False)
    for key, value in facts.items():
        if key in ("kind", "name", *SUMMARY) or value in (None, "", []):
            continue
        console.print(f"  {key.replace('_', ' '):<22} {escape(_worded(value))}", highlight=False)

    if facts["kind"] == "graph" and facts["paths"]:
        show_reasons({**facts, "features": facts["most_influential"], "effects": facts["largest_effects"]}, console)


def _worded(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{key} {_worded(part)}" for key, part in value.items() if part is not None)
        case [{"token": _}, *_]:
            return ", ".join(f"{item['token']!r} {item['weight']:.3f}" for item in value)
        case list() if len(value) > 4 and len(set(map(str, value))) == 1:
            return f"{_worded(value[0])} (each of {len(value)})"
        case list():
            return " ".join(repr(item) if isinstance(item, str) else _worded(item) for item in value)
        case _:
            return str(value)
