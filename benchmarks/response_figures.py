"""Response graphs beside the real model: the figures of docs/response.md, one line of JSON each, resumable.

    python benchmarks/response_figures.py OUT [--stages pairs neurons features special] [--only N] [--threads 1]
    python benchmarks/response_figures.py OUT --table

`pairs`: twenty contrast pairs, neurons; `neurons`, `features`: their first prompts; `special`: what the seven pairs to
choose by cost elsewhere, for every baseline. Lines that are already in OUT are not computed again.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import unweave

HERE = Path(__file__).parent
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
UNITS, ABLATIONS = 300, 64


def pairs(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (HERE / f"response-pairs-{name}.jsonl").read_text().splitlines()]


def judged(model: Any, graph: Any, attribution: bool = False) -> dict[str, Any]:
    report = unweave.validate_response(model, graph, most=ABLATIONS, attribution=attribution)
    curve = unweave.circuit_curve(model, graph, SIZES)
    return {
        "target": graph.provenance.logit_labels[0], "agreement": graph.agreement, "mediated": graph.mediated,
        "report": asdict(report), "curve": asdict(curve), "turn": curve.units_to_turn,
    }  # fmt: skip


def work(stages: list[str]) -> Any:
    """Names and functions of everything to be computed, by stage."""
    plain = unweave.load_model("smollm2")
    for pair in pairs("report") if "pairs" in stages else ():
        yield (
            f"pairs: {pair['prompt']}",
            lambda pair=pair: judged(
                plain, unweave.response_graph(plain, pair["prompt"], instead=pair["instead"], most=UNITS)
            ),
        )
    for pair in pairs("report") if "neurons" in stages else ():
        yield (
            f"neurons: {pair['prompt']}",
            lambda pair=pair: judged(plain, unweave.response_graph(plain, pair["prompt"], most=UNITS)),
        )
    for pair in pairs("choose") if "special" in stages else ():
        for baseline in ("zero", "mean", "resampled", "contrast"):
            words = {"instead": pair["instead"]} if baseline == "contrast" else {"baseline": baseline}
            yield f"special {baseline}: {pair['prompt']}", lambda pair=pair, words=words: special(plain, pair, words)
    if "features" in stages:
        model = unweave.load("smollm2")
        for pair in pairs("report"):
            yield (
                f"features: {pair['prompt']}",
                lambda pair=pair: judged(
                    model, unweave.response_graph(model, pair["prompt"], units="features", most=UNITS), attribution=True
                ),
            )


def special(model: Any, pair: dict[str, str], words: dict[str, Any]) -> dict[str, Any]:
    graph = unweave.response_graph(model, pair["prompt"], most=100, **words)
    report = unweave.validate_response(model, graph, most=48)
    return {"signed": report.signed.value, "specificity": asdict(unweave.specificity(model, graph))}


def table(lines: list[dict[str, Any]]) -> None:
    """Means by stage, and every prompt's own."""
    for stage in ("pairs", "neurons", "features"):
        rows = [line for line in lines if line["name"].startswith(f"{stage}: ")]
        if not rows:
            continue
        print(f"\n{stage}: {len(rows)} prompts")
        figures: dict[str, list[float]] = {}
        for row in rows:
            report, curve = row["report"], row["curve"]
            own = {name: report[name][0] for name in ("signed", "sign_share", "unit_on_unit")}
            own |= {"mediated": row["mediated"], "agreement": row["agreement"]}
            for name in ("kept", "restored", "complement", "random", "random_complement"):
                own |= {
                    f"{name} {size}": value
                    for size, value in zip(curve["sizes"], curve[name], strict=True)
                    if size in (16, 64, 128, 256)
                }
            if report["attribution"] is not None:
                own |= {f"attribution {name}": part[0] for name, part in report["attribution"].items()}
            for name, value in own.items():
                figures.setdefault(name, []).append(value)
            short = {name: round(value, 2) for name, value in own.items() if name in ("signed", "mediated")}
            print(" ", row["name"], row["target"], short, "turn", row["turn"])
        for name, values in figures.items():
            print(f"  {name:<28} mean {statistics.mean(values):.3g} min {min(values):.3g} max {max(values):.3g}")
        turned = [row["turn"] for row in rows]
        print("  turned within 64:", sum(turn is not None and turn <= 64 for turn in turned), "of", len(turned))
    for baseline in ("zero", "mean", "resampled", "contrast"):
        rows = [line for line in lines if line["name"].startswith(f"special {baseline}: ")]
        for row in rows:
            print(row["name"], f"signed {row['signed']:.2f}", row["specificity"])
        if rows:
            for who in ("found", "random"):
                told = {
                    name: round(statistics.mean(row["specificity"][who][name] for row in rows), 3)
                    for name in ("here", "text", "answers")
                }
                print(f"special {baseline} {who}: mean {told}")
            print(f"special {baseline}: signed mean {statistics.mean(row['signed'] for row in rows):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--stages", nargs="+", default=["pairs", "neurons", "special", "features"])
    parser.add_argument("--only", type=int, help="how many figures to compute at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="show what was computed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.table:
        return table(lines)
    known, count = {line["name"] for line in lines}, 0
    for name, compute in work(options.stages):
        if name in known or (options.only is not None and count >= options.only):
            continue
        begin = time.perf_counter()
        try:
            found = compute()
        except unweave.UnweaveError as error:
            print(name, error, flush=True)
            continue
        count += 1
        with options.out.open("a") as file:
            file.write(json.dumps({"name": name, **found, "seconds": time.perf_counter() - begin}) + "\n")
        print(name, f"{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
