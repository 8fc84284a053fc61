"""What `make docs` does to pages before they are built: the API page is made from the table of public names, and links
to files outside docs/ become plain text, because the site does not hold them."""

import re
from typing import Any

from unweave import _HOMES

SECTIONS = {
    "transcoders models": "Models and transcoders",
    "attribution graphs response": "Graphs",
    "interventions": "Interventions",
    "explanation page": "Explaining and showing",
    "evaluation validation benchmark": "Judging",
    "features": "Feature pages",
    "training organism corpus": "Training",
    "many studies": "Many prompts, studies",
    "errors": "Errors",
}
"""Headings of the API page, by the folders whose public names stand under them."""


def api_page() -> str:
    """Every public name as mkdocstrings' directive, by section."""
    parts, listed = [], set()
    for folders, title in SECTIONS.items():
        names = [name for name, home in _HOMES.items() if home.split(".")[0] in folders.split()]
        listed |= {*names}
        functions = sorted(names, key=lambda name: (name[0].isupper(), name))
        if functions:
            parts += [f"## {title}", *(f"::: unweave.{_HOMES[name]}.{name}" for name in functions)]
    left = _HOMES.keys() - listed - {"__version__"}
    if left:
        raise ValueError(f"no section of the API page for {', '.join(sorted(left))}; see SECTIONS in {__file__}")
    return "\n\n".join(parts)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    if page.file.src_uri == "api.md":
        return markdown.replace("<!-- every public name -->", api_page())
    depth = page.file.src_uri.count("/")
    return re.sub(r"\[([^\]]+)\]\((" + r"\.\./" * (depth + 1) + r"[^)]+)\)", lambda match: match[1], markdown)
