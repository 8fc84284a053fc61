"""An intervention, in a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base.words import visible
from ..interventions.plans import MODES

SHOWN = 10
"""Changed features that are listed for people."""


def show_effects(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `describe` for a person."""
    console.print(
        "\n[bold]Prompt[/]  " + " ".join(f"[reverse]{_token(token)}[/]" for token in facts["tokens"]) + "\n",
        highlight=False,
    )
    held = MODES[facts["mode"]]
    if facts["layers"] is not None:
        held += f"; MLP outputs of layers {facts['layers'][0]} to {facts['layers'][1]} held"
    if "next" in facts:
        _show_changed(facts, console)
        _show_watched(facts, console)
        _show_next(facts, console)
        console.print(f"\n  KL {facts['kl']:.3f} nats  [dim]({held})[/]", highlight=False)
    if "sweep" in facts:
        _show_sweep(facts["sweep"], console)
    if "generation" in facts:
        _show_generation(facts, console)


def _token(text: str) -> str:
    return escape(visible(text))


def _number(value: float) -> str:
    """Two decimals, and no zero below zero."""
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def _signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0.00"


def _table(*headings: tuple[str, str]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim", pad_edge=False)
    for heading, justify in headings:
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    return table


def _bar(share: float, width: int = 16, colour: str = "cyan") -> str:
    filled = round(max(0.0, min(1.0, share)) * width * 8)
    return f"[{colour}]{'█' * (filled // 8)}{' ▏▎▍▌▋▊▉'[filled % 8] if filled % 8 else ''}[/]"


def _show_changed(facts: dict[str, Any], console: Console) -> None:
    changed = facts["changed"]
    for push in [change for change in facts["changes"] if change["action"] == "push"]:
        console.print(
            f"  direction of norm {push['norm']:.2f} added at layer {push['layer']}, position {push['position']} "
            f"({push['at']})",
            highlight=False,
        )
    if not changed:
        return
    console.print(f"[bold]Changed[/]  [dim]{len(changed)} feature{'s' if len(changed) > 1 else ''}[/]")
    labelled = any(change["label"] for change in changed[:SHOWN])
    table = _table(
        ("", "left"),
        ("node", "left"),
        ("on token", "left"),
        ("activation", "right"),
        ("", "left"),
        ("now", "right"),
        ("label" if labelled else "promotes", "left"),
    )
    for change in changed[:SHOWN]:
        words = ", ".join(_token(word) for word in change["promotes"])
        said = _token(change["label"]) if change["label"] else f"[dim]promotes[/] {words}" if labelled else words
        group = f"[bold]{_token(change['supernode'])}[/] " if change["supernode"] else ""
        note = "[red]not active here[/] " if change["node"] in facts["inactive"] else ""
        note += "[red]writes nowhere in these layers[/] " if change["node"] in facts["idle"] else ""
        table.add_row(
            "",
            change["node"],
            _token(change["token"]),
            _number(change["before"]),
            "→",
            f"[bold]{_number(change['after'])}[/]",
            f"{group}{note}[italic]{said}[/]",
        )
    console.print(table)
    if len(facts["inactive"]) == len(changed):
        console.print(
            "  [red]None of them is active on this prompt[/], so switching them off or scaling them does nothing; "
            "unweave trace lists those that are.",
            highlight=False,
        )
    if len(changed) > SHOWN:
        console.print(f"  [dim]and {len(changed) - SHOWN} more, with smaller changes[/]", highlight=False)


def _show_watched(facts: dict[str, Any], console: Console) -> None:
    if not facts["watched"]:
        return
    console.print("\n[bold]Watched[/]")
    table = _table(
        ("", "left"),
        ("node", "left"),
        ("on token", "left"),
        ("before", "right"),
        ("", "left"),
        ("after", "right"),
        ("pre-activation", "right"),
        ("label" if any(row["label"] for row in facts["watched"]) else "", "left"),
    )
    for row in facts["watched"]:
        pre = f"[dim]{_number(row['preactivation_before'])} → {_number(row['preactivation_after'])}[/]"
        before, after = _number(row["before"]), f"[bold]{_number(row['after'])}[/]"
        note = "[red]not active here[/] " if row["before"] == row["after"] == 0 else ""
        said = f"{note}[italic]{_token(row['label']) if row['label'] else ''}[/]"
        table.add_row("", row["node"], _token(row["token"]), before, "→", after, pre, said)
    console.print(table)


def _show_next(facts: dict[str, Any], console: Console) -> None:
    console.print("\n[bold]What comes next[/]")
    table = _table(
        ("", "left"),
        ("token", "left"),
        ("before", "right"),
        ("", "left"),
        ("after", "right"),
        ("", "left"),
        ("log-prob", "right"),
        ("logit", "right"),
    )
    for token in facts["next"]:
        table.add_row(
            "", f"[bold]{_token(token['text'])}[/]", f"{token['probability_before']:.1%}",
            _bar(token['probability_before'], colour='dim cyan'),
            f"{token['probability_after']:.1%}", _bar(token['probability_after']),
            _signed(token['log_probability_change']), f"[dim]{_signed(token['logit_change'])}[/]",
        )  # fmt: skip
    console.print(table)


def _show_sweep(sweep: dict[str, Any], console: Console) -> None:
    console.print("\n[bold]Dose[/]  [dim]probability of the next token by factor[/]")
    headings = [column for token in sweep["tokens"] for column in ((_token(token["text"]), "right"), ("", "left"))]
    table = _table(("", "left"), ("factor", "right"), *headings, ("KL", "right"))
    for row in sweep["rows"]:
        cells = [cell for share in row["probabilities"] for cell in (f"{share:.1%}", _bar(share, 10))]
        table.add_row("", f"[bold]{row['factor']:+g}[/]", *cells, f"{row['kl']:.2f}")
    console.print(table)


def _show_generation(facts: dict[str, Any], console: Console) -> None:
    table = Table(box=None, padding=(0, 3, 0, 2), pad_edge=False, header_style="bold", expand=False)
    width = max(24, min(56, (console.width - 8) // 2))
    table.add_column("Default", width=width)
    table.add_column("[cyan]Steered[/]", width=width)
    default, steered = (escape(facts["generation"][name]["text"].strip()) for name in ("default", "steered"))
    table.add_row(f"[dim]…[/]{default}", f"[dim]…[/]{steered}")
    console.print()
    console.print(table)
