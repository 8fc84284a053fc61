"""A trace in words and numbers: one set of facts, shown to people or given to machines."""

from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from .features import promoted_tokens
from .graph import Graph
from .nodes import Node, NodeKind
from .paths import Path, strongest_paths
from .replacement import ReplacementModel
from .slopes import first_order_effects, target_tokens

WIDE = 140
"""Columns from which a terminal has room for both what a feature is labelled and what it promotes."""


def summarize(graph: Graph, pruned: Graph, model: ReplacementModel | None = None, *, paths: int = 5, features: int = 8) -> dict[str, Any]:
    """The facts about a trace that people ask for first; plain data, fit for JSON.

    Args:
        graph: the whole graph.
        pruned: what was kept of it.
        model: if given, features carry the tokens they promote.
    """
    facts = graph.provenance
    honest, dropped = graph.scores(), graph.scores("drop")
    logits = list(pruned.nodes)[pruned.nodes.logits]
    sources = [node for node in pruned.nodes if node.kind == NodeKind.EMBEDDING]
    strongest = strongest_paths(pruned, sources, logits[0], paths, direct=False) if logits else []
    influence = pruned.influence()
    ranked = sorted(list(pruned.nodes)[pruned.nodes.features], key=lambda node: -float(influence[node.row]))[:features]
    effect = _effects(model, pruned)
    named = _promoted(model, [*ranked, *(node for path in strongest for node in path.nodes if node.kind == NodeKind.FEATURE)])
    kinds = [int((graph.nodes.kind == kind).sum()) for kind in NodeKind]
    return {
        "prompt": facts.prompt,
        "tokens": list(facts.tokens),
        "position": int(graph.nodes.position[graph.nodes.logits.start]) if logits else None,
        "model": facts.model,
        "transcoders": {"name": facts.transcoders, "kind": facts.transcoders_kind, "sha256": facts.transcoders_sha256},
        "dtype": facts.dtype,
        "precision": facts.precision,
        "position_zero": facts.position_zero,
        "targets": [
            {"token": label, "id": node.index, "weight": node.activation, "node": node.id} for label, node in zip(facts.logit_labels, logits, strict=True)
        ],
        "input": _input_facts(graph),
        "paths": [_path_facts(path, pruned, named) for path in strongest],
        "features": [
            {**_node_facts(node, pruned, named), "influence": float(influence[node.row]), "effect": None if effect is None else float(effect[node.row])}
            for node in ranked
        ],
        "scores": {"replacement": honest.replacement, "completeness": honest.completeness},
        "scores_position_zero_dropped": {"replacement": dropped.replacement, "completeness": dropped.completeness},
        "unexplained": facts.unexplained,
        "exactness": {"logits": facts.logits_error, "residual": facts.residual},
        "graph": {
            "features": kinds[0], "errors": kinds[1], "embeddings": kinds[2], "logits": kinds[3], "edges": graph.n_edges,
            "active_features": facts.active_features,
        },
        "kept": {
            "nodes": len(pruned.nodes), "edges": pruned.n_edges, "pruning": list(pruned.provenance.pruning or (1.0, 1.0)),
            "influence": float(influence.sum() / graph.influence().sum().clamp_min(1e-30)),
        },
    }  # fmt: skip


def _promoted(model: ReplacementModel | None, nodes: list[Node]) -> dict[tuple[int, int], list[str]]:
    keys = sorted({(node.layer, node.index) for node in nodes})
    return dict(zip(keys, promoted_tokens(model, keys), strict=True)) if model is not None and keys else {}


def _effects(model: ReplacementModel | None, graph: Graph) -> Tensor | None:
    """What features add to the first target, if that is a token or a difference of tokens."""
    first = graph.nodes.logits.start
    if model is None or first >= graph.nodes.logits.stop or not target_tokens(graph, first, strict=False):
        return None
    return first_order_effects(model, graph, graph.nodes[first])


def _node_facts(node: Node, graph: Graph, named: dict[tuple[int, int], list[str]]) -> dict[str, Any]:
    facts: dict[str, Any] = {"node": node.id, "kind": node.kind.name.lower()}
    match node.kind:
        case NodeKind.LOGIT:
            facts["token"] = graph.provenance.logit_labels[node.row - graph.nodes.logits.start]
        case _:
            facts["token"] = graph.tokens[node.position]
    if node.kind == NodeKind.FEATURE:
        label = graph.provenance.extra.get("labels", {}).get(node.id, "")
        facts |= {"activation": node.activation, "promotes": named.get((node.layer, node.index), []), "label": label}
    return facts


def _input_facts(graph: Graph) -> dict[str, Any]:
    """What the first target's direct input is made of, as shares of its absolute sum, and the tokens with most of it."""
    target = graph.nodes.logits.start
    entries = slice(int(graph.rows.start[target]), int(graph.rows.start[target + 1]))
    source, weight = graph.rows.column[entries].long(), graph.rows.value[entries]
    share, kind = weight.abs() / weight.abs().sum().clamp_min(1e-10), graph.nodes.kind[source]
    shares = {name.name.lower(): float(share[kind == name].sum()) for name in NodeKind if name != NodeKind.LOGIT}
    order = torch.argsort(share * (kind == NodeKind.EMBEDDING), descending=True)[:3].tolist()
    direct = [(graph.nodes[int(source[i])], i) for i in order if kind[i] == NodeKind.EMBEDDING]
    tokens = [{"node": node.id, "token": graph.tokens[node.position], "share": float(share[i]), "weight": float(weight[i])} for node, i in direct]
    return {**shares, "tokens": tokens}


