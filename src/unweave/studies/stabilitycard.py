"""A step's findings as a Stability Card: JSON as StressKit writes and checks it."""

import datetime
import hashlib
import platform
import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from ..errors import OptionError
from ..version import __version__
from .results import rounded
from .stability import Stability, units_of

SCHEMA = "0.4"
"""Of `stability_card_v0.json` (StressKit, github.com/Arth-Singh/Stresskit)."""
BARS = {"structural_stability": 0.8, "claim_stability": 0.8, "score_stability": 0.25, "beats_random": 3.0}
"""Its thresholds."""
AXES = {"base": "base", "seeds": "seeds", "wordings": "templates", "dictionaries": "dictionaries", "units": "units"}
"""Its names of axes; it has none for dictionaries and units."""


def stability_card(found: Stability, step: str, created: datetime.datetime | None = None) -> dict[str, Any]:
    """What became of one step in all repeats, as a StressKit Stability Card (schema 0.4).

    A run's components are the units of all its sets, at whatever position; its claim, whether the step's figures are
    as wanted; its score, the first of them. The grade follows StressKit's rule: A if all checks pass, B if half do, C
    if one does. There are no intervals, so every check is inconclusive in its own terms.

    Raises:
        OptionError: no such step, or nothing is wanted of it.

    Source: Arth-Singh/Stresskit, `card.py` and `schemas/stability_card_v0.json`.

    >>> import unweave                                                        # doctest: +SKIP
    >>> study, model = unweave.read_study("agreement.yaml"), unweave.load("smollm2")          # doctest: +SKIP
    >>> unweave.stability_card(unweave.repeat_study(study, model), "neurons")["verdict"]["grade"]    # doctest: +SKIP
    """
    ran = next((one for one in found.first.steps if one.name == step), None)
    if ran is None or not ran.checks:
        raise OptionError(f"no step {step!r} with wanted figures; a card says what became of such")
    runs = _runs(found, step)
    base = runs[0]
    pooled = _summary(runs, base["universe"])
    graded = [run for run in runs if run["universe"] == base["universe"]]
    universe = found.there[units_of(found.study, step)]
    pooled["expected_random_jaccard"] = pooled["jaccard_vs_random"] = None
    if pooled["median_size"] and pooled["mean_pairwise_jaccard"] is not None:
        pooled["expected_random_jaccard"] = expected = pooled["median_size"] / (2 * universe - pooled["median_size"])
        pooled["jaccard_vs_random"] = pooled["mean_pairwise_jaccard"] / expected
    checks = _checks(pooled)
    axes = list(dict.fromkeys(run["axis"] for run in runs[1:]))
    return _without_nan(
        {
            "schema_version": SCHEMA,
            "stresskit_version": f"none: written by unweave {__version__}",
            "created_at": (created or datetime.datetime.now(datetime.UTC)).isoformat(timespec="seconds"),
            "claim": {
                "statement": f"{found.first.title}: {', '.join(f'{c.figure} {c.wanted}' for c in ran.checks)}",
                "base_claim_label": base["claim"], "model": found.first.model, "task": found.first.study,
                "method": f"{ran.protocol} ({units_of(found.study, step)})", "base_size": base["size"],
                "universe_size": universe,
            },
            "battery": {
                "axes": axes, "n_runs_total": len(runs), "seed": found.study.seed, "base_config": {},
                "claim_equiv_used": False, "components_embedded": True, "structure_kind": "set",
            },
            "metrics": {
                "pooled": pooled,
                "per_axis": {
                    axis: _summary([base, *(run for run in runs if run["axis"] == axis)], base["universe"])
                    for axis in axes
                },
            },
            "verdict": {
                "grade": grade(checks), "profile": "diagnostic", "confirmatory_state": "not_applicable",
                "checks": checks,
                "thresholds": {"jaccard": 0.8, "modal_share": 0.8, "score_cv": 0.25, "random_margin": 3.0},
            },
            "provenance": {
                "python": platform.python_version(), "platform": platform.system(),
                "wall_seconds": sum(report.seconds for report in (found.first, *(one.report for one in found.repeats))),
            },
            "notes": [f"Sets are compared over {len(graded)} of {len(runs)} runs: those of the same kind of unit."],
            "runs": runs,
        }
    )  # fmt: skip


