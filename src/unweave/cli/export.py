"""`unweave export`."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .terminal import AsJson, escaped, print_json, stdout


def export(
    graph: Annotated[Path, typer.Argument(help="A graph file; its annotations are included.")],
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="One self-contained HTML file that opens offline."),
    ] = None,
    neuronpedia: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file to upload to Neuronpedia.")
    ] = None,
    edges: Annotated[
        int, typer.Option(help="HTML: include at most this many edges, the strongest by share.")
    ] = 200_000,
    features: Annotated[
        Path | None,
        typer.Option(
            help="HTML: folder of feature pages; those of the most influential features are included. Default: those "
            "that ship, if they are of these transcoders."
        ),
    ] = None,
    scan: Annotated[str | None, typer.Option(help="Neuronpedia: the model's name there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export a graph with its annotations, as one HTML file or as JSON for Neuronpedia."""
    if html is None and neuronpedia is None:
        raise OptionError("nothing to write; give --html FILE or --neuronpedia FILE")
    if edges < 0:
        raise OptionError(f"--edges is {edges}; it must be 0 or more")
    from ..base.files import check_writable
    from ..server.sharing import write_shared

    for path in (html, neuronpedia):
        if path is not None and check_writable(path).resolve() == graph.expanduser().resolve():
            raise OptionError(f"{path} is the graph itself; give the export another name")
    written = write_shared(graph, html=html, neuronpedia=neuronpedia, edges=edges, pages=features, scan=scan)
    if as_json:
        print_json({"graph": str(graph), "written": [str(path) for path in written]})
    else:
        for path in written:
            stdout.print(f"Written to [bold]{escaped(str(path))}[/]", highlight=False)
