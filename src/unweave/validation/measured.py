"""Measurements that survive being stopped: each kind a growing list of rows, saved after every piece of work."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..base.progress import Progress

Row = list[float]


@dataclass
class Measurements:
    """What has been measured so far for one question, and how long we may go on."""

    path: Path | None
    """Where it is kept; None: nowhere."""
    question: dict[str, Any]
    """What the measurements depend on; those kept for another question are not used."""
    deadline: float | None = None
    """When to stop, as time.monotonic() counts; None: never."""
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def resume(self) -> None:
        """Take up what was kept for the same question; anything else in the file is left out of account."""
        if self.path is None or not self.path.is_file():
            return
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(kept, dict) and kept.get("question") == self.question and isinstance(kept.get("measured"), dict):
            self.rows = kept["measured"]

    def out_of_time(self) -> bool:
        """Whether the time is used up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def fill(
        self,
        name: str,
        total: int,
        piece: int,
        measure: Callable[[range], Sequence[Sequence[float]]],
        progress: Progress,
    ) -> list[Row]:
        """Rows `name` up to `total`, measured in pieces that are saved one by one; fewer if the time is used up."""
        rows = self.rows.setdefault(name, [])
        while len(rows) < total and not self.out_of_time():
            progress(len(rows) / total, name)
            rows += [list(row) for row in measure(range(len(rows), min(len(rows) + piece, total)))]
            self.save()
        return rows

    def save(self) -> None:
        """Write what there is, whole or not at all."""
        if self.path is not None:
            text = json.dumps({"format": "unweave measurements", "question": self.question, "measured": self.rows})
            write_atomically(self.path, lambda name: Path(name).write_text(text, encoding="utf-8"))
