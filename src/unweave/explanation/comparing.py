"""Two explanations side by side: groups that both have, groups of one alone, arrows that differ; of two prompts, or of
two models of one layout."""

from collections.abc import Mapping
from typing import Any

from ..base.kinds import typed
from ..errors import OptionError
from ..graphs.comparison import aligned
from ..interventions.live import heads_of, run
from ..models.language_model import LanguageModel
from .arrows import Arrow
from .recurring import ALIKE, overlap, parts_of
from .result import Explanation

TWICE = 2.0
"""An arrow differs where it is so many times as strong in one explanation as in the other, or of another sign."""


@typed
def compare_explanations(a: Explanation, b: Explanation) -> dict[str, Any]:
    """What two explanations have in common and what not; every group is also tried where it was not found.

    Groups are the same if they have at least half of the smaller one's parts in common at matching tokens, and both
    work for the answer or against it.

    Returns:
        Plain data: `headlines`; `shared` (numbers in both, the `share` of the difference in both), `only_a` and
        `only_b` (a group's number and name, its `share`, and `share_other`: what swapping the same parts takes in the
        other, None where it has no such token); `arrows` between shared groups (`moved` in both, `differs`); of two
        models also `units`: every neuron, head and MLP of the groups of either, swapped alone (`share` in both), those
        first that differ most.

    Raises:
        OptionError: the models' layers, heads or neurons are not the same in number.

    >>> model = unweave.load_model("smollm2")                                          # doctest: +SKIP
    >>> a, b = (unweave.explain(model, f"The capital of {c} is") for c in ("France", "Japan"))  # doctest: +SKIP
    >>> unweave.compare_explanations(a, b)["shared"]                                   # doctest: +SKIP
    """
    check_one_layout(a.contrast.model, b.contrast.model)
    forth = aligned(a.contrast.ids.tolist(), b.contrast.ids.tolist())
    back = {new: old for old, new in forth.items()}
    pairs = _matched(a, b, forth)
    elsewhere = (_shares(a, b, forth), _shares(b, a, back))
    sides = ((a, {i for i, _ in pairs}, elsewhere[0]), (b, {j for _, j in pairs}, elsewhere[1]))
    alone = [
        [
            {"group": n, "name": effect.group.name, "share": effect.share, "share_other": other[n]}
            for n, effect in enumerate(side.measured.effects)
            if n not in met
        ]
        for side, met, other in sides
    ]
    return {
        "headlines": [a.headline, b.headline],
        "models": [a.contrast.model.name, b.contrast.model.name],
        "shared": [
            {
                "groups": [i, j],
                "names": [a.groups[i].name, b.groups[j].name],
                "share": [a.measured.effects[i].share, b.measured.effects[j].share],
            }
            for i, j in pairs
        ],
        "only_a": alone[0],
        "only_b": alone[1],
        "arrows": _arrows(a, b, dict(pairs)),
        "units": [] if a.contrast.model is b.contrast.model else _units(a, b, forth, back),
    }


def check_one_layout(a: LanguageModel, b: LanguageModel) -> None:
    """Refuse two models whose parts are not numbered alike.

    Raises:
        OptionError: saying what differs.
    """
    for what in ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size", "vocab_size"):
        first, second = (getattr(model.config, what, None) for model in (a, b))
        if first != second:
            raise OptionError(
                f"{a.name} and {b.name} differ in {what} ({first}, {second}), so their parts cannot be compared; give "
                f"two models of one layout, such as a model before and after fine-tuning"
            )


def _matched(a: Explanation, b: Explanation, places: Mapping[int, int]) -> list[tuple[int, int]]:
    """Pairs of groups, best overlap first, each group once."""
    scores = []
    for i, first in enumerate(a.groups):
        moved = first.part.moved(places)
        for j, second in enumerate(b.groups):
            if len(moved) and first.against == second.against and first.kind == second.kind:
                mine, theirs = (frozenset(part.words) for part in (moved, second.part))
                if first.kind == "MLPs":  # `0-2.mlp@4` is one word
                    mine, theirs = (parts_of({"parts": part.words}) for part in (moved, second.part))
                    mine = mine if set(moved.positions) & set(second.part.positions) else frozenset()
                scores.append((-overlap(mine, theirs), i, j))
    pairs: list[tuple[int, int]] = []
    for score, i, j in sorted(scores):
        if -score >= ALIKE and all(i != x and j != y for x, y in pairs):
            pairs.append((i, j))
    return sorted(pairs)


def _shares(a: Explanation, b: Explanation, places: Mapping[int, int]) -> list[float | None]:
    """What swapping each group of one takes in the other."""
    count, parts = heads_of(b.contrast.model), [group.part.moved(places) for group in a.groups]
    variants = [part.put(b.contrast.there, count) for part in parts]
    ran = run(b.contrast.model, b.contrast.ids, b.contrast.question, variants)
    share = b.contrast.share(ran.lead).tolist()
    return [value if len(part) else None for part, value in zip(parts, share, strict=True)]


def _units(a: Explanation, b: Explanation, forth: Mapping[int, int], back: Mapping[int, int]) -> list[dict[str, Any]]:
    """What each part takes on its own in either model."""
    members = [member for group in a.groups for member in group.part.members]
    members += [member.moved(back) for group in b.groups for member in group.part.members]
    here = list({member.words: member for member in members if len(member) and len(member.moved(forth))}.values())
    shares = []
    for side, parts in ((a, here), (b, [part.moved(forth) for part in here])):
        contrast, count = side.contrast, heads_of(side.contrast.model)
        variants = [part.put(contrast.there, count) for part in parts]
        shares.append(contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead).tolist())
    found = [{"part": " ".join(part.words), "share": [one, two]} for part, one, two in zip(here, *shares, strict=True)]
    return sorted(found, key=lambda unit: (-abs(unit["share"][0] - unit["share"][1]), unit["part"]))


def _arrows(a: Explanation, b: Explanation, pairs: Mapping[int, int]) -> list[dict[str, Any]]:
    there = {(arrow.source, arrow.target): arrow for arrow in b.measured.arrows}
    found = []
    for arrow in a.measured.arrows:
        if arrow.source not in pairs or (arrow.target is not None and arrow.target not in pairs):
            continue
        other = there.get((pairs[arrow.source], None if arrow.target is None else pairs[arrow.target]))
        if other is not None and (arrow.passed or other.passed):
            target = "answer" if arrow.target is None else a.groups[arrow.target].name
            found.append(
                {
                    "source": a.groups[arrow.source].name, "target": target, "moved": [arrow.moved, other.moved],
                    "passed": [arrow.passed, other.passed], "differs": _differ(arrow, other),
                }
            )  # fmt: skip
    return found


def _differ(a: Arrow, b: Arrow) -> bool:
    small, large = sorted((abs(a.moved), abs(b.moved)))
    return a.passed != b.passed or a.moved * b.moved < 0 or large > TWICE * small
