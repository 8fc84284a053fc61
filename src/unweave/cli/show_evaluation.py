"""An evaluation as tables in a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.results import Evaluation
from ..evaluation.table import (
    LAYERS,
    NEURONS,
    PROMPTS,
    RESPONSES,
    TOTALS,
    Row,
    headline,
    kinds,
    layers,
    neurons,
    prompts,
    responses,
    scope,
    totals,
)

NAMES_AT_LEAST = 12
"""Columns of the terminal left for names, however narrow it is."""


def show(evaluation: Evaluation, console: Console) -> None:
    """Print all tables for a person."""
    console.print(
        f"[bold]{escape(evaluation.setting.transcoders)}[/] for {escape(evaluation.setting.model)}", highlight=False
    )
    console.print(f"{headline(evaluation)}\n[dim]{scope(evaluation)}[/]", highlight=False)
    for text in kinds(evaluation):
        console.print(
            _table(f"All MLPs replaced, {text.name} ({text.tokens:,} tokens)", TOTALS, totals(text), bold="dictionary")
        )
    console.print(_table("By layer, mean over the kinds of text", LAYERS, layers(evaluation)))
    console.print(
        _table("Error of predicted responses, by layer", RESPONSES, responses(evaluation.mean.layers), bold="mean")
    )
    if evaluation.prompts:
        console.print(_table("Whole graphs", PROMPTS, prompts(evaluation.prompts), bold="mean"))
    if evaluation.neurons:
        console.print(_table("As many features as neurons", NEURONS, neurons(evaluation.neurons), bold="mean"))


def _table(title: str, head: Row, rows: Sequence[Row], bold: str = "") -> Table:
    table = Table(
        title=f"\n{escape(title)}",
        title_style="bold",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        header_style="dim",
    )
    table.add_column(head[0], min_width=min(NAMES_AT_LEAST, max(len(row[0]) for row in (head, *rows))))
    for name in head[1:]:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*map(escape, row), style="bold" if row[0] == bold else None)
    return table
