"""`unweave info` and `unweave convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import AsJson, escaped, print_json, stdout


def info(
    name: Annotated[
        str, typer.Argument(help="A graph file, a model (smollm2, folder, hub name), or a dictionary folder.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a graph, a model or a dictionary is, and whether it can be traced exactly."""
    from .inspection import inspect
    from .show_inspection import show_inspection

    facts = inspect(name)
    if as_json:
        print_json(facts)
    else:
        show_inspection(facts, stdout)


def convert(
    source: Annotated[str, typer.Argument(help="A graph file or a dictionary (folder or hub reference).")],
    out: Annotated[
        Path,
        typer.Argument(help="Where to: NAME.json or NAME.graph.safetensors for a graph, a folder for a dictionary."),
    ],
    compact: Annotated[
        bool, typer.Option("--compact", help="Dictionary: int8 rows with one float scale a row.")
    ] = False,
    scan: Annotated[str | None, typer.Option(help="Graph to JSON: the model's name in viewers.")] = None,
    node_threshold: Annotated[
        float, typer.Option(help="Graph: keep nodes with this share of the influence first.")
    ] = 1.0,
    edge_threshold: Annotated[
        float, typer.Option(help="Graph: keep edges with this share of their influence first.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Convert a graph between our file and the field's JSON, or a dictionary to the peer's or the compact form."""
    from .inspection import convert_any

    written = convert_any(source, out, compact=compact, scan=scan, thresholds=(node_threshold, edge_threshold))
    if as_json:
        print_json({"source": source, "out": str(written)})
    else:
        stdout.print(f"Written to [bold]{escaped(str(written))}[/]", highlight=False)
