"""How a training goes: a live table in a terminal, plain lines elsewhere, and a JSON line for everything in
`log.jsonl`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..errors import FileError
from ..training.checkpoint import TrainingProgress
from ..training.config import TrainConfig
from ..training.step import StepFigures

BARS = " ▁▂▃▄▅▆▇█"
EVERY = 10
"""Steps between lines of the log."""


class Display:
    """A watcher (see `loop.Watcher`) that draws and logs; use as a context."""

    def __init__(self, folder: Path, console: Console):
        self.path, self.console = Path(folder).expanduser() / "log.jsonl", console
        self.live: Live | None = (
            Live(console=console, refresh_per_second=2, transient=False) if console.is_terminal else None
        )
        self.last: dict[str, Any] = {}
        self.drawn = 0.0

    def __enter__(self) -> "Display":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live is not None:
            self.live.stop()

    def stage(self, title: str) -> None:
        """What is done before the first step."""
        self._say(title)

    def step(self, config: TrainConfig, progress: TrainingProgress, measured: StepFigures, rate: float) -> None:
        """After each step; the first and every tenth are logged."""
        if progress.step % EVERY == 0 or progress.step == 1:
            facts = {
                "event": "step",
                **asdict(progress),
                "fvu": _rounded(measured.fvu),
                "l0": _rounded(measured.l0),
                "dead": _rounded(measured.dead),
            }
            more = {} if measured.divergence is None else {"divergence": round(measured.divergence, 4)}
            self._log(facts | {"penalty": measured.penalty, "rate": round(rate, 1)} | more)
        if self.live is not None:
            if time.monotonic() - self.drawn > 0.5:
                self.drawn = time.monotonic()
                self.live.update(_panel(config, progress, measured, rate, self.last))
        elif progress.step % (5 * EVERY) == 0:
            fvu, l0, dead = (float(values.mean()) for values in (measured.fvu, measured.l0, measured.dead))
            kl = "" if measured.divergence is None else f"KL {measured.divergence:.3f}  "
            self._say(
                f"{progress.tokens:>12,} tokens  {kl}FVU {fvu:.3f}  L0 {l0:.0f}  dead {dead:.1%}  {rate:.0f} tokens/s"
            )

    def evaluated(self, progress: TrainingProgress, figures: dict[str, Any]) -> None:
        """After each evaluation."""
        self.last = figures
        self._log({"event": "evaluation", **asdict(progress), **figures})
        if self.live is None:
            self._say(f"{progress.tokens:>12,} tokens  held-out: {_sentence(figures)}")

    def _say(self, text: str) -> None:
        if self.live is not None:
            self.live.update(Text(text))
        else:
            self.console.print(text, highlight=False)

    def _log(self, facts: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(facts) + "\n")
        except OSError as error:
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}; the last checkpoint is whole"
            ) from error


def _rounded(values: Any) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _sentence(figures: dict[str, Any]) -> str:
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items() if isinstance(value, float)
    )


def chart(values: list[float], top: float = 1.0) -> str:
    """Values from 0 to `top` as a row of bars; higher ones are cut.

    >>> chart([0.0, 0.5, 2.0])
    ' ▄█'
    """
    return "".join(BARS[min(len(BARS) - 1, max(0, int(value / top * (len(BARS) - 1))))] for value in values)


def _panel(
    config: TrainConfig, progress: TrainingProgress, measured: StepFigures, rate: float, last: dict[str, Any]
) -> Group:
    left = max(0.0, config.tokens - progress.tokens) / max(rate, 1e-9)
    table = Table.grid(padding=(0, 2))
    table.add_row("tokens", f"{progress.tokens:,} of {config.tokens:,}, {rate:,.0f} a second, {_clock(left)} to go")
    fvu = measured.fvu.tolist()
    table.add_row(
        "FVU by layer",
        f"{chart(fvu)}  mean {sum(fvu) / len(fvu):.3f}, worst {max(fvu):.3f} at layer {fvu.index(max(fvu))}",
    )
    table.add_row("active", f"{float(measured.l0.mean()):.0f} features a token; {float(measured.dead.mean()):.1%} dead")
    if last:
        table.add_row("held-out", _sentence(last))
    return Group(ProgressBar(total=config.tokens, completed=progress.tokens, width=60), table)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 3600)}:{int(seconds % 3600 // 60):02d}:{int(seconds % 60):02d}"