def _without_nan(value: Any) -> Any:
    """NaN as null; figures that a reader recomputes keep all their digits."""
    if isinstance(value, float):
        return None if value != value else value
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return [_without_nan(part) for part in value] if isinstance(value, list) else value


def _runs(found: Stability, step: str) -> list[dict[str, Any]]:
    runs = []
    for axis, variant, report, sets in found.sets(step):
        ran = next(one for one in report.steps if one.name == step)
        components = sorted({feature.rpartition("_")[0] for one in sets for feature in one.features})
        units = units_of(found.study, step)
        failed = [check.figure for check in ran.checks if not check.holds]
        runs.append(
            {
                "axis": AXES[axis], "variant": variant, "seed": found.study.seed, "size": len(components),
                "claim": "holds" if not failed else f"fails: {', '.join(failed)}",
                "score": rounded(ran.checks[0].measured), "structure_present": True, "components": components,
                "components_sha256": hashlib.sha256("\n".join(components).encode()).hexdigest(),
                "universe": units if units == "neurons" else f"{units} of {report.transcoders_sha256[:16]}",
            }
        )  # fmt: skip
    return runs


def _summary(runs: Sequence[dict[str, Any]], universe: str) -> dict[str, Any]:
    sets = [set(run["components"]) for run in runs if run["universe"] == universe]
    overlaps = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in combinations(sets, 2)]
    claims = Counter(run["claim"] for run in runs)
    n = len(runs)
    scores = [run["score"] for run in runs if run["score"] is not None]
    spread = statistics.pstdev(scores) if len(scores) > 1 else None
    level = statistics.fmean(scores) if scores else None
    return {
        "n_runs": n,
        "mean_pairwise_jaccard": statistics.fmean(overlaps) if overlaps else None,
        "min_pairwise_jaccard": min(overlaps) if overlaps else None,
        "flip_rate": 1 - sum(c * (c - 1) for c in claims.values()) / (n * (n - 1)) if n > 1 else None,
        "modal_share": max(claims.values()) / n,
        "n_claim_classes": len(claims),
        "claim_counts": dict(claims.most_common()),
        "score_mean": level,
        "score_std": spread,
        "score_cv": spread / abs(level) if spread is not None and level and abs(level) > 1e-12 else None,
        "median_size": float(statistics.median(len(one) for one in sets)) if sets else None,
        "n_cross_universe_excluded": n - len(sets),
    }


def _checks(pooled: dict[str, Any]) -> dict[str, Any]:
    sources = {
        "structural_stability": ("mean_pairwise_jaccard", ">=", "mean pairwise Jaccard of the sets, over runs"),
        "claim_stability": ("modal_share", ">=", "share of the commonest verdict"),
        "score_stability": ("score_cv", "<=", "coefficient of variation of the first figure"),
        "beats_random": ("jaccard_vs_random", ">=", "overlap by that of random sets of the median size"),
    }
    return {
        name: {
            "value": pooled[source], "threshold": BARS[name], "op": op, "ci": None, "robust": None,
            "passed": pooled[source] >= BARS[name] if op == ">=" else pooled[source] <= BARS[name],
            "state": "inconclusive", "description": what,
        }
        for name, (source, op, what) in sources.items()
        if pooled[source] is not None
    }  # fmt: skip


def grade(checks: dict[str, Any]) -> str:
    """StressKit's letter: A if all checks pass, B if half do, C if one does, else D; D where sets agree no better than
    random ones.

    >>> grade({"claim_stability": {"passed": True, "value": 1.0}})
    'A'
    """
    passed, random = sum(check["passed"] for check in checks.values()), checks.get("beats_random")
    if not passed or (random is not None and random["value"] <= 1.5):
        return "D"
    return "A" if passed == len(checks) else "B" if passed * 2 >= len(checks) else "C"
