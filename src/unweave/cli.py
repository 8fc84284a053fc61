"""The command line: progress on stderr, results on stdout, errors in one line with exit code 2."""

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .errors import OptionError, TargetError, UnweaveError
from .version import __version__

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or typer's own copy of it
stdout, stderr = Console(soft_wrap=True), Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="smollm2, a local folder, or a Hugging Face name.")]
Dictionary = Annotated[str | None, typer.Option("--transcoders", "-t", help="A dictionary: local folder or org/repo[/folder][@revision].")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the same content as JSON.")]


def run() -> None:
    """The `unweave` command: `main`, then leave at once, because taking torch and transformers down in order costs a second."""
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
    try:
        app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except UnweaveError as error:
        _refuse(str(error))
    except _UsageError as error:
        _refuse(f"{error.format_message().rstrip(chr(46))}; see unweave --help")
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(130)


def _refuse(message: str) -> None:
    stderr.print(f"[bold red]error[/] {_escaped(message)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(" ".join(text.split()))


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"unweave {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Open up a language model: trace which learned features caused its next token, and how far to trust the picture."""


@app.command()
def trace(
    prompt: Annotated[str, typer.Argument(help="The text whose next token is to be explained.")],
    model: Model = "smollm2",
    transcoders: Dictionary = None,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    target: Annotated[list[str] | None, typer.Option(help="Token to explain, as text (' Paris') or #id; repeatable. Default: the likely ones.")] = None,
    minus: Annotated[str | None, typer.Option(help="With one --target: explain its logit minus this token's.")] = None,
    position: Annotated[int, typer.Option(help="Where the prediction is made; negative counts from the end.")] = -1,
    max_logits: Annotated[int, typer.Option(help="Without --target: explain at most so many likely tokens.")] = 10,
    max_features: Annotated[int | None, typer.Option(help="At most so many features, the most influential; others count as error.")] = None,
    node_threshold: Annotated[float, typer.Option(help="Keep nodes with this share of the influence; 1 keeps all.")] = 0.8,
    edge_threshold: Annotated[float, typer.Option(help="Keep edges with this share of their influence; 1 keeps all.")] = 0.98,
    position_zero: Annotated[str, typer.Option(help="error: the first position's MLP outputs are error nodes; drop: constants.")] = "error",
    precision: Annotated[str, typer.Option(help="exact, or fast (bfloat16 products).")] = "exact",
    ids: Annotated[bool, typer.Option("--ids", help="PROMPT is a list of token ids, such as '1 504 3575'.")] = False,
    out: Annotated[Path | None, typer.Option(help="File for the kept graph: .graph.safetensors, or .json for other viewers.")] = None,
    as_json: AsJson = False,
) -> None:
    """Trace a prompt: find the features, errors and tokens that caused the next token."""
    begin = time.perf_counter()
    from .export import slug_of, write_json
    from .files import check_writable

    given: str | list[int] = _token_ids(prompt) if ids else prompt
    out = check_writable(out or Path("graphs") / f"{slug_of(prompt)}.graph.safetensors")
    if minus is not None and len(target or []) != 1:
        raise OptionError("--minus needs exactly one --target")
    with _progress(f"loading {model}") as report:
        from .attribution import attribute
        from .pruning import prune
        from .replacement import load
        from .summary import show, summarize
        from .targets import Difference, TargetSpec

        named = [_target(text) for text in target or []]
        wanted: list[TargetSpec] | None = [Difference(named[0], _target(minus))] if minus is not None else [*named] or None
        loaded = load(model, transcoders, dtype=dtype, device=device)
        report(0.0, "tracing")
        graph = attribute(
            loaded, given, wanted, position=position, max_logits=max_logits, max_features=max_features,
            position_zero=position_zero, precision=precision, progress=report,
        )  # fmt: skip
        report(1.0, "pruning")
        pruned = prune(graph, node_threshold, edge_threshold)
        (write_json if out.suffix == ".json" else _save)(pruned, out)
    facts = summarize(graph, pruned, loaded)
    facts |= {"file": str(out), "seconds": round(time.perf_counter() - begin, 3)}
    if as_json:
        _print_json(facts)
        return
    show(facts, stdout)
    stdout.print(
        f"\nWritten to [bold]{_escaped(str(out))}[/] in {facts['seconds']:.1f} s. [dim]Look again: unweave info {_escaped(str(out))}[/]", highlight=False
    )


def _save(graph: Any, path: Path) -> None:
    graph.save(path)


def _token_ids(text: str) -> list[int]:
    from .errors import PromptError

    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not part.isdecimal()), None)
    if wrong is not None:
        raise PromptError(f"--ids takes whole numbers, not {wrong!r}")
    return [int(part) for part in parts]


def _target(text: str) -> str | int:
    if text.startswith("#") and text[1:].isdecimal():
        return int(text[1:])
    if not text:
        raise TargetError("a target is empty; give a token such as ' Paris', or '#7042' for an id")
    return text


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="A graph file, a model (smollm2, folder, hub name), or a dictionary folder.")],
    as_json: AsJson = False,
) -> None:
    """Say what a graph, a model or a dictionary is, and whether it can be traced exactly."""
    from .inspection import inspect, show_inspection

    facts = inspect(name)
    if as_json:
        _print_json(facts)
    else:
        show_inspection(facts, stdout)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A graph file or a dictionary (folder or hub reference).")],
    out: Annotated[Path, typer.Argument(help="Where to: NAME.json or NAME.graph.safetensors for a graph, a folder for a dictionary.")],
    compact: Annotated[bool, typer.Option("--compact", help="Dictionary: int8 rows with one float scale a row.")] = False,
    scan: Annotated[str | None, typer.Option(help="Graph to JSON: the model's name in viewers.")] = None,
    node_threshold: Annotated[float, typer.Option(help="Graph: keep nodes with this share of the influence first.")] = 1.0,
    edge_threshold: Annotated[float, typer.Option(help="Graph: keep edges with this share of their influence first.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Convert a graph between our file and the field's JSON, or a dictionary to the peer's or the compact form."""
    from .inspection import convert_any

    written = convert_any(source, out, compact=compact, scan=scan, thresholds=(node_threshold, edge_threshold))
    if as_json:
        _print_json({"source": source, "out": str(written)})
    else:
        stdout.print(f"Written to [bold]{_escaped(str(written))}[/]", highlight=False)


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False))


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    """A bar with elapsed and remaining time on stderr; yields `report(share, title=None)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(share: float, title: str | None = None) -> None:
            bar.update(task, completed=share, total=1.0, description=title)

        yield report
