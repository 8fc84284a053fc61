"""Step `inhibit`: whether features of one group of variants hold down those that the other group has, by the graph's
edges and by ablation."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field, FiniteFloat
from torch import Tensor

from ..attribution.sources import Sources, TargetRows
from ..errors import StudyError
from ..interventions.interventions import intervene_each
from ..models.workspace import Workspace
from ..transcoders.replacement import LocalReplacement
from .batch import share
from .bench import Bench, Variant
from .groups import Activity, Places, dose, positions, random_like, right, starts, strongest, written
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable


class Inhibit(Options):
    """What a study file can say."""

    field: FieldName
    on: str
    """The value whose features inhibit."""
    off: str
    """The value whose features are inhibited: the default."""
    keys: tuple[FieldName, ...] = ()
    """Facts alike in a prompt and in those of the other group that it is compared with."""
    at: Places = ()
    """Where the inhibiting features are."""
    default_at: Places = (-1,)
    """Where the inhibited ones are."""
    features: int = Field(20, ge=1)
    """Inhibiting features of each prompt: those that write most of what sets the groups apart."""
    defaults: int = Field(10, ge=1)
    """Inhibited features: those that write most of what sets the groups apart."""
    factor: FiniteFloat = 1.0
    """How far inhibiting features are taken out to see the inhibited ones come back."""
    targets: int = Field(20, ge=1)
    sources: int = Field(120, ge=2)
    """Variants of each group that features are found on, at most."""
    draws: int = Field(3, ge=1)
    mode: Literal["frozen_attention", "open"] = "open"


class Inhibited(NamedTuple):
    """One prompt: summed edges into the default features, and their activations."""

    prompt: str
    inhibiting: float
    others: float
    """Mean of as many other features active at the same places."""
    negative: float
    """Of the inhibiting features' edges, the share of absolute weight that is negative."""
    before: float
    after: float
    random: float
    usual: float
    """Summed activation of the default features on the other group, on the mean."""


def run(bench: Bench, options: Inhibit) -> Result:
    """Find both kinds of features, add up the edges between them, and take the inhibiting ones out."""
    if bench.model.transcoders.of_neurons:
        raise StudyError(
            "this step reads edges into features that are not active, which neurons do not have; give a dictionary"
        )
    groups = {
        value: bench.some(
            right(bench, [one for one in bench.variants if one.fields[options.field] == value]), options.sources
        )
        for value in (options.on, options.off)
    }
    if not all(len(some) > 1 for some in groups.values()):
        raise StudyError(
            f"fewer than two variants of {options.field} {options.on!r} or {options.off!r} are answered rightly"
        )
    norms, begins = written(bench.model), starts(bench.model)
    at, default_at = Activity(bench, options.at), Activity(bench, options.default_at)
    gap = default_at.of(groups[options.off]).mean(0) - default_at.of(groups[options.on]).mean(0)
    defaults = strongest(gap.clamp_min(0), norms, options.defaults)
    usual = float(default_at.of(groups[options.off]).mean(0)[defaults > 0].sum())
    draw, seen = random.Random(bench.seed), []
    for variant in bench.each(bench.some(groups[options.on], options.targets)):
        like = [
            one for one in groups[options.off] if all(one.fields[name] == variant.fields[name] for name in options.keys)
        ]
        if not like:
            raise StudyError(
                f"no variant of {options.field} {options.off!r} has the same {' and '.join(options.keys)} as "
                f"{variant.prompt!r}"
            )
        own, off = at.of([variant])[0], at.of(like)
        held = strongest((off.mean(0) - own).clamp_max(0), norms, options.features)
        seen.append(_look(bench, options, variant, own, held, off.amax(0), defaults, norms, begins, usual, draw))
    return _result(bench, options, defaults, seen)


def _look(
    bench: Bench, options: Inhibit, variant: Variant, own: Tensor, held: Tensor, ever: Tensor, defaults: Tensor,
    norms: Tensor, begins: Sequence[int],
    usual: float, draw: random.Random,
) -> Inhibited:  # fmt: skip
    model, here, there = (
        bench.model,
        positions(bench, variant, options.at),
        positions(bench, variant, options.default_at),
    )
    out = dose(held, own, options.factor, "out")
    edges = edges_into(model.localize(bench.record(variant).input_ids), _ids(defaults, there, begins))
    mine = {(layer, at, index) for layer, at, index in _ids(out.amounts, here, begins)}
    inhibiting = [weight for one, weight in edges.items() if one in mine]
    rest = [weight for one, weight in edges.items() if one not in mine and one[1] in here]
    size = sum(map(abs, inhibiting))
    negative = -sum(min(weight, 0.0) for weight in inhibiting) / size if size else float("nan")
    drawn = [random_like(out, own, ever, norms, begins, draw) for _ in range(options.draws)]
    doses = [one.changes(model, here) for one in (out, *drawn)]
    outcomes = intervene_each(model, bench.record(variant), doses, options.mode, watch=_ids(defaults, there, begins))
    (before, after), *others = [one.activations.sum(1).tolist() for one in outcomes]
    like = sum(rest) / max(1, len(rest)) * len(inhibiting)
    return Inhibited(
        variant.prompt,
        float(sum(inhibiting)),
        float(like),
        negative,
        before,
        after,
        sum(one for _, one in others) / len(drawn),
        usual,
    )


