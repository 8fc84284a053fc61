"""What all commands share: the two consoles, a progress bar, common options, printing JSON."""

import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn, Protocol

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..base.fetching import heard
from ..errors import OptionError


class _Console(Console):
    """A console whose closed pipe is the affair of `main`, which knows the exit code."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise it again."""
        raise BrokenPipeError


stdout, stderr = _Console(soft_wrap=True), _Console(stderr=True)

Model = Annotated[
    str, typer.Option("--model", "-m", help="A short name (unweave models), a local folder, or a Hugging Face name.")
]
Dictionary = Annotated[
    str | None,
    typer.Option(
        "--transcoders",
        "-t",
        help="Transcoders: a local folder, org/repo[/folder][@revision], a short name, or neurons.",
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Wrap the prompt in the model's chat template, as the user's message.")
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
    """Facts on stdout, as JSON; characters that the output's encoding lacks are escaped."""
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(facts, indent=2)
    print(text)


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


def collect_garbage() -> None:
    """Collect garbage from now on, which the start of the command switched off: for commands that go on for long. What
    is loaded by now stays, so it is not looked through each time."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


class Report(Protocol):
    """Says how far the work is; a share of None: not known. A title stays until another is given."""

    def __call__(self, share: float | None, title: str | None = None) -> None:
        """Say it."""


@contextmanager
def progress(title: str) -> Iterator[Report]:
    """Progress on stderr until the work is done: a bar in a terminal, else a line every few seconds."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    terminal = stderr.is_terminal and not stderr.is_dumb_terminal
    with (
        _bar(title) if terminal else _lines(title) as report,
        heard(lambda share, said: report(share, said or title)),
    ):
        yield report


@contextmanager
def _bar(title: str) -> Iterator[Report]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Share(), TimeElapsedColumn(), _Left())
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(escape(title), total=None)

        def report(share: float | None, title: str | None = None) -> None:
            if share is None:
                bar.tasks[0].total = None
                bar.update(task, description=title and escape(title))
            else:
                bar.update(task, completed=share, total=1.0, description=title and escape(title))

        yield report


class _Share(ProgressColumn):
    def render(self, task: Task) -> Text:
        """The share that is done, where it is known."""
        return Text("" if task.total is None else f"{task.percentage:>3.0f}%")


class _Left(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        """The time left, where the share is known."""
        return Text() if task.total is None else super().render(task)


@contextmanager
def _lines(title: str) -> Iterator[Report]:
    begin, done = time.monotonic(), threading.Event()
    now: dict[str, Any] = {"title": title, "share": None}

    def say() -> None:
        while not done.wait(SECONDS):
            share = "" if now["share"] is None else f" {now['share']:.0%}"
            try:
                print(f"{now['title']}{share}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
            except (OSError, ValueError):  # nobody listens
                return

    def report(share: float | None, title: str | None = None) -> None:
        now.update(share=share, title=title or now["title"])

    speaker = threading.Thread(target=say, name="progress", daemon=True)
    speaker.start()
    try:
        yield report
    finally:
        done.set()
        speaker.join()
