"""What steps that search for smallest sets of features share: their controls, their row in the table, their figures
and plot."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..interventions.smallest import Controls, SmallestSet, matched_controls
from ..models.language_model import Recording
from .bench import Bench, Variant
from .results import Found, Plot, ResultTable, mean

COLUMNS = (
    "features",
    "of",
    "dose",
    "before",
    "after",
    "KL",
    "controls: another token",
    "controls: this token",
    "their KL",
)
FIGURES = {
    "reached": "share of searches in which a set of features was found that is enough",
    "searches": "how many searches there were",
    "features": "mean size of the sets",
    "controls": "share of random sets of the same size and places that change the likeliest token",
    "controls_reached": "share of random sets that bring the same token to the top as the set does",
    "kl": "mean divergence that the sets cause, in nats",
    "controls_kl": "mean divergence that random sets cause, in nats",
}


@dataclass(frozen=True, eq=False)
class Search:
    """One search on one prompt: the set it found, if any, and random sets beside it."""

    labels: tuple[str, ...]
    name: str
    prompt: str
    recording: Recording
    smallest: SmallestSet | None
    controls: tuple[Controls, ...] = ()

    @property
    def found(self) -> Found | None:
        """The set, for later steps."""
        return (
            None
            if self.smallest is None
            else Found(self.name, self.prompt, tuple(feature.id for feature in self.smallest.features))
        )


def searched(
    bench: Bench, variant: Variant, labels: Sequence[str], name: str, smallest: SmallestSet | None, draws: int
) -> Search:
    """A search's outcome with its controls: random features alike in activation, and alike in what they write."""
    recording, text = bench.record(variant), bench.text(variant)
    if smallest is None:
        return Search(tuple(labels), name, text, recording, None)
    drawn = tuple(
        matched_controls(bench.model, smallest, by=by, draws=draws, seed=bench.seed) for by in ("activation", "written")
    )
    return Search(tuple(labels), name, text, recording, smallest, drawn)


def table(
    bench: Bench,
    searches: Sequence[Search],
    heads: Sequence[str],
    title: str,
    *,
    extra: tuple[str, Sequence[str | float]] | None = None,
) -> ResultTable:
    """All searches, one a row."""
    rows = []
    for place, search in enumerate(searches):
        before, one = search.recording.logits[-1].softmax(-1), search.smallest
        cells: tuple = (
            None,
            None,
            None,
            _token(bench, before, int(before.argmax())),
            "none found",
            None,
            None,
            None,
            None,
        )
        if one is not None:
            after = one.outcome.logits[-1].softmax(-1)
            changed, reached = (max(getattr(part, name) for part in search.controls) for name in ("changed", "reached"))
            kl = max(sum(part.kl) / part.draws for part in search.controls)
            cells = (
                len(one.changes),
                len(one.pool),
                one.factor,
                cells[3],
                _token(bench, after, one.top),
                one.outcome.kl(),
                changed,
                reached,
                kl,
            )
        rows.append((*search.labels, *cells, *(() if extra is None else (extra[1][place],))))
    return ResultTable(title, (*heads, *COLUMNS, *(() if extra is None else (extra[0],))), tuple(rows))


def _token(bench: Bench, probabilities: object, token: int) -> str:
    return f"{bench.word(token)} {float(probabilities[token]):.2f}"  # pyright: ignore[reportIndexIssue]


def figures(searches: Sequence[Search]) -> dict[str, float]:
    """The figures of `FIGURES`."""
    sets = [search.smallest for search in searches if search.smallest is not None]
    controls = [part for search in searches for part in search.controls]
    return {
        "reached": len(sets) / len(searches), "searches": float(len(searches)),
        "features": mean([len(one.changes) for one in sets]),
        "controls": mean([part.changed for part in controls]),
        "controls_reached": mean([part.reached for part in controls]),
        "kl": mean([one.outcome.kl() for one in sets]),
        "controls_kl": mean([sum(part.kl) / part.draws for part in controls]),
    }  # fmt: skip


def against_controls(searches: Sequence[Search], *, swapped: bool) -> str:
    """The sets beside random ones, as the end of a sentence; of swaps, those count that bring the same token."""
    measured, draws = figures(searches), sum(part.draws for search in searches for part in search.controls)
    if not draws:
        return ""
    share = measured["controls_reached" if swapped else "controls"]
    return (
        f", by {measured['features']:.0f} features on the mean; as many random ones of the same size do it in "
        f"{share:.0%} of {draws} draws"
    )


def layers(searches: Sequence[Search], n_layers: int, what: str) -> tuple[Plot, ...]:
    """Which layers the sets are in, at the last token and before."""
    sets = [search.smallest for search in searches if search.smallest is not None]
    series = {"at the last token": [0] * n_layers, "at earlier tokens": [0] * n_layers}
    for one in sets:
        for feature in one.features:
            last = feature.position == len(one.outcome.recording.input_ids) - 1
            series["at the last token" if last else "at earlier tokens"][feature.layer] += 1
    data = {
        "labels": list(range(n_layers)),
        "series": series,
        "xlabel": "layer",
        "ylabel": "features found",
        "stacked": True,
    }
    return (Plot("layers", "bars", f"Where the features of {len(sets)} {what} are", data),) if sets else ()
