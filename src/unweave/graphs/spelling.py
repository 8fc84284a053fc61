"""Node ids as other tools' files spell them: whose they are, and back again."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .nodes import NodeKind


def cantor(layer: int, feature: int) -> int:
    """The one number that stands for (layer, feature) in the field's JSON.

    >>> cantor(0, 12284)
    75466754
    """
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def uncantor(number: int) -> tuple[int, int]:
    """The (layer, feature) of a Cantor number.

    >>> uncantor(75466754)
    (0, 12284)
    """
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    feature = number - diagonal * (diagonal + 1) // 2
    return diagonal - feature, feature


def merged(listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nodes without those that stand there twice, word for word."""
    kept: list[dict[str, Any]] = []
    seen: dict[str, list[dict[str, Any]]] = {}
    for node in listed:
        others = seen.setdefault(str(node["node_id"]), [])
        if node not in others:
            others.append(node)
            kept.append(node)
    return kept


def rows_by_id(ids: Sequence[str], kinds: Sequence[NodeKind]) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """The row of every id where it is a target and where it is a source, and the ids that name two nodes.

    circuit-tracer's older ids of errors, `0_{layer}_{position}`, can be those of features of layer 0 too. Nothing flows
    into an error, so as a target such an id is the feature; as a source it may be either, and counts as the error:
    unexplained.

    Raises:
        ValueError: two other nodes have the same id.
    """
    targets: dict[str, int] = {}
    sources: dict[str, int] = {}
    twice: list[str] = []
    for row, name in enumerate(ids):
        if name not in targets:
            targets[name] = sources[name] = row
            continue
        pair = {kinds[targets[name]], kinds[row]}
        if pair != {NodeKind.FEATURE, NodeKind.ERROR} or name in twice:
            raise ValueError(f"two different nodes have the id {name}")
        sources[name] = row if kinds[row] == NodeKind.ERROR else sources[name]
        targets[name] = row if kinds[row] == NodeKind.FEATURE else targets[name]
        twice.append(name)
    return targets, sources, twice


def respelled(value: Any, names: Mapping[str, str]) -> Any:
    """The same content with ids replaced, alone or in a list with commas."""
    if isinstance(value, str):
        return ",".join(names.get(part, part) for part in value.split(",")) if value else value
    if isinstance(value, list):
        return [respelled(part, names) for part in value]
    if isinstance(value, dict):
        return {key: respelled(part, names) for key, part in value.items()}
    return value


def kept_beside(
    document: dict[str, Any], given: Sequence[dict[str, Any]], ids: list[str], spelled: list[str], twice: list[str]
) -> dict[str, Any]:
    """What is kept of a document beside its graph, nodes under our ids.

    Args:
        given: its nodes, in the order of `ids` (ours) and `spelled` (its own).
        twice: its ids that stand for more than one node.
    """
    clerps = {name: str(node["clerp"]) for name, node in zip(ids, given, strict=True) if node.get("clerp")}
    others = {own: name for own, name in zip(ids, spelled, strict=True) if own != name and name not in twice}
    settings = document.get("qParams")
    settings = respelled(settings, {name: own for own, name in others.items()}) if isinstance(settings, dict) else {}
    extra = {"metadata": document["metadata"], "qParams": settings, "labels": clerps}
    return extra | ({"ids": others} if others else {}) | ({"ambiguous": twice} if twice else {})
