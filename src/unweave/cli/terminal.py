"""What all commands share: the two consoles, a progress bar, common options, printing JSON."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..errors import OptionError

stdout, stderr = Console(soft_wrap=True), Console(stderr=True)

Model = Annotated[
    str, typer.Option("--model", "-m", help="A short name (unweave models), a local folder, or a Hugging Face name.")
]
Dictionary = Annotated[
    str | None,
    typer.Option(
        "--transcoders", "-t", help="A dictionary: local folder, org/repo[/folder][@revision], short name, or neurons."
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Frame the prompt by the model's chat template, as the user's message.")
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="With the chat template: the system message (implies --chat)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the same content as JSON.")]


def escaped(text: str) -> str:
    """Text on one line, safe to print with Rich's markup."""
    return escape(" ".join(text.split()))


def print_json(facts: dict[str, Any]) -> None:
    """Facts on stdout, as JSON."""
    print(json.dumps(facts, indent=2, ensure_ascii=False))


def wants_chat(chat: bool, system: str | None, ids: bool) -> bool:
    """Whether prompts are framed by the chat template.

    Raises:
        OptionError: they are token ids.
    """
    if ids and (chat or system is not None):
        raise OptionError(
            "--chat and --system are about text; leave --ids out, or give the ids of the whole conversation"
        )
    return chat or system is not None


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """A bar with elapsed and remaining time on stderr; yields `report(share, title=None)`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(share: float, title: str | None = None) -> None:
            bar.update(task, completed=share, total=1.0, description=title)

        yield report
