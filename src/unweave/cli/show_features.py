"""A feature's page, and lists of features, in a terminal."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base.words import visible

BARS = "▁▂▃▄▅▆▇█"


def highlighted(tokens: Sequence[str], activations: Sequence[float], peak: int | None = None) -> str:
    """A context in Rich's markup, each token on a ground as strong as its activation."""
    top = max([*activations, 1e-9])
    parts = []
    for place, (token, value) in enumerate(zip(tokens, activations, strict=True)):
        text = escape(visible(token))
        if place == peak:
            parts.append(f"[bold black on rgb(255,140,0)]{text}[/]")
        elif value > 0:
            shade = 235 - round(95 * min(1.0, value / top))
            parts.append(f"[black on rgb(255,{shade + 15},{max(0, shade - 60)})]{text}[/]")
        else:
            parts.append(text)
    return "".join(parts)


def show_page(page: dict[str, Any], console: Console, *, contexts: int = 12) -> None:
    """Print one feature's page for a person."""
    side = {"+": ", positive", "-": ", negative"}.get(page.get("sign", ""), "")
    name = f"layer {page['layer']} {'neuron' if side else 'feature'} {page['index']}{side}"
    sure = "" if page["confidence"] is None else f"  [dim]confidence {page['confidence']:.2f}[/]"
    score = page["score"]
    tested = (
        ""
        if score is None
        else f"[dim], on held-out text F1 {score['f1']:.2f} (precision {score['precision']:.2f}, recall "
        f"{score['recall']:.2f})[/]"
    )
    console.print(f"[bold]{name}[/]  {escape(page['label']) or '[dim]no label[/]'}{sure}{tested}", highlight=False)
    if not page["count"]:
        console.print("  [dim]it never fired on the text that the pages were made from[/]")
    else:
        spread = "" if page["histogram"] is None else f", {_bars(page['histogram']['counts'])}"
        console.print(
            f"  fires on {page['density']:.3%} of tokens ({page['count']:,}), mean {page['mean']:.2f}, most "
            f"{page['maximum']:.2f}{spread}",
            highlight=False,
        )
        if page["tokens"]:
            listed = ", ".join(f"{_word(token)} {count / page['count']:.0%}" for token, count, _ in page["tokens"][:8])
            console.print(f"  [bold]on[/]         {listed}", highlight=False)
    for title, key in (("promotes", "promoted"), ("suppresses", "suppressed")):
        if page[key]:
            console.print(
                f"  [bold]{title:<10}[/] {', '.join(_word(token) for token, _ in page[key])}", highlight=False
            )
    if len(page["norms"]) > 1:
        console.print(
            f"  [bold]writes at[/]  {', '.join(f'L{layer} {norm:.2f}' for layer, norm in page['norms'])}",
            highlight=False,
        )
    if page["companions"]:
        listed = ", ".join(
            f"{layer}_{index}{''.join(sign)} {share:.0%}" for layer, index, share, *sign in page["companions"]
        )
        console.print(f"  [bold]fires with[/] {listed}", highlight=False)
    previous = None
    for context in page["contexts"][:contexts] if contexts else ():
        if context["quantile"] != previous:
            previous = context["quantile"]
            console.print(
                f"  [dim]{previous if previous == 'strongest' else f'{previous} of its firings'}[/]", highlight=False
            )
        peak = context["activations"][context["peak"]]
        console.print(
            f"    {peak:7.2f}  {highlighted(context['tokens'], context['activations'], context['peak'])}",
            highlight=False,
        )


def _word(token: str) -> str:
    return f"‘{escape(visible(token))}’"


def _bars(counts: Sequence[int]) -> str:
    top = max([*counts, 1])
    return "".join(BARS[min(7, int(8 * count / top))] if count else " " for count in counts)


def show_found(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print what a search found."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("feature", "label", "found in"):
        table.add_column(heading)
    for row in rows:
        name = f"{row['layer']}_{row['index']}{row.get('sign', '')}"
        table.add_row(name, escape(row["label"]), ", ".join(row["fields"]))
    console.print(table if rows else "[dim]nothing found[/]")


def show_like(rows: Sequence[dict[str, Any]], texts: int, console: Console) -> None:
    """Print which features texts switch on."""
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for heading in ("feature", "score", "on here", "elsewhere", "in texts", "strongest", "label"):
        left = heading in ("feature", "strongest", "label")
        table.add_column(
            heading,
            justify="left" if left else "right",
            no_wrap=heading != "label",
            min_width=30 if heading == "label" else None,
        )
    for row in rows:
        table.add_row(
            f"{row['layer']}_{row['index']}{row.get('sign', '')}", f"{row['score']:.3f}", f"{row['share']:.1%}",
            f"{row['density']:.2%}", f"{row['texts']} of {texts}",
            f"{row['strongest']:.2f} ‘{escape(visible(row['token']))}’", escape(row["label"]),
        )  # fmt: skip
    console.print(table)


def show_when(found: dict[str, Any], console: Console) -> None:
    """Print when a feature is on and off."""
    console.print(
        f"[bold]layer {found['layer']} feature {found['index']}[/] fires on {found['firings']:,} of "
        f"{found['tokens']:,} tokens ({found['density']:.3%})"
    )
    for title, key in (("on", "on"), ("off, on a token where it fires elsewhere", "off")):
        console.print(f"  [dim]{title}[/]")
        for context in found[key]:
            console.print(
                f"    {highlighted(context['tokens'], context['activations'], context['peak'])}", highlight=False
            )
