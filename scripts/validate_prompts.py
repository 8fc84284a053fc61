"""Trust reports of graphs on the 20 fixed prompts, and their means: `python scripts/validate_prompts.py OUT [options]`.

Stopped at any moment, it goes on where it was when run again with the same options. OUT/summary.json holds the
means, OUT/summary.md the table of them, OUT/NN.validation.json each report.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import unweave
from unweave.evaluation.prompts import PROMPTS
from unweave.models.smollm2 import DEFAULT_MODEL
from unweave.validation.control import Control
from unweave.validation.figures import pooled
from unweave.validation.results import Figure, Settings, TrustReport
from unweave.validation.validate import validate


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--transcoders")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--ablations", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--disturbances", type=int, default=24)
    args = parser.parse_args()
    settings = Settings(ablations=args.ablations, pairs=args.pairs, disturbances=args.disturbances)
    args.out.mkdir(parents=True, exist_ok=True)
    model = unweave.load(args.model, args.transcoders)
    control, reports = Control.on_text(model), []
    for number, prompt in enumerate(PROMPTS[: args.prompts]):
        path, begin = args.out / f"{number:02d}.validation.json", time.monotonic()
        if path.is_file() and TrustReport.load(path).settings == settings:
            reports.append(TrustReport.load(path))
            continue
        graph = unweave.attribute(model, prompt)
        report = validate(model, graph, settings, control=control, keep=args.out / f"{number:02d}.partial", name=prompt)
        report.save(path)
        reports.append(report)
        print(
            f"{time.monotonic() - begin:6.1f} s  {report.verdict.level}  "
            f"{report.figure('ranks', 'influence and KL, attention held')}  {prompt!r}",
            flush=True,
        )
    means = pooled(reports)
    facts = {
        "model": args.model,
        "prompts": len(reports),
        "settings": asdict(settings),
        "figures": [asdict(figure) for figure in means],
    }
    (args.out / "summary.json").write_text(json.dumps(facts, indent=1))
    (args.out / "summary.md").write_text(table(means))
    print(table(means))


def table(means: list[Figure]) -> str:
    """The means as Markdown, those of the random dictionary beside them."""
    control = {
        (figure.group.removeprefix("control: "), figure.name): figure
        for figure in means
        if figure.group.startswith("control: ")
    }
    lines = ["| figure | mean [95% interval over prompts] | random dictionary |", "|---|---|---|"]
    for figure in means:
        if not figure.group.startswith("control: "):
            other = control.get((figure.group, figure.name))
            lines.append(f"| {figure.group}: {figure.name} | {figure} | {'' if other is None else other} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
