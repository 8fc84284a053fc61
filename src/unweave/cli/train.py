"""`unweave train`, `unweave train plot`, `unweave train export`."""

import inspect
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..training.config import TrainConfig, read_config
from .options import option, taking
from .terminal import collect_garbage, escaped, stderr, stdout

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="Train transcoders for a model, or resume a stopped run.",
)


def _options() -> list[inspect.Parameter]:
    """Every field of the config; None where it is not given, since a file may give it."""
    found = []
    for field in fields(TrainConfig):
        assert field.default is not MISSING
        kind = list[str] | None if field.type == tuple[str, ...] else type(field.default) | None
        shown = "" if field.default in ((), "") else f" [default: {field.default}]"
        found.append(option(field.name, kind, None, help=field.metadata["help"] + shown))
    return found


@app.callback(invoke_without_command=True)
@taking(_options())
def train(
    ctx: typer.Context,
    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints, log and transcoders; a stopped run there is resumed.")
    ] = Path("training"),
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file with any of the options below; options on the command line come first."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    **given: Any,
) -> None:
    """Train transcoders for a model, or resume a stopped run."""
    if ctx.invoked_subcommand is not None:
        return
    wanted = read_config(config, {name: value for name, value in given.items() if value not in (None, [], ())})
    from ..training.loop import train
    from .show_training import Display

    collect_garbage()
    with Display(out, stderr) as display:
        folder = train(wanted, out, display, device=device)
    stdout.print(
        f"Transcoders in [bold]{escaped(str(folder))}[/]. [dim]Evaluate them: unweave eval --transcoders "
        f"{escaped(str(folder))}[/]",
        highlight=False,
    )


@app.command()
def plot(
    log: Annotated[Path, typer.Argument(help="The folder of a training run, or its log.jsonl.")],
    out: Annotated[Path, typer.Option(help="NAME.png or NAME.svg.")] = Path("training.svg"),
) -> None:
    """Plot the curves of a training log."""
    from ..training.curves import plot

    stdout.print(f"Written to [bold]{escaped(str(plot(log, out)))}[/]", highlight=False)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The folder of a training run, finished or not.")],
    out: Annotated[Path, typer.Argument(help="Folder for the transcoders.")],
    compact: Annotated[bool, typer.Option("--compact", help="int8 rows with one float scale per row.")] = False,
) -> None:
    """Write the transcoders of the last checkpoint."""
    from ..training.state import export

    transcoders = export(folder, out, compact=compact)
    stdout.print(f"{escaped(repr(transcoders))} written to [bold]{escaped(str(out))}[/]", highlight=False)
