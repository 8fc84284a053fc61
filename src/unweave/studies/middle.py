"""Step `middle`: the features that carry what a prompt never names, exchanged for those of another value of it.

A prompt names a city and asks for a relation; the answer follows from the city's state. Features of the state are those
whose activation is the same for all cities of a state, whatever is asked, and differs between states. They are found by
that alone, on prompts with some of the relations, and exchanged on prompts with all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, FiniteFloat
from torch import Tensor

from ..errors import StudyError
from ..interventions.edits import Feature
from .batch import Edits, Place, all_activations, logits_with, matched, share, tokens
from .batch import right as answered
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol
from .results import Found, Plot, Result, ResultTable
from .templates import between

SMALL = 0.05
"""Features whose standard deviation is less than this share of the largest at their layer are left out: they move
nothing."""
FIGURES = {
    "swapped": "share of exchanges that bring the other value's answer, over the questions on which no features were "
    "sought",
    "swapped_found_on": "the same over those on which they were sought",
    "worst": "the least of these shares over all kinds of questions",
    "dose": "the dose of the exchange: the first of those given that is best on the questions on which features were "
    "sought",
    "features": "how many features are exchanged",
    "same": "share of exchanges with another name of the same value, all its features at once, after which the answer "
    "stays",
    "names": "share of exchanges of as many features that tell names of one value apart, which bring the other "
    "value's answer",
    "random": "share of exchanges of random features of similar size that bring the other value's answer",
    "random_changed": "share of those that change the answer at all",
    "prompts": "how many exchanges there were",
}


class Middle(Options):
    """What a study file can say."""

    named: FieldName
    """What prompts name: the city."""
    hidden: FieldName
    """What lies between it and the answer, and no prompt says: the state."""
    asked: FieldName
    """What is asked of it: the relation."""
    found_on: tuple[str, ...]
    """Values of `asked`: prompts with these alone are used to find features."""
    least: float = Field(0.7, gt=0, lt=1)
    """Share of a feature's variance over these prompts that must lie between values of `hidden`."""
    each: int = Field(20, ge=1)
    """Exchanges for each value of `asked`."""
    doses: tuple[FiniteFloat, ...] = (1.0, 1.5, 2.0, 3.0)
    draws: int = Field(10, ge=1)
    """Random sets of features."""


class Carriers(NamedTuple):
    """The features that vary on some prompts, and how."""

    places: tuple[Place, ...]
    activation: Float[Tensor, "prompt place"]
    hidden: Float[Tensor, " place"]
    """Share of the variance between values of what is hidden."""
    named: Float[Tensor, " place"]
    """Share between names, beyond that."""
    size: Float[Tensor, " place"]
    """Standard deviation times the norm of what a unit writes."""


class Exchange(NamedTuple):
    """A prompt and a value whose answer is wanted."""

    row: int
    value: str
    answer: int


class Exchanged(NamedTuple):
    """What was exchanged, and what came of it."""

    right: list[Variant]
    carriers: Carriers
    chosen: list[int]
    """Features of what is hidden, as numbers of carriers."""
    others: list[int]
    """As many that tell names apart."""
    values: list[str]
    means: Float[Tensor, "value place"]
    kinds: list[str]
    """The values of `asked`, and which one each exchange is of."""
    at: list[int]
    of_found: Bool[Tensor, " exchange"]
    """Whether it is one that features were sought on."""
    dose: float
    hits: Bool[Tensor, " exchange"]
    kept: Bool[Tensor, " exchange_with_partner"]
    by_name: Bool[Tensor, " exchange_or_none"]
    drawn: int
    """Random features in a draw."""
    random: Bool[Tensor, "draw exchange"]
    changed: Bool[Tensor, "draw exchange"]
    """Whether random features bring any other answer."""


def run(bench: Bench, options: Middle) -> Result:
    """Find the features, choose the dose, exchange on all questions, and the controls."""
    return tell(bench, options, measure(bench, options))


