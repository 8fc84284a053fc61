"""Step `plan`: whether a word that is to be written later is active before its line begins, and whether the line
follows when it is changed there."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from pydantic import Field, FiniteFloat

from ..errors import StudyError
from ..interventions.edits import Change
from ..interventions.patching import patched
from ..interventions.plans import frozen_parts, prompt_edits
from .batch import Share, share
from .bench import Bench, Variant
from .groups import Activity, Dose, Places, dose, positions, random_like, starts, strongest, written
from .protocol import FieldName, Options, Protocol
from .results import Found, Plot, Result, ResultTable


class Planning(Options):
    """What a study file can say."""

    word: FieldName
    """The planned word, on which the answer ends."""
    sides: tuple[FieldName, ...] = ()
    """What decides the word; lines that end on another one are counted by which of these they keep."""
    at: Places = (-1,)
    """Where the plan is looked for and changed."""
    elsewhere: Places = (-2,)
    """As many places before, where the same changes are made for comparison."""
    stop: str = "."
    """What ends a line."""
    each: int = Field(8, ge=2)
    """Prompts for each word that features are found on, at most."""
    targets: int = Field(40, ge=1)
    features: int = Field(20, ge=1)
    """Features that are moved, those that write most."""
    out: int = Field(5, ge=1)
    """Of the planned word's features, how many are taken out."""
    suppress: tuple[FiniteFloat, ...] = (1.0, 1.5, 2.0, 2.5, 3.0)
    """How far they are, as a multiple of what sets them apart: the first that is enough for another end of the line
    is taken (else the last), and the same for what it is compared with."""
    inject: FiniteFloat = 2.0
    """How far one word's features are exchanged for another's."""
    draws: int = Field(3, ge=1)
    """Random sets of features beside each."""
    mode: Literal["frozen_attention", "open"] = "open"


class PlanningTarget(NamedTuple):
    """A prompt, and the word that is put into it."""

    variant: Variant
    other: str


@dataclass(frozen=True)
class Ways:
    """What was written after a change: with the word's features, with random ones, with the same ones elsewhere."""

    features: str
    random: tuple[str, ...]
    elsewhere: str
    ids: tuple[str, ...]


def run(bench: Bench, options: Planning) -> Result:
    """Find each word's features, take them out, put another word's in, and read the lines."""
    words: dict[str, list[Variant]] = {}
    for variant in bench.variants:
        words.setdefault(variant.fields[options.word], []).append(variant)
    words = {word: bench.some(some, options.each) for word, some in words.items()}
    if len(words) < 3 or min(map(len, words.values())) < 2:
        raise StudyError(f"a plan needs three or more values of {options.word} with two prompts each")
    lines = {word: some[0].answer for word, some in words.items()}
    activity, before = Activity(bench, options.at), Activity(bench, options.elsewhere)
    for one in (activity, before):
        one.prepare([variant for some in words.values() for variant in some])
    read = {name: _read(one, words) for name, one in (("read", activity), ("read_before", before))}
    means = {word: activity.of(some).mean(0) for word, some in words.items()}
    targets = _targets(bench, options, words)
    draw, norms = random.Random(bench.seed), written(bench.model)
    suppressed, injected = [], []
    for target in bench.each(targets):
        own, word = activity.of([target.variant])[0], target.variant.fields[options.word]
        rest = [one for one in words[word] if one.prompt != target.variant.prompt]
        mine, others = activity.of(rest).mean(0), torch.stack([mean for name, mean in means.items() if name != word])
        ever = torch.cat([others, own[None]]).abs().amax(0)
        away = strongest((others.mean(0) - mine).clamp_max(0), norms, options.out)
        towards = strongest(means[target.other] - mine, norms, options.features)
        for into, one, factors in (
            (suppressed, dose(away, own, 1.0, "out"), options.suppress),
            (injected, dose(towards, own, options.inject), (1.0,)),
        ):
            drawn = [random_like(one, own, ever, norms, starts(bench.model), draw) for _ in range(options.draws)]
            into.append(_ways(bench, options, target.variant, one, drawn, factors))
    return _result(bench, options, lines, words, read, targets, suppressed, injected)


def _targets(bench: Bench, options: Planning, words: dict[str, list[Variant]]) -> list[PlanningTarget]:
    """Prompts whose line is written rightly, each with another word drawn at random."""
    draw, found = random.Random(bench.seed), []
    some = bench.some([variant for part in words.values() for variant in part], 2 * options.targets)
    for variant in some:
        if _lines(bench, options, variant, [[]]) == [variant.answer]:
            other = draw.choice([word for word in words if word != variant.fields[options.word]])
            found.append(PlanningTarget(variant, other))
        if len(found) == options.targets:
            break
    if not found:
        raise StudyError(f"the model writes none of {len(some)} lines rightly, so there is no plan to look for")
    return found


