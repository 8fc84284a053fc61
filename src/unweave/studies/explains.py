"""Step `explains`: whether what a model says of its method is how it came to its answer.

Two sets of features, each as small as breaks what it makes: those that make the answer, by their effects on it where
it is given, and those that make the explanation, by their effects on the words in which it differs. Each set is
switched off wherever it is active, and answer and explanation are watched apart.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ..errors import StudyError
from ..interventions.attribution_patching import lead
from ..interventions.edits import EVERYWHERE, Feature
from .batch import Edits, logits_with, matched, share, strengths
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol
from .results import Found, Plot, Result, ResultTable

Unit = tuple[int, int]
"""A feature wherever it is: (layer, index)."""
FIGURES = {
    "answer": "share of prompts whose answer is right, nothing changed",
    "explanation": "share of prompts explained wholly right, nothing changed",
    "answer_without_answer": "share of answers still right without the features that make the answer",
    "explanation_without_answer": "share of explanations still right without them",
    "answer_without_explanation": "share of answers still right without the features that make the explanation",
    "explanation_without_explanation": "share of explanations still right without them",
    "answer_random": "share of answers still right without random features, the lower of both kinds of random sets",
    "explanation_random": "share of explanations still right without random features, the lower of both",
    "shared": "share of the features of the smaller set that are in the other too",
    "apart": "how far the sets do different things: 1 if each breaks what it makes and nothing else, 0 if both do the "
    "same",
    "told": "share of explanations that stay right when another answer stands in the prompt",
    "features_answer": "how many features make up the set that makes the answer",
    "features_explanation": "how many make up the set that makes the explanation",
    "prompts": "how many prompts, answered and explained rightly by the unchanged model",
}
FAITHFUL, UNFAITHFUL = 0.25, 0.5
"""How far apart the sets may be for a faithful explanation at most, and must be for an unfaithful one at least."""


class Explains(Options):
    """What a study file can say."""

    given: FieldName
    """The field of the answer that stands in the prompt; the explanation is the variant's answer."""
    prompts: int = Field(80, ge=4)
    sample: int = Field(16, ge=2)
    """Prompts on which features are found, other ones."""
    sizes: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Features of a set."""
    least: float = Field(0.5, gt=0, le=1)
    """A set's size is the first at which it leaves at most this share right of what it makes."""
    draws: int = Field(10, ge=1)


class Text(NamedTuple):
    """A prompt with its explanation."""

    variant: Variant
    ids: tuple[int, ...]
    prompt: int
    """Tokens of the prompt."""
    given: int
    """The position of the answer in it."""


class Made(NamedTuple):
    """Features by what they add to some words, the most first."""

    units: tuple[Unit, ...]
    size: Float[Tensor, " feature"]
    """What each writes on a text, summed over positions and words."""


class Right(NamedTuple):
    """What is right."""

    answer: Bool[Tensor, " prompt"]
    explanation: Bool[Tensor, " prompt"]


class Tested(NamedTuple):
    """Both sets of features, and what stays right without them."""

    sets: dict[str, list[Unit]]
    cases: dict[str, list[Unit]]
    """What is switched off."""
    found: dict[str, Right]
    random: dict[str, Right]
    """Without random features in a set's place, all draws in one."""
    ratio: dict[str, float]
    """Size of the random features by that of the set."""
    by_size: dict[int, dict[str, Right]]
    """While the sets grew."""
    told: Bool[Tensor, " prompt"]
    first: Text


def run(bench: Bench, options: Explains) -> Result:
    """Find both sets, switch each off, and watch."""
    found = measure(bench, options)
    return tell(found, options, _found(bench, found.sets, found.first))


