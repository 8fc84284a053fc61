"""Running a study: its steps in order, each on the variants it wants, its figures beside what was expected of them."""

import time
from collections.abc import Callable, Sequence

from ..base.kinds import typed
from ..errors import UnweaveError
from ..transcoders.replacement import ReplacementModel
from ..version import __version__
from .bench import Bench
from .protocols import PROTOCOLS
from .results import Step, StudyReport, check
from .studyfile import Study


@typed
def run_study(
    study: Study, model: ReplacementModel, *, only: Sequence[str] = (), progress: Callable[..., object] | None = None
) -> StudyReport:
    """Run a study on a model with a dictionary.

    Every step is run, also after one that failed, until one cannot be run at all: then the report says why.

    Args:
        only: names of steps; empty: all.
        progress: called with the share that is done, and a title.

    >>> import unweave                                                        # doctest: +SKIP
    >>> unweave.run_study(unweave.read_study("capitals.yaml"), unweave.load("smollm2")).verdict    # doctest: +SKIP
    """
    begin, say = time.monotonic(), progress or (lambda share, title="": None)
    planned = [step for step in study.steps if not only or step.name in only]
    steps: list[Step] = []
    bench = Bench(model, study.variants, study.chat, study.system, study.seed)
    stopped = ""
    for number, plan in enumerate(planned):
        title = f"{study.name}: {plan.name}"
        say(number / len(planned), title)
        bench.progress = lambda share, done=number, title=title: say((done + share) / len(planned), title)
        try:
            result = PROTOCOLS[plan.protocol].run(bench.where(plan.where), plan.options)
        except UnweaveError as error:
            stopped = f"step {plan.name} cannot be run: {error}"
            break
        bench.results[plan.name] = result
        steps.append(Step(plan.name, plan.protocol, plan.note, result, check(result.figures, plan.expect)))
    facts = (model.language_model.name, model.transcoders.name, model.transcoders.sha256, __version__)
    return StudyReport(
        study.name,
        study.title,
        study.question,
        study.source,
        *facts,
        tuple(steps),
        stopped,
        round(time.monotonic() - begin, 1),
    )