def measure(bench: Bench, options: Middle) -> Exchanged:
    """The exchanges and their controls.

    Raises:
        StudyError: no variant that features could be sought on, or no feature that carries what is hidden.
    """
    model = bench.model
    right = answered(bench, bench.variants)
    ids = tokens(bench, right)
    start = bench.positions(right[0], options.named)[0]
    found_on = torch.tensor([one.fields[options.asked] in options.found_on for one in right])
    if not bool(found_on.any()):
        raise StudyError(f"no variant answered rightly has {options.asked} {' or '.join(options.found_on)}")
    carriers = carry(bench, ids, found_on, right, range(start, ids.shape[1]), options)
    chosen, others = _chosen(carriers, options)
    values = sorted({one.fields[options.hidden] for one in right})
    labels = torch.tensor([values.index(one.fields[options.hidden]) for one in right])
    means = torch.stack([carriers.activation[(labels == number) & found_on].mean(0) for number in range(len(values))])
    exchanges = _exchanges(bench, right, options)
    kinds = list(dict.fromkeys(right[one.row].fields[options.asked] for one in exchanges))
    at = [kinds.index(right[one.row].fields[options.asked]) for one in exchanges]
    of_found = torch.tensor([kinds[kind] in options.found_on for kind in at])
    rows = torch.tensor([one.row for one in exchanges])
    wanted = torch.tensor([one.answer for one in exchanges])
    target = means[torch.tensor([values.index(one.value) for one in exchanges])]

    def tops(places: Sequence[int], dose: float, target: Tensor = target) -> Int[Tensor, " exchange"]:
        own = carriers.activation[rows][:, list(places)]
        edits = Edits(tuple(carriers.places[one] for one in places), own + dose * (target[:, list(places)] - own))
        return logits_with(model, ids[rows], edits)[:, 0].argmax(-1)

    # The dose is chosen on the kinds of question that features were sought on, and kept for all others.
    by_dose = [tops(chosen, dose) == wanted for dose in bench.each(options.doses)]
    judged = of_found if bool(of_found.any()) else torch.ones_like(of_found)
    best = max(range(len(by_dose)), key=lambda number: _mean(by_dose[number][judged]))
    dose, hits = options.doses[best], by_dose[best]
    before = torch.tensor([bench.token(right[one.row].answer) for one in exchanges])
    drawn = matched(carriers.size, carriers.places, chosen, [], options.draws, bench.seed)
    random = torch.stack([tops(draw, dose) for draw in bench.each(drawn)])
    partner = _partners(right, rows.tolist(), options)
    kept = tops(range(len(carriers.places)), 1.0, carriers.activation[partner]) == before
    # The names' control takes the other name's own activations: features of a name have no mean for a state.
    donor = torch.tensor([_donor(right, one, options) for one in exchanges])
    by_name = tops(others, dose, carriers.activation[donor]) == wanted if others else torch.zeros(0, dtype=torch.bool)
    return Exchanged(
        right, carriers, chosen, others, values, means, kinds, at, of_found, dose, hits, kept[partner != rows], by_name,
        len(drawn[0]), random == wanted, random != before,
    )  # fmt: skip


def _chosen(carriers: Carriers, options: Middle) -> tuple[list[int], list[int]]:
    """The features decided by what is hidden, and at most as many, the largest, decided by the name alone."""
    chosen = (carriers.hidden >= options.least).nonzero().flatten().tolist()
    if not chosen:
        raise StudyError(
            f"no feature's activation is decided by {options.hidden} to {options.least:.0%}; the most is "
            f"{float(carriers.hidden.max()):.0%}"
        )
    others = ((carriers.named >= options.least) & (carriers.hidden < 0.3)).nonzero().flatten()
    return chosen, others[carriers.size[others].argsort(descending=True)][: len(chosen)].tolist()


def _mean(part: Tensor) -> float:
    return float(part.double().mean()) if part.numel() else float("nan")


