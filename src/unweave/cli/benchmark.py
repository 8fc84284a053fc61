"""`unweave benchmark`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from .terminal import AsJson, collect_garbage, escaped, print_json, progress, stdout


def benchmark(
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this task, or several separated by commas; repeatable."),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this method, or several separated by commas; repeatable."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Models per task.", show_default="3 compiled, all trained")] = None,
    inputs: Annotated[int, typer.Option(help="Pairs of prompts per model.")] = 4,
    scores: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Also evaluate the scores of another tool, as JSON; repeatable."),
    ] = None,
    dictionaries: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="Graphs of transcoders: per-layer, skip, cross-layer, or several separated by commas; trained first "
            "where none ships.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write models, circuits, figures, tables and plots.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score methods on models whose circuits are known; exit code 1 if a model does not compute by its circuit."""
    given = dict(_named(one) for one in scores or ())
    with progress("compiling models") as say:
        from ..benchmark.known import ALL_TASKS
        from ..benchmark.methods import METHODS
        from ..benchmark.report import dictionary_table, facts, families, table, write_report
        from ..benchmark.run import SURE, run_benchmark

        collect_garbage()
        run = run_benchmark(
            _names(tasks) or ALL_TASKS, _names(methods) or tuple(METHODS), seeds=seeds, inputs=inputs,
            scores=given, dictionaries=_names(dictionaries) or None, out=out, progress=say,
        )  # fmt: skip
        written = [] if out is None else write_report(run, out.expanduser())
    if as_json:
        print_json(facts(run))
    else:
        for family, of in families(run).items():
            stdout.print(f"Models that were {family}:", highlight=False)
            _show_rows(table(run, of))
            stdout.print()
        if run.dictionaries:
            _show_rows(dictionary_table(run))
            stdout.print()
        _show_end(run, written)
    if run.interchange < SURE:
        raise typer.Exit(1)


def _names(given: list[str] | None) -> list[str]:
    return [name.strip() for one in given or () for name in one.split(",") if name.strip()]


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise OptionError(f"--scores {text!r}: give a name and a file, such as mine=scores.json")
    return name, path


def _show_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        line = "  ".join([row[0].ljust(widths[0]), *cells[1:]])
        stdout.print(line, highlight=False, markup=False, style="bold" if not number else None)


def _show_end(run: Any, written: list[Path]) -> None:
    stdout.print(
        f"{len(run.circuits)} models of {len(run.tasks)} tasks; interchange accuracy at least {run.interchange:.3f}; "
        f"{run.seconds:.0f} s. Means over models; neurons, edges, heads: AUROC (AP: average "
        "precision).",
        highlight=False,
    )
    if written:
        stdout.print(f"Written to [bold]{escaped(str(written[0].parent))}[/]", highlight=False)
