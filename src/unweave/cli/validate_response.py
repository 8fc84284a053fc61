"""`unweave validate` for response graphs: predicted beside measured effects, and what the strongest units carry."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import GraphError
from .terminal import escaped, print_json, progress, stdout


def validate_responses(
    graphs: list[Any], paths: list[Path], *, model: str, device: str, ablations: int, seed: int, as_json: bool
) -> None:
    """Judge response graphs in the real model, everything live."""
    reports = []
    with progress(f"loading {model}") as report:
        from ..models.loading import load_model
        from ..validation.curves import circuit_curve
        from ..validation.responses import validate_response

        for graph, path in zip(graphs, paths, strict=True):
            if not graph.is_response:
                raise GraphError(f"{path} is an attribution graph beside response graphs; validate them apart")
        dtypes = {graph.provenance.dtype for graph in graphs}
        loaded = {dtype: load_model(model, dtype=dtype, device=device) for dtype in sorted(dtypes)}
        for number, (graph, path) in enumerate(zip(graphs, paths, strict=True)):
            report(number / len(graphs), "taking units away")
            one = loaded[graph.provenance.dtype]
            found = validate_response(one, graph, most=ablations, seed=seed)
            curve = circuit_curve(one, graph, seed=seed)
            reports.append(
                {
                    "file": str(path), "target": graph.provenance.logit_labels[0],
                    "baseline": graph.provenance.baseline,
                    "agreement": graph.agreement, "mediated": graph.mediated, "signed": found.signed._asdict(),
                    "sign_share": found.sign_share._asdict(), "unit_on_unit": found.unit_on_unit._asdict(),
                    "joint": [asdict(part) for part in found.joint],
                    "curve": asdict(curve) | {"cpr": curve.cpr, "cmd": curve.cmd},
                }
            )  # fmt: skip
    if as_json:
        print_json(reports[0]) if len(reports) == 1 else print(json.dumps(reports, indent=2, ensure_ascii=False))
        return
    for facts in reports:
        _show(facts)


def _show(facts: dict[str, Any]) -> None:
    def spread(name: str) -> str:
        part = facts[name]
        return f"{part['value']:.2f} [dim]({part['low']:.2f} to {part['high']:.2f}, n={part['n']:,})[/]"

    stdout.print(f"[bold]{escaped(facts['file'])}[/]: {escaped(repr(facts['target']))}", highlight=False)
    stdout.print("\n[bold]Units taken away in the real model, everything live[/]", highlight=False)
    for name, title in (
        ("signed", "effects on the target, rank correlation"),
        ("sign_share", "change whose sign was predicted"),
        ("unit_on_unit", "effects on other units, rank correlation"),
    ):
        stdout.print(f"  {title:<42} {spread(name)}", highlight=False)
    stdout.print("\n[bold]The strongest together[/]", highlight=False)
    for part in facts["joint"]:
        stdout.print(
            f"  {part['size']:>4} predicted {part['predicted']:+8.3f}   measured {part['measured']:+8.3f}",
            highlight=False,
        )
    curve = facts["curve"]
    stdout.print("\n[bold]Share of the target (1: as in the model, 0: all neurons taken away)[/]", highlight=False)
    stdout.print("  units   alone   left out   random alone   random left out", highlight=False)
    columns = ("sizes", "kept", "complement", "random", "random_complement")
    for size, *shares in zip(*(curve[name] for name in columns), strict=True):
        stdout.print(
            f"  {size:>5}   {shares[0]:>5.2f}   {shares[1]:>8.2f}   {shares[2]:>12.2f}   {shares[3]:>15.2f}",
            highlight=False,
        )