def tell(bench: Bench, options: Middle, found: Exchanged) -> Result:
    """Figures, tables, plots and a paragraph."""
    carriers, chosen, of_found, hits = found.carriers, found.chosen, found.of_found, found.hits
    of_kind = {kind: torch.tensor(found.at) == number for number, kind in enumerate(found.kinds)}
    by_kind = {kind: hits[which].tolist() for kind, which in of_kind.items()}
    random_by_kind = {kind: _mean(found.random[:, which]) for kind, which in of_kind.items()}
    figures = {
        "swapped": _mean(hits[~of_found]),
        "swapped_found_on": _mean(hits[of_found]),
        "worst": min(sum(part) / len(part) for part in by_kind.values()),
        "dose": found.dose,
        "features": float(len(chosen)),
        "same": _mean(found.kept),
        "names": _mean(found.by_name),
        "random": _mean(found.random),
        "random_changed": _mean(found.changed),
        "prompts": float(len(hits)),
    }
    rows = [
        (kind, "yes" if kind in options.found_on else "no", len(part), str(share(part)), random_by_kind[kind])
        for kind, part in by_kind.items()
    ]
    heads = (options.asked, "features sought on it", "exchanges", f"answer of the other {options.hidden}",
             "random features")  # fmt: skip
    other, draws = f"answer of the other {options.hidden}", f"random features, {options.draws} draws"
    beside = [
        (f"{name}: {what}", count, str(share(part)), len(part))
        for name, what, count, part in (
            (f"features of {options.hidden}", other, len(chosen), hits),
            (f"all features, {options.named} of the same {options.hidden}", "same answer", len(carriers.places),
             found.kept),
            (f"features of {options.named} alone", other, len(found.others), found.by_name),
        )
    ] + [
        (f"{draws}: {what}", found.drawn, f"{figures[name]:.3f}", found.random.numel())
        for name, what in (("random", other), ("random_changed", "another answer"))
    ]  # fmt: skip
    title = f"Exchanges of {len(chosen)} features of {options.hidden} at dose {found.dose:g} (95% intervals)"
    tables = (
        ResultTable(title, heads, tuple(rows)),
        ResultTable("Beside it", ("what is exchanged", "features", "share", "of"), tuple(beside)),
        _strongest(bench, carriers, chosen, found.right, found.means, found.values),
    )
    summary = (
        f"{len(chosen)} features from the {options.named}'s token on are decided by the {options.hidden} (on "
        f"{', '.join(options.found_on)}). Exchanged at dose {found.dose:g} they bring the other {options.hidden}'s "
        f"answer in {figures['swapped_found_on']:.0%} of {int(of_found.sum())} such questions and in "
        f"{figures['swapped']:.0%} of {int((~of_found).sum())} of the other kinds; random features do in "
        f"{figures['random']:.1%}, features that tell one {options.hidden}'s names apart in {figures['names']:.1%}; "
        f"with all features of another {options.named} of the same {options.hidden} the answer stays in "
        f"{figures['same']:.0%}."
    )
    plots = _plots(by_kind, random_by_kind, carriers, chosen, options, bench, found.right[0])
    return Result(figures, summary, tables, plots, _found(bench, carriers, chosen, found.right, options))


def carry(
    bench: Bench,
    ids: Int[Tensor, "prompt pos"],
    found_on: Bool[Tensor, " prompt"],
    right: Sequence[Variant],
    positions: range,
    options: Middle,
) -> Carriers:
    """All features that vary on the prompts, with what decides their activation on those that features are sought
    on."""
    transcoders, dtype = bench.model.transcoders, bench.model.language_model.engine_dtype
    groups = [
        torch.tensor(list(map(sorted({one.fields[name] for one in right}).index, (one.fields[name] for one in right))))
        for name in (options.hidden, options.named)
    ]
    places: list[Place] = []
    activation, hidden, named, size = [], [], [], []
    every = all_activations(bench.model, ids, range(bench.model.language_model.n_layers), positions)
    for (layer, position), dense in bench.each(list(every.items())):
        spread = dense[found_on].std(0)
        index = (
            (spread > SMALL * spread.max()).nonzero().flatten()
            if float(spread.max()) > 0
            else torch.zeros(0, dtype=torch.int64)
        )
        if not len(index):
            continue
        norm = sum(
            transcoders.decoder_rows(layer, index, at, dtype).square().sum(-1) for at in transcoders.writes(layer)
        )
        assert isinstance(norm, Tensor)
        maps = dense[found_on][:, index].T
        of_hidden, of_named = (between(maps, group[found_on]) for group in groups)
        places += [(layer, position, one) for one in index.tolist()]
        activation.append(dense[:, index])
        hidden.append(of_hidden)
        named.append(of_named - of_hidden)
        size.append(spread[index] * norm.sqrt())
    if not places:
        raise StudyError(f"no feature varies after the token of {options.named}")
    return Carriers(tuple(places), torch.cat(activation, 1), torch.cat(hidden), torch.cat(named), torch.cat(size))


