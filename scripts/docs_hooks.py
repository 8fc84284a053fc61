"""What `make docs` does to pages before they are built: the API page is made from the table of public names, and links
to files outside docs/ become plain text, because the site does not hold them."""

import re
from pathlib import Path
from typing import Any

import unweave
from unweave import _HOMES

API = Path(__file__).parents[1] / "docs" / "api.md"

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
    parts = []
    for title, names in sections().items():
        parts += [f"## {title}: reference", *(f"::: unweave.{_HOMES[name]}.{name}" for name in names)]
    return "\n\n".join(parts)


def sections() -> dict[str, list[str]]:
    """The public names under each heading, functions first."""
    found = {
        title: sorted(
            (name for name, home in _HOMES.items() if home.split(".")[0] in folders.split()),
            key=lambda name: (name[0].isupper(), name),
        )
        for folders, title in SECTIONS.items()
    }
    left = _HOMES.keys() - {name for names in found.values() for name in names} - {"__version__"}
    if left:
        raise ValueError(f"no section of the API page for {', '.join(sorted(left))}; see SECTIONS in {__file__}")
    return {title: names for title, names in found.items() if names}


def summary() -> str:
    """Every public name with the first sentence of its docstring, as tables by section."""
    tables = []
    for title, names in sections().items():
        rows = [f"| `{name}` | {_first_sentence(getattr(unweave, name).__doc__ or '')} |" for name in names]
        tables.append("\n".join([f"## {title}", "", "| name | what it is |", "|---|---|", *rows]))
    return "\n\n".join(tables) + "\n\n`__version__` is the version of the package.\n"


def _first_sentence(text: str) -> str:
    sentence = re.split(r"(?<=\.)\s(?=[A-Z])", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    return sentence.rstrip(":").replace("|", "\\|")


def write_summary() -> None:
    """Bring the tables of docs/api.md up to date."""
    before, _, _ = API.read_text(encoding="utf-8").partition("\n## ")
    API.write_text(f"{before}\n{summary()}\n<!-- every public name -->\n", encoding="utf-8")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    if page.file.src_uri == "api.md":
        return markdown.replace("<!-- every public name -->", api_page())
    depth = page.file.src_uri.count("/")
    return re.sub(r"\[([^\]]+)\]\((" + r"\.\./" * (depth + 1) + r"[^)]+)\)", lambda match: match[1], markdown)


if __name__ == "__main__":
    write_summary()
