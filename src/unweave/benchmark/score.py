"""Scores of nodes and edges against a known circuit. Needs neither torch nor the rest of the engine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import FileError
from .data import Edge2, KnownCircuit, KnownInput, read_object

FIGURES = ("nodes", "nodes_ap", "edges", "edges_ap", "heads", "mediators", "effects", "seconds")
"""What is measured of a method on one input: AUROC and average precision of neurons and edges, AUROC of heads, share of
middle variables found, rank correlation of signed effects, time."""


@dataclass(frozen=True)
class CircuitScores:
    """What a method says about one input: the larger the absolute score, the likelier in the circuit; what is left out
    is scored 0."""

    nodes: Mapping[str, float]
    """Of neurons."""
    edges: Mapping[Edge2, float] | None = None
    """None: the method gives none."""
    heads: Mapping[str, float] | None = None
    signed: bool = False
    """Whether a node's score is the change of the target when it takes its value in the other prompt."""
    seconds: float = field(default=math.nan, compare=False)
    carried: Sequence[frozenset[str]] | None = None
    """Of a method that ranks other units than neurons: the neurons that each goes with, the strongest unit first."""


def score_circuit(known: KnownInput, found: CircuitScores, *, heads: Sequence[str] = ()) -> dict[str, float]:
    """A method's figures on one input; NaN where it gives nothing to score.

    Args:
        heads: all heads by position, as ids; those not in the circuit count as not in it.

    >>> one = KnownInput((1, 2), (1, 3), 4, 5, nodes=("0_3_1",), either=(), candidates=("0_1_1", "0_3_1"),
    ...                  sources=("E_2_1",), heads=(), edges=(("0_3_1", "target"),), mediators={"middle": ("0_3_1",)},
    ...                  effects={"0_1_1": 0.0, "0_3_1": -1.0})
    >>> made = score_circuit(one, CircuitScores({"0_3_1": -2.0, "0_1_1": 0.5}))
    >>> made["nodes"], made["mediators"]
    (1.0, 1.0)
    """
    nodes, true = known.scored_nodes(), set(known.nodes)
    sizes = [abs(found.nodes.get(node, 0.0)) for node in nodes]
    labels = [node in true for node in nodes]
    edges = found.edges
    pairs = list(known.scored_edges()) if edges is not None else []
    edge_sizes = [abs(edges.get(pair, 0.0)) for pair in pairs] if edges is not None else []
    drawn = set(known.edges)
    edge_labels = [pair in drawn for pair in pairs]
    head_sizes = [abs(found.heads.get(head, 0.0)) for head in heads] if found.heads is not None else []
    effects = spearman([found.nodes.get(node, 0.0) for node in nodes], [known.effects.get(node, 0.0) for node in nodes])
    return {
        "nodes": auroc(sizes, labels), "nodes_ap": average_precision(sizes, labels),
        "edges": auroc(edge_sizes, edge_labels), "edges_ap": average_precision(edge_sizes, edge_labels),
        "heads": auroc(head_sizes, [head in known.heads for head in heads] if head_sizes else []),
        "mediators": mediators_found(known, sizes, found.carried), "effects": effects if found.signed else math.nan,
        "seconds": found.seconds,
    }  # fmt: skip


def mediators_found(
    known: KnownInput, sizes: Sequence[float], carried: Sequence[frozenset[str]] | None = None
) -> float:
    """Share of the variables between input and answer that have a neuron among the strongest, as many as the circuit
    has, or one with which one of as many other units goes (`carried`, the strongest first); NaN where there is none.
    A neuron tied with ones left out does not count."""
    if not known.mediators:
        return math.nan
    if carried is not None:
        there = frozenset[str]().union(*carried[: len(known.nodes)])
        return sum(bool(there & set(names)) for names in known.mediators.values()) / len(known.mediators)
    nodes, count = known.scored_nodes(), len(known.nodes)
    ranked = sorted(sizes, reverse=True)
    least = ranked[count] if len(ranked) > count else -1.0
    top = {node for node, size in zip(nodes, sizes, strict=True) if size > least}
    return sum(bool(top & set(names)) for names in known.mediators.values()) / len(known.mediators)


def auroc(sizes: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that what is in the circuit is above what is not, ties counted half; NaN if either is missing.

    >>> auroc([3.0, 1.0, 2.0], [True, False, False]), auroc([1.0, 1.0], [True, False])
    (1.0, 0.5)
    """
    inside = sum(labels)
    outside = len(labels) - inside
    if not inside or not outside:
        return math.nan
    above = sum(rank for rank, label in zip(ranks(sizes), labels, strict=True) if label)
    return (above - inside * (inside - 1) / 2) / (inside * outside)


def average_precision(sizes: Sequence[float], labels: Sequence[bool]) -> float:
    """The area under precision by recall, tied scores taken together; NaN if nothing is in the circuit.

    >>> average_precision([3.0, 2.0, 1.0], [True, False, True])
    0.8333333333333333
    """
    inside = sum(labels)
    if not inside:
        return math.nan
    order = sorted(range(len(sizes)), key=lambda row: -sizes[row])
    area, hits, begin = 0.0, 0, 0
    while begin < len(order):
        stop = begin
        while stop < len(order) and sizes[order[stop]] == sizes[order[begin]]:
            stop += 1
        more = sum(labels[row] for row in order[begin:stop])
        hits += more
        area += more / inside * hits / stop
        begin = stop
    return area


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, ties at their mean.

    >>> ranks([3.0, 1.0, 3.0])
    [1.5, 0.0, 1.5]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    found, begin = [0.0] * len(values), 0
    while begin < len(order):
        stop = begin
        while stop < len(order) and values[order[stop]] == values[order[begin]]:
            stop += 1
        for row in order[begin:stop]:
            found[row] = (begin + stop - 1) / 2
        begin = stop
    return found


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, as `validation.statistics` has it on tensors; NaN where one does not vary.

    >>> spearman([1.0, 2.0, 3.0], [1.0, 4.0, 9.0])
    1.0
    """
    first, second = ([rank - (len(x) - 1) / 2 for rank in ranks(part)] for part in (x, y))
    size = math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
    return sum(a * b for a, b in zip(first, second, strict=True)) / size if size else math.nan


def read_found(path: str | Path, circuits: Sequence[KnownCircuit]) -> dict[str, list[CircuitScores]]:
    """Scores that another tool gave, by circuit: one entry an input, in the order of the circuit's file.

    Raises:
        FileError: it cannot be read, a circuit is missing, or an entry is no score.
    """
    content = read_object(path)
    found = {}
    for circuit in circuits:
        entries = content.get(circuit.name)
        if not isinstance(entries, list) or len(entries) != len(circuit.inputs):
            raise FileError(
                f"{path}: {circuit.name!r} must list one entry for each of its {len(circuit.inputs)} inputs; "
                "see docs/benchmark.md"
            )
        try:
            found[circuit.name] = [_found(entry) for entry in entries]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileError(f"{path}: {circuit.name!r} has an entry that is no score ({error})") from error
    return found


def _found(entry: dict) -> CircuitScores:
    edges, heads = entry.get("edges"), entry.get("heads")
    return CircuitScores(
        _numbers(entry["nodes"]),
        None if edges is None else {(str(a), str(b)): _number(value) for a, b, value in edges},
        None if heads is None else _numbers(heads),
        bool(entry.get("signed", False)),
        float(entry.get("seconds", math.nan)),
    )


def _numbers(values: dict) -> dict[str, float]:
    return {str(name): _number(value) for name, value in values.items()}


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