def _exchanges(bench: Bench, right: Sequence[Variant], options: Middle) -> list[Exchange]:
    """For each kind of question prompts spread evenly, each with the next value that has another answer."""
    answers = {(one.fields[options.hidden], one.fields[options.asked]): bench.token(one.answer) for one in right}
    values = sorted({value for value, _ in answers})
    found = []
    for kind in dict.fromkeys(one.fields[options.asked] for one in right):
        rows = [row for row, one in enumerate(right) if one.fields[options.asked] == kind]
        for number, row in enumerate(bench.some(rows, options.each)):
            here = values.index(right[row].fields[options.hidden])
            turns = [values[(here + 1 + number + step) % len(values)] for step in range(len(values))]
            fits = [
                value
                for value in turns
                if (value, kind) in answers and answers[value, kind] != bench.token(right[row].answer)
            ]
            found += [Exchange(row, value, answers[value, kind]) for value in fits[:1]]
    if not found:
        raise StudyError(f"no two values of {options.hidden} have different answers to the same {options.asked}")
    return found


def _partners(right: Sequence[Variant], rows: Sequence[int], options: Middle) -> Int[Tensor, " exchange"]:
    """For each prompt one with another name of the same value and the same question, or itself where there is none."""
    at = {
        tuple(one.fields[name] for name in (options.hidden, options.asked, options.named)): row
        for row, one in enumerate(right)
    }
    found = []
    for row in rows:
        value, kind, name = (right[row].fields[field] for field in (options.hidden, options.asked, options.named))
        found.append(next((other for (v, k, n), other in at.items() if v == value and k == kind and n != name), row))
    return torch.tensor(found)


def _donor(right: Sequence[Variant], one: Exchange, options: Middle) -> int:
    """A prompt of the wanted value and the same question."""
    kind = right[one.row].fields[options.asked]
    return next(
        row
        for row, other in enumerate(right)
        if other.fields[options.hidden] == one.value and other.fields[options.asked] == kind
    )


def _strongest(
    bench: Bench, carriers: Carriers, chosen: list[int], right: Sequence[Variant], means: Tensor, values: Sequence[str]
) -> ResultTable:
    order = sorted(chosen, key=lambda number: -float(carriers.size[number]))[:20]
    words = bench.words(right[0])
    rows = tuple(
        (
            Feature(*carriers.places[number]).id, words[carriers.places[number][1]].strip(),
            float(carriers.hidden[number]), float(carriers.size[number]),
            ", ".join(str(values[value]) for value in means[:, number].topk(min(3, len(values))).indices.tolist()),
        )
        for number in order
    )  # fmt: skip
    return ResultTable(
        "The largest of the exchanged features",
        ("feature", "on", "variance between values", "size", "most active for"),
        rows,
    )


def _found(
    bench: Bench, carriers: Carriers, chosen: list[int], right: Sequence[Variant], options: Middle
) -> tuple[Found, ...]:
    """The features that are active on the first prompt."""
    active = [number for number in chosen if float(carriers.activation[0, number]) != 0]
    names = tuple(Feature(*carriers.places[number]).id for number in active)
    return (Found(right[0].fields[options.hidden], bench.text(right[0]), names),) if names else ()


def _plots(
    by_kind: dict[str, list[bool]],
    random: dict[str, float],
    carriers: Carriers,
    chosen: list[int],
    options: Middle,
    bench: Bench,
    first: Variant,
) -> tuple[Plot, ...]:
    n_layers, words = bench.model.language_model.n_layers, bench.words(first)
    shares = {
        "features found": [sum(part) / len(part) for part in by_kind.values()],
        "random features": list(random.values()),
    }
    labels = [f"{kind} *" if kind in options.found_on else kind for kind in by_kind]
    plots = [
        Plot(
            "swapped",
            "bars",
            f"Answer of the other {options.hidden} after the exchange (*: features sought on these)",
            {"labels": labels, "series": shares, "ylabel": "share of exchanges", "ylim": [0, 1]},
        )
    ]
    positions = sorted({place[1] for place in carriers.places})
    series = {
        f"at {words[at].strip() if at != positions[0] else f'the {options.named}'}": [
            sum(carriers.places[number][:2] == (layer, at) for number in chosen) for layer in range(n_layers)
        ]
        for at in positions
    }
    data = {"labels": list(range(n_layers)), "series": series, "xlabel": "layer", "ylabel": "features", "stacked": True}
    return (*plots, Plot("layers", "bars", f"Where the features of the {options.hidden} are", data))


MIDDLE = Protocol(
    "the features that carry what a prompt never names, found by what decides them, exchanged on all kinds of "
    "questions",
    Middle,
    FIGURES,
    run,
)
