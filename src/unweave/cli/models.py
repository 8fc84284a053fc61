"""`unweave models`."""

from typing import Annotated

import typer

from ..base.catalogue import PAIRS
from ..base.fetching import HubFacts, hub_facts
from ..errors import TranscoderError
from .terminal import AsJson, print_json, progress, stdout


def models(
    check: Annotated[
        bool, typer.Option("--check", help="Ask the hub about each: size, licence, gated or not, or gone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List known models and their transcoders. Other commands take the names as --model."""
    asked = _asked() if check else {}
    if as_json:
        listed = [
            pair._asdict() | ({"hub": [_as_json(one) for one in asked[pair.name]]} if pair.name in asked else {})
            for pair in PAIRS.values()
        ]
        print_json({"models": listed})
        return
    if check:
        _print_rows([("name", "model on the hub", "dictionary on the hub"), *_checked(asked)])
        return
    rows: list[tuple[str, ...]] = [("name", "model", "size", "dictionary", "kind", "features", "GB")]
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
    _print_rows(rows)


def _asked() -> dict[str, tuple[HubFacts | str, HubFacts | str]]:
    """By pair: what the hub says of its model and of its dictionary, or why it says nothing."""
    pairs = [pair for pair in PAIRS.values() if pair.on_hub]
    with progress("asking the hub") as report:
        found = {}
        for number, pair in enumerate(pairs):
            found[pair.name] = _of_hub(pair.model), _of_hub(pair.dictionary)
            report((number + 1) / len(pairs))
    return found


def _of_hub(name: str) -> HubFacts | str:
    try:
        return hub_facts(name) or "the hub is not reached"
    except TranscoderError as error:
        return str(error)


def _as_json(found: HubFacts | str) -> dict[str, object]:
    return {"error": found} if isinstance(found, str) else found._asdict()


def _checked(asked: dict[str, tuple[HubFacts | str, HubFacts | str]]) -> list[tuple[str, ...]]:
    return [(name, *(one if isinstance(one, str) else _told(one) for one in both)) for name, both in asked.items()]


def _told(found: HubFacts) -> str:
    size = f"{found.gigabytes:.2g} GB" if found.gigabytes else "tensors elsewhere"
    return f"{size}, {found.licence or 'no licence named'}, {'gated' if found.gated else 'open'}"


def _print_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        stdout.print(line.rstrip(), highlight=False, markup=False, style="bold" if not number else None)
