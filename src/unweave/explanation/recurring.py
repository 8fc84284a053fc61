"""The same groups in several explanations: matched by the parts that they have in common, wherever the tokens lie."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..interventions.parts import Part

ALIKE = 0.5
"""The share of the smaller group's parts that two groups have in common, from which they count as the same."""
Facts = Mapping[str, Any]


def parts_of(group: Facts) -> frozenset[str]:
    """What a group is made of, without the tokens it sits on: `23.h4` (a head), `2.mlp`, `12_345` (a neuron).

    >>> sorted(parts_of({"parts": ["0-1.mlp@4", "23.h4@5", "12_345_5"]}))
    ['0.mlp', '1.mlp', '12_345', '23.h4']
    """
    part = Part.parse(group["parts"])
    heads = {f"{layer}.h{head}" for layer, head, _ in part.heads}
    mlps = {f"{layer}.mlp" for layer, _ in part.mlps}
    return frozenset(heads | mlps | {f"{layer}_{index}" for layer, _, index in part.units.triples})


def overlap(a: frozenset[str], b: frozenset[str]) -> float:
    """The share of the smaller of two sets that is in both.

    >>> overlap(frozenset("ab"), frozenset("bcd"))
    0.5
    """
    return len(a & b) / max(1, min(len(a), len(b)))


@dataclass
class RecurringGroup:
    """A group that several explanations have."""

    against: bool
    parts: Counter[str] = field(default_factory=Counter)
    """How many explanations have each part in it."""
    seen: list[tuple[int, int]] = field(default_factory=list)
    """(explanation, group)."""


def recurring(explanations: Sequence[Facts]) -> list[dict[str, Any]]:
    """Groups that at least two explanations have, those of most first.

    Returns:
        For each: `parts` (of at least half of its occurrences), `explanations` and `groups` (numbers), `names`,
        the `share` of the difference it takes as a mean, in how many it is `necessary` (without it the answer falls to
        less than half of its probability), and `against`.
    """
    clusters: list[RecurringGroup] = []
    for number, facts in enumerate(explanations):
        taken: set[int] = set()
        for place, group in enumerate(facts["groups"]):
            own = parts_of(group)
            scores = [
                overlap(own, frozenset(cluster.parts))
                if cluster.against == group["against"] and which not in taken
                else 0.0
                for which, cluster in enumerate(clusters)
            ]
            best = max(range(len(scores)), key=scores.__getitem__, default=-1)
            if best < 0 or scores[best] < ALIKE:
                clusters.append(RecurringGroup(group["against"]))
                best = len(clusters) - 1
            taken.add(best)
            clusters[best].parts.update(own)
            clusters[best].seen.append((number, place))
    found = [_facts(cluster, explanations) for cluster in clusters if len(cluster.seen) > 1]
    return sorted(found, key=lambda one: (-len(one["explanations"]), -abs(one["share"])))


def side_by_side(a: Facts, b: Facts) -> dict[str, Any]:
    """Two explanations without their models: groups that both have, by what they are made of, and groups of one alone.

    Returns:
        `answers` (`token`, `probability`, `rival` of each); `shared`, `only_a` and `only_b`: each with `groups`
        (numbers, None in the one that has none), `name`, `shares` and `against`, the largest share first.
    """
    both = {tuple(one["groups"]) for one in recurring((a, b)) if one["explanations"] == [0, 1]}
    alone = [
        [n for n in range(len(facts["groups"])) if n not in {pair[side] for pair in both}]
        for side, facts in enumerate((a, b))
    ]
    told = {
        "shared": [_pair(a, b, *pair) for pair in both],
        "only_a": [_pair(a, b, n, None) for n in alone[0]],
        "only_b": [_pair(a, b, None, n) for n in alone[1]],
    }
    answers = [facts["answer"] | {"rival": facts["rival"]["token"]} for facts in (a, b)]
    return {"answers": answers} | {
        name: sorted(pairs, key=lambda one: -max(abs(share or 0.0) for share in one["shares"]))
        for name, pairs in told.items()
    }


def _pair(a: Facts, b: Facts, i: int | None, j: int | None) -> dict[str, Any]:
    found = [None if n is None else facts["groups"][n] for facts, n in ((a, i), (b, j))]
    known = next(group for group in found if group is not None)
    return {
        "groups": [i, j],
        "name": known.get("place") or known["name"],
        "shares": [None if group is None else group["share"] for group in found],
        "against": known["against"],
    }


def _facts(cluster: RecurringGroup, explanations: Sequence[Facts]) -> dict[str, Any]:
    groups = [explanations[number]["groups"][place] for number, place in cluster.seen]
    before = [explanations[number]["answer"]["probability"] for number, _ in cluster.seen]
    most = [part for part, count in cluster.parts.most_common() if 2 * count >= len(groups)]
    return {
        "parts": most,
        "explanations": [number for number, _ in cluster.seen],
        "groups": [place for _, place in cluster.seen],
        "names": [group["name"] for group in groups],
        "share": sum(group["share"] for group in groups) / len(groups),
        "necessary": sum(
            group["passed"] and group["probability"] < own / 2 for group, own in zip(groups, before, strict=True)
        ),
        "against": cluster.against,
    }
