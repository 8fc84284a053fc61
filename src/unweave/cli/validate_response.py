"""`unweave validate` for response graphs: predicted beside measured effects, and what the strongest units carry."""

import json
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ..errors import GraphError
from .terminal import escaped, print_json, progress, stdout


def validate_responses(
    graphs: list[Any],
    paths: list[Path],
    *,
    model: str,
    transcoders: str | None,
    device: str,
    ablations: int,
    attribution: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Judge response graphs in the real model, everything live."""
    reports = []
    with progress(f"loading {model}") as report:
        from ..models.loading import load_model
        from ..transcoders.replacement import load
        from ..validation.curves import circuit_curve
        from ..validation.response_verdict import judge_response
        from ..validation.responses import validate_response
        from ..validation.specificity import specificity

        for graph, path in zip(graphs, paths, strict=True):
            if not graph.is_response:
                raise GraphError(f"{path} is an attribution graph beside response graphs; validate them apart")
        kinds = sorted({(graph.provenance.dtype, graph.provenance.units == "features") for graph in graphs})
        loaded: dict[Any, Any] = {
            (dtype, features): (
                load(model, transcoders, dtype=dtype, device=device)
                if features
                else load_model(model, dtype=dtype, device=device)
            )
            for dtype, features in kinds
        }
        for number, (graph, path) in enumerate(zip(graphs, paths, strict=True)):
            report(number / len(graphs), "taking units away")
            features = graph.provenance.units == "features"
            one = loaded[graph.provenance.dtype, features]
            found = validate_response(one, graph, most=ablations, attribution=attribution, seed=seed)
            report((number + 0.5) / len(graphs), "judging the circuit")
            curve = circuit_curve(one, graph, seed=seed)
            words = one.language_model if features else one
            elsewhere = None if words.tokenizer is None else specificity(one, graph, seed=seed)
            verdict = judge_response(found, curve, elsewhere)
            reports.append(
                {
                    "file": str(path), "target": graph.provenance.logit_labels[0],
                    "baseline": graph.provenance.baseline,
                    "agreement": graph.agreement, "mediated": graph.mediated, **_facts(found),
                    "curve": asdict(curve) | {"cpr": curve.cpr, "cmd": curve.cmd, "units_to_turn": curve.units_to_turn},
                    "specificity": None if elsewhere is None else asdict(elsewhere),
                    "verdict": asdict(verdict),
                }
            )  # fmt: skip
    if as_json:
        print_json(reports[0]) if len(reports) == 1 else print(json.dumps(reports, indent=2, ensure_ascii=False))
        return
    for facts in reports:
        _show(facts)


def _facts(part: Any) -> Any:
    """Plain data of a report: estimates by their fields' names."""
    from ..validation.statistics import Estimate

    if isinstance(part, Estimate):
        return part._asdict()
    if isinstance(part, tuple):
        return [_facts(one) for one in part]
    return {name: _facts(one) for name, one in vars(part).items()} if is_dataclass(part) else part


def _show(facts: dict[str, Any]) -> None:
    def spread(part: dict[str, Any]) -> str:
        return f"{part['value']:.2f} [dim]({part['low']:.2f} to {part['high']:.2f}, n={part['n']:,})[/]"

    stdout.print(f"[bold]{escaped(facts['file'])}[/]: {escaped(repr(facts['target']))}", highlight=False)
    stdout.print("\n[bold]Units taken away in the real model, everything live[/]", highlight=False)
    for name, title in (
        ("signed", "effects on the target, rank correlation"),
        ("sign_share", "change whose sign was predicted"),
        ("unit_on_unit", "effects on other units, rank correlation"),
    ):
        stdout.print(f"  {title:<42} {spread(facts[name])}", highlight=False)
        if facts["attribution"] is not None:
            told = spread(facts["attribution"][name])
            stdout.print(f"  [dim]{'  by the attribution graph':<42}[/] {told}", highlight=False)
    swapped = facts["baseline"] == "contrast"
    _show_joint("swapped" if swapped else "taken away", facts["joint"], facts["attribution"])
    if facts["ablated"]:
        _show_joint("put to zero", facts["ablated"], None)
    _show_curve(facts["curve"])
    if facts["specificity"] is not None:
        _show_specificity(facts["specificity"])
    verdict = facts["verdict"]
    stdout.print(f"\n[bold]Verdict: {verdict['level']}.[/] {escaped(verdict['text'])}", highlight=False)
    for reason in verdict["reasons"]:
        stdout.print(f"  [dim]{escaped(reason)}[/]", highlight=False)


def _show_joint(done: str, effects: list[dict[str, Any]], beside: dict[str, Any] | None) -> None:
    """The strongest together, and measured over predicted by the strongest and random sets of their size."""
    stdout.print(f"\n[bold]The strongest {done} together[/]", highlight=False)
    also = "   by the attribution graph" if beside else ""
    stdout.print(f"  units  predicted  measured  [dim]measured / predicted over sets{also}[/]", highlight=False)
    for number, part in enumerate(effects):
        ratio = part["ratio"]
        over = "" if ratio["n"] < 3 else f"{ratio['value']:>6.2f} [dim]({ratio['low']:.2f} to {ratio['high']:.2f})[/]"
        told = f"   [dim]predicted {beside['joint'][number]['predicted']:+.3f}[/]" if beside else ""
        stdout.print(
            f"  {part['size']:>5}  {part['predicted']:>+9.3f}  {part['measured']:>+8.3f}  {over}{told}", highlight=False
        )


def _show_curve(curve: dict[str, Any]) -> None:
    stdout.print("\n[bold]Share of the target (1: as in the model, 0: all units taken away)[/]", highlight=False)
    stdout.print("  units   alone   own values   left out   random alone   random left out", highlight=False)
    columns = ("sizes", "kept", "restored", "complement", "random", "random_complement")
    for size, *shares in zip(*(curve[name] for name in columns), strict=True):
        stdout.print(
            f"  {size:>5}   {shares[0]:>5.2f}   {shares[1]:>10.2f}   {shares[2]:>8.2f}   {shares[3]:>12.2f}   "
            f"{shares[4]:>15.2f}",
            highlight=False,
        )
    stdout.print(f"  CPR {curve['cpr']:.2f}, CMD {curve['cmd']:.2f} over these sizes, alone", highlight=False)
    if curve["units_to_turn"] is not None:
        stdout.print(f"  without {curve['units_to_turn']} units the answer falls behind its rival", highlight=False)


def _show_specificity(found: dict[str, Any]) -> None:
    title = f"\n[bold]The {found['units']} strongest elsewhere[/]" if found["units"] > 1 else "\n[bold]Elsewhere[/]"
    stdout.print(title, highlight=False)
    for name, who in (("found", "these"), ("random", "random of the same layers")):
        loss = found[name]
        stdout.print(
            f"  {who:<26} the answer here loses {loss['here']:.2f} nats, ordinary text {loss['text']:.3f} a token, "
            f"{loss['answers']:.1f} of {found['prompts']} other answers change",
            highlight=False,
        )
