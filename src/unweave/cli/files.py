"""`unweave info` and `unweave convert`."""

from pathlib import Path
from typing import Annotated

import typer

from .terminal import AsJson, escaped, print_json, stdout


def info(
    name: Annotated[
        str, typer.Argument(help="A graph file, a model (short name, folder or hub name), or a folder of transcoders.")
    ],
    as_json: AsJson = False,
) -> None:
    """Describe a graph file, a model or transcoders, and say whether the model can be traced exactly."""
    from .inspection import inspect
    from .show_inspection import show_inspection

    facts = inspect(name)
    if as_json:
        print_json(facts)
    else:
        show_inspection(facts, stdout)


def convert(
    source: Annotated[str, typer.Argument(help="A graph file, or transcoders (folder or hub reference).")],
    out: Annotated[
        Path,
        typer.Argument(help="Output: NAME.json or NAME.graph.safetensors for a graph, a folder for transcoders."),
    ],
    compact: Annotated[
        bool, typer.Option("--compact", help="Transcoders: int8 rows with one float scale per row.")
    ] = False,
    scan: Annotated[str | None, typer.Option(help="Graph to JSON: the model's name as viewers know it.")] = None,
    node_threshold: Annotated[
        float, typer.Option(help="Graph: first keep only nodes with this share of the influence.")
    ] = 1.0,
    edge_threshold: Annotated[
        float, typer.Option(help="Graph: first keep only edges with this share of the influence.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Convert a graph to or from JSON, or transcoders to circuit-tracer's or the compact format."""
    from .inspection import convert_any

    written = convert_any(source, out, compact=compact, scan=scan, thresholds=(node_threshold, edge_threshold))
    if as_json:
        print_json({"source": source, "out": str(written)})
    else:
        stdout.print(f"Written to [bold]{escaped(str(written))}[/]", highlight=False)
