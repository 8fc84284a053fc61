"""Step `overlap`: how many features the sets that two earlier steps found have in common."""

from itertools import combinations, product

from pydantic import model_validator

from .bench import Bench
from .protocol import Options, Protocol, StepName
from .results import Found, Result, ResultTable, mean


class Overlap(Options):
    """What a study file can say."""

    of: tuple[StepName, ...]
    """The two steps."""

    @model_validator(mode="after")
    def _two(self) -> "Overlap":
        if len(self.of) != 2:
            raise ValueError(f"of: give two steps, not {len(self.of)}")
        return self


def run(bench: Bench, options: Overlap) -> Result:
    """Shares of common features, whatever their positions, between the steps' sets and within each step."""
    one, other = (bench.results[name].found for name in options.of)
    between = [common(*pair) for pair in product(one, other)]
    within = [common(*pair) for sets in (one, other) for pair in combinations(sets, 2)]
    figures = {"between": mean(between), "within": mean(within)}
    rows = tuple((mine.name, theirs.name, common(mine, theirs)) for mine, theirs in product(one, other))
    first, second = options.of
    summary = (
        f"Sets of {first} and {second} share {figures['between']:.1%} of their features on the mean (intersection "
        f"over union); "
        f"sets of the same step share {figures['within']:.1%}."
    )
    return Result(figures, summary, (ResultTable("Common features", (first, second, "share"), rows),))


def common(one: Found, other: Found) -> float:
    """Intersection over union of two sets, of features at whatever position."""
    mine, theirs = ({feature.rpartition("_")[0] for feature in found.features} for found in (one, other))
    return len(mine & theirs) / len(mine | theirs)


OVERLAP = Protocol(
    "how many features the sets of two earlier steps have in common",
    Overlap,
    {
        "between": "mean intersection over union of a set of the first step and one of the second",
        "within": "the same of two sets of one step",
    },
    run,
)
