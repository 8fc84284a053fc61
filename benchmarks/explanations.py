"""Explanations of twenty prompts and twenty contrast pairs: how long they take, which sentences hold again, arrows
beside what a response graph predicts, random parts that would have passed.

    python benchmarks/explanations.py [--out FILE] [--only N] [--summary]

Prompts and pairs are those of `response-pairs-report.jsonl` (a prompt alone is its pair's first, the contrast found),
fixed before any of this was run. Each row is appended to FILE as it is done; the same command goes on where it was
stopped. `--summary` prints the figures of FILE; ways of grouping are compared by `groupings.py`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unweave
from unweave.errors import UnweaveError
from unweave.explanation.arrows import NOTABLE_ARROW, agreement_of_arrows
from unweave.explanation.contrast import same_question
from unweave.explanation.measure import Measured

HERE = Path(__file__).parent
REPHRASED = ("Remember this: {}", "Everyone here knows it well. {}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("explanations-benchmark.jsonl"))
    parser.add_argument("--only", type=int, help="at most so many rows more")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.summary:
        return summary(rows)
    done = {(row["kind"], row["prompt"]) for row in rows}
    todo = [task for task in tasks() if (task[0], task[1]["prompt"]) not in done][: options.only]
    model = unweave.load_model("smollm2")
    for kind, pair in todo:
        try:
            found = explanation(model, pair, kind == "pair")
        except UnweaveError as error:
            found = {"error": str(error)}
        with options.out.open("a") as file:
            file.write(json.dumps({"kind": kind, **pair, **found}) + "\n")
        print(kind, pair["prompt"], found.get("processor", found.get("error")), flush=True)


def tasks() -> list[tuple[str, dict[str, str]]]:
    """In turn a pair and a prompt alone."""
    pairs = [json.loads(line) for line in (HERE / "response-pairs-report.jsonl").read_text().splitlines()]
    return [(kind, pair) for pair in pairs for kind in ("pair", "prompt")]


def explanation(model: Any, pair: dict[str, str], given: bool) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    found = unweave.explain(model, pair["prompt"], instead=pair["instead"] if given else None)
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    again = [holds for _, _, holds in found.check()]
    instead, rephrased, same = found.contrast.instead or "", [], []
    for frame in REPHRASED if instead else ():
        try:
            prompts = frame.format(pair["prompt"]), frame.format(instead.strip())
            rephrased.append([holds for _, _, holds in found.check(*prompts)])
            same.append(answered(found, *prompts))
        except UnweaveError as error:
            rephrased.append(str(error))
    arrows = agreement_of_arrows(found.measured.arrows)
    mistakes, draws = wrongly_passed(found.measured)
    return {
        **seconds, "headline": found.headline, "kinds": [sentence.kind for sentence in found.sentences], "again": again,
        "rephrased": rephrased, "same": same, "general": [
            None if sentence.wordings is None else sentence.wordings[0] == sentence.wordings[1]
            for sentence in found.sentences
        ], "arrows": None if arrows is None else arrows._asdict(), "mistakes": mistakes,
        "draws": draws, "together": found.measured.together, "groups": len(found.groups),
        "named": sum(bool(group.pushes) for group in found.groups), "found": found.found,
    }  # fmt: skip


def answered(found: Any, prompt: str, instead: str) -> bool:
    """Whether a rephrasing has the same answer, and its contrast another."""
    contrast = same_question(found.contrast, prompt, instead)
    says = [int(inside.logits.argmax()) for inside in (contrast.here, contrast.there)]
    return says[0] == contrast.question.answer != says[1]


def wrongly_passed(measured: Measured) -> tuple[int, int]:
    """How many random parts would have made a sentence, each held against the other random parts of its group."""
    mistakes = draws = 0
    for effect in measured.effects:
        sizes = effect.random.abs().tolist()
        for number, size in enumerate(sizes):
            others = [other for place, other in enumerate(sizes) if place != number]
            draws += 1
            mistakes += bool(others) and size >= NOTABLE_ARROW and max(others) < size / 2
    return mistakes, draws


def summary(rows: list[dict[str, Any]]) -> None:
    for kind in ("pair", "prompt"):
        of = [row for row in rows if row["kind"] == kind and "error" not in row]
        failed = sum(row["kind"] == kind and "error" in row for row in rows)
        if of:
            print(f"{kind}: {len(of)} explained, {failed} refused, {sum(not row['found'] for row in of)} found nothing")
            _line("processor seconds", [row["processor"] for row in of])
            _line("sentences", [len(row["again"]) for row in of])
            _share("hold again", [holds for row in of for holds in row["again"]])
            _share("hold rephrased", [h for row in of for part in row["rephrased"] if part != str(part) for h in part])
            both = [
                zip(row["general"], part, strict=True) for row in of for part in row["rephrased"] if part != str(part)
            ]
            both = [pair for part in both for pair in part]
            _share("  said to hold with other text before", [holds for general, holds in both if general])
            _share("  said not to", [holds for general, holds in both if general is False])
            kept = [
                part for row in of
                for same, part in zip(row["same"], [p for p in row["rephrased"] if p != str(p)], strict=True) if same
            ]  # fmt: skip
            _share("  where the rephrasing has the same answer", [holds for part in kept for holds in part])
            for name in ("way", "hangs", "chain", "direct", "against", "together"):
                both = [
                    zip(row["kinds"], part, strict=True) for row in of for part in row["rephrased"] if part != str(part)
                ]
                _share(f"  {name}", [holds for part in both for kind_, holds in part if kind_ == name])
            arrows = [row["arrows"] for row in of if row["arrows"]]
            total = sum(one["arrows"] for one in arrows)
            right = sum(one["arrows"] * one["signs"] for one in arrows)
            print(f"  arrows {total}, right signs {right / max(1, total):.3f}")
            _line("Spearman", [one["spearman"] for one in arrows if one["spearman"] is not None])
            print(f"  random parts that would pass: {sum(r['mistakes'] for r in of)} of {sum(r['draws'] for r in of)}")
            print(f"  groups named: {sum(r['named'] for r in of)} of {sum(r['groups'] for r in of)}")


def _line(name: str, values: list[float]) -> None:
    if values:
        middle = float(torch.tensor(values, dtype=torch.float64).median())
        mean = sum(values) / len(values)
        print(f"  {name}: mean {mean:.3f}, median {middle:.3f}, from {min(values):.3f} to {max(values):.3f}")


def _share(name: str, values: list[bool]) -> None:
    if values:
        print(f"  {name}: {sum(values)} of {len(values)} ({sum(values) / len(values):.1%})")


if __name__ == "__main__":
    main()
