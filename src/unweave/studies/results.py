"""What a study found: figures of each step beside what was wanted of them, tables, plots, found features; plain
data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..base.choices import UnitKind
from ..graphs.graph import Graph
from ..validation.claimfile import Bound

PlotKind = Literal["bars", "lines", "heat"]


class StepCheck(NamedTuple):
    """One figure of a step beside what was wanted of it."""

    figure: str
    measured: float
    wanted: str
    holds: bool


class ResultTable(NamedTuple):
    """Rows under column names; numbers stay numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]


class Plot(NamedTuple):
    """What is to be drawn; `studies.plots` draws it.

    `bars`: data {labels, series: {name: values}}. `lines`: data {x, series: {name: values}}. `heat`: data {panels:
    [{title, values}], rows, columns}, where `rows` and `columns` are the labels of all panels. All may have
    `xlabel`, `ylabel`, and `bars` and `lines` `ylim` and `line` (a height to be marked).
    """

    name: str
    kind: PlotKind
    title: str
    data: dict[str, Any]


class Found(NamedTuple):
    """Features that a step found on one prompt: what later steps, the graph's supernodes and claims are made from."""

    name: str
    prompt: str
    features: tuple[str, ...]
    """Ids with positions, such as `12_345_5`."""
    units: UnitKind = "features"
    """What they are: the dictionary's, or the model's own neurons, which are in no graph or claim of features."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one step of a study found."""

    figures: dict[str, float]
    """By the names that the protocol promises; NaN where there was nothing to measure."""
    summary: str
    tables: tuple[ResultTable, ...] = ()
    plots: tuple[Plot, ...] = ()
    found: tuple[Found, ...] = ()
    claims: tuple[dict[str, Any], ...] = ()
    """What was found as entries of a claims file; names in them are those of `found`."""
    graphs: tuple[Graph, ...] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """A step that was run."""

    name: str
    protocol: str
    note: str
    result: Result
    checks: tuple[StepCheck, ...]

    @property
    def holds(self) -> bool:
        """Whether all figures are as wanted."""
        return all(check.holds for check in self.checks)


@dataclass(frozen=True, eq=False)
class StudyReport:
    """A study that was run."""

    study: str
    title: str
    question: str
    source: str
    model: str
    transcoders: str
    transcoders_sha256: str
    version: str
    steps: tuple[Step, ...]
    stopped: str = ""
    """Why the study could not be brought to its end; empty if it could."""
    seconds: float = field(default=0.0)

    @property
    def holds(self) -> bool:
        """Whether all steps were run and all figures are as wanted."""
        return not self.stopped and all(step.holds for step in self.steps)

    @property
    def verdict(self) -> str:
        """In one line: holds, or which steps failed, with their numbers."""
        if self.holds:
            wanted = sum(len(step.checks) for step in self.steps)
            return (
                f"holds: {wanted} of {wanted} figures in {len(self.steps)} steps are as wanted"
                if wanted
                else "nothing was wanted of its figures"
            )
        failed = [
            f"step {step.name}: {check.figure} is {number(check.measured)}, wanted {check.wanted}"
            for step in self.steps for check in step.checks if not check.holds
        ]  # fmt: skip
        return "fails: " + "; ".join([*failed, *([self.stopped] if self.stopped else [])])


def check(figures: dict[str, float], expect: dict[str, Bound]) -> tuple[StepCheck, ...]:
    """Each wanted figure beside the measured one; one that could not be measured (NaN) is never as wanted."""
    return tuple(
        StepCheck(name, figures[name], bound.text, bound.low <= figures[name] <= bound.high)
        for name, bound in expect.items()
    )


def number(value: Any) -> str:
    """A number for people: three significant digits; text stays.

    >>> number(0.12345), number(14), number(1234.5), number(float("nan"))
    ('0.123', '14', '1234', 'not measured')
    """
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "not measured"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def mean(values: Sequence[float | int]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")


def rounded(value: Any) -> Any:
    """Plain data with floats at six significant digits and NaN as null, so that files do not tell machines apart."""
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    if isinstance(value, dict):
        return {str(key): rounded(part) for key, part in value.items()}
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return [rounded(part) for part in value]


def facts(report: StudyReport) -> dict[str, Any]:
    """A report as plain data, fit for JSON; without times, so that the same study gives the same file."""
    steps = [
        {
            "name": step.name, "protocol": step.protocol, "note": step.note, "holds": step.holds,
            "summary": step.result.summary,
            "figures": step.result.figures,
            "checks": [check._asdict() for check in step.checks],
            "tables": [table._asdict() for table in step.result.tables],
            "plots": [plot._asdict() for plot in step.result.plots],
            "found": [found._asdict() for found in step.result.found],
        }
        for step in report.steps
    ]  # fmt: skip
    names = ("study", "title", "question", "source", "model", "transcoders", "transcoders_sha256", "version", "stopped")
    return rounded(
        {
            **{name: getattr(report, name) for name in names},
            "holds": report.holds,
            "verdict": report.verdict,
            "steps": steps,
        }
    )
