"""The command line: progress on stderr, results on stdout, errors in one line with exit code 2."""

import contextlib
import os
import sys
from typing import Annotated, Any

import typer

from ..errors import OptionError, UnweaveError
from ..version import __version__
from . import (
    attend,
    benchmark,
    compare,
    eval,
    explain,
    export,
    features,
    files,
    mcp,
    models,
    organism,
    serve,
    steer,
    study,
    trace,
    train,
    validate,
)
from .codes import PIPE_CLOSED, REFUSED, STOPPED
from .commands import Group, command_of
from .terminal import escaped, stderr

app = typer.Typer(cls=Group, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or typer's own copy of it


def main() -> None:
    """Entry point: any error a user can cause becomes one line and exit code 2."""
    code = 0
    try:
        _check_folder()
        command = command_of(app)
        with command.make_context("unweave", sys.argv[1:] or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as end:
        code = end.exit_code
    except UnweaveError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(f"{error.format_message().rstrip(chr(46))}; see unweave --help")
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(STOPPED)
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  what is still buffered goes there
        sys.exit(PIPE_CLOSED)
    except OSError as error:
        _refuse(_of_system(error))
    except MemoryError:
        _refuse("there is not enough memory for this; trace takes --max-memory and --max-features")
    except Exception as error:
        if os.environ.get("UNWEAVE_DEBUG"):
            raise
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        _refuse(f"unweave failed on this, which is a defect ({said}); UNWEAVE_DEBUG=1 shows where", 1)
    if code:
        sys.exit(code)


def _check_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise OptionError("the current folder is gone; change to another one first") from error


def _of_system(error: OSError) -> str:
    """What the system refused, in one line."""
    said = error.strerror or str(error)
    if error.filename is None:
        return f"cannot read or write: {said}"
    name = str(error.filename)
    return f"{name if len(name) <= 80 else f'{name[:80]}...'}: {said[:1].lower()}{said[1:]}"


def _refuse(message: str, code: int = REFUSED) -> None:
    with contextlib.suppress(OSError):
        stderr.print(f"[bold red]error[/] {escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(code)


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
    explain.explain,
    compare.compare,
    steer.steer,
    attend.attend,
    validate.validate,
    serve.serve,
    mcp.mcp,
    export.export,
    files.info,
    files.convert,
    models.models,
):
    app.command()(command)
app.command("eval")(eval.eval_)
app.command("benchmark")(benchmark.benchmark)
app.add_typer(train.app, name="train", cls=Group)
app.add_typer(features.app, name="features", cls=Group)
app.add_typer(organism.app, name="organism", cls=Group)
app.add_typer(study.app, name="study", cls=Group)
