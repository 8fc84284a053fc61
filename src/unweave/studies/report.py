"""A study's report in a folder: a page with figures, the facts as JSON, graphs that `unweave serve` shows, claims;
and the folder's index."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..base.files import check_writable, write_atomically
from ..base.optional import require_figures
from ..errors import FileError
from ..graphs.graph import Graph
from .plots import draw
from .protocols import PROTOCOLS
from .results import ResultTable, Step, StudyReport, facts, number, rounded
from .stability import Stability, stability_facts, told
from .stabilitycard import stability_card

FACTS = ".study.json"
INDEX = "index.md"
MOST_ROWS = 60
"""Rows of a table in the page; all are in the JSON."""


def check_folder(folder: str | Path, names: Sequence[str]) -> Path:
    """Refuse, before any work is done, a folder in which reports could not be written.

    Raises:
        FileError: it cannot be made or written.
        MissingPackage: what draws the figures is not installed.
    """
    require_figures()
    folder = Path(folder).expanduser()
    for name in (INDEX, *(f"{name}.md" for name in names)):
        check_writable(folder / name)
    return folder


def write_stability(found: Stability, folder: Path) -> Path:
    """Write a study's report with a first table of what survives, the facts behind it, and a Stability Card for each
    step with wanted figures; returns the page.

    Raises:
        FileError: the folder cannot be written.
    """
    name = found.first.study
    for step in found.first.steps:
        if step.checks:
            _write(folder / f"{name}.{step.name}.card.json", json.dumps(stability_card(found, step.name), indent=1))
    _write(folder / f"{name}.stability.json", json.dumps(stability_facts(found), indent=1, ensure_ascii=False))
    return write_report(found.first, folder, found)


def write_report(report: StudyReport, folder: Path, stability: Stability | None = None) -> Path:
    """Write a report and bring the folder's index up to date; returns the page.

    Each file is written whole or not at all, the page and its facts last; plots and graphs of an earlier run go.

    Raises:
        FileError: the folder cannot be written.
    """
    name = report.study
    written = set()
    images: dict[tuple[str, str], str] = {}
    for step in report.steps:
        for plot in step.result.plots:
            path = folder / f"{name}.{step.name}.{plot.name}.svg"
            written.add(draw(plot, path))
            images[step.name, plot.name] = path.name
    graphs = _write_graphs(report, folder)
    claims = _write_claims(report, folder)
    written |= {*graphs, *claims}
    _write(
        folder / f"{name}{FACTS}",
        json.dumps(facts(report) | {"graphs": [path.name for path in graphs]}, indent=1, ensure_ascii=False),
    )
    page = _write(
        folder / f"{name}.md",
        page_of(report, images, [path.name for path in graphs], [path.name for path in claims], stability),
    )
    for old in [
        *folder.glob(f"{name}.*.svg"),
        *folder.glob(f"{name}.*graph.safetensors"),
        *folder.glob(f"{name}.claims.yaml"),
    ]:
        if old not in written:
            old.unlink()
    _write(folder / INDEX, index_of(folder))
    return page


def _write(path: Path, text: str) -> Path:
    return write_atomically(path, lambda temporary: Path(temporary).write_text(text.rstrip() + "\n", encoding="utf-8"))


def _write_graphs(report: StudyReport, folder: Path) -> list[Path]:
    """Each traced graph, with what was found as its supernodes, the verdict as its note, and a title for the
    library."""
    graphs = [graph for step in report.steps for graph in step.result.graphs]
    found = [one for step in report.steps for one in step.result.found if one.units == "features"]
    paths = []
    for place, graph in enumerate(graphs, 1):
        rows = graph.nodes.rows  # an id that the graph lacks could be taken for the peer's name of an error node
        groups = [
            [one.name, *(feature for feature in one.features if feature in rows)]
            for one in found
            if one.prompt == graph.prompt
        ]
        extra: dict[str, Any] = {
            **graph.provenance.extra, "qParams": {"supernodes": groups},
            "notes": f"Study {report.study}: {report.question}\n\nThe study {report.verdict}.",
            "title": f"{report.study} ({'holds' if report.holds else 'fails'}): {graph.prompt}",
        }  # fmt: skip
        path = folder / f"{report.study}.{'' if place == 1 else f'{place}.'}graph.safetensors"
        titled: Graph = graph.with_provenance(
            extra=extra, created=""
        )  # no time, so that the same study gives the same file
        paths.append(titled.save(path))
    return paths


def _write_claims(report: StudyReport, folder: Path) -> list[Path]:
    """The sets that were found as claims, which `unweave validate --claims` checks."""
    claims = [claim for step in report.steps for claim in step.result.claims]
    if not claims:
        return []
    found = [one for step in report.steps for one in step.result.found if one.units == "features"]
    supernodes = {one.name: list(one.features) for one in found}
    content = {
        "model": report.model,
        "transcoders_sha256": report.transcoders_sha256[:16],
        "supernodes": supernodes,
        "claims": claims,
    }
    return [
        _write(
            folder / f"{report.study}.claims.yaml",
            yaml.safe_dump(rounded(content), sort_keys=False, allow_unicode=True, width=140),
        )
    ]


def page_of(
    report: StudyReport,
    images: dict[tuple[str, str], str],
    graphs: Sequence[str],
    claims: Sequence[str],
    stability: Stability | None = None,
) -> str:
    """The report as Markdown; first, if the study was repeated, which findings survive."""
    source = f" Source: {report.source}." if report.source else ""
    parts = [
        f"# {report.title}",
        f"{report.question}{source}",
        f"**The study {report.verdict}.**",
        f"Model {report.model}, dictionary {report.transcoders} (sha256 {report.transcoders_sha256[:12]}).",
    ]
    if stability is not None:
        parts += [f"**{told(stability)}.**", _table(stability.table)]
    wanted = [
        (
            step.name,
            check.figure,
            check.measured,
            check.wanted,
            "✓" if check.holds else "✗ fails",
            PROTOCOLS[step.protocol].figures[check.figure],
        )
        for step in report.steps
        for check in step.checks
    ]
    if wanted:
        parts.append(_table(ResultTable("", ("step", "figure", "measured", "wanted", "", "meaning"), tuple(wanted))))
    for step in report.steps:
        parts += _section(step, images)
    if report.stopped:
        parts.append(f"## Stopped\n\n{report.stopped}.")
    files = [*(f"[{name}]({name})" for name in graphs)]
    if files:
        parts.append(f"Graphs, shown by `unweave serve` on this folder: {', '.join(files)}.")
    if claims:
        parts.append(f"The sets as claims, checked by `unweave validate --claims`: [{claims[0]}]({claims[0]}).")
    parts.append(
        f"All figures: [{report.study}{FACTS}]({report.study}{FACTS}). Made by `unweave study run {report.study}`, "
        f"unweave {report.version}."
    )
    return "\n\n".join(parts)


def _section(step: Step, images: dict[tuple[str, str], str]) -> list[str]:
    parts = [f"## {step.name}", step.result.summary]
    if step.note:
        parts.append(step.note)
    parts += [
        f"![{plot.title}]({images[step.name, plot.name]})"
        for plot in step.result.plots
        if (step.name, plot.name) in images
    ]
    return parts + [_table(table) for table in step.result.tables if table.rows]


def _table(table: ResultTable) -> str:
    rows = table.rows[:MOST_ROWS]
    numeric = [all(isinstance(row[place], int | float | None) for row in rows) for place in range(len(table.columns))]
    lines = [
        table.columns,
        tuple("---:" if right else "---" for right in numeric),
        *([_cell(value) for value in row] for row in rows),
    ]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    more = f"\n\n({len(table.rows) - len(rows)} more rows in the JSON.)" if len(table.rows) > len(rows) else ""
    return (f"{table.title}:\n\n" if table.title else "") + text + more


def _cell(value: Any) -> str:
    """A number, or text in which no character means something in a table."""
    if not isinstance(value, str):
        return number(value)
    for mark, safe in (
        ("<=", "≤"),
        (">=", "≥"),
        ("\\", "\\\\"),
        ("|", "\\|"),
        ("*", "\\*"),
        ("_", "\\_"),
        ("<", "&lt;"),
        ("`", "\\`"),
        ("\n", "⏎"),
    ):
        value = value.replace(mark, safe)
    return value.strip() if value.strip() else "␣" * len(value)


def index_of(folder: Path) -> str:
    """The table of all studies whose facts are in a folder, with their verdicts."""
    rows = []
    for path in sorted(folder.glob(f"*{FACTS}")):
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
            figures = "; ".join(
                f"{step['name']} {check['figure']} {number(check['measured'])} "
                    f"({check['wanted']}{'' if check['holds'] else ', **fails**'})"
                for step in found["steps"] for check in step["checks"]
            )  # fmt: skip
            rows.append(
                (
                    f"[{found['study']}]({found['study']}.md)",
                    found["model"],
                    "holds" if found["holds"] else "**fails**",
                    found["title"],
                    figures,
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{path} is not a study's report ({error}); move it away") from error
    holds = sum(row[2] == "holds" for row in rows)
    head = ("study", "model", "verdict", "what", "figures (wanted)")
    lines = [head, ("---",) * len(head), *rows]
    table = "\n".join(
        "| " + " | ".join(str(cell).replace("<=", "≤").replace(">=", "≥") for cell in line) + " |" for line in lines
    )
    return (
        f"# Studies\n\n{holds} of {len(rows)} hold. A study is run by `unweave study run NAME --report "
        f"FOLDER`.\n\n{table}"
    )
