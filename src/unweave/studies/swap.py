"""Step `swap`: features of one variant exchanged for those of another, the smallest set that brings the other's
answer."""

from typing import Any, Literal

from pydantic import Field, FiniteFloat

from ..interventions.edits import dosed
from ..interventions.interventions import intervene_each
from ..interventions.smallest import smallest_swap
from ..interventions.steering import swap
from . import sets
from .bench import Bench, PromptPair
from .protocol import FieldName, Options, Protocol
from .results import Result


class Swap(Options):
    """What a study file can say."""

    field: FieldName
    """What the two variants differ in."""
    pairs: int = Field(4, ge=1)
    at: FieldName | None = None
    """A field: features are exchanged at its tokens alone."""
    mode: Literal["frozen_attention", "open"] = "frozen_attention"
    factors: tuple[FiniteFloat, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    max_features: int = Field(48, ge=1)
    draws: int = Field(25, ge=1)
    """Random sets of features, by each of two measures of size."""


def run(bench: Bench, options: Swap) -> Result:
    """The smallest swap found for each pair, and what random features of the same size do."""
    pairs = bench.pairs(options.field, options.pairs)
    searches, claims, whole = [], [], []
    for pair in bench.each(pairs):
        positions = None if options.at is None else bench.positions(pair.here, options.at)
        smallest = smallest_swap(
            bench.model, bench.record(pair.here), bench.record(pair.there), bench.token(pair.there.answer),
            factors=options.factors, mode=options.mode, positions=positions, max_features=options.max_features,
        )  # fmt: skip
        labels = (pair.here.fields[options.field], pair.there.fields[options.field])
        name = (
            " to ".join(labels)
            + (f" at {options.at}" if options.at else "")
            + (", all live" if options.mode == "open" else "")
        )
        searches.append(sets.searched(bench, pair.here, labels, name, smallest, options.draws))
        whole.append(_whole(bench, options, pair, positions))
        if smallest is not None:
            claims.append(_claim(bench, pair, options, len(smallest.changes), smallest.factor, name))
    measured = sets.figures(searches)
    where = f" at the tokens of {options.at}" if options.at else ""
    how = "attention held" if options.mode == "frozen_attention" else "everything live"
    reached = len([search for search in searches if search.smallest is not None])
    summary = (
        f"With {how}, exchanged features{where} bring the other answer to the top in {reached} of {len(pairs)} pairs"
    )
    summary += f"{sets.against_controls(searches, swapped=True)}."
    heads = (f"{options.field} out", f"{options.field} in")
    rows = sets.table(bench, searches, heads, "Smallest swaps", extra=("dose at which all do it", whole))
    plots = sets.layers(searches, bench.model.language_model.n_layers, f"smallest swaps of {options.field}")
    return Result(
        measured, summary, (rows,), plots, tuple(search.found for search in searches if search.found), tuple(claims)
    )


def _whole(bench: Bench, options: Swap, pair: PromptPair, positions: list[int] | None) -> float | str:
    """The first dose at which a swap of all features brings the other answer."""
    recording, goal = bench.record(pair.here), bench.token(pair.there.answer)
    changes = swap(bench.model, recording, bench.record(pair.there), positions=positions)
    variants = [dosed(changes, factor) for factor in options.factors]
    tops = [
        int(outcome.logits[-1].argmax()) for outcome in intervene_each(bench.model, recording, variants, options.mode)
    ]
    return next((factor for factor, top in zip(options.factors, tops, strict=True) if top == goal), "none")


def _claim(bench: Bench, pair: PromptPair, options: Swap, size: int, factor: float, name: str) -> dict[str, Any]:
    answer = bench.word(bench.token(pair.there.answer))
    return {
        "name": f"a swap of {size} features ({name}) makes {answer!r} the answer", "prompt": bench.text(pair.here),
        "swap_from": bench.text(pair.there), "swap_only": name, "swap_factor": factor, "mode": options.mode,
        "expect": [{"top": answer}],
    }  # fmt: skip


SWAP = Protocol(
    "features of one variant exchanged for another's: the smallest set that brings the other answer, beside random "
    "sets",
    Swap,
    sets.FIGURES,
    run,
)