def _path_facts(path: Path, graph: Graph, named: dict[tuple[int, int], list[str]]) -> dict[str, Any]:
    nodes = [_node_facts(node, graph, named) for node in path.nodes]
    return {"share": path.share, "sign": path.sign, "nodes": nodes, "weights": [edge.weight for edge in path.edges]}


def show(facts: dict[str, Any], console: Console) -> None:
    """Print the facts of `summarize` for a person."""
    position = facts["position"]
    tokens = " ".join(
        f"[bold reverse]{_token(token)}[/]" if place == position else f"[reverse]{_token(token)}[/]" for place, token in enumerate(facts["tokens"])
    )
    console.print(f"\n[bold]Prompt[/]  {tokens}\n", highlight=False)
    _show_targets(facts, console)
    _show_paths(facts, console)
    _show_features(facts, console)
    _show_trust(facts, console)


def _token(text: str) -> str:
    visible = text.replace("\n", "⏎").replace("\t", "⇥")
    return escape(visible) or "∅"


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
        f"\n[bold]What pushes[/] [bold cyan]{goal}[/]  {made['feature']:.0%} features, {made['embedding']:.0%} tokens straight "
        f"(attention and skip paths), {made['error']:.0%} unexplained  [dim](of all direct input)[/]",
        highlight=False,
    )
    straight = ", ".join(f"[bold]{_token(item['token'])}[/] {item['weight']:+.2f}" for item in made["tokens"])
    console.print(f"  straight from {straight} [dim](logits)[/]", highlight=False)
    console.print(f"\n[bold]Strongest paths to[/] [bold cyan]{goal}[/]  [dim](share of all its input; features named by the tokens they promote)[/]")
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
    words = " ".join(_token(word.strip()) for word in node["promotes"][:2])
    return f" [italic]‹{words}›[/]" if words else ""


def _show_features(facts: dict[str, Any], console: Console) -> None:
    if not facts["features"]:
        return
    table = Table(title="Most influential features", title_style="bold", title_justify="left", box=None, padding=(0, 2), header_style="dim")
    labelled = any(node["label"] for node in facts["features"])
    both = labelled and console.width >= WIDE
    table.add_column("node", min_width=max(len(node["node"]) for node in facts["features"]))
    table.add_column("on token", max_width=16)
    for heading in ("activation", "influence", "effect"):
        table.add_column(heading, justify="right", min_width=len(heading))
    for heading in ("label", "promotes") if both else ("label" if labelled else "promotes",):
        table.add_column(heading, no_wrap=both, min_width=16)
    for node in facts["features"]:
        effect = "" if node["effect"] is None else f"{node['effect']:+.2f}"
        promotes = ", ".join(_token(word) for word in node["promotes"])
        words = (_token(node["label"] or ""), promotes) if both else (_token(node["label"]) if node["label"] else promotes,)
        table.add_row(node["node"], _token(node["token"]), f"{node['activation']:.2f}", f"{node['influence']:.3f}", effect, *words)
    console.print()
    console.print(table)
    goal = _token(facts["targets"][0]["token"])
    console.print(f"  [dim]effect: what it adds to the logit of[/] {goal} [dim]in the real model, to first order, attention held[/]", highlight=False)


def _show_trust(facts: dict[str, Any], console: Console) -> None:
    scores, dropped, exact, graph, kept = (facts[key] for key in ("scores", "scores_position_zero_dropped", "exactness", "graph", "kept"))
    console.print("\n[bold]How far to trust it[/]")
    lines = [
        f"explained   replacement {scores['replacement']:.2f}, completeness {scores['completeness']:.2f}"
        f"  [dim](peer-style, without position 0: {dropped['replacement']:.2f}, {dropped['completeness']:.2f})[/]",
        f"exact       rows sum to their pre-activations within {exact['residual']:.1e}; frozen logits within {exact['logits']:.1e} of the model's",
        f"whole graph {graph['features']:,} features, {graph['errors']:,} errors, {graph['embeddings']} tokens, {graph['edges']:,} edges",
        f"kept        {kept['nodes']:,} nodes, {kept['edges']:,} edges, {kept['influence']:.0%} of the influence",
    ]
    if graph["active_features"] is not None and graph["active_features"] > graph["features"]:
        lines.insert(3, f"folded      {graph['active_features'] - graph['features']:,} further active features, counted as error")
    if facts["unexplained"] is not None and facts["unexplained"] > 1:
        lines.append(
            f"[bold red]careful[/]     errors are larger than what the MLPs add (squares {facts['unexplained']:.1f} to 1 in the median layer): "
            "the dictionary does worse than its biases alone; is it for this model, and are its tensors the right way round?"
        )
    for line in lines:
        console.print(f"  {line}", highlight=False)
