"""The study that a graph is of, as its files beside the graph tell it."""

from pathlib import Path
from typing import Any

from ..base.jsontext import encodable, parse_json
from ..errors import FileError
from .library import Library, regular_file, study_file_of

MOST_REPORT = 2 << 20
"""Bytes of a report that is shown."""


def study_of(library: Library, path: Path) -> dict[str, Any] | None:
    """What the page says of a study: title, question, verdict, whether it holds, steps (name, holds, summary), graphs
    (slug, file), report (Markdown); None for a graph of no study.

    Raises:
        FileError: its facts are damaged.
    """
    file = study_file_of(path)
    if file is None:
        return None
    try:
        facts = parse_json(regular_file(file))
        steps = [{name: one.get(name) for name in ("name", "holds", "summary")} for one in facts["steps"]]
        named = [str(name) for name in facts.get("graphs") or ()]
        told = {name: facts.get(name) for name in ("title", "question", "verdict", "holds", "stopped")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{file} is damaged ({error}); run the study again") from error
    slugs = {known.name: slug for slug, known in library.paths().items() if known.parent == path.parent}
    graphs = [{"slug": slugs[name], "file": encodable(name)} for name in named if name in slugs]
    return told | {"steps": steps, "graphs": graphs, "report": _report(file)}


def _report(file: Path) -> str:
    try:
        text = regular_file(file.with_name(file.name.removesuffix(".study.json") + ".md"))
    except OSError:
        return ""
    return text[:MOST_REPORT].decode(errors="replace")
