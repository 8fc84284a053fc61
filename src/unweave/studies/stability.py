"""Which findings of a study survive: the same study with other wordings, seeds, dictionaries and units."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from ..base.choices import UnitKind
from ..transcoders.neurons import neurons
from ..transcoders.replacement import ReplacementModel
from .results import Found, ResultTable, Step, StepCheck, StudyReport, number, rounded
from .run import run_study
from .studyfile import Planned, Study

Axis = Literal["wordings", "seeds", "dictionaries", "units"]
AXES: tuple[Axis, ...] = ("wordings", "seeds", "dictionaries", "units")
SIZES = ("units", "most", "spare", "draws", "pairs", "carry", "like")
"""Options in which a step with features may differ from the one with neurons whose findings it repeats."""


class Repeat(NamedTuple):
    """The study run again with one thing changed."""

    axis: Axis
    variant: str
    """What was changed, in words."""
    report: StudyReport


class Finding(NamedTuple):
    """A figure of a step that is wanted to lie within bounds, and what became of it in every repeat."""

    step: str
    first: StepCheck
    again: tuple[tuple[Axis, str, StepCheck | None], ...]
    """By axis and variant; None: it could not be measured."""

    @property
    def survives(self) -> bool:
        """Whether it holds, and held whenever it was repeated."""
        return self.first.holds and all(check is not None and check.holds for _, _, check in self.again)

    def held(self, axis: Axis) -> str:
        """In how many repeats of an axis it holds.

        >>> Finding("swap", StepCheck("reached", 1.0, ">= 0.5", True), ()).held("seeds")
        'not repeated'
        """
        some = [check for one, _, check in self.again if one == axis]
        return f"{sum(check is not None and check.holds for check in some)} of {len(some)}" if some else "not repeated"


@dataclass(frozen=True, eq=False)
class Stability:
    """A study with its repeats."""

    study: Study
    first: StudyReport
    repeats: tuple[Repeat, ...]
    there: dict[UnitKind, int]
    """How many units there are, at whatever position."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All figures with bounds, in the order of the file."""
        return tuple(
            Finding(step.name, check, tuple(self._again(step, check)))
            for step in self.first.steps
            for check in step.checks
        )

    def _again(self, step: Step, check: StepCheck) -> Iterator[tuple[Axis, str, StepCheck | None]]:
        for axis, variant, report in self.repeats:
            if axis in ("wordings", "seeds") or units_of(self.study, step.name) == "features":
                yield axis, variant, _check(report.steps, step.name, check.figure)
        other = counterpart(self.study, step.name)
        if other is not None:
            yield "units", other, _check(self.first.steps, other, check.figure)

    @property
    def table(self) -> ResultTable:
        """Which findings survive."""
        columns = ("step", "figure", "measured", "wanted", *AXES, "survives")
        rows = tuple(
            (
                one.step, one.first.figure, one.first.measured, one.first.wanted, *map(one.held, AXES),
                "yes" if one.survives else "no",
            )
            for one in self.findings
        )  # fmt: skip
        return ResultTable("Which findings survive: in how many repeats each holds", columns, rows)

    def sets(self, step: str) -> Iterator[tuple[str, str, StudyReport, tuple[Found, ...]]]:
        """By run (axis, variant), what a step found; first the study as it is."""
        for axis, variant, report in (("base", "as it is", self.first), *self.repeats):
            found = next((one.result.found for one in report.steps if one.name == step), None)
            if found is not None:
                yield axis, variant, report, found


def units_of(study: Study, step: str) -> UnitKind:
    """What a step's units are; steps that do not say it look at the dictionary's features."""
    plan = next(plan for plan in study.steps if plan.name == step)
    return getattr(plan.options, "units", "features")


def counterpart(study: Study, step: str) -> str | None:
    """The step that asks the same of the other kind of unit, if the study has one."""
    mine = next(plan for plan in study.steps if plan.name == step)
    if not hasattr(mine.options, "units"):
        return None
    return next((plan.name for plan in study.steps if plan is not mine and _asks(plan) == _asks(mine)), None)


