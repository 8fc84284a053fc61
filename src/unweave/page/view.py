"""What the page is shown of a graph: columns of nodes, the strongest edges, scores, provenance."""

import re
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.choices import PositionZero
from ..errors import GraphError
from ..graphs.graph import Graph
from ..graphs.limits import known_limits
from ..graphs.nodes import NodeKind
from ..graphs.provenance import Provenance

VIEW_VERSION = 1
MOST_EDGES = 200_000
"""Edges in a view unless more are asked for."""
MOST_SCORED = 4_000_000
"""Edges up to which scores are computed where the file does not have them: each takes a sweep over all edges."""
NEURONPEDIA = re.compile(r"https?://(www\.)?neuronpedia\.org/(?P<model>[\w.-]+)/(?P<set>[\w.-]+)/?")
EDGES_PER_NODE = 8
"""So many of the strongest edges into a node are in every view."""


def view(
    graph: Graph, slug: str, *, edges: int = MOST_EDGES, validation: Any = None, live: bool = False
) -> dict[str, Any]:
    """The graph as the page takes it, see docs/server.md; columns are NumPy arrays, fit for orjson.

    Args:
        edges: at most so many edges, beside the strongest few into every node.
    """
    facts = graph.provenance
    size = graph.input_size
    entries = strongest(graph, size, edges)
    source, target, weight = graph.rows.column[entries], _targets(graph, entries), graph.rows.value[entries]
    title = facts.prompt if facts.prompt is not None else "".join(facts.tokens)
    return {
        "version": VIEW_VERSION,
        "slug": slug,
        "title": title or slug,
        "prompt": title,
        "tokens": list(facts.tokens),
        "model": facts.model,
        "transcoders": facts.transcoders,
        "layers": facts.n_layers,
        "nodes": _node_columns(graph, size),
        "edges": {
            "source": _column(source),
            "target": _column(target),
            "weight": _column(weight),
            "share": _column((weight.abs() / size[target].clamp_min(1e-10)).float()),
        },
        "shown_edges": len(entries),
        "total_edges": graph.n_edges,
        "influence_total": _influence_of_all(graph),
        "scores": _scores(graph),
        "residual": facts.residual,
        "logits_error": facts.logits_error,
        "warnings": _warnings(graph),
        "feature_address": _feature_address(facts),
        "provenance": _provenance(facts),
        "validation": validation,
        "live": live,
    }


def strongest(graph: Graph, size: Float[Tensor, " node"], most: int) -> Int[Tensor, " shown"]:
    """Numbers of the edges to show, those with the largest share of their target's input first.

    At most `most`, and in any case the few strongest into every node, without which a node would seem to have no cause.
    """
    start, counts = graph.rows.start.numpy(), graph.rows.start.diff().numpy()
    share = graph.rows.value.abs().float().numpy() * np.repeat((1 / size.clamp_min(1e-10)).float().numpy(), counts)
    if len(share) <= most:
        return torch.from_numpy(np.argsort(-share, kind="stable"))
    chosen = np.zeros(len(share), dtype=bool)
    chosen[np.argpartition(share, len(share) - most)[len(share) - most :]] = True
    have = np.diff(np.concatenate([[0], np.cumsum(chosen)])[start])
    for row in np.flatnonzero(have < np.minimum(counts, EDGES_PER_NODE)):
        first, few = start[row], min(EDGES_PER_NODE, int(counts[row]))
        chosen[
            first + np.argpartition(share[first : start[row + 1]], int(counts[row]) - few)[int(counts[row]) - few :]
        ] = True
    entries = np.flatnonzero(chosen)
    return torch.from_numpy(entries[np.argsort(-share[entries], kind="stable")])


def node_edges(graph: Graph, row: int, direction: str, limit: int, offset: int) -> dict[str, Any]:
    """The edges of one node, from the whole graph, the strongest first.

    Raises:
        GraphError: no such row.
    """
    if not 0 <= row < len(graph.nodes):
        raise GraphError(f"no node {row} in this graph of {len(graph.nodes)} nodes")
    if direction == "in":
        entries = torch.arange(int(graph.rows.start[row]), int(graph.rows.start[row + 1]))
        other = graph.rows.column[entries].long()
        target = torch.full_like(other, row)
    else:
        entries = torch.from_numpy(np.flatnonzero(graph.rows.column.numpy() == row))
        other = target = _targets(graph, entries)
    weight = graph.rows.value[entries]
    order = torch.argsort(weight.abs(), descending=True, stable=True)[offset : offset + limit]
    here, there = weight[order], target[order]
    share = here.abs().double() / graph.input_size[there].clamp_min(1e-10)
    rows = [
        [node, value, part]
        for node, value, part in zip(other[order].tolist(), here.tolist(), share.tolist(), strict=True)
    ]
    return {"edges": rows, "total": len(entries), "weight_total": float(weight.abs().double().sum())}


def _warnings(graph: Graph) -> list[str]:
    """What a reader has to know about a file before believing its picture."""
    facts, found = graph.provenance, []
    if not bool((graph.nodes.kind == NodeKind.LOGIT).any()):
        found.append("this graph has no outputs, so nothing can be said about influence and trust")
    left_out = facts.extra.get("links_left_out")
    if isinstance(left_out, int):
        found.append(f"{left_out:,} of the file's links name nodes that it does not have; they are left out")
    ambiguous = facts.extra.get("ambiguous")
    if isinstance(ambiguous, list) and ambiguous:
        found.append(f"{len(ambiguous):,} names are those of several nodes; their links go to the first of them")
    return found


