"""`unweave models`."""

from ..base.catalogue import PAIRS
from .terminal import AsJson, print_json, stdout


def models(as_json: AsJson = False) -> None:
    """List known models and their transcoders. Other commands take the names as --model."""
    if as_json:
        print_json({"models": [pair._asdict() for pair in PAIRS.values()]})
        return
    rows = [("name", "model", "size", "dictionary", "kind", "features", "GB")]
    for pair in PAIRS.values():
        features = "?" if pair.features is None else f"{pair.layers} x {pair.features}"
        gigabytes = (
            "?"
            if pair.gigabytes is None
            else f"{pair.gigabytes:.2g}"
            if pair.gigabytes < 10
            else f"{pair.gigabytes:.0f}"
        )
        rows.append((pair.name, pair.model, f"{pair.parameters:g}B", pair.dictionary, pair.kind, features, gigabytes))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        stdout.print(line.rstrip(), highlight=False, markup=False, style="bold" if not number else None)