def _asks(plan: Planned) -> tuple[Any, ...]:
    left = {key: value for key, value in plan.options.model_dump().items() if key not in SIZES}
    return plan.protocol, left, plan.where


def _check(steps: Sequence[Step], name: str, figure: str) -> StepCheck | None:
    step = next((one for one in steps if one.name == name), None)
    return None if step is None else next((one for one in step.checks if one.figure == figure), None)


def repeat_study(
    study: Study,
    model: ReplacementModel,
    *,
    seeds: int = 2,
    others: Sequence[ReplacementModel] = (),
    progress: Callable[..., object] | None = None,
) -> Stability:
    """Run a study, then again in every other wording of its file, with other seeds, and with other dictionaries.

    A seed decides which variants are taken and which random units are drawn. With another dictionary only those steps
    are run whose units are features. Steps that ask the same of neurons and of features repeat each other.

    Args:
        seeds: how many others.
        others: the same model with other dictionaries, such as a second training.
        progress: called with the share that is done, and a title.

    >>> import unweave                                                        # doctest: +SKIP
    >>> study, model = unweave.read_study("agreement.yaml"), unweave.load("smollm2")          # doctest: +SKIP
    >>> [finding.survives for finding in unweave.repeat_study(study, model).findings]          # doctest: +SKIP
    """
    features = [plan.name for plan in study.steps if getattr(plan.options, "units", "features") == "features"]
    todo: list[tuple[Axis, str, Study, ReplacementModel, list[str]]] = []
    for template in study.rephrased:
        todo.append(("wordings", template, reworded(study, template), model, []))
    for seed in range(study.seed + 1, study.seed + seeds + 1):
        todo.append(("seeds", f"seed {seed}", replace(study, seed=seed), model, []))
    for other in others if features else ():
        axis: Axis = "units" if other.transcoders.of_neurons else "dictionaries"
        todo.append((axis, other.transcoders.name, study, other, features))
    say, whole = progress or (lambda share, title="": None), len(todo) + 1

    def part(done: int) -> Callable[..., object]:
        return lambda share, title="": say((done + share) / whole, title)

    first = run_study(study, model, progress=part(0))
    found = [
        Repeat(axis, variant, run_study(one, on, only=only, progress=part(done)))
        for done, (axis, variant, one, on, only) in enumerate(todo, 1)
    ]
    kinds = {units_of(study, plan.name) for plan in study.steps}
    there: dict[UnitKind, int] = {"features": sum(model.transcoders.widths)}
    if "neurons" in kinds:
        there["neurons"] = sum(neurons(model.language_model).widths)
    return Stability(study, first, tuple(found), there)


def reworded(study: Study, template: str) -> Study:
    """A study with its prompts in another wording; variants that were the same but for the wording become one."""
    variants = {replace(variant, template=template): None for variant in study.variants}
    return replace(study, variants=tuple(variants))


def stability_facts(found: Stability) -> dict[str, Any]:
    """Findings and repeats as plain data, fit for JSON."""
    findings = [
        {
            "step": one.step, **one.first._asdict(), "survives": one.survives,
            "again": [
                {"axis": axis, "variant": variant, "measured": None if check is None else check.measured,
                 "holds": check is not None and check.holds}
                for axis, variant, check in one.again
            ],
        }
        for one in found.findings
    ]  # fmt: skip
    runs = [
        {"axis": axis, "variant": variant, "verdict": report.verdict, "transcoders": report.transcoders}
        for axis, variant, report in found.repeats
    ]
    return rounded({"study": found.first.study, "model": found.first.model, "findings": findings, "repeats": runs})


def told(found: Stability) -> str:
    """How many findings survive, in one line."""
    some = found.findings
    lost = [f"{one.step} {one.first.figure} ({number(one.first.measured)})" for one in some if not one.survives]
    text = f"{len(some) - len(lost)} of {len(some)} findings survive {len(found.repeats)} repeats"
    return text + (f"; these do not: {', '.join(lost)}" if lost else "")
