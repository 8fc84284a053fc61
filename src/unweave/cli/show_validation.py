"""A trust report in the terminal, and one line a graph for several."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base.words import visible
from ..validation.figures import DISTANCES, FOLLOWED, MODES, pooled
from ..validation.results import Figure, TrustReport

LEVELS = {"good": "bold green", "fair": "bold yellow", "poor": "bold red"}
RANKS = (
    "influence and KL",
    "influence and KL among the strongest half",
    "direct edge and KL",
    "activation and KL",
    "random order and KL",
)
SIGNS = (
    "all paths and the target's change", "all paths: share of the change with the right sign",
    "direct edge and the target's change",
    "real model's slope and the target's change",
)  # fmt: skip
RIVALS = {"control: ": "random dict.", "neurons: ": "neurons"}
RANK = "influence and KL, attention held"
SIGN = "all paths and the target's change, attention held"


def show_report(report: TrustReport, console: Console, *, everything: bool = False) -> None:
    """Print a report for a person; with `everything`, every figure."""
    console.print(
        f"\n[bold]Trust report[/]  {_text(report.prompt or ' '.join(report.tokens))} → [bold]{_text(report.target)}[/]",
        highlight=False,
    )
    if everything:
        _show_list("All figures", report.figures, console)
    else:
        found = [figure for figure in report.figures if figure.group == "explained"]
        for group, whose in (
            ("control: ", "the random dictionary"),
            ("neurons: ", "as many neurons as features, at most 1,000"),
        ):
            rival = report.figure(f"{group}explained", "replacement score")
            found += [] if rival is None else [replace(rival, name=f"replacement score of {whose}")]
        _show_list("How much is explained", found, console)
        _show_modes(
            "Does influence say which features matter? (rank correlation with KL)", "ranks", RANKS, report, console
        )
        _show_modes("Does the graph say which way they push?", "signs", SIGNS, report, console)
        _show_list(
            "Where its misses come from (rank correlation with the target's change)",
            [f for f in report.figures if f.group == "links"],
            console,
        )
        _show_list(
            "From feature to feature",
            [f for f in report.figures if f.group == "pairs" and "right sign" not in f.name],
            console,
        )
        _show_travel(report, console)
    style = LEVELS[report.verdict.level]
    console.print(
        f"\n[{style}]{report.verdict.level.upper()}[/]  [bold]{escape(report.verdict.text)}[/]", highlight=False
    )
    for reason in report.verdict.reasons:
        console.print(f"  · {escape(reason)}", highlight=False)
    if not report.complete:
        console.print(
            "  · [yellow]The time was up before all was measured;[/] run it again to continue.", highlight=False
        )


def show_summary(reports: Sequence[TrustReport], console: Console) -> None:
    """One line a graph, and the means with their intervals over graphs."""
    places = (
        ("explained", "replacement score"),
        ("ranks", RANK),
        ("control: ranks", RANK),
        ("neurons: ranks", RANK),
        ("signs", SIGN),
    )
    table = _table(
        "",
        ("prompt", "left"),
        ("verdict", "left"),
        *((name, "right") for name in ("replacement", "influence ~ KL", "random dict.", "neurons", "signed")),
    )
    for column in table.columns[3:]:
        column.no_wrap = True
    for report in reports:
        cells = [report.figure(*place) for place in places]
        words = ["–" if cell is None else f"{cell.value:.2f}" for cell in cells]
        table.add_row(
            "",
            _text(report.prompt or " ".join(report.tokens))[:40],
            f"[{LEVELS[report.verdict.level]}]{report.verdict.level}[/]",
            *words,
        )
    means = {(figure.group, figure.name): figure for figure in pooled(reports)}
    table.add_row("", "[bold]mean[/]", "", *(str(means[place]) if place in means else "–" for place in places))
    console.print()
    console.print(table)


def _show_list(title: str, figures: Sequence[Figure], console: Console) -> None:
    if not figures:
        return
    table = _table(title, ("", "left"), ("", "left"))
    for figure in figures:
        note = f"  [dim]{escape(figure.note)}[/]" if figure.note else ""
        table.add_row("", escape(figure.name) + note, _value(figure))
    console.print(table)


def _show_modes(title: str, group: str, names: Sequence[str], report: TrustReport, console: Console) -> None:
    """Figures by mode, with random transcoders and neurons for comparison."""
    rivals = {
        begin: word for begin, word in RIVALS.items() if any(figure.group == begin + group for figure in report.figures)
    }
    heads = [word for mode in MODES.values() for word in (mode, *rivals.values())]
    table = _table(title, ("", "left"), *((head, "left") for head in heads))
    for name in names:
        cells = []
        for word in MODES.values():
            cells.append(_value(report.figure(group, f"{name}, {word}")))
            for begin in rivals:
                other = report.figure(begin + group, f"{name}, {word}")
                cells.append("" if other is None else f"[dim]{other.value:.2f}[/]")
        table.add_row("", escape(name), *cells)
    if any(figure.group == group for figure in report.figures):
        console.print(table)


def _show_travel(report: TrustReport, console: Console) -> None:
    """Cosines by distance."""
    group = "faithfulness"
    if not any(figure.group == group for figure in report.figures):
        return
    title = "Disturbances in the replacement model and in the real one (cosine, by layers travelled)"
    table = _table(title, ("", "left"), *((str(distance), "right") for distance in DISTANCES))
    for prefix, note in (("", ""), ("control: ", "  [dim]random dict.[/]")):
        for name in FOLLOWED.values():
            found = [report.figure(prefix + group, f"{name}, {distance} layers on: cosine") for distance in DISTANCES]
            if any(found):
                table.add_row("", name + note, *("" if figure is None else f"{figure.value:.2f}" for figure in found))
    console.print(table)


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(
        title=f"\n{title}" if title else None,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 1),
        header_style="dim",
        pad_edge=False,
    )
    table.add_column("", width=1)
    for head, side in columns:
        table.add_column(head, justify=side)  # pyright: ignore[reportArgumentType]
    return table


def _value(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    value, _, bounds = (f"{figure.value:.1e}" if 0 < abs(figure.value) < 0.001 else str(figure)).partition(" ")
    return f"[bold]{value}[/] [dim]{escape(bounds)}[/]"


def _text(text: str) -> str:
    return escape(visible(text))
