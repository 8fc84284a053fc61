"""What people see of an explanation."""

from typing import Any

from rich.console import Console

from ..explanation.report import ALONE, ARROWS, NOTHING
from .terminal import escaped

TITLES = {
    "way": "In short",
    "hangs": "What the answer hangs on",
    "chain": "The chain: how far one moves the next to its values in the contrast, all other groups held",
    "direct": "What speaks for it at the end, all other groups held",
    "against": "What works against it",
    "change": "What would have to change",
    "together": "What is not explained",
}
WHY_NOT = {
    "hangs": "What holds it back",
    "direct": "What speaks against it at the end, all other groups held",
    "against": "What works for it",
}


def show_explanation(facts: dict[str, Any], console: Console) -> None:
    """Print the sentences under what they are about."""
    console.print(f"[bold]{escaped(facts['headline'])}[/]", highlight=False)
    last, titles = "", TITLES | (WHY_NOT if facts["why_not"] else {})
    for number, sentence in enumerate(facts["sentences"], 1):
        if sentence["kind"] != last:
            last = sentence["kind"]
            console.print(f"\n[bold]{titles[last]}[/]", highlight=False)
        console.print(f"{number:>2}. {escaped(sentence['text'])}", highlight=False)
    if not facts["found"]:
        console.print(f"\n{NOTHING}", highlight=False)
    if facts.get("wording_alone"):
        console.print(f"\n{ALONE}", highlight=False)
    agreement = facts["arrow_agreement"]
    if agreement is not None:
        console.print(f"\n{ARROWS.format(**agreement)}", highlight=False)
    console.print(f"\n[dim]{escaped(facts['legend'])}[/]", highlight=False)
