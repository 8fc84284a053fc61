"""The command line: progress on stderr, results on stdout, errors in one line with exit code 2."""

import gc
import os
import sys
from typing import Annotated, Any

import typer

from ..errors import UnweaveError
from ..version import __version__
from . import eval, export, features, files, models, organism, serve, steer, study, trace, train, validate
from .terminal import escaped, stderr

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or typer's own copy of it


def run() -> None:
    """The `unweave` command: `main`, then leave at once, because taking torch and transformers down in order costs a
    second."""
    gc.disable()  # as do collections while their thousands of classes are made; one prompt makes little garbage
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def main() -> None:
    """Entry point: any error a user can cause becomes one line and exit code 2."""
    code: Any = 0
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UnweaveError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(f"{error.format_message().rstrip(chr(46))}; see unweave --help")
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(130)
    if isinstance(code, int) and code:  # of a command that ends with typer.Exit
        sys.exit(code)


def _refuse(message: str) -> None:
    stderr.print(f"[bold red]error[/] {escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"unweave {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open up a language model: trace which learned features caused its next token, and how far to trust the
    picture."""


for command in (
    trace.trace,
    steer.steer,
    validate.validate,
    serve.serve,
    export.export,
    files.info,
    files.convert,
    models.models,
):
    app.command()(command)
app.command("eval")(eval.eval_)
app.add_typer(train.app, name="train")
app.add_typer(features.app, name="features")
app.add_typer(organism.app, name="organism")
app.add_typer(study.app, name="study")
