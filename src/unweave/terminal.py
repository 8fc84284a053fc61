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

from .errors import OptionError, PromptError, TargetError

stdout, stderr = Console(soft_wrap=True), Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="A short name (unweave models), a local folder, or a Hugging Face name.")]
Dictionary = Annotated[
    str | None, typer.Option("--transcoders", "-t", help="A dictionary: local folder, org/repo[/folder][@revision], short name, or neurons.")
]
Chat = Annotated[bool, typer.Option("--chat", help="Frame the prompt by the model's chat template, as the user's message.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="With the chat template: the system message (implies --chat).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the same content as JSON.")]


def escaped(text: str) -> str:
    """Text on one line, safe to print with Rich's markup."""
    return escape(" ".join(text.split()))


def print_json(facts: dict[str, Any]) -> None:
    """Facts on stdout, as JSON."""
    print(json.dumps(facts, indent=2, ensure_ascii=False))


def token_ids(text: str) -> list[int]:
    """Token ids from text such as `1 504 3575`.

    Raises:
        PromptError: anything but whole numbers.
    """
    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not part.isdecimal()), None)
    if wrong is not None:
        raise PromptError(f"--ids takes whole numbers, not {wrong!r}")
    return [int(part) for part in parts]


def wants_chat(chat: bool, system: str | None, ids: bool) -> bool:
    """Whether prompts are framed by the chat template.

    Raises:
        OptionError: they are token ids.
    """
    if ids and (chat or system is not None):
        raise OptionError("--chat and --system are about text; leave --ids out, or give the ids of the whole conversation")
    return chat or system is not None


def target_of(text: str) -> str | int:
    """A token given as text, or as `#id`.

    Raises:
        TargetError: it is empty.
    """
    if text.startswith("#") and text[1:].isdecimal():
        return int(text[1:])
    if not text:
        raise TargetError("a target is empty; give a token such as ' Paris', or '#7042' for an id")
    return text


def layer_range(text: str, what: str = "layers") -> range:
    """Layers given as the first and the last, such as `3-7`, or as one.

    Raises:
        OptionError: anything else; `what` says of which option.
    """
    first, sign, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not sign)):
        raise OptionError(f"{what} {text}: give the first and the last layer, such as 3-7")
    return range(int(first), int(last or first) + 1)


@contextmanager
def progress(title: str) -> Iterator[Any]:
    """A bar with elapsed and remaining time on stderr; yields `report(share, title=None)`."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn(), TimeRemainingColumn())
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(share: float, title: str | None = None) -> None:
            bar.update(task, completed=share, total=1.0, description=title)

        yield report