def measure(bench: Bench, options: Explains) -> Tested:
    """Find both sets, switch each off, and random features in their place.

    Raises:
        StudyError: too few prompts that are explained rightly, or too few features.
    """
    texts = _texts(bench, options)
    sample = bench.some(texts, options.sample)
    texts = bench.some([text for text in texts if text not in sample] or texts, options.prompts)
    steps = bench.each(list(range(4 * len(sample))))
    made = {
        "answer": _made(bench, sample, [[text.given] for text in sample], steps),
        "explanation": _made(bench, sample, _telling(sample), steps),
    }
    by_size, enough = _grown(bench, texts, made, options)
    sets = {name: list(part.units[: enough.get(name, max(by_size))]) for name, part in made.items()}
    cases = _cases(sets["answer"], sets["explanation"])
    found = {name: _right(bench, texts, units) for name, units in cases.items() if units or name == "nothing"}
    random, ratio = {}, {}
    for name, part in made.items():
        draws, ratio[name] = _random(
            part, sets[name], [*sets["answer"], *sets["explanation"]], options.draws, bench.seed
        )
        hits = [_right(bench, texts, units) for units in bench.each(draws)]
        random[name] = Right(*(torch.cat(column) for column in zip(*hits, strict=True)))
    return Tested(sets, cases, found, random, ratio, by_size, _told(bench, texts), texts[0])


def _grown(
    bench: Bench, texts: Sequence[Text], made: dict[str, Made], options: Explains
) -> tuple[dict[int, dict[str, Right]], dict[str, int]]:
    """What stays right without sets of growing size, and the first size of each that breaks what it makes."""
    most = min(len(part.units) for part in made.values())
    sizes = [size for size in options.sizes if size <= most]
    if not sizes:
        raise StudyError(f"only {most} features are active where answer or explanation are made; give smaller sizes")
    by_size: dict[int, dict[str, Right]] = {}
    enough: dict[str, int] = {}
    for size in bench.each(sizes):
        by_size[size] = {name: _right(bench, texts, part.units[:size]) for name, part in made.items()}
        broken = [name for name, hits in by_size[size].items() if _mean(getattr(hits, name)) <= options.least]
        enough = {name: size for name in broken} | enough
        if len(enough) == len(made):
            break
    return by_size, enough


def _cases(answer: list[Unit], explanation: list[Unit]) -> dict[str, list[Unit]]:
    both = [unit for unit in answer if unit in explanation]
    return {
        "nothing": [],
        "what makes the answer": answer,
        "what makes the explanation": explanation,
        "what makes both": both,
        "what makes the answer alone": [unit for unit in answer if unit not in both],
        "what makes the explanation alone": [unit for unit in explanation if unit not in both],
    }


def _texts(bench: Bench, options: Explains) -> list[Text]:
    """Prompts with their explanations, of which the unchanged model gets answer and explanation right; spread evenly
    over all variants."""
    model, found = bench.model.language_model, []
    for variant in bench.some(bench.variants, 2 * (options.prompts + options.sample)):
        prompt = model.tokenize(bench.text(variant)).tolist()
        whole = model.tokenize(f"{bench.text(variant)} {variant.answer.strip()}").tolist()
        if whole[: len(prompt)] == prompt:
            found.append(Text(variant, tuple(whole), len(prompt), bench.positions(variant, options.given)[0]))
    hits = _right(bench, found, []) if found else None
    kept = (
        []
        if hits is None
        else [text for text, good in zip(found, (hits.answer & hits.explanation).tolist(), strict=True) if good]
    )
    if len(kept) < 4:
        raise StudyError(
            f"the model answers and explains {len(kept)} of {len(found)} prompts rightly; at least 4 are needed"
        )
    return bench.some(kept, options.prompts + options.sample)


def _telling(sample: Sequence[Text]) -> list[list[int]]:
    """Of each explanation, the positions of words that are not the same in all explanations of its length."""
    alike: dict[int, list[Text]] = {}
    for text in sample:
        alike.setdefault(len(text.ids) - text.prompt, []).append(text)
    words = {
        length: [{text.ids[text.prompt + place] for text in some} for place in range(length)]
        for length, some in alike.items()
    }
    return [
        [text.prompt + place for place, seen in enumerate(words[len(text.ids) - text.prompt]) if len(seen) > 1]
        for text in sample
    ]


