"""What graphs of a kind are known to miss: the benchmark's figures on small models whose circuits are known."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from .provenance import Provenance

MEASURED = Path(__file__).parents[1] / "data" / "benchmark" / "found.json"
"""By method and task, the share of middle variables found; written by `unweave benchmark --out`."""
FEW = 0.5
"""Tasks of which less is found are named."""


def known_limits(facts: Provenance) -> tuple[str, ...]:
    """What was measured of graphs like one, in a sentence for each kind of dictionary that it may have; nothing for
    kinds that were not measured.

    >>> import unweave
    >>> unweave.known_limits(unweave.Graph.load("graph.npz").provenance)      # doctest: +SKIP
    """
    measured = _measured()
    return tuple(
        _sentence(what, name, measured) for what, name in _methods(facts) if measured.get("methods", {}).get(name)
    )


def _methods(facts: Provenance) -> list[tuple[str, str]]:
    """In words, and by the benchmark's name, what a graph may be."""
    if facts.kind == "response":
        if facts.units == "neurons":
            contrast = facts.baseline == "contrast"
            return [
                ("response graphs of neurons with a contrast", "response") if contrast
                else ("response graphs of neurons of one prompt", "response-alone")
            ]  # fmt: skip
        return _dictionaries("response", facts) if facts.baseline == "contrast" else []
    if facts.units == "neurons" or facts.transcoders == "neurons":
        return [("attribution graphs of neurons", "attribution")]
    return _dictionaries("attribution", facts)


def _dictionaries(graph: str, facts: Provenance) -> list[tuple[str, str]]:
    kinds = {"per-layer": ("per-layer", "skip"), "cross-layer": ("cross-layer",)}.get(facts.transcoders_kind, ())
    names = {"skip": "per-layer dictionaries with skip matrices"}
    return [
        (f"{graph} graphs of small {names.get(kind, f'{kind} dictionaries')}", f"{graph}, {kind}") for kind in kinds
    ]


def _sentence(what: str, name: str, measured: dict[str, Any]) -> str:
    found = measured["methods"][name]
    models = sum(one["models"] for one in found.values())
    few = sorted((one["found"], task) for task, one in found.items() if one["found"] < FEW)
    least = ", ".join(f"{task} {share:.0%}" for share, task in few) or "in no task less than half"
    mean = sum(one["found"] * one["models"] for one in found.values()) / models
    return (
        f"{what} found {mean:.0%} of the middle steps of {models} small models whose circuits are known"
        f"{'; least: ' if few else ', '}{least} ({measured['date']})"
    )


@cache
def _measured() -> dict[str, Any]:
    return json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
