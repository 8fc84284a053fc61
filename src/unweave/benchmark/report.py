"""A run of the benchmark as facts, as a table in Markdown and as plots."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..studies.plots import draw
from ..studies.results import Plot
from ..validation.statistics import Estimate
from .known import TRAINED
from .run import ALL_FIGURES, BenchmarkRun

HEADINGS = (
    "neurons", "neurons, AP", "edges", "edges, AP", "heads", "middles found", "effects", "CPR", "CMD", "seconds"
)  # fmt: skip
"""Of `ALL_FIGURES`, in a table."""
COLOURED = 6
"""Methods that one plot can tell apart."""


def facts(run: BenchmarkRun) -> dict[str, Any]:
    """All figures of a run, as JSON holds them: null where nothing is defined."""
    return {
        "seconds": run.seconds,
        "interchange": run.interchange,
        "models": [
            {
                "name": circuit.name, "accuracy": circuit.accuracy, "rest": circuit.rest,
                "interchange": {one.name: one.interchange for one in circuit.variables},
            }
            for circuit in run.circuits
        ],
        "methods": {name: _estimates(run.summary(name)) for name in run.methods},
        "families": {
            family: {name: _estimates(run.summary(name, tasks)) for name in run.methods}
            for family, tasks in families(run).items()
        },
        "tasks": {task: {name: _estimates(run.summary(name, task)) for name in run.methods} for task in run.tasks},
        "dictionaries": [
            {name: _defined(value) if isinstance(value, float) else value for name, value in asdict(one).items()}
            for one in run.dictionaries
        ],
        "rows": [
            {
                "task": row.task, "seed": row.seed, "input": row.input, "method": row.method,
                **{name: _defined(value) for name, value in row.figures.items()},
            }
            for row in run.rows
        ],
    }  # fmt: skip


def families(run: BenchmarkRun) -> dict[str, tuple[str, ...]]:
    """The tasks of compiled and of trained models."""
    trained = tuple(task for task in run.tasks if task.endswith(TRAINED))
    found = {"compiled": tuple(task for task in run.tasks if task not in trained), "trained": trained}
    return {name: tasks for name, tasks in found.items() if tasks}


def found(run: BenchmarkRun) -> dict[str, Any]:
    """What graphs say of themselves: by method and task, the share of middle variables found, and of how many
    models."""
    shares: dict[str, dict[str, Any]] = {}
    for name in run.methods:
        means = {task: run.summary(name, task)["mediators"] for task in run.tasks}
        shares[name] = {task: {"found": round(one.value, 3), "models": one.n} for task, one in means.items() if one.n}
    return {"date": date.today().isoformat(), "methods": shares}


def table(
    run: BenchmarkRun, task: str | Sequence[str] | None = None, *, intervals: bool = False
) -> list[tuple[str, ...]]:
    """Rows of text: headings, then a method each."""
    rows: list[tuple[str, ...]] = [("method", *HEADINGS)]
    for name in run.methods:
        found = run.summary(name, task)
        if found["nodes"].n:
            rows.append((name, *(_cell(found[figure], figure, intervals=intervals) for figure in ALL_FIGURES)))
    return rows


def dictionary_table(run: BenchmarkRun) -> list[tuple[str, ...]]:
    """Rows of text: what became of middle variables, by task and kind of dictionary, means over models."""
    rows: list[tuple[str, ...]] = [("task", "dictionary", "unexplained", "middles held", "middles found")]
    for task, kind in dict.fromkeys((one.task, one.kind) for one in run.dictionaries):
        some = [one for one in run.dictionaries if (one.task, one.kind) == (task, kind)]
        means = [sum(getattr(one, name) for one in some) / len(some) for name in ("unexplained", "held", "found")]
        rows.append(
            (task, kind, f"{means[0]:.1e}", *("–" if math.isnan(mean) else f"{mean:.2f}" for mean in means[1:]))
        )
    return rows


def middles_table(run: BenchmarkRun, tasks: Sequence[str]) -> list[tuple[str, ...]]:
    """Rows of text: middle variables found, a method a row, a task a column."""
    rows: list[tuple[str, ...]] = [("method", *(task.removesuffix(TRAINED) for task in tasks))]
    for name in run.methods:
        means = [run.summary(name, task)["mediators"] for task in tasks]
        if any(one.n for one in means):
            rows.append((name, *(_cell(one, "mediators", intervals=False) for one in means)))
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown.

    >>> print(markdown([("method", "edges"), ("random", "0.50")]))
    | method | edges |
    |---|---|
    | random | 0.50 |
    """
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write_report(run: BenchmarkRun, folder: Path) -> list[Path]:
    """Write facts, tables and, where matplotlib is installed, plots into a folder that is there.

    Raises:
        FileError: one cannot be written.
    """
    text = json.dumps(facts(run), indent=1)
    tables = ["# Benchmark"]
    for family, tasks in families(run).items():
        tables += ["", f"## Models that were {family}", "", markdown(table(run, tasks, intervals=True))]
        tables += ["", "Middles found:", "", markdown(middles_table(run, tasks))]
    for task in run.tasks:
        tables += ["", f"## {task}", "", markdown(table(run, task))]
    if run.dictionaries:
        tables += ["", "## Dictionaries", "", markdown(dictionary_table(run))]
    written = [
        write_atomically(folder / "benchmark.json", lambda name: Path(name).write_text(text, encoding="utf-8")),
        write_atomically(
            folder / "benchmark.md", lambda name: Path(name).write_text("\n".join(tables) + "\n", encoding="utf-8")
        ),
    ]
    written.append(
        write_atomically(
            folder / "found.json", lambda name: Path(name).write_text(json.dumps(found(run), indent=1) + "\n")
        )
    )
    if find_spec("matplotlib") is not None:
        written += [draw(plot, folder / f"{plot.name}.svg") for plot in plots(run)]
    return written


def plots(run: BenchmarkRun) -> list[Plot]:
    """Average precision by method, and middles found by task."""
    names = ("nodes_ap", "edges_ap", "mediators")
    by_method = {name: run.summary(name) for name in run.methods}
    series = {
        HEADINGS[ALL_FIGURES.index(figure)]: [_drawn(by_method[name][figure].value) for name in run.methods]
        for figure in names
    }
    shown = [name for name in run.methods if name not in ("random", "activation-patching")][:COLOURED] or run.methods
    middles = {name: [_drawn(run.summary(name, task)["mediators"].value) for task in run.tasks] for name in shown}
    return [
        Plot("methods", "bars", "How well known circuits are found", {
            "labels": list(run.methods), "series": series, "ylim": (0.0, 1.05)}),
        Plot("middles", "bars", "Middle variables found, by task", {
            "labels": list(run.tasks), "series": middles, "ylim": (0.0, 1.05)}),
    ]  # fmt: skip


def _estimates(found: dict[str, Estimate]) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {"value": _defined(one.value), "low": _defined(one.low), "high": _defined(one.high), "models": one.n}
        for name, one in found.items()
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value


def _drawn(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _cell(found: Estimate, figure: str, *, intervals: bool) -> str:
    if math.isnan(found.value):
        return "–"
    digits = 3 if figure == "seconds" else 2
    text = f"{found.value:.{digits}f}"
    if intervals and figure != "seconds" and not math.isnan(found.low):
        text += f" ({found.low:.2f} to {found.high:.2f})"
    return text
