"""Step `operand_map`: how the strongest features respond to two operands, as heat maps; what that depends on; and
what they do."""

from collections import defaultdict

import numpy as np
import torch
from pydantic import Field, model_validator

from ..errors import StudyError
from ..interventions.attribution_patching import difference, lead, predicted_effects, write_gradients
from ..interventions.edits import Intervention, ablate
from ..interventions.interventions import intervene_each
from ..interventions.smallest import active_features
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable

Key = tuple[int, int]
"""Layer and number of a feature."""
KIND = 0.5
"""Adjusted share of variance from which on a feature is said to depend on something."""


class OperandMap(Options):
    """What a study file can say."""

    fields: tuple[FieldName, ...]
    """The two operands, whole numbers."""
    features: int = Field(20, ge=1)
    """So many of the features at the last token with the largest mean first-order effect on the answer."""
    prompts: int = Field(12, ge=1)
    """Rightly answered variants on which effects are computed and features are ablated."""
    draws: int = Field(10, ge=1)
    modulus: int = Field(10, ge=2)

    @model_validator(mode="after")
    def _two(self) -> "OperandMap":
        if len(self.fields) != 2:
            raise ValueError(f"fields: give the two operands, not {len(self.fields)}")
        return self


def run(bench: Bench, options: OperandMap) -> Result:
    """Choose features by their effect, map their activations over the grid, and ablate them."""
    first, second = options.fields
    operands = [(_whole(variant, first), _whole(variant, second)) for variant in bench.variants]
    chosen, sample = _strongest(bench, options)
    values = np.zeros((len(bench.variants), len(chosen)))
    for row, variant in enumerate(bench.each(bench.variants)):
        here = {(change.features[0].layer, change.features[0].index) for change in _active(bench, variant)} & set(
            chosen
        )
        values[row] = _activations(bench, variant, chosen, here)
    a, b = (np.array(column) for column in zip(*operands, strict=True))
    parts = {first: a, second: b, "sum": a + b, "last digit of the sum": (a + b) % options.modulus}
    generator = np.random.default_rng(bench.seed)
    shuffled = generator.permutation(len(values))
    explained = [{name: share(column, groups) for name, groups in parts.items()} for column in values.T]
    chance = [max(share(column[shuffled], groups) for groups in parts.values()) for column in values.T]
    kinds = [max(one, key=one.__getitem__) if max(one.values()) >= KIND else "none" for one in explained]
    broken, controls = _ablated(bench, options, chosen, sample)
    figures = {
        "explained": float(np.mean([max(one.values()) for one in explained])), "chance": float(np.mean(chance)),
        "broken": broken, "controls": controls,
        "of_first": float(kinds.count(first)), "of_second": float(kinds.count(second)),
        "of_sum": float(kinds.count("sum")),
        "of_digit": float(kinds.count("last digit of the sum")),
    }  # fmt: skip
    names = [f"{layer}_{index}" for layer, index in chosen]
    rows = tuple(
        (name, *(one[part] for part in parts), kind) for name, one, kind in zip(names, explained, kinds, strict=True)
    )
    table = ResultTable(
        "Share of variance explained by each, adjusted for chance", ("feature", *parts, "depends on"), rows
    )
    counted = (
        ", ".join(f"{kinds.count(kind)} on {'the ' * (kind == 'sum')}{kind}" for kind in parts if kind in kinds)
        or "none on any of these"
    )
    summary = (
        f"Of the {len(chosen)} features at the last token that do most for the answer, {counted} (for at least half "
        f"of their variance, adjusted for chance). "
        f"Without all of them {broken:.0%} of {len(sample)} right answers are lost; without as many random active "
        f"ones, {controls:.0%}."
    )
    return Result(figures, summary, (table,), (_plot(options, parts, values, names, kinds),))


def _whole(variant: Variant, name: str) -> int:
    try:
        return int(variant.fields[name])
    except ValueError as error:
        raise StudyError(
            f"{name} is {variant.fields[name]!r} in {variant.prompt!r}; operands are whole numbers"
        ) from error


def _active(bench: Bench, variant: Variant) -> list[Intervention]:
    """Ablations of all features that are active at the last token."""
    return active_features(bench.model, bench.record(variant), [-1])


