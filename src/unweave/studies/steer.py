"""Step `steer`: features found with some variants that push between two tokens, turned up and down on others, and on
ordinary text."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from pydantic import Field, FiniteFloat

from ..attribution.promoted import promoted_tokens
from ..corpus.documents import mixed
from ..corpus.text import token_blocks
from ..errors import StudyError
from ..interventions.attribution_patching import difference, predicted_effects, write_gradients
from ..interventions.edits import Feature, Intervention, ablate, scale
from ..interventions.interventions import intervene_each
from ..interventions.smallest import active_features
from .bench import Bench, Variant
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable

Key = tuple[int, int]
"""Layer and number of a feature."""
HELD_OUT_TEXT = Path(__file__).parents[1] / "data" / "held-out"
BLOCK = 96


class Steer(Options):
    """What a study file can say."""

    plus: str
    """The token that the dose is to favour."""
    minus: str
    hold_out: FieldName
    """Every other value of this field is kept for the test; features are found with the rest."""
    features: int = Field(4, ge=1)
    """For each of the two tokens."""
    candidates: int = Field(40, ge=2)
    """Features, the first by first-order effect, that are measured one by one."""
    doses: tuple[FiniteFloat, ...] = (-1.0, 0.0, 1.0, 2.0, 3.0)
    """Features for `plus` are scaled by the dose, those for `minus` by 2 - dose; at 1 nothing is changed."""
    blocks: int = Field(1, ge=0)
    """Blocks of ordinary text of each kind."""


def run(bench: Bench, options: Steer) -> Result:
    """Find, turn, compare with random features, and read ordinary text meanwhile."""
    values = list(dict.fromkeys(variant.fields[options.hold_out] for variant in bench.variants))
    if len(values) < 2 or len(options.doses) < 2:
        raise StudyError(
            f"{options.hold_out} has {len(values)} value and there are {len(options.doses)} doses; two of each are "
            f"needed"
        )
    finding = [variant for variant in bench.variants if variant.fields[options.hold_out] in values[::2]]
    testing = [variant for variant in bench.variants if variant.fields[options.hold_out] in values[1::2]]
    plus, minus = bench.token(options.plus), bench.token(options.minus)
    effect, size = _effects(bench, options, finding, plus, minus)
    order = sorted(effect, key=lambda key: -effect[key])
    up, down = order[: options.features], order[-options.features :][::-1]
    drawn = _random([*up, *down], size, bench.seed)
    rows = _responses(bench, testing, options.doses, up, down, plus, minus)
    control = _responses(bench, testing, options.doses, drawn[: len(up)], drawn[len(up) :], plus, minus)
    text = _text(bench, options, up, down) if options.blocks else [float("nan")] * len(options.doses)
    ratio, others = rows.mean(0)[:, 2].tolist(), control.mean(0)[:, 2].tolist()
    rising = (rows[:, 1:, 2] > rows[:, :-1, 2]).double().mean(0).tolist()
    figures = {
        "range": ratio[-1] - ratio[0], "controls_range": others[-1] - others[0], "rising": min(rising),
        "text": max(text), "variants": float(len(testing)),
    }  # fmt: skip
    turned = ResultTable(
        f"{len(testing)} variants that the features were not found with",
        (
            "dose",
            f"P({options.plus.strip()})",
            f"P({options.minus.strip()})",
            "log ratio",
            "rose in",
            "random features: log ratio",
            "text: nats added, worst kind",
        ),
        tuple(
            (dose, row[0], row[1], row[2], share, other, added)
            for dose, row, share, other, added in zip(
                options.doses, rows.mean(0).tolist(), [None, *rising], others, text, strict=True
            )
        ),
    )
    words = promoted_tokens(bench.model, [*up, *down], 4)
    members = tuple(
        (
            f"{layer}_{index}",
            (options.plus if place < len(up) else options.minus).strip(),
            effect[layer, index],
            " ".join(word.strip() for word in said),
        )
        for place, ((layer, index), said) in enumerate(zip([*up, *down], words, strict=True))
    )
    summary = (
        f"{len(up)} features for {options.plus.strip()} and {len(down)} for {options.minus.strip()}, found with half "
        f"of the values of {options.hold_out}, "
        f"move the log ratio by {figures['range']:.2f} on the other half from dose {options.doses[0]:g} to "
        f"{options.doses[-1]:g} "
        f"(random features: {figures['controls_range']:.2f}); it rises with each dose in at least {min(rising):.0%} "
        f"of the prompts"
    )
    summary += f", and ordinary text costs at most {figures['text']:.3f} nats a token more." if options.blocks else "."
    data = {
        "x": list(options.doses), "series": {"found features": ratio, "random features": others}, "xlabel": "dose",
        "ylabel": f"log P({options.plus.strip()}) / P({options.minus.strip()})", "line": 0.0,
    }  # fmt: skip
    plot = Plot(
        "doses",
        "lines",
        f"{options.plus.strip()} against {options.minus.strip()}, {len(testing)} held-out prompts",
        data,
    )
    return Result(
        figures,
        summary,
        (turned, ResultTable("The features", ("feature", "for", "adds to the difference", "promotes"), members)),
        (plot,),
    )


def _effects(
    bench: Bench, options: Steer, variants: Sequence[Variant], plus: int, minus: int
) -> tuple[dict[Key, float], dict[Key, float]]:
    """What each candidate adds to the difference of logits, measured with everything live; and all features' mean
    activations."""
    predicted: dict[Key, float] = defaultdict(float)
    size: dict[Key, float] = defaultdict(float)
    for variant in variants:
        recording = bench.record(variant)
        pool = active_features(bench.model, recording)
        gradients = write_gradients(bench.model, recording, difference(plus, minus), "open")
        effects = predicted_effects(bench.model, recording, [[change] for change in pool], gradients)
        for change, effect in zip(pool, effects.tolist(), strict=True):
            key = change.features[0].layer, change.features[0].index
            predicted[key] -= effect / len(variants)
            size[key] += 1 / len(variants)
    likely = sorted(predicted, key=lambda key: -abs(predicted[key]))[: options.candidates]
    measured = torch.zeros(len(likely))
    for variant in bench.each(variants):
        outcomes = intervene_each(
            bench.model, bench.record(variant), [[ablate((layer, "*", index))] for layer, index in likely], "open"
        )
        for place, outcome in enumerate(outcomes):
            before, after = (logits[-1, plus] - logits[-1, minus] for logits in (outcome.baseline, outcome.logits))
            measured[place] += float(before - after) / len(variants)
    return dict(zip(likely, measured.tolist(), strict=True)), dict(size)


def _random(chosen: Sequence[Key], size: dict[Key, float], seed: int, nearest: int = 20) -> list[Key]:
    """For each feature another of its layer that is active about as often, none twice."""
    generator, drawn = torch.Generator().manual_seed(seed), []
    for layer, index in chosen:
        free = [key for key in size if key[0] == layer and key not in chosen and key not in drawn]
        close = sorted(free, key=lambda key: (abs(size[key] - size.get((layer, index), 0.0)), key))[:nearest]
        if not close:
            raise StudyError(f"layer {layer} has no other active feature to compare with; take fewer features")
        drawn.append(close[int(torch.randint(len(close), (), generator=generator))])
    return drawn


def _at_doses(doses: Sequence[float], up: Sequence[Key], down: Sequence[Key]) -> list[list[Intervention]]:
    """The changes at each dose, at all positions."""

    def at(keys: Sequence[Key], factor: float) -> Iterator[Intervention]:
        if keys:
            yield scale([Feature(layer, "*", index) for layer, index in keys], factor)

    return [[*at(up, dose), *at(down, 2.0 - dose)] for dose in doses]


def _responses(
    bench: Bench,
    variants: Sequence[Variant],
    doses: Sequence[float],
    up: Sequence[Key],
    down: Sequence[Key],
    plus: int,
    minus: int,
) -> torch.Tensor:
    """[variant, dose, 3]: probabilities of the two tokens, and their log ratio."""
    rows = torch.zeros(len(variants), len(doses), 3, dtype=torch.float64)
    for place, variant in enumerate(variants):
        for at, outcome in enumerate(
            intervene_each(bench.model, bench.record(variant), _at_doses(doses, up, down), "open")
        ):
            p = outcome.logits[-1].softmax(-1)
            rows[place, at] = torch.tensor(
                [float(p[plus]), float(p[minus]), float(outcome.logits[-1, plus] - outcome.logits[-1, minus])]
            )
    return rows


def _text(bench: Bench, options: Steer, up: Sequence[Key], down: Sequence[Key]) -> list[float]:
    """By dose: nats a token by which the cross-entropy of the held-out text that ships rises, for the worst kind of
    text."""
    worst = [-float("inf")] * len(options.doses)
    for path in sorted(HELD_OUT_TEXT.glob("*.jsonl")):
        blocks = list(
            islice(token_blocks(bench.model.language_model, mixed([(str(path), 1.0)]), BLOCK), options.blocks)
        )
        added = [0.0] * len(options.doses)
        for block in blocks:
            for place, outcome in enumerate(
                intervene_each(bench.model, block, _at_doses(options.doses, up, down), "open")
            ):
                after, before = (
                    torch.nn.functional.cross_entropy(logits[1:-1].double(), block[2:])
                    for logits in (outcome.logits, outcome.baseline)
                )
                added[place] += float(after - before) / len(blocks)
        worst = [max(pair) for pair in zip(worst, added, strict=True)]
    return worst


STEER = Protocol(
    "features that push between two tokens, found with half of the variants, turned up and down on the others and on "
    "ordinary text",
    Steer,
    {
        "range": "mean log ratio of the two tokens at the last dose less that at the first, on variants the features "
        "were not found with",
        "controls_range": "the same with random features of the same layers that are active as often",
        "rising": "smallest share of those variants, over all steps of the dose, in which the log ratio rises",
        "text": "nats a token by which ordinary text becomes less likely, the worst dose and kind of text",
        "variants": "how many variants were kept for the test",
    },
    run,
)
