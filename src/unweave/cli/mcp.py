"""`unweave mcp`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..base.optional import require
from .terminal import Dictionary, Model, collect_garbage


def mcp(
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    features: Annotated[
        Path | None,
        typer.Option("--features", "-f", help="Folder of feature pages. Default: those that ship, if of this model."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder that results may be written to. Default: none; traces are temporary."
        ),
    ] = None,
) -> None:
    """Serve the tools to an assistant in an editor (Model Context Protocol over stdin and stdout)."""
    require("mcp", "mcp", "assistants")
    from ..base.files import check_writable
    from ..mcp.serving import serve
    from ..mcp.tools import Start, Workplace

    if out is not None:
        out = check_writable(out.expanduser() / "results").parent.resolve()
    collect_garbage()
    start = Start(model, transcoders, dtype, device, features, out)
    with TemporaryDirectory(prefix="unweave-mcp-", ignore_cleanup_errors=True) as folder:
        serve(Workplace(start, out or Path(folder)))