def _strongest(bench: Bench, options: OperandMap) -> tuple[list[Key], list[Variant]]:
    """The features with the largest mean effect on the answer's lead, and the variants on which it was measured."""
    sample = bench.some(bench.right(), options.prompts)
    effects: dict[Key, float] = defaultdict(float)
    for variant in sample:
        recording, pool = bench.record(variant), _active(bench, variant)
        answer = bench.token(variant.answer)
        measure = lead(answer) if variant.foil is None else difference(answer, bench.token(variant.foil))
        found = predicted_effects(
            bench.model, recording, [[change] for change in pool], write_gradients(bench.model, recording, measure)
        )
        for change, effect in zip(pool, found.tolist(), strict=True):
            effects[change.features[0].layer, change.features[0].index] -= effect / len(sample)
    return sorted(effects, key=lambda key: -effects[key])[: options.features], sample


def _activations(bench: Bench, variant: Variant, chosen: list[Key], active: set[Key]) -> list[float]:
    """The activations of the chosen features at the last token."""
    recording = bench.record(variant)
    watched = [(layer, -1, index) for layer, index in chosen if (layer, index) in active]
    if not watched:
        return [0.0] * len(chosen)
    outcome = next(intervene_each(bench.model, recording, [[ablate(watched[0])]], watch=watched))
    known = {
        (feature.layer, feature.index): value
        for feature, value in zip(outcome.watched, outcome.activations[0].tolist(), strict=True)
    }
    return [known.get(key, 0.0) for key in chosen]


def share(values: np.ndarray, groups: np.ndarray) -> float:
    """The share of the variance of values that groups explain, adjusted for the number of groups (0: as chance
    would; 1: all).

    >>> share(np.array([1.0, 1.0, 5.0, 5.0]), np.array([0, 0, 1, 1]))
    1.0
    """
    total, n, k = float(((values - values.mean()) ** 2).sum()), len(values), len(np.unique(groups))
    if total == 0 or n <= k:
        return 0.0
    within = sum(
        float(((part - part.mean()) ** 2).sum()) for group in np.unique(groups) if len(part := values[groups == group])
    )
    return 1 - (within / (n - k)) / (total / (n - 1))


def _ablated(bench: Bench, options: OperandMap, chosen: list[Key], sample: list[Variant]) -> tuple[float, float]:
    """Share of right answers lost without the chosen features, and without as many random ones that are active
    there."""
    lost, control = [], []
    generator = torch.Generator().manual_seed(bench.seed)
    for variant in sample:
        pool = [change.features[0] for change in _active(bench, variant)]
        own = [feature for feature in pool if (feature.layer, feature.index) in set(chosen)]
        others = [feature for feature in pool if feature not in own]
        if not own or len(others) < len(own):
            continue
        drawn = [
            [others[place] for place in torch.randperm(len(others), generator=generator)[: len(own)].tolist()]
            for _ in range(options.draws)
        ]
        outcomes = intervene_each(
            bench.model, bench.record(variant), [[ablate(own)], *([ablate(part)] for part in drawn)]
        )
        right = [bench.measure(variant, outcome.logits[-1]).right for outcome in outcomes]
        lost.append(not right[0])
        control += [not one for one in right[1:]]
    return (sum(lost) / len(lost), sum(control) / len(control)) if lost else (float("nan"), float("nan"))


def _plot(
    options: OperandMap, parts: dict[str, np.ndarray], values: np.ndarray, names: list[str], kinds: list[str]
) -> Plot:
    first, second = options.fields
    rows, columns = sorted(set(parts[first].tolist())), sorted(set(parts[second].tolist()))
    panels = []
    for place, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        grid = np.zeros((len(rows), len(columns)))
        for a, b, value in zip(parts[first], parts[second], values[:, place], strict=True):
            grid[rows.index(a), columns.index(b)] = value
        panels.append({"title": f"{name}: {kind}" if kind != "none" else name, "values": grid.tolist()})
    data = {"panels": panels, "rows": rows, "columns": columns, "xlabel": second, "ylabel": first}
    return Plot("maps", "heat", f"Activations over {first} and {second}, each map on its own scale", data)


OPERAND_MAP = Protocol(
    "heat maps of the strongest features over two operands, what they depend on, and what is lost without them",
    OperandMap,
    {
        "explained": "mean over features of the largest share of variance that one of the operands, their sum or its "
        "last digit explains, adjusted for chance",
        "chance": "the same with the prompts shuffled",
        "broken": "share of right answers that are lost without the features",
        "controls": "share lost without as many random features that are active there",
        "of_first": "features of whose variance at least half is explained best by the first operand",
        "of_second": "the same, by the second",
        "of_sum": "the same, by the sum",
        "of_digit": "the same, by the last digit of the sum",
    },
    run,
)
