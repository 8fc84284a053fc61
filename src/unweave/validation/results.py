"""What a validation found: figures with intervals, a verdict, and the rows they were computed from; as JSON and
back."""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..base.files import write_atomically
from ..errors import GraphError, OptionError
from .statistics import Estimate

REPORT_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How much is tested."""

    ablations: int = 300
    """Features switched off one by one, half the strongest, half at random from the others."""
    pairs: int = 40
    """Features whose effects on later features are tested."""
    reach: int = 3
    """How many layers later those features lie at most."""
    disturbances: int = 24
    """Disturbances of each kind that are followed through the replacement model."""
    control: bool = True
    """Whether the same is done with a random dictionary."""
    seed: int = 0
    neurons: bool = True
    """Whether ablations and pairs are also done with the model's own neurons, a third as many."""

    def __post_init__(self) -> None:
        for name, least in (("ablations", 10), ("pairs", 0), ("reach", 1), ("disturbances", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class Figure:
    """One measured number with its 95% bootstrap interval; NaN bounds where there is none."""

    group: str
    """`explained`, `ranks`, `signs`, `links`, `pairs`, `faithfulness` `control: ...` and `neurons: ...` for the same
    with a random dictionary and with the model's own neurons."""
    name: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    note: str = ""

    @staticmethod
    def of(group: str, name: str, found: Estimate, note: str = "") -> "Figure":
        """From an estimate."""
        return Figure(group, name, *found, note=note)

    def __str__(self) -> str:
        bounds = f" [{self.low:.2f}, {self.high:.2f}]" if math.isfinite(self.low) else ""
        return f"{self.value:.2f}{bounds}"


@dataclass(frozen=True)
class Verdict:
    """What to make of a graph, in words."""

    level: str
    """`good`, `fair` or `poor`."""
    text: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TrustReport:
    """The trust report of one graph."""

    prompt: str | None
    tokens: tuple[str, ...]
    target: str
    model: str
    transcoders: str
    transcoders_sha256: str
    settings: Settings
    figures: tuple[Figure, ...]
    verdict: Verdict
    complete: bool
    """Whether all that was asked for was measured in the time given."""
    seconds: float
    version: str
    graph: str = ""

    def figure(self, group: str, name: str) -> Figure | None:
        """One figure, if it was measured."""
        return next((figure for figure in self.figures if (figure.group, figure.name) == (group, name)), None)

    def facts(self) -> dict[str, Any]:
        """Plain data, fit for JSON: numbers that are not defined become null."""
        return {"format": "unweave validation", "report_version": REPORT_VERSION, **_plain(asdict(self))}

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            FileError: it cannot be written.
        """
        text = json.dumps(self.facts(), indent=1, ensure_ascii=False)
        return write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))

    @staticmethod
    def load(path: str | Path) -> "TrustReport":
        """Read what `save` wrote.

        Raises:
            GraphError: it is not there or something else.
        """
        try:
            facts = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
            if facts.get("format") != "unweave validation" or facts.get("report_version", 0) > REPORT_VERSION:
                raise ValueError("no report, or one of a newer version")
            given = {field.name: facts[field.name] for field in fields(TrustReport)}
            figures = tuple(
                Figure(**{**figure, **{name: math.nan for name, value in figure.items() if value is None}})
                for figure in given["figures"]
            )
            verdict = Verdict(given["verdict"]["level"], given["verdict"]["text"], tuple(given["verdict"]["reasons"]))
            return TrustReport(
                **given
                | {
                    "figures": figures,
                    "verdict": verdict,
                    "settings": Settings(**given["settings"]),
                    "tokens": tuple(given["tokens"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GraphError(f"{path} is not a validation report ({error}); run unweave validate") from error


def report_path(graph: str | Path) -> Path:
    """Where the report of a graph file lies: `x.validation.json` beside `x.graph.safetensors` or `x.json`."""
    path = Path(graph).expanduser()
    name = path.name
    for suffix in (".graph.safetensors", ".safetensors", ".json"):
        if name.endswith(suffix):
            name = name[: -len(suffix)]
            break
    return path.with_name(f"{name}.validation.json")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