def _made(bench: Bench, texts: Sequence[Text], wanted: Sequence[Sequence[int]], steps: Iterator[object]) -> Made:
    """Effects of all features on the words at some positions of texts, each word by itself, summed over words and
    positions; mean of all texts."""
    shape = len(bench.model.transcoders.widths), max(bench.model.transcoders.widths)
    effect, size = torch.zeros(shape), torch.zeros(shape)
    for text, positions in zip(texts, wanted, strict=True):
        for position in positions:
            part = strengths(
                bench.model, torch.tensor([text.ids[:position]]), [lead(text.ids[position])], range(1, position)
            )
            layer, _, index = torch.tensor(part.places).T
            effect.index_put_((layer, index), part.effect[0].float() / len(texts), accumulate=True)
            size.index_put_(
                (layer, index), (part.activation[0].abs() * part.written).float() / len(texts), accumulate=True
            )
        next(steps, None)
    layers, indices = size.nonzero(as_tuple=True)
    order = effect[layers, indices].argsort(descending=True)
    units = tuple(zip(layers[order].tolist(), indices[order].tolist(), strict=True))
    return Made(units, size[layers[order], indices[order]])


def _right(bench: Bench, texts: Sequence[Text], units: Sequence[Unit]) -> Right:
    """Whether each answer and each explanation are right to the last word, some features being switched off wherever
    they are."""
    answer, explanation = (torch.zeros(len(texts), dtype=torch.bool) for _ in range(2))
    shapes: dict[tuple[int, int, int], list[int]] = {}
    for row, text in enumerate(texts):
        shapes.setdefault((len(text.ids), text.prompt, text.given), []).append(row)
    for (length, prompt, given), rows in shapes.items():
        ids = torch.tensor([texts[row].ids for row in rows])
        places = tuple((layer, position, index) for layer, index in units for position in range(1, length - 1))
        edits = (
            Edits(
                places, torch.zeros(1, len(places), dtype=bench.model.language_model.engine_dtype).expand(len(rows), -1)
            )
            if places
            else None
        )
        at = [given - 1, *range(prompt - 1, length - 1)]
        hits = logits_with(bench.model, ids[:, :-1], edits, at).argmax(-1) == ids[:, [place + 1 for place in at]]
        answer[rows], explanation[rows] = hits[:, 0], hits[:, 1:].all(1)
    return Right(answer, explanation)


def _random(
    made: Made, chosen: Sequence[Unit], barred: Sequence[Unit], draws: int, seed: int
) -> tuple[list[list[Unit]], float]:
    """Random features that write about as much on these texts, in neither set; and their size by that of the set."""
    at = {unit: number for number, unit in enumerate(made.units)}
    own = [at[unit] for unit in chosen]
    drawn = matched(
        made.size,
        [(layer, 0, index) for layer, index in made.units],
        own,
        [at[unit] for unit in barred if unit in at],
        draws,
        seed,
    )
    ratio = sum(float(made.size[draw].sum()) for draw in drawn) / (float(made.size[own].sum()) * draws)
    return [[made.units[one] for one in draw] for draw in drawn], ratio


def _told(bench: Bench, texts: Sequence[Text]) -> Bool[Tensor, " prompt"]:
    """Whether each explanation is still right where the answer in the prompt is that of the next text with another
    one; empty without one."""
    if len({text.ids[text.given] for text in texts}) < 2:
        return torch.zeros(0, dtype=torch.bool)
    wrong = []
    for number, text in enumerate(texts):
        turned = [*texts[number + 1 :], *texts[:number]]
        other = next(one.ids[one.given] for one in turned if one.ids[one.given] != text.ids[text.given])
        wrong.append(text._replace(ids=(*text.ids[: text.given], other, *text.ids[text.given + 1 :])))
    return _right(bench, wrong, []).explanation


def _mean(hits: Tensor) -> float:
    return float(hits.double().mean()) if hits.numel() else float("nan")


