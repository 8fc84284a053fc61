"""Step `ablate`: the smallest set of features without which the answer is no longer the likeliest."""

from typing import Literal

from pydantic import Field, FiniteFloat

from ..interventions.smallest import smallest_ablation
from . import sets
from .bench import Bench
from .protocol import FieldName, Options, Protocol
from .results import Result


class Ablate(Options):
    """What a study file can say."""

    prompts: int = Field(4, ge=1)
    """So many of the variants whose answer is the likeliest token."""
    at: FieldName | None = None
    """A field: features at its tokens alone."""
    mode: Literal["frozen_attention", "open"] = "frozen_attention"
    factors: tuple[FiniteFloat, ...] = (0.0, -1.0, -2.0)
    """What activations are multiplied by; the first that is enough is taken."""
    max_features: int = Field(48, ge=1)
    draws: int = Field(25, ge=1)
    """Random sets of features, by each of two measures of size."""


def run(bench: Bench, options: Ablate) -> Result:
    """The smallest ablation found on each prompt, and what random features of the same size do."""
    likeliest = [variant for variant in bench.right() if bench.said(variant).top == bench.token(variant.answer)]
    searches, claims = [], []
    for variant in bench.each(bench.some(likeliest or bench.right(), options.prompts)):
        positions = None if options.at is None else bench.positions(variant, options.at)
        smallest = smallest_ablation(
            bench.model, bench.record(variant), factors=options.factors, mode=options.mode, positions=positions,
            max_features=options.max_features
        )  # fmt: skip
        name = (
            f"{variant.answer.strip()} in {variant.prompt[-32:]}"
            + (f" at {options.at}" if options.at else "")
            + (", all live" * (options.mode == "open"))
        )
        searches.append(sets.searched(bench, variant, (variant.prompt,), name, smallest, options.draws))
        if smallest is not None:
            answer = bench.word(smallest.token)
            claims.append({
                "name": f"with {len(smallest.changes)} features at {smallest.factor:g} times their activation "
                    f"{answer!r} is not the answer",
                "prompt": bench.text(variant), "scale": {name: smallest.factor}, "mode": options.mode,
                "expect": [{"not_top": answer}],
            })  # fmt: skip
    measured = sets.figures(searches)
    reached = len([search for search in searches if search.smallest is not None])
    where = f" at the tokens of {options.at}" if options.at else ""
    how = "attention held" if options.mode == "frozen_attention" else "everything live"
    summary = f"With {how}, ablated features{where} take the answer off the top in {reached} of {len(searches)} prompts"
    summary += f"{sets.against_controls(searches, swapped=False)}."
    rows = sets.table(bench, searches, ("prompt",), "Smallest ablations")
    plots = sets.layers(searches, bench.model.language_model.n_layers, "smallest ablations")
    return Result(
        measured, summary, (rows,), plots, tuple(search.found for search in searches if search.found), tuple(claims)
    )


ABLATE = Protocol(
    "the smallest set of features without which the answer is not the likeliest, beside random sets",
    Ablate,
    sets.FIGURES,
    run,
)