def _lines(bench: Bench, options: Planning, variant: Variant, variants: Sequence[Sequence[Change]]) -> list[str]:
    """What the model writes up to the end of the line, with each of some changes at the prompt: all at once, the
    likeliest tokens."""
    model, recording = bench.model, bench.record(variant)
    language_model, rows = model.language_model, []
    hold = frozen_parts(options.mode, None, language_model.n_layers)
    with torch.no_grad():
        with patched(model, prompt_edits(model, recording, variants), recording, hold):
            out = language_model.module(
                input_ids=recording.input_ids[None].expand(len(variants), -1).to(language_model.device), use_cache=True
            )
        for _ in range(len(language_model.tokenize(variant.answer)) + 1):
            rows.append(out.logits[:, -1].argmax(-1))
            out = language_model.module(
                input_ids=rows[-1][:, None], past_key_values=out.past_key_values, use_cache=True
            )
    tokenizer = language_model.tokenizer
    assert tokenizer is not None
    texts = [tokenizer.decode(row) for row in torch.stack(rows, 1).tolist()]
    return [" ".join(text.split(options.stop)[0].split()) for text in texts]


def _ways(
    bench: Bench, options: Planning, variant: Variant, one: Dose, drawn: Sequence[Dose], factors: Sequence[float]
) -> Ways:
    """The line at the first dose at which it ends on another word (or the last dose), and what the other changes
    give at that dose."""
    model, at, other = bench.model, positions(bench, variant, options.at), positions(bench, variant, options.elsewhere)
    ways = [(one, at), (one, other), *((random_one, at) for random_one in drawn)]
    lines = iter(
        _lines(
            bench,
            options,
            variant,
            [Dose(way.amounts * factor).changes(model, place) for way, place in ways for factor in factors],
        )
    )
    features, elsewhere, *rest = [[next(lines) for _ in factors] for _ in ways]
    enough = next(
        (place for place, line in enumerate(features) if line.split()[-1:] != variant.answer.split()[-1:]),
        len(factors) - 1,
    )
    ids = tuple(change.features[0].id for change in one.changes(model, at))
    return Ways(features[enough], tuple(some[enough] for some in rest), elsewhere[enough], ids)


def _read(activity: Activity, words: dict[str, list[Variant]]) -> float:
    """Share of prompts whose word is the one with the nearest mean activations, each prompt left out of its own
    word's mean."""
    names = list(words)
    rows = torch.cat([activity.of(words[name]).flatten(1) for name in names])
    group = torch.tensor([number for number, name in enumerate(names) for _ in words[name]])
    means = torch.stack([rows[group == number].mean(0) for number in range(len(names))])
    count = torch.bincount(group)[group, None]
    away = torch.cdist(rows, means)
    away[torch.arange(len(rows)), group] = (rows - (means[group] * count - rows) / (count - 1)).norm(dim=-1)
    return float((away.argmin(1) == group).double().mean())


