"""Every group and arrow in the real model, all live: swapped, alone and with the others held, beside controls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..interventions.live import Gauge, Inside, Put, Ran, heads_of, run
from ..interventions.parts import Part
from ..models.places import Place
from .arrows import Arrow
from .choose import DRAWS, SEED, random_sets
from .groups import PartGroup
from .maps import Contrast
from .predict import LEAST, Predicted, carrying_heads, predict
from .way import Way, measured_way


@dataclass(frozen=True)
class Effect:
    """What swapping one group does to the answer."""

    group: PartGroup
    share: float
    """Of the difference between the prompts."""
    answer: float
    """The answer's probability afterwards."""
    rival: float
    rank: int
    top: int
    direct: float
    """As `share`, with the other groups held."""
    random: Float[Tensor, " draw"]
    """As `share`, of random groups of the same size, layers and token."""
    random_answer: float
    """The answer's median probability after those."""
    predicted: float
    """`share` to first order."""

    @property
    def control(self) -> float:
        """The largest share of a random group, in absolute value."""
        return float(self.random.abs().max()) if len(self.random) else 0.0

    @property
    def passed(self) -> bool:
        """Whether it does more than any random group."""
        return abs(self.share) > self.control


@dataclass(frozen=True)
class Measured:
    """All that was measured of a list of groups."""

    effects: tuple[Effect, ...]
    arrows: tuple[Arrow, ...]
    together: float
    """The share of the difference that swapping all groups takes."""
    together_answer: float
    together_top: int
    kept: float
    """The share that is left when every neuron and head outside the groups is swapped, where groups hold."""
    random_together: float
    """The largest share of all groups' random counterparts swapped together."""
    answer: float
    """The answer's probability on the prompt."""
    other: float
    """And in the other prompt."""
    way: Way = Way()


class Layout(NamedTuple):
    """The variants of one run, and which rows are of what; row 0 changes nothing, row 1 swaps all groups."""

    variants: list[list[Put]]
    alone: range
    """A group each, swapped."""
    direct: range
    """The same with all others held."""
    pairs: tuple[tuple[int, int], ...]
    """Sources and targets of arrows."""
    by: range
    """A pair each: the source swapped, all others but the target held."""
    controls: tuple[range, ...]
    """A group each: its random counterparts."""
    random_together: range
    """All groups' random counterparts of one draw."""


def measure(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    draws: int = DRAWS,
) -> Measured:
    """Swap each group, each with the others held, and each with all others but one held; then random groups. What a
    response graph predicts of each is put beside it."""
    if not groups:
        return nothing_measured(contrast)
    count = heads_of(contrast.model)
    gauges = [group.part.gauge(contrast.here, contrast.there, count) for group in groups]
    swapped = [group.part.put(contrast.there, count) for group in groups]
    held = [group.part.put(contrast.here, count) for group in groups]
    rows = _layout(contrast, groups, swapped, held, draws)
    ran = run(contrast.model, contrast.ids, contrast.question, rows.variants, gauges=gauges)
    share, predicted = contrast.share(ran.lead), predict(contrast, groups)
    effects = tuple(_effect(group, number, rows, ran, share, predicted) for number, group in enumerate(groups))
    arrows = _arrows(effects, rows, ran, share, predicted)
    arrows = _with_heads(contrast, groups, arrows, swapped, held, gauges, predicted)
    controls = [[rows.variants[row] for row in span] for span in rows.controls]
    random = share[rows.random_together.start : rows.random_together.stop]
    return Measured(
        effects,
        tuple(arrows),
        float(share[1]),
        float(ran.answer[1]),
        int(ran.top[1]),
        _kept(contrast, groups),
        float(random.abs().max()) if draws else 0.0,
        float(ran.answer[0]),
        float(contrast.there.logits.softmax(-1)[contrast.question.answer]),
        measured_way(contrast, groups, arrows, controls),
    )


def _layout(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    swapped: Sequence[list[Put]],
    held: Sequence[list[Put]],
    draws: int,
) -> Layout:
    n, count = len(groups), heads_of(contrast.model)
    pairs = tuple((s, t) for s in range(n) for t in range(n) if s != t and groups[s].before(groups[t]))
    controls = [
        [some.put(contrast.there, count) for some in random_parts(contrast, group.part, draws)] for group in groups
    ]
    made: list[list[Put]] = [[], [put for puts in swapped for put in puts]]

    def add(more: Iterable[list[Put]]) -> range:
        start = len(made)
        made.extend(more)
        return range(start, len(made))

    return Layout(
        made,
        add(swapped),
        add(_held(held, {s}) + swapped[s] for s in range(n)),
        pairs,
        add(_held(held, {s, t}) + swapped[s] for s, t in pairs),
        tuple(add(some) for some in controls),
        add([put for some in controls for put in (some[draw] if draw < len(some) else [])] for draw in range(draws)),
    )


def _effect(
    group: PartGroup, number: int, rows: Layout, ran: Ran, share: Float[Tensor, " variant"], predicted: Predicted
) -> Effect:
    at, span = rows.alone[number], rows.controls[number]
    random = slice(span.start, span.stop)
    return Effect(
        group, float(share[at]), float(ran.answer[at]), float(ran.rival[at]), int(ran.rank[at]), int(ran.top[at]),
        float(share[rows.direct[number]]), share[random],
        float(ran.answer[random].median()) if len(span) else float(ran.answer[0]), float(predicted.alone[number]),
    )  # fmt: skip


