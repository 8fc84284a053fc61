"""What the figures of a response graph mean, in words."""

from .curves import CircuitCurve
from .joint import adds_up_to
from .responses import ResponseReport
from .results import Verdict
from .specificity import Specificity
from .statistics import Estimate
from .verdict import ENOUGH, GOOD

SIGNS = 0.9
"""Share of the change with the predicted sign that a good graph surely exceeds."""
TEXT, ANSWERS = 0.05, 0.05
"""Nats a token of ordinary text, and share of other answers, that specific units cost at most."""


def judge_response(
    report: ResponseReport, curve: CircuitCurve | None = None, elsewhere: Specificity | None = None
) -> Verdict:
    """The verdict on a response graph, from what its units did in the real model.

    `good`: effects on the target and on other units surely correlate above 0.7 with those measured (lower bounds), and
    surely more than nine tenths of the change has the predicted sign. `poor`: one of the correlations is not surely
    above 0.5. `fair`: between. How far effects add up, and what the units cost elsewhere, is said and does not decide.

    >>> import unweave
    >>> model = unweave.load_model("organism")
    >>> graph = unweave.response_graph(model, "the capital of Texas is", most=20)
    >>> unweave.judge_response(unweave.validate_response(model, graph, most=20)).level in ("good", "fair", "poor")
    True
    """
    reasons = [
        f"Effects of {report.signed.n} single units on the target, taken away in the real model: rank correlation "
        f"{_told(report.signed)}; {report.sign_share.value:.0%} of the change has the predicted sign."
    ]
    if report.unit_on_unit.n >= 3:
        reasons.append(f"Effects of units on one another: {_told(report.unit_on_unit)}.")
    reasons += _joint(report)
    if report.attribution is not None:
        beside = report.attribution
        reasons.append(
            f"The attribution graph of the same prompt gets {_told(beside.signed)} and, unit on unit, "
            f"{_told(beside.unit_on_unit)}."
        )
    if curve is not None and curve.units_to_turn is not None:
        reasons.append(f"Without its {curve.units_to_turn} strongest units the answer falls behind its rival.")
    if elsewhere is not None:
        reasons.append(_elsewhere(elsewhere))
    low = [figure.low for figure in (report.signed, report.unit_on_unit) if figure.n >= 3]
    if report.signed.n < 3 or not all(bound > ENOUGH for bound in low):
        few = "too few units were taken away" if report.signed.n < 3 else "its effects do not surely order real ones"
        return Verdict("poor", f"Do not rely on this graph: {few}.", tuple(reasons))
    till = adds_up_to(report.joint)
    missed = "single effects already miss the size it says by more than a quarter"
    caution = f"effects add up for as many as {till} units" if till else missed
    if all(bound > GOOD for bound in low) and report.sign_share.low > SIGNS:
        return Verdict("good", f"It predicts which units matter and which way; {caution}.", tuple(reasons))
    return Verdict("fair", f"It predicts roughly which units matter and which way; {caution}.", tuple(reasons))


def _joint(report: ResponseReport) -> list[str]:
    found = []
    for effects, done in ((report.joint, "Taken away"), (report.ablated, "Put to zero")):
        if not effects:
            continue
        till, last = adds_up_to(effects), effects[-1]
        till_then = f"up to {till} of them" if till else "at no size"
        found.append(
            f"{done} together, units do within a quarter of the sum of their predictions {till_then}; the {last.size} "
            f"strongest do {last.measured:+.2f} where {last.predicted:+.2f} was predicted."
        )
    return found


def _elsewhere(found: Specificity) -> str:
    loss = found.found
    apart = loss.text <= TEXT and loss.answers <= ANSWERS * (found.prompts + 1)
    return (
        f"The {found.units} that cost the answer {loss.here:.1f} nats cost ordinary text {loss.text:.3f} a token and "
        f"change {loss.answers:.0f} of {found.prompts} other answers: "
        f"{'they matter to this answer above all' if apart else 'they matter elsewhere too'}."
    )


def _told(figure: Estimate) -> str:
    return f"{figure.value:.2f} ({figure.low:.2f} to {figure.high:.2f})"
