"""A trace, in a terminal."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..base.words import visible

WIDE = 140
"""Columns from which a terminal has room for both what a feature is labelled and what it promotes."""


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `summarize` for a person."""
    position = facts["position"]
    tokens = " ".join(
        f"[bold reverse]{_token(token)}[/]" if place == position else f"[reverse]{_token(token)}[/]"
        for place, token in enumerate(facts["tokens"])
    )
    console.print(f"\n[bold]Prompt[/]  {tokens}\n", highlight=False)
    _show_targets(facts, console)
    show_reasons(facts, console)
    _show_trust(facts, console)


def show_reasons(facts: dict[str, Any], console: Console) -> None:
    """Print what pushes the first target: its input, the strongest paths, where effects come from, the features."""
    _show_paths(facts, console)
    _show_bands(facts, console)
    _show_features(facts, console)


def _token(text: str) -> str:
    return escape(visible(text))


def _show_targets(facts: dict[str, Any], console: Console) -> None:
    console.print("[bold]What comes next[/]")
    width = 28
    for target in facts["targets"]:
        share = max(0.0, min(1.0, target["weight"]))
        bar = "█" * round(share * width) or "▏"
        console.print(f"  {_token(target['token']):<14} {target['weight']:6.1%}  [cyan]{bar}[/]", highlight=False)


def _show_paths(facts: dict[str, Any], console: Console) -> None:
    if not facts["paths"]:
        return
    goal = _token(facts["targets"][0]["token"])
    made = facts["input"]
    console.print(
        f"\n[bold]Direct effects on[/] [bold cyan]{goal}[/]  {made['feature']:.0%} from features, "
        f"{made['embedding']:.0%} from tokens, {made['error']:.0%} from errors  "
        f"[dim](of the sum of absolute weights)[/]",
        highlight=False,
    )
    straight = ", ".join(f"[bold]{_token(item['token'])}[/] {item['weight']:+.2f}" for item in made["tokens"])
    console.print(f"  tokens, through attention and skip paths: {straight} [dim](logits)[/]", highlight=False)
    console.print(
        f"\n[bold]Strongest paths to[/] [bold cyan]{goal}[/]  [dim](share of all that enters it, together "
        f"{sum(path['share'] for path in facts['paths']):.1%}; features named by their label or the tokens they "
        f"promote)[/]"
    )
    for path in facts["paths"]:
        sign = "[green]+[/]" if path["sign"] > 0 else "[red]−[/]"
        steps = " [dim]→[/] ".join(_step(node) for node in path["nodes"])
        console.print(f"  {sign} {path['share']:6.2%}  {steps}", highlight=False)


def _step(node: dict[str, Any]) -> str:
    if node["kind"] != "feature":
        return f"[bold]{_token(node['token'])}[/]"
    layer, feature, _ = node["node"].split("_")
    return f"[yellow]L{layer}·{feature}[/]{_promotes(node)}[dim]@{_token(node['token'].strip())}[/]"


def _promotes(node: dict[str, Any]) -> str:
    promoted = " ".join(_token(word.strip()) for word in node["promotes"][:2])
    words = _token(node["label"]) if node["label"] else promoted
    return f" [italic]‹{words}›[/]" if words else ""


def _show_bands(facts: dict[str, Any], console: Console) -> None:
    """Where the answer is made: effects by token and thirds of the layers."""
    if not facts["bands"]:
        return
    goal = _token(facts["targets"][0]["token"])
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("on token", max_width=16)
    for part in facts["bands"][0]["effects"]:
        table.add_column("layers {}-{}".format(*part["layers"]), justify="right")
    largest = max(abs(part["effect"]) for row in facts["bands"] for part in row["effects"])
    for row in facts["bands"]:
        cells = [part["effect"] for part in row["effects"]]
        table.add_row(_token(row["token"]), *(_amount(effect, largest) for effect in cells))
    console.print(
        f"\n[bold]Where it is made[/]  [dim]effects of features on the logit of[/] [bold cyan]{goal}[/][dim], "
        f"added up[/]",
        highlight=False,
    )
    console.print(table)


def _amount(effect: float, largest: float) -> str:
    """A signed number, strong where it is large and dim where it is next to nothing."""
    style = "bold" if abs(effect) > largest / 2 else "dim" if abs(effect) < largest / 20 else ""
    return f"[{style}]{effect:+.2f}[/]" if style else f"{effect:+.2f}"


def _show_features(facts: dict[str, Any], console: Console) -> None:
    shown = facts["effects"] or facts["features"]
    if not shown:
        return
    table = Table(
        title="Features with the largest effect" if facts["effects"] else "Most influential features",
        title_style="bold",
        title_justify="left",
        box=None,
        padding=(0, 2),
        header_style="dim",
    )
    labelled = any(node["label"] for node in shown)
    both = labelled and console.width >= WIDE
    table.add_column("node", min_width=max(len(node["node"]) for node in shown))
    table.add_column("on token", max_width=16)
    for heading in ("activation", "influence", "effect"):
        table.add_column(heading, justify="right", min_width=len(heading))
    for heading in ("label", "promotes") if both else ("label" if labelled else "promotes",):
        table.add_column(heading, no_wrap=both, min_width=16)
    for node in shown:
        effect = "" if node["effect"] is None else f"{node['effect']:+.2f}"
        promotes = ", ".join(_token(word) for word in node["promotes"])
        words = (
            (_token(node["label"] or ""), promotes) if both else (_token(node["label"]) if node["label"] else promotes,)
        )
        table.add_row(
            node["node"], _token(node["token"]), f"{node['activation']:.2f}", f"{node['influence']:.3f}", effect, *words
        )
    console.print()
    console.print(table)
    goal = _token(facts["targets"][0]["token"])
    console.print(
        f"  [dim]effect: what it adds to the logit of[/] {goal} [dim]in the real model, to first order, with "
        f"attention frozen; influence: its share of all that flows to the answer, without sign[/]",
        highlight=False,
    )


def _show_trust(facts: dict[str, Any], console: Console) -> None:
    scores, dropped, exact, graph, kept = (
        facts[key] for key in ("scores", "scores_position_zero_dropped", "exactness", "graph", "kept")
    )
    console.print("\n[bold]How far to trust it[/]")
    lines = [
        f"explained   replacement {scores['replacement']:.2f}, completeness {scores['completeness']:.2f}"
        f"  [dim](as circuit-tracer counts, without position 0: {dropped['replacement']:.2f}, "
        f"{dropped['completeness']:.2f})[/]",
        f"exact       rows sum to their pre-activations within {exact['residual']:.1e}; frozen logits within "
        f"{exact['logits']:.1e} of the model's",
        f"whole graph {graph['features']:,} features, {graph['errors']:,} errors, {graph['embeddings']} tokens, "
        f"{graph['edges']:,} edges",
        f"kept        {kept['nodes']:,} nodes, {kept['edges']:,} edges, {kept['influence']:.0%} of the influence",
    ]
    if graph["active_features"] is not None and graph["active_features"] > graph["features"]:
        lines.insert(
            3, f"folded      {graph['active_features'] - graph['features']:,} further active features, counted as error"
        )
    lines += [f"[dim]measured    {escape(note)}[/]" for note in facts["known_circuits"]]
    if facts["unexplained"] is not None and facts["unexplained"] > 1:
        lines.append(
            f"[bold red]careful[/]     errors are larger than what the MLPs add (squares {facts['unexplained']:.1f} "
            f"to 1 in the median layer): "
            "the transcoders do worse than their biases alone; are they for this model, and are their tensors the "
            "right way round?"
        )
    for line in lines:
        console.print(f"  {line}", highlight=False)
