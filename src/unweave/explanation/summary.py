"""A trace in words and numbers: one set of facts, shown to people or given to machines."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..attribution.promoted import promoted_tokens
from ..graphs.graph import Graph
from ..graphs.limits import known_limits
from ..graphs.nodes import Node, NodeKind
from ..graphs.paths import Path, strongest_paths
from ..interventions.attribution_patching import first_order_effects, target_tokens
from ..transcoders.replacement import ReplacementModel

BANDS = 3
"""Thirds of the layers, in which effects are added up."""


def summarize(
    graph: Graph, pruned: Graph, model: ReplacementModel | None = None, *, paths: int = 5, features: int = 8
) -> dict[str, Any]:
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
    effects = pruned.provenance.extra.get("effects") or with_effects(pruned, model).provenance.extra.get("effects", {})
    adding = sorted(
        (node for node in list(pruned.nodes)[pruned.nodes.features] if node.id in effects),
        key=lambda node: -abs(effects[node.id]),
    )[:features]
    passed = [node for path in strongest for node in path.nodes if node.kind == NodeKind.FEATURE]
    named = _promoted(model, pruned, [*ranked, *adding, *passed])
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
            {"token": label, "id": node.index, "weight": node.activation, "node": node.id}
            for label, node in zip(facts.logit_labels, logits, strict=True)
        ],
        "input": _input_facts(graph),
        "paths": [_path_facts(path, pruned, named) for path in strongest],
        "features": [_ranked_facts(node, pruned, named, influence, effects) for node in ranked],
        "effects": [_ranked_facts(node, pruned, named, influence, effects) for node in adding],
        "bands": _bands(pruned, effects),
        "scores": {"replacement": honest.replacement, "completeness": honest.completeness},
        "scores_position_zero_dropped": {"replacement": dropped.replacement, "completeness": dropped.completeness},
        "unexplained": facts.unexplained,
        "known_circuits": list(known_limits(facts)),
        "exactness": {"logits": facts.logits_error, "residual": facts.residual},
        "graph": {
            "features": kinds[0],
            "errors": kinds[1],
            "embeddings": kinds[2],
            "logits": kinds[3],
            "edges": graph.n_edges,
            "active_features": facts.active_features,
        },
        "kept": {
            "nodes": len(pruned.nodes),
            "edges": pruned.n_edges,
            "pruning": list(pruned.provenance.pruning or (1.0, 1.0)),
            "influence": float(influence.sum() / graph.influence().sum().clamp_min(1e-30)),
        },
    }


def with_effects(graph: Graph, model: ReplacementModel | None) -> Graph:
    """The graph with what its features add to the first target, so that it can be said again without the model.

    Without a model, or where the first target is neither a token nor a difference of tokens, the graph as it is.
    """
    first = graph.nodes.logits.start
    if model is None or first >= graph.nodes.logits.stop or not target_tokens(graph, first, strict=False):
        return graph
    effect = first_order_effects(model, graph, graph.nodes[first])
    rows = range(graph.nodes.features.start, graph.nodes.features.stop)
    found = {graph.nodes[row].id: float(f"{float(effect[row]):.6g}") for row in rows}
    return graph.with_provenance(extra={**graph.provenance.extra, "effects": found})


def _bands(graph: Graph, effects: dict[str, float]) -> list[dict[str, Any]]:
    """Effects of features added up by token and by thirds of the layers, which is where an answer is made at a glance.

    They are sums of first-order effects: what a whole band does together may be more or less.
    """
    features = [node for node in list(graph.nodes)[graph.nodes.features] if node.id in effects]
    if not features:
        return []
    layers = (
        int(graph.nodes.layer[graph.nodes.logits.start]) - 1
    )  # targets stand above the stream that follows the last
    edges = sorted({round(layers * part / BANDS) for part in range(BANDS + 1)})
    found: dict[int, list[float]] = {}
    for node in features:
        row = found.setdefault(node.position, [0.0] * (len(edges) - 1))
        row[max(place for place, first in enumerate(edges[:-1]) if node.layer >= first)] += effects[node.id]
    return [
        {
            "position": position,
            "token": graph.tokens[position],
            "effects": [
                {"layers": [first, last - 1], "effect": effect}
                for (first, last), effect in zip(pairwise(edges), found[position], strict=True)
            ],
        }
        for position in sorted(found)
    ]


def _ranked_facts(
    node: Node, graph: Graph, named: dict[tuple[int, int], list[str]], influence: Tensor, effects: dict[str, float]
) -> dict[str, Any]:
    return {
        **_node_facts(node, graph, named),
        "influence": float(influence[node.row]),
        "effect": effects.get(node.id),
    }


def _promoted(model: ReplacementModel | None, graph: Graph, nodes: list[Node]) -> dict[tuple[int, int], list[str]]:
    """The tokens that features promote: by the model, else those that the graph has."""
    keys = sorted({(node.layer, node.index) for node in nodes})
    if model is None:
        known = graph.provenance.extra.get("promotes") or {}
        return {key: known.get("{}_{}".format(*key), []) for key in keys}
    return dict(zip(keys, promoted_tokens(model, keys), strict=True)) if keys else {}


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
    """What the first target's direct input is made of, as shares of its absolute sum, and the tokens with most of
    it."""
    target = graph.nodes.logits.start
    entries = slice(int(graph.rows.start[target]), int(graph.rows.start[target + 1]))
    source, weight = graph.rows.column[entries].long(), graph.rows.value[entries]
    share, kind = weight.abs() / weight.abs().sum().clamp_min(1e-10), graph.nodes.kind[source]
    shares = {name.name.lower(): float(share[kind == name].sum()) for name in NodeKind if name != NodeKind.LOGIT}
    order = torch.argsort(share * (kind == NodeKind.EMBEDDING), descending=True)[:3].tolist()
    direct = [(graph.nodes[int(source[i])], i) for i in order if kind[i] == NodeKind.EMBEDDING]
    tokens = [
        {"node": node.id, "token": graph.tokens[node.position], "share": float(share[i]), "weight": float(weight[i])}
        for node, i in direct
    ]
    return {**shares, "tokens": tokens}


def _path_facts(path: Path, graph: Graph, named: dict[tuple[int, int], list[str]]) -> dict[str, Any]:
    nodes = [_node_facts(node, graph, named) for node in path.nodes]
    return {"share": path.share, "sign": path.sign, "nodes": nodes, "weights": [edge.weight for edge in path.edges]}
