"""Curves of a training's log, as PNG or SVG."""

import json
from pathlib import Path
from typing import Any

from ..base.files import check_writable, write_atomically
from ..base.optional import require_figures
from ..errors import FileError, OptionError


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `log.jsonl`, or of the one in a training's folder; a last line cut off by a crash is left out.

    Raises:
        FileError: not there, not readable, or not a log.
    """
    path = Path(path).expanduser()
    path = path / "log.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}") from error
    events = []
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or "event" not in event:
                raise ValueError("no event")
        except ValueError as error:
            if number == len(lines):
                break
            raise FileError(f"{path}, line {number}: not a line of a training log ({error})") from error
        # A run that went on from a checkpoint repeats the steps after it: the later lines count.
        while events and events[-1]["tokens"] >= event["tokens"] and event["event"] == events[-1]["event"]:
            events.pop()
        events.append(event)
    if not events:
        raise FileError(f"{path} holds no steps yet")
    return events


def plot(path: str | Path, out: str | Path) -> Path:
    """Draw loss, sparsity, dead share and held-out figures over tokens.

    Raises:
        FileError: no log, or `out` cannot be written.
        OptionError: `out` is neither .png nor .svg.
    """
    out = check_writable(out)
    if out.suffix not in (".png", ".svg"):
        raise OptionError(f"cannot draw {out.name}; its name must end in .png or .svg")
    require_figures()
    events = read_log(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [event for event in events if event["event"] == "step"]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    (fvu, by_layer), (active, held) = figure.subplots(2, 2)
    at = [event["tokens"] for event in steps]
    fvu.plot(at, [_mean(event["fvu"]) for event in steps], color="#1f5fa8")
    fvu.set(title="variance unexplained, mean over layers", xlabel="tokens", ylim=(0, None))
    if steps:
        by_layer.bar(range(len(steps[-1]["fvu"])), steps[-1]["fvu"], color="#1f5fa8")
    by_layer.set(title="variance unexplained by layer, last step", xlabel="layer")
    active.plot(at, [_mean(event["l0"]) for event in steps], color="#1f5fa8", label="active features a token")
    highest = max((_mean(event["l0"]) for event in steps), default=1.0)
    active.set(title="active features a token; dead share (dashed, right)", xlabel="tokens", ylim=(0, 1.15 * highest))
    dead = active.twinx()
    dead.plot(at, [_mean(event["dead"]) for event in steps], color="#b4551d", linestyle="--")
    dead.set(ylim=(0, None))
    _held_out(held, evaluations)
    return write_atomically(out, lambda name: figure.savefig(name, format=out.suffix[1:]))


def _held_out(axes: Any, evaluations: list[dict[str, Any]]) -> None:
    """A line for each figure of the evaluations."""
    last = evaluations[-1] if evaluations else {}
    names = [name for name, value in last.items() if isinstance(value, float) and name != "seconds"]
    at = [event["tokens"] for event in evaluations]
    for name in names:
        axes.plot(at, [event.get(name) for event in evaluations], marker="o", label=name.replace("_", " "))
    axes.set(title="held-out text" if names else "held-out text: not evaluated yet", xlabel="tokens")
    if names:
        axes.legend(fontsize="small")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