def _result(
    bench: Bench, options: Planning, lines: dict[str, str], words: dict[str, list[Variant]], read: dict[str, float],
    targets: Sequence[PlanningTarget], suppressed: Sequence[Ways], injected: Sequence[Ways],
) -> Result:  # fmt: skip
    endings = {line.split()[-1] for line in lines.values()}

    def off(target: PlanningTarget, line: str) -> bool:
        """It ends on another of the words."""
        return bool(line) and line.split()[-1] in endings - {target.variant.answer.split()[-1]}

    def towards(target: PlanningTarget, line: str) -> bool:
        return line == lines[target.other]

    def counts(ways: Sequence[Ways], hit) -> tuple[Share, Share, Share]:
        pairs = list(zip(targets, ways, strict=True))
        random_hits = [hit(target, line) for target, way in pairs for line in way.random]
        return (
            share([hit(t, w.features) for t, w in pairs]),
            share(random_hits),
            share([hit(t, w.elsewhere) for t, w in pairs]),
        )

    out, into = counts(suppressed, off), counts(injected, towards)
    last = share(
        [
            bool(way.features) and way.features.split()[-1] == lines[t.other].split()[-1]
            for t, way in zip(targets, injected, strict=True)
        ]
    )
    middle = share(
        [way.features.split()[:-1] == lines[t.other].split()[:-1] for t, way in zip(targets, injected, strict=True)]
    )
    figures = {
        **read, "suppressed": out[0].value, "suppressed_low": out[0].low, "suppress_controls": out[1].value,
        "suppress_elsewhere": out[2].value,
        "injected": into[0].value, "injected_low": into[0].low, "inject_controls": into[1].value,
        "inject_elsewhere": into[2].value,
        "injected_last": last.value, "injected_middle": middle.value, "targets": float(len(targets)),
    }  # fmt: skip
    summary = (
        f"The planned word is read from the features at the place in {read['read']:.0%} of prompts (at the other "
        f"place in {read['read_before']:.0%}; "
        f"chance {1 / len(lines):.0%}). With its features taken out, the line ends on another word in {out[0]} of "
        f"{len(targets)} prompts (random "
        f"features {out[1]}, the same elsewhere {out[2]}). With another word's put in, the whole line is that word's "
        f"in {into[0]} (random "
        f"{into[1]}, elsewhere {into[2]}); its last word in {last}, the words before it in {middle}."
    )
    series = {
        "found features": [out[0].value, into[0].value],
        "random features": [out[1].value, into[1].value],
        "same features, another place": [out[2].value, into[2].value],
    }
    data = {
        "labels": ["taken out: ends on another word", "another put in: its whole line"],
        "series": series,
        "ylabel": "share of prompts",
        "ylim": [0, 1],
        "line": 0.7,
    }
    plots = (
        Plot("shares", "bars", "Lines after a change of the planned word", data),
        _follows(targets, lines, injected),
    )
    rows = tuple(
        (
            t.variant.prompt,
            lines[t.variant.fields[options.word]],
            out_.features,
            _kept(options, words, t, out_.features),
            t.other,
            in_.features,
            lines[t.other],
        )
        for t, out_, in_ in zip(targets, suppressed, injected, strict=True)
    )
    columns = ("prompt", "line", "line without its word", "which keeps", "word put in", "line", "that word's line")
    found = tuple(
        Found(f"plan of {t.variant.fields[options.word]}", bench.text(t.variant), way.ids)
        for t, way in zip(targets, suppressed, strict=True)
    )
    return Result(figures, summary, (ResultTable("Lines", columns, rows),), plots, found)


def _kept(options: Planning, words: dict[str, list[Variant]], target: PlanningTarget, line: str) -> str:
    """Which of the sides a line's last word shares with the planned one."""
    ending = line.split()[-1] if line else ""
    other = next((some[0] for some in words.values() if some[0].answer.split()[-1] == ending), None)
    if other is None:
        return "no known word"
    return " and ".join(
        side for side in options.sides if other.fields[side] == target.variant.fields[side]
    ) or "neither" * bool(options.sides)


def _follows(targets: Sequence[PlanningTarget], lines: dict[str, str], ways: Sequence[Ways]) -> Plot:
    """Word by word, how often a line has the word of the old line and that of the line put in."""
    length = min(len(line.split()) for line in lines.values())
    shares: dict[str, list[float]] = {"the word put in": [], "the planned word": []}
    for place in [*range(length - 1), -1]:
        for name, wanted in (
            ("the word put in", [lines[t.other] for t in targets]),
            ("the planned word", [t.variant.answer for t in targets]),
        ):
            got = [way.features.split() for way in ways]
            shares[name].append(
                share(
                    [
                        len(one) >= length and one[place] == line.split()[place]
                        for one, line in zip(got, wanted, strict=True)
                    ]
                ).value
            )
    labels = [*(f"word {place + 1}" for place in range(length - 1)), "last word"]
    return Plot(
        "words",
        "bars",
        "Whose line each word is of, when another word is put in",
        {"labels": labels, "series": shares, "ylabel": "share", "ylim": [0, 1]},
    )


PLAN = Protocol(
    "whether a word to be written later is active before its line, and the line follows when it is taken out or "
    "another put in",
    Planning,
    {
        "read": "share of prompts whose planned word has the nearest mean of features at the place",
        "read_before": "the same at the place before",
        "suppressed": "share of lines that end on another of the words when the word's features are taken out",
        "suppressed_low": "the lower end of its 95% interval",
        "suppress_controls": "the same share with random features",
        "suppress_elsewhere": "the same share with the same features at the other place",
        "injected": "share of lines that are wholly another word's when its features are put in",
        "injected_low": "the lower end of its 95% interval",
        "inject_controls": "the same share with random features",
        "inject_elsewhere": "the same share with the same features at the other place",
        "injected_last": "share of lines that end on the word put in",
        "injected_middle": "share of lines whose words before the last are those of the word put in",
        "targets": "how many prompts were changed",
    },
    run,
)