def _ids(
    amounts: Float[Tensor, "place feature"], at: Sequence[int], begins: Sequence[int]
) -> list[tuple[int, int, int]]:
    """The features that are not zero, as (layer, position, index)."""
    place, feature = amounts.nonzero(as_tuple=True)
    layer = torch.searchsorted(torch.tensor(begins), feature, right=True) - 1
    return [
        (one, at[where], index)
        for where, one, index in zip(
            place.tolist(), layer.tolist(), (feature - torch.tensor(begins)[layer]).tolist(), strict=True
        )
    ]


def edges_into(local: LocalReplacement, features: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int, int], float]:
    """The direct effects of all active features on the pre-activations of some, active or not, added up.

    Args:
        features: (layer, position, index).

    Returns:
        By (layer, position, index) of the active feature; those from which no edge is possible are left out.
    """
    sources, active, total = Sources.gather(local), local.features, torch.zeros(len(local.features))
    touched = torch.zeros(len(local.features), dtype=torch.bool)
    wanted = sorted(features, reverse=True)
    layer, position = (torch.tensor([one[field] for one in wanted], dtype=torch.int64) for field in (0, 1))
    rows = [
        local.frozen.layers[at].read_transpose(
            local.transcoders.layers[at].encoder.select(torch.tensor([index]), local.errors.dtype), torch.tensor([here])
        )
        for at, here, index in wanted
    ]
    for block in (
        sources.sweep(TargetRows(layer, position, torch.arange(len(wanted)), torch.cat(rows)), Workspace())
        if wanted
        else ()
    ):
        column = sources.visible(block.layer, block.position)
        inside = column < len(active)
        total.index_add_(0, column[inside], block.weight.sum(0)[inside].float())
        touched[column[inside]] = True
    places = zip(active.layer.tolist(), active.position.tolist(), active.index.tolist(), strict=True)
    return {
        place: weight
        for place, weight, reached in zip(places, total.tolist(), touched.tolist(), strict=True)
        if reached
    }


def _result(bench: Bench, options: Inhibit, defaults: Tensor, seen: Sequence[Inhibited]) -> Result:
    def mean(values: Sequence[float]) -> float:
        known = [value for value in values if value == value]
        return sum(known) / len(known) if known else float("nan")

    usual, before = max(seen[0].usual, 1e-9), mean([one.before for one in seen])
    gap = max(usual - before, 1e-9)
    inhibited = share([one.inhibiting < 0 for one in seen])
    figures = {
        "inhibited": inhibited.value, "inhibited_low": inhibited.low, "negative": mean([one.negative for one in seen]),
        "edges": mean([one.inhibiting for one in seen]), "others": mean([one.others for one in seen]),
        "before": before / usual, "restored": (mean([one.after for one in seen]) - before) / gap,
        "controls": (mean([one.random for one in seen]) - before) / gap, "defaults": float(defaults.count_nonzero()),
        "targets": float(len(seen)),
    }  # fmt: skip
    summary = (
        f"{defaults.count_nonzero()} features are more active where {options.field} is {options.off} than where it is "
        f"{options.on}. The edges into them "
        f"from the features that set a prompt of {options.on} apart sum to less than zero in {inhibited} of "
        f"{len(seen)} prompts (mean "
        f"{figures['edges']:.2f}; as many others at the same places {figures['others']:.2f}); "
        f"{figures['negative']:.0%} of their weight is negative. "
        f"The default ones are at {figures['before']:.0%} of their usual activation; without those features "
        f"{figures['restored']:.0%} of what is missing "
        f"comes back (without random ones {figures['controls']:.0%})."
    )
    columns = (
        "prompt",
        "edges of its features",
        "of as many others",
        "negative share",
        "default before",
        "after",
        "after random",
    )
    rows = tuple(
        (one.prompt, one.inhibiting, one.others, one.negative, one.before, one.after, one.random) for one in seen
    )
    labels = [f"{options.on}", "its features out", "random ones out", f"{options.off}"]
    means = [mean([one.before for one in seen]), mean([one.after for one in seen]), mean([one.random for one in seen])]
    series = {"default features": [*(value / usual for value in means), 1.0]}
    bars = {"labels": labels, "series": series, "ylabel": "share of usual activation"}
    plot = Plot("default", "bars", f"Activation of the default features, by {options.field}", bars)
    return Result(figures, summary, (ResultTable("Prompts", columns, rows),), (plot,))


INHIBIT = Protocol(
    "whether features of one group hold down those of the other: edges between them, and what comes back when they "
    "are taken out",
    Inhibit,
    {
        "inhibited": "share of prompts in which the edges from the group's features into the default ones sum to less "
        "than zero",
        "inhibited_low": "the lower end of its 95% interval",
        "negative": "of the absolute weight of these edges, the share that is negative",
        "edges": "mean sum of these edges",
        "others": "mean sum of as many edges from other features at the same places",
        "before": "activation of the default features on unchanged prompts, as a share of their usual one on the "
        "other group",
        "restored": "share of what is missing to the usual activation that comes back when the group's features are "
        "taken out",
        "controls": "the same with random features taken out",
        "defaults": "how many default features were found",
        "targets": "how many prompts were looked at",
    },
    run,
)
