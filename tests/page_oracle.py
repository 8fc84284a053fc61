"""What the page computes, a second time in NumPy: the golden values that its TypeScript tests share."""

from typing import Any

import numpy as np

FEATURE, ERROR, EMBEDDING, LOGIT = range(4)


def matrix(view: dict[str, Any]) -> np.ndarray:
    """The weights, row = target."""
    n = len(view["nodes"]["id"])
    weights = np.zeros((n, n))
    for source, target, weight in zip(
        view["edges"]["source"], view["edges"]["target"], view["edges"]["weight"], strict=True
    ):
        weights[target, source] = weight
    return weights


def shares(view: dict[str, Any]) -> list[float]:
    """Every edge's share of all absolute input of its target."""
    weights, total = matrix(view), np.array(view["nodes"]["input_total"])
    return [
        abs(weights[t, s]) / total[t] for s, t in zip(view["edges"]["source"], view["edges"]["target"], strict=True)
    ]


def columns(view: dict[str, Any]) -> list[float]:
    """Each token's part of the width: its fullest cell, at least 1; nothing before the first token with a node."""
    nodes, layers = view["nodes"], view["layers"]
    count = np.zeros((len(view["tokens"]), layers + 2))
    for kind, layer, position in zip(nodes["kind"], nodes["layer"], nodes["position"], strict=True):
        count[position, {EMBEDDING: 0, LOGIT: layers + 1}.get(kind, layer + 1)] += 1
    width = np.maximum(count.max(1), 1)
    width[: int(np.argmax(count.sum(1) > 0))] = 0
    return (width / width.sum()).tolist()


def shown(view: dict[str, Any], influence: float, edge: float, errors: bool, sign: str) -> dict[str, Any]:
    """How many nodes and edges a filter leaves, and the share of all influence."""
    kind, rank = np.array(view["nodes"]["kind"]), np.array(view["nodes"]["rank"])
    keep = (kind >= EMBEDDING) | ((rank <= influence) & (errors | (kind != ERROR)))
    source, target = np.array(view["edges"]["source"]), np.array(view["edges"]["target"])
    weight, share = np.array(view["edges"]["weight"]), np.array(shares(view))
    kept = (
        keep[source]
        & keep[target]
        & (share >= edge)
        & {"both": weight == weight, "positive": weight > 0, "negative": weight < 0}[sign]
    )
    held = np.array(view["nodes"]["influence"])
    return {
        "nodes": int(keep.sum()),
        "edges": int(kept.sum()),
        "influence": float(held[keep].sum() / view["influence_total"]),
    }


def supernode_edges(view: dict[str, Any], groups: dict[str, list[int]]) -> dict[str, float]:
    """Effect of group on group: each member's edges over its input from outside, members weighted by how much of
    theirs is from outside."""
    weights, total, found = matrix(view), np.array(view["nodes"]["input_total"]), {}
    for target, members in groups.items():
        inside = np.abs(weights[np.ix_(members, members)]).sum(1)
        outside = np.maximum(total[members] - inside, 0)
        weighting = np.divide(outside, total[members], out=np.zeros(len(members)), where=total[members] > 0)
        if weighting.sum() == 0:
            continue
        for source, others in groups.items():
            if source == target or not (weights[np.ix_(members, others)] != 0).any():
                continue
            part = np.divide(
                weights[np.ix_(members, others)].sum(1), outside, out=np.zeros(len(members)), where=outside > 0
            )
            found[f"{source} > {target}"] = float((part * weighting).sum() / weighting.sum())
    return found


def golden(case: dict[str, Any]) -> dict[str, Any]:
    """All expected values of a case."""
    view = case["view"]
    row = {name: place for place, name in enumerate(view["nodes"]["id"])}
    groups = {group["id"]: [row[name] for name in group["members"]] for group in case["annotations"]["supernodes"]}
    grouped = {name for group in case["annotations"]["supernodes"] for name in group["members"]}
    groups |= {name: [row[name]] for name in case["annotations"]["pins"] if name not in grouped}
    return {
        "columns": columns(view),
        "shares": shares(view),
        "shown": [shown(view, **filters) for filters in case["filters"]],
        "supernode_edges": supernode_edges(view, groups),
    }
