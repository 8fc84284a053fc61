"""Step `accuracy`: how many variants the model answers rightly."""

from collections import defaultdict

from .bench import Bench
from .protocol import FieldName, Options, Protocol
from .results import Plot, Result, ResultTable


class Accuracy(Options):
    """What a study file can say."""

    by: FieldName | None = None
    """A field: the share of right answers is given for each of its values."""


def run(bench: Bench, options: Accuracy) -> Result:
    """The share of variants whose answer is the likeliest token, or beats the foil."""
    said = [(variant, bench.said(variant)) for variant in bench.each(bench.variants)]
    right = [found.right for _, found in said]
    first = sum(bench.token(variant.answer) == found.top for variant, found in said) / len(said)
    figures = {
        "right": sum(right) / len(said), "likeliest": first, "variants": float(len(said)),
        "probability": sum(found.p_answer for _, found in said) / len(said),
    }  # fmt: skip
    rows = tuple(
        (
            variant.prompt,
            variant.answer,
            *(() if variant.foil is None else (variant.foil,)),
            bench.word(found.top),
            found.p_answer,
            "yes" if found.right else "no",
        )
        for variant, found in said
    )
    foil = said[0][0].foil is not None
    columns = ("prompt", "answer", *(("foil",) if foil else ()), "the model's likeliest", "p of the answer", "right")
    tables = [ResultTable("All variants", columns, rows)]
    plots = []
    if options.by is not None:
        groups: dict[str, list[bool]] = defaultdict(list)
        for (variant, _), good in zip(said, right, strict=True):
            groups[variant.fields.get(options.by, "")].append(good)
        shares = {name: sum(part) / len(part) for name, part in groups.items()}
        tables.insert(
            0,
            ResultTable(
                f"Right answers by {options.by}",
                (options.by, "right", "variants"),
                tuple((n, s, len(groups[n])) for n, s in shares.items()),
            ),
        )
        data = {
            "labels": list(shares),
            "series": {"right": list(shares.values())},
            "xlabel": options.by,
            "ylabel": "share right",
            "ylim": [0, 1],
        }
        plots.append(Plot("by", "bars", f"Right answers by {options.by}", data))
    how = "it beats the foil" if foil else "it is the likeliest token"
    summary = (
        f"The model answers {sum(right)} of {len(said)} variants rightly (right: {how}); mean probability of "
        f"the answer {figures['probability']:.2f}."
    )
    return Result(figures, summary, tuple(tables), tuple(plots))


ACCURACY = Protocol(
    "how many variants the model answers rightly",
    Accuracy,
    {
        "right": "share of variants whose answer beats the foil, or is the likeliest token where no foil is given",
        "likeliest": "share of variants whose answer is the likeliest token",
        "probability": "mean probability of the answer",
        "variants": "how many there are",
    },
    run,
)