def _arrows(
    effects: Sequence[Effect], rows: Layout, ran: Ran, share: Float[Tensor, " variant"], predicted: Predicted
) -> list[Arrow]:
    """From each group to the answer, then from each to those after it."""
    made = []
    for s, effect in enumerate(effects):
        first_order = float(predicted.direct[s])
        made.append(Arrow(s, None, effect.direct, effect.direct, effect.control, first_order, first_order))
    for row, (s, t) in zip(rows.by, rows.pairs, strict=True):
        random = ran.gauges[rows.controls[s].start : rows.controls[s].stop, t].abs()
        made.append(
            Arrow(
                s, t, float(ran.gauges[row, t]), float(share[row] - share[rows.direct[s]]),
                float(random.max()) if len(random) else 0.0,
                float(predicted.moved[s, t]), float(predicted.carried[s, t]),
            )
        )  # fmt: skip
    return made


def nothing_measured(contrast: Contrast) -> Measured:
    """No groups: the answer's probability alone."""
    answer = contrast.question.answer
    own, other = (float(inside.logits.softmax(-1)[answer]) for inside in (contrast.here, contrast.there))
    return Measured((), (), 0.0, own, int(contrast.here.logits.argmax()), 0.0, 0.0, own, other)


def _held(held: Sequence[list[Put]], but: set[int] | set[int | None]) -> list[Put]:
    return [put for number, puts in enumerate(held) if number not in but for put in puts]


def _kept(contrast: Contrast, groups: Sequence[PartGroup]) -> float:
    """What is left of the difference where every neuron is swapped but those of groups."""
    layers, count = range(contrast.model.n_layers), heads_of(contrast.model)
    value: dict[tuple[Place, int], Tensor] = {
        ("neurons", layer): contrast.there.at["neurons", layer].clone() for layer in layers
    }
    for layer, position in [place for group in groups for place in group.part.mlps]:
        value["neurons", layer][position] = contrast.here.at["neurons", layer][position]
    mixed = Inside({**contrast.there.at, **value}, contrast.there.logits)
    puts = mixed.put_cells("neurons", layers, contrast.positions)
    puts += [put for group in groups if group.kind == "neurons" for put in group.part.put(contrast.here, count)]
    lead = run(contrast.model, contrast.ids, contrast.question, [puts]).lead
    return float(1 - contrast.share(lead)[0])


def random_parts(contrast: Contrast, part: Part, draws: int) -> list[Part]:
    """As many random parts of the same kind and token and (of neurons and heads) the same layers; of whole MLPs, the
    other runs of as many layers at the token."""
    count = heads_of(contrast.model)
    if len(part.units):
        return [Part(units) for units in random_sets(contrast, part.units, draws)]
    if part.mlps:
        layers, n_layers, position = part.layers, contrast.model.n_layers, part.positions[0]
        starts = [at for at in range(n_layers - len(layers) + 1) if abs(at - layers.start) >= len(layers)]
        step = max(1, len(starts) // max(1, draws))
        runs = [range(at, at + len(layers)) for at in starts[::step][:draws]]
        return [Part(mlps=tuple((layer, position) for layer in span)) for span in runs]
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for _ in range(draws):
        taken = set(part.heads)
        for layer, _, position in part.heads:
            free = [head for head in range(count) if (layer, head, position) not in taken]
            if free:
                taken.add((layer, free[int(torch.randint(len(free), (1,), generator=generator))], position))
        made.append(Part(heads=tuple(sorted(taken - set(part.heads)))))
    return [part for part in made if len(part)]


def _with_heads(
    contrast: Contrast,
    groups: Sequence[PartGroup],
    arrows: Sequence[Arrow],
    swapped: Sequence[list[Put]],
    held: Sequence[list[Put]],
    gauges: Sequence[Gauge],
    predicted: Predicted,
) -> list[Arrow]:
    """Arrows from one token to another, with the heads that carry them: to first order, and then held to see."""
    count, made, asked = heads_of(contrast.model), list(arrows), []
    for number, arrow in enumerate(arrows):
        at = len(contrast.ids) - 1 if arrow.target is None else groups[arrow.target].position
        if arrow.passed and groups[arrow.source].position < at:
            found = carrying_heads(contrast, groups, predicted, arrow.source, arrow.target)
            some = tuple(head for head in found if head.share / arrow.moved >= LEAST)
            if some:
                asked.append((number, some))
    variants = [
        _held(held, {arrows[number].source, arrows[number].target})
        + swapped[arrows[number].source]
        + [contrast.here.put_head(head.layer, [head.position], head.head, count) for head in some]
        for number, some in asked
    ]
    ran = run(contrast.model, contrast.ids, contrast.question, variants, gauges=gauges)
    share = contrast.share(ran.lead)
    for row, (number, some) in enumerate(asked):
        arrow = arrows[number]
        left = float(share[row] if arrow.target is None else ran.gauges[row, arrow.target])
        made[number] = arrow._replace(heads=some, by_heads=1 - left / arrow.moved)
    return made
