"""`unweave serve`."""

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import escaped, stdout


def serve(
    sources: Annotated[list[Path] | None, typer.Argument(help="Graph files, or folders with graphs. Default: graphs.")] = None,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; 0: any free one. Default: the first free one from 8230 on.")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Show graphs in the browser: explore, annotate, steer, compare."""
    from ..server.app import create_app
    from ..server.library import open_library
    from ..server.run import address_of, listen, run
    from ..server.state import Server

    library = open_library(sources or [Path("graphs")])
    listening = listen(port)
    stdout.print(f"Graphs in [bold]{escaped(', '.join(map(str, library.roots)))}[/] at [bold]{address_of(listening)}[/]  [dim]Ctrl-C stops[/]", highlight=False)
    run(create_app(Server(library)), listening, open_at=address_of(listening) if browser else None)