def _feature_address(facts: Provenance) -> str | None:
    """Where Neuronpedia shows the features of a graph of theirs: an address with {layer} and {index} in it."""
    info = (facts.extra.get("metadata") or {}).get("info")
    urls = info.get("source_urls") if isinstance(info, dict) else None
    for url in urls if isinstance(urls, list) else ():
        match = NEURONPEDIA.fullmatch(str(url))
        if match is not None:
            return f"https://www.neuronpedia.org/{match['model']}/{{layer}}-{match['set']}/{{index}}"
    return None


def _targets(graph: Graph, entries: Int[Tensor, " edge"]) -> Int[Tensor, " edge"]:
    return torch.searchsorted(graph.rows.start, entries, right=True) - 1


def _column(values: Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.numpy())


def _node_columns(graph: Graph, size: Tensor) -> dict[str, Any]:
    nodes, n = graph.nodes, len(graph.nodes)
    named = graph.provenance.extra.get("promotes") or {}
    keys = [f"{layer}_{index}" for layer, index in zip(nodes.layer.tolist(), nodes.index.tolist(), strict=True)]
    feature = (nodes.kind == NodeKind.FEATURE).tolist()
    promotes = [named.get(key) if yes else None for key, yes in zip(keys, feature, strict=True)] if named else None
    return {
        "id": nodes.ids, "kind": _column(nodes.kind), "layer": _column(nodes.layer),
        "position": _column(nodes.position),
        "index": _column(nodes.index), "activation": _column(nodes.activation.float()),
        "influence": _column(_influence(graph, n).float()),
        "rank": _column(_rank(graph, n).float()), "label": _labels(graph), "promotes": promotes,
        "effect": None if graph.effect is None else _column(graph.effect.float()),
        "input_total": _column(size.float()),
        "inputs": _column(graph.rows.start.diff()),
        "outputs": _column(torch.bincount(graph.rows.column.long(), minlength=n)),
    }  # fmt: skip


def _influence_of_all(graph: Graph) -> float | None:
    """The influence of all nodes there were before pruning, in the units of the column; None if the file does not tell.

    Ranks tell it: a node's is the share of all that it and those above it hold. A file of ours has the influence of
    before too, so one node gives it; of another tool's file it is worked out anew from the edges that are left, so the
    nodes together do.
    """
    nodes, rank = graph.nodes, _rank(graph, len(graph.nodes))
    influence = _influence(graph, len(nodes))
    held = _finite(influence.sum())
    if graph.full_rank is None or held is None:
        return held
    if graph.provenance.origin == "unweave":
        top = int(influence.argmax()) if len(nodes) else 0
        return _finite(influence[top] / rank[top]) if len(nodes) and rank[top] > 0 else held
    inner = rank[(nodes.kind == NodeKind.FEATURE) | (nodes.kind == NodeKind.ERROR)]
    told = inner[inner < 1]
    return None if len(told) == 0 else held / float(told.max())


def _influence(graph: Graph, n: int) -> Tensor:
    try:
        return graph.influence()
    except GraphError:  # a foreign graph with a cycle: its influence is not defined, its picture is
        return torch.full((n,), torch.nan)


def _rank(graph: Graph, n: int) -> Tensor:
    try:
        return graph.influence_rank()
    except GraphError:
        return torch.full((n,), torch.nan)


def _labels(graph: Graph) -> list[str]:
    facts, nodes = graph.provenance, graph.nodes
    given = facts.extra.get("labels") or {}
    labels = [str(given.get(name, "")) for name in nodes.ids]
    for row in range(nodes.embeddings.start, nodes.embeddings.stop):
        position = int(nodes.position[row])
        labels[row] = facts.tokens[position] if 0 <= position < len(facts.tokens) else f"#{int(nodes.index[row])}"
    for number, row in enumerate(range(nodes.logits.start, nodes.logits.stop)):
        labels[row] = facts.logit_labels[number] if number < len(facts.logit_labels) else f"#{int(nodes.index[row])}"
    return labels


def _scores(graph: Graph) -> dict[str, float | None]:
    names = ("replacement", "completeness")
    facts = graph.provenance
    whole = facts.pruning is None
    found: dict[str, Any] = {
        "": facts.scores, "_peer": facts.scores_peer,
        "_file": facts.scores if whole else None, "_file_peer": facts.scores_peer if whole else None,
    }  # fmt: skip
    if graph.n_edges <= MOST_SCORED:
        modes: tuple[tuple[str, PositionZero | None], ...] = (("_file", None), ("_file_peer", "drop"))
        for suffix, mode in modes:
            try:
                found[suffix] = found[suffix] or graph.scores(mode)
            except GraphError:  # a cycle
                found[suffix] = None
    if whole:
        found["_peer"] = found["_file_peer"]
    return {
        f"{name}{suffix}": _finite(pair[place]) if pair else None
        for suffix, pair in found.items()
        for place, name in enumerate(names)
    }


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _provenance(facts: Provenance) -> dict[str, Any]:
    shown = {
        field.name: getattr(facts, field.name) for field in fields(Provenance) if field.name not in ("extra", "tokens")
    }
    return shown | {
        "known_circuits": "; ".join(known_limits(facts)) or None,
        "metadata": facts.extra.get("metadata"),
    }
