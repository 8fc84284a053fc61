"""Explanations of twenty prompts and twenty contrast pairs: how long they take, which sentences hold again, arrows
beside what a response graph predicts, random parts that would have passed; and ways of grouping compared.

    python benchmarks/explanations.py [--out FILE] [--only N] [--summary]

Prompts and pairs are those of `response-pairs-report.jsonl` (a prompt alone is its pair's first, the contrast found);
ways of grouping are compared on `response-pairs-choose.jsonl`. All were fixed before any of this was run. Each row is
appended to FILE as it is done; the same command goes on where it was stopped. `--summary` prints the figures of FILE.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import unweave
from unweave.errors import UnweaveError
from unweave.explanation.choose import choose, single_effects
from unweave.explanation.contrast import contrast_of
from unweave.explanation.groups import METHODS, Profiles, agreement, hidden, make_groups
from unweave.explanation.maps import Contrast, leading_heads, patching_maps, stages
from unweave.explanation.measure import NOTABLE_ARROW, Measured, agreement_of_arrows, measure
from unweave.graphs.comparison import aligned
from unweave.interventions.live import NeuronPlaces, heads_of, run
from unweave.interventions.parts import Part

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
            found = groupings(model, pair) if kind == "groups" else explanation(model, pair, kind == "pair")
        except UnweaveError as error:
            found = {"error": str(error)}
        with options.out.open("a") as file:
            file.write(json.dumps({"kind": kind, **pair, **found}) + "\n")
        print(kind, pair["prompt"], found.get("processor", found.get("error")), flush=True)


def tasks() -> list[tuple[str, dict[str, str]]]:
    """In turn a pair, a prompt alone and, while there are any, a pair for ways of grouping."""
    report, choice = (
        [json.loads(line) for line in (HERE / f"response-pairs-{name}.jsonl").read_text().splitlines()]
        for name in ("report", "choose")
    )
    found = []
    for number, pair in enumerate(report):
        found += [("pair", pair), ("prompt", pair)]
        found += [("groups", choice[number])] if number < len(choice) else []
    return found


def explanation(model: Any, pair: dict[str, str], given: bool) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    found = unweave.explain(model, pair["prompt"], instead=pair["instead"] if given else None)
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    again = [holds for _, _, holds in found.check()]
    instead, rephrased = found.contrast.instead or "", []
    for frame in REPHRASED if instead else ():
        try:
            checked = found.check(frame.format(pair["prompt"]), frame.format(instead.strip()))
            rephrased.append([holds for _, _, holds in checked])
        except UnweaveError as error:
            rephrased.append(str(error))
    arrows = agreement_of_arrows(found.measured.arrows)
    mistakes, draws = wrongly_passed(found.measured)
    return {
        **seconds, "headline": found.headline, "kinds": [sentence.kind for sentence in found.sentences], "again": again,
        "rephrased": rephrased, "arrows": None if arrows is None else arrows._asdict(), "mistakes": mistakes,
        "draws": draws, "together": found.measured.together, "groups": len(found.groups),
        "named": sum(bool(group.pushes) for group in found.groups), "found": found.found,
    }  # fmt: skip


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


def groupings(model: Any, pair: dict[str, str]) -> dict[str, Any]:
    begin = time.process_time()
    here = _profiled(contrast_of(model, pair["prompt"], None, pair["instead"]))
    try:
        frame = REPHRASED[0]
        there = _profiled(contrast_of(model, frame.format(pair["prompt"]), None, frame.format(pair["instead"])))
    except UnweaveError:
        there = None
    found = {}
    for method, grouping in METHODS.items():
        contrast, chosen, heads, profiles = here
        partition = grouping(profiles, 8)
        made = make_groups(chosen, heads, profiles, None, method)
        measured = measure(contrast, made, 1)
        arrows = agreement_of_arrows(measured.arrows)
        found[method] = {
            "groups": len(partition), "hidden": hidden(profiles, partition), "alike": agreement(profiles, partition),
            "substitution": substitution(contrast, profiles, partition),
            "stable": None if there is None else stable(here, there, method),
            "arrows": None if arrows is None else arrows._asdict(),
        }  # fmt: skip
    return {"processor": time.process_time() - begin, "methods": found}


def _profiled(contrast: Contrast) -> tuple:
    maps = patching_maps(contrast)
    heads = leading_heads(contrast, maps["heads"])
    chosen = choose(contrast, stages(contrast, maps["neurons"]))
    return contrast, chosen, heads, Profiles(
        chosen.units, *single_effects(contrast, chosen.units), contrast.model.n_layers
    )  # fmt: skip


def substitution(contrast: Contrast, profiles: Profiles, partition: list[list[int]]) -> float | None:
    """Whether the two halves of a group do the same: the cosine of what swapping each does to the answer and to the
    other groups, live, weighed by the groups' effects; groups of one are left out."""
    count = heads_of(contrast.model)
    parts = [Part(profiles.units.select(torch.tensor(group))) for group in partition]
    gauges = [part.gauge(contrast.here, contrast.there, count) for part in parts]
    total = weight = 0.0
    for number, group in enumerate(partition):
        if len(group) < 2:
            continue
        order = sorted(group, key=lambda unit: -abs(float(profiles.effect[unit])))
        halves = [Part(profiles.units.select(torch.tensor(order[start::2]))) for start in (0, 1)]
        variants = [half.put(contrast.there, count) for half in halves]
        ran = run(contrast.model, contrast.ids, contrast.question, variants, gauges=gauges)
        ran.gauges[:, number] = 0
        rows = torch.cat([contrast.share(ran.lead)[:, None], ran.gauges], 1)
        size = float(profiles.effect[group].abs().sum())
        total, weight = total + size * float(torch.cosine_similarity(rows[0], rows[1], dim=0)), weight + size
    return total / weight if weight else None


def stable(here: tuple, there: tuple, method: str) -> float | None:
    """Of pairs of neurons that both explanations chose, at matching tokens: the share that both put together or both
    put apart, above what chance gives (the adjusted Rand index)."""
    places = aligned(here[0].ids.tolist(), there[0].ids.tolist())
    back = {new: old for old, new in places.items()}
    labels = []
    for (_, _, _, profiles), moved in ((here, None), (there, back)):
        names = {}
        for number, group in enumerate(METHODS[method](profiles, 8)):
            for unit in group:
                layer, position, index = NeuronPlaces.select(profiles.units, torch.tensor([unit])).triples[0]
                place = position if moved is None else moved.get(position)
                if place is not None:
                    names[layer, place, index] = number
        labels.append(names)
    shared = sorted(set(labels[0]) & set(labels[1]))
    if len(shared) < 3:
        return None
    pairs = [
        (labels[0][a] == labels[0][b], labels[1][a] == labels[1][b]) for n, a in enumerate(shared) for b in shared[:n]
    ]
    both = sum(x and y for x, y in pairs)
    first, second = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    chance, most = first * second / len(pairs), (first + second) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


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
            for name in ("hangs", "chain", "direct", "against", "together"):
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
    of = [row["methods"] for row in rows if row["kind"] == "groups" and "error" not in row]
    for method in METHODS if of else ():
        print(f"{method}: {len(of)} pairs")
        for name in ("groups", "hidden", "alike", "substitution", "stable"):
            _line(name, [row[method][name] for row in of if row[method][name] is not None])
        _line("right signs of arrows", [row[method]["arrows"]["signs"] for row in of if row[method]["arrows"]])


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
