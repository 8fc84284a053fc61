"""`unweave serve`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import FileError
from .terminal import Dictionary, collect_garbage, progress, stdout


def serve(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Graph files, or folders with graphs. Default: graphs.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Load this model, to trace and steer from the page: a short name, a folder, or a Hugging Face name.",
        ),
    ] = None,
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    features: Annotated[
        Path | None,
        typer.Option(
            help="Feature pages: a folder (ours, index.json.gz with layer_N.bin, or CANTOR.json), or a file of labels "
            "(.json, .jsonl, .csv)."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1; 0: any free one. Default: the first free one from 8230 on.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Show graphs in the browser: explore, annotate, steer, compare."""
    from ..server.run import listen

    given = sources or [Path("graphs")]
    if model is not None and not sources:
        given[0].mkdir(exist_ok=True)
    with listen(port) as listening:
        loaded = None
        if model is not None:
            with progress(f"loading {model}"):
                from ..transcoders.replacement import load

                loaded = load(model, transcoders, dtype=dtype, device=device)
        open_server(given, listening, loaded, features, browser=browser)


def open_server(
    given: list[Path],
    listening: Any,
    loaded: Any,
    features: Path | None = None,
    *,
    browser: bool = True,
    slug: str | None = None,
) -> None:
    """Serve until Ctrl-C, with a loaded model or without.

    Raises:
        FileError: nothing is there to be shown, or no feature pages are in the folder given.
    """
    from ..explanation.stored import SUFFIX
    from ..features.foreign import open_pages, shipped_neuron_pages, shipped_pages
    from ..server.app import create_app
    from ..server.library import beside, open_library
    from ..server.live import Live
    from ..server.run import address_of, run
    from ..server.state import Server

    library = open_library(given)
    found = library.paths()
    newest = next(iter(found.items()), None)
    if slug is None and newest is not None and beside(newest[1], SUFFIX).is_file():
        slug = newest[0]  # explained last: opens on why
    if not found and loaded is None:
        raise FileError(
            f"no graphs in {library.folder}; trace a prompt first, or give --model smollm2 to trace from the page"
        )
    pages = shipped_pages() if features is None else open_pages(features)
    server = Server(library, None if loaded is None else Live(loaded), pages, shipped_neuron_pages())
    graphs = f"{len(found)} graph{'' if len(found) == 1 else 's'}"
    hint = "" if loaded is not None else "; --model smollm2 adds tracing and steering"
    address = address_of(listening, slug)
    stdout.print(f"{graphs} at [bold]{address}[/]  [dim](Ctrl-C stops{hint})[/]", highlight=False)
    collect_garbage()
    run(create_app(server), listening, open_at=address if browser else None)