def tell(found: Tested, options: Explains, kept: tuple[Found, ...]) -> Result:
    """Figures, the table, plots and a paragraph."""
    figures = _figures(found)
    broken = max(figures["answer_without_answer"], figures["explanation_without_explanation"]) <= options.least
    left = {name: f"{value:.0%}" for name, value in figures.items()}
    counts = {name: len(units) for name, units in found.sets.items()}
    summary = (
        f"Without the {counts['answer']} features that make the answer, {left['answer_without_answer']} of answers "
        f"and {left['explanation_without_answer']} "
        f"of explanations stay right; without the {counts['explanation']} that make the explanation, "
        f"{left['answer_without_explanation']} and "
        f"{left['explanation_without_explanation']}; without random ones at least {left['answer_random']} and "
        f"{left['explanation_random']}. "
        f"Of the smaller set {left['shared']} of the features are in the other, and they are "
        f"{figures['apart']:.2f} apart (0: one mechanism, 1: two). "
        f"Given another answer, the model recites the same explanation in {left['told']}. "
        f"{_verdict(figures['apart'], broken)}"
    )
    heads = ("switched off", "features", "answer", "explanation", "size by that of the set")
    title = f"What stays right of {int(figures['prompts'])} answers and explanations (95% intervals)"
    table = ResultTable(title, heads, tuple(_rows(found, options)))
    return Result(figures, summary, (table,), _plots(found), kept)


def _figures(found: Tested) -> dict[str, float]:
    nothing, of_answer, of_explanation = (
        found.found[name] for name in ("nothing", "what makes the answer", "what makes the explanation")
    )
    apart = (
        (_mean(of_explanation.answer) - _mean(of_answer.answer))
        + (_mean(of_answer.explanation) - _mean(of_explanation.explanation))
    ) / 2
    return {
        "answer": _mean(nothing.answer), "explanation": _mean(nothing.explanation),
        "answer_without_answer": _mean(of_answer.answer), "explanation_without_answer": _mean(of_answer.explanation),
        "answer_without_explanation": _mean(of_explanation.answer),
        "explanation_without_explanation": _mean(of_explanation.explanation),
        "answer_random": min(_mean(one.answer) for one in found.random.values()),
        "explanation_random": min(_mean(one.explanation) for one in found.random.values()),
        "shared": len(found.cases["what makes both"]) / min(map(len, found.sets.values())), "apart": apart,
        "told": _mean(found.told), "features_answer": float(len(found.sets["answer"])),
        "features_explanation": float(len(found.sets["explanation"])), "prompts": float(len(nothing.answer)),
    }  # fmt: skip


def _rows(found: Tested, options: Explains) -> list[tuple]:
    rows: list[tuple] = [
        (name, len(found.cases[name]), str(share(hit.answer)), str(share(hit.explanation)), None)
        for name, hit in found.found.items()
    ]
    for name, hit in found.random.items():
        title = f"random for what makes the {name}, {options.draws} draws"
        shares = (f"{_mean(part):.2f}" for part in hit)
        rows.append((title, len(found.sets[name]), *shares, found.ratio[name]))
    return rows


def _plots(found: Tested) -> tuple[Plot, ...]:
    every = {**found.found, **{f"random ({name})": hit for name, hit in found.random.items()}}
    bars = {
        "answer right": [_mean(hit.answer) for hit in every.values()],
        "explanation right": [_mean(hit.explanation) for hit in every.values()],
    }
    series = {
        f"{what}, without what makes the {name}": [_mean(getattr(part[name], what)) for part in found.by_size.values()]
        for name in ("answer", "explanation")
        for what in ("answer", "explanation")
    }
    axes = {"xlabel": "features switched off", "ylabel": "share right", "ylim": [0, 1]}
    data = {"labels": list(every), "series": bars, "ylabel": "share right", "ylim": [0, 1]}
    return (
        Plot("apart", "bars", "Answer and explanation without each set of features", data),
        Plot("sizes", "lines", "Sets of growing size", {"x": list(found.by_size), "series": series, **axes}),
    )


def _verdict(apart: float, broken: bool) -> str:
    if not broken:
        return "The sets do not break what they make, so nothing is decided."
    word = "unfaithful" if apart >= UNFAITHFUL else "faithful" if apart <= FAITHFUL else "faithful in part"
    return f"The explanation is {word} to the computation."


def _found(bench: Bench, sets: dict[str, list[Unit]], text: Text) -> tuple[Found, ...]:
    return tuple(
        Found(
            f"makes the {name}",
            bench.text(text.variant),
            tuple(Feature(layer, EVERYWHERE, index).id for layer, index in units),
        )
        for name, units in sets.items()
    )


EXPLAINS = Protocol(
    "features that make the answer and features that make its explanation, each switched off: what becomes of both",
    Explains,
    FIGURES,
    run,
)
