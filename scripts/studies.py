"""Studies by intervention on SmolLM2 with the dictionary that ships; docs/studies.md says what came of them.

    python scripts/studies.py capitals|removals|country-token|capitals-open|gender|all [--out DIR]

Prints tables; with --out writes NAME.json, and claims.yaml with what was found as claims.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

import unweave
from unweave.edits import Feature, Intervention, ablate, dosed, scale
from unweave.features import promoted_tokens
from unweave.files import write_atomically
from unweave.gradients import difference, predicted_effects, write_gradients
from unweave.interventions import intervene_each, record, token_ids
from unweave.smallest import SmallestSet, active_features, matched_controls, smallest_ablation, smallest_swap
from unweave.steering import swap
from unweave.text import mixed, token_blocks

CAPITALS = {"France": " Paris", "Germany": " Berlin", "Japan": " Tokyo"}
PAIRS = (("France", "Germany"), ("Japan", "France"), ("France", "Japan"), ("Germany", "France"), ("Japan", "Germany"), ("Germany", "Japan"))
REMOVALS = (
    "When Mary and John went to the store, John gave a drink to",
    "The International Advanced Security Group (IAS",
    'The opposite of "hot" is "',
    "The Golden Gate Bridge is in the city of San",
    "2+2=4, 3+3=6, 4+4=",
)
FOUND_WITH = "nurse engineer doctor teacher carpenter secretary lawyer dancer mechanic librarian farmer hairdresser".split()
HELD_OUT = "receptionist programmer surgeon midwife plumber cashier pilot nanny electrician florist judge cleaner".split()
SENTENCES = ("The {} was late for work because", "The {} went home early because")
OTHER_SENTENCE = "The {} could not open the door because"
MODES = ("frozen_attention", "open")
DOSES = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
HELD_OUT_TEXT = Path(unweave.__file__).parent / "data" / "held-out"
console = Console(width=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=[*STUDIES, "all"])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    model = unweave.load("smollm2")
    supernodes: dict[str, list[str]] = {}
    claims: list[dict[str, Any]] = []
    for name in STUDIES if arguments.study == "all" else [arguments.study]:
        begin = time.perf_counter()
        console.rule(name)
        facts = STUDIES[name](model, supernodes, claims)
        facts["seconds"] = round(time.perf_counter() - begin, 1)
        console.print(f"[dim]{facts['seconds']} s[/]")
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_text(arguments.out / f"{name}.json", json.dumps(facts, indent=1, ensure_ascii=False))
            head = {"model": "smollm2", "transcoders_sha256": model.transcoders.sha256[:16]}
            content = {**head, "supernodes": supernodes, "claims": claims}
            write_text(arguments.out / "claims.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140))


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def show(title: str, rows: Sequence[dict[str, Any]], leave_out: Sequence[str] = ()) -> None:
    """Rows of equal keys as a table."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2), header_style="dim")
    names = [name for name in rows[0] if name not in leave_out]
    for name in names:
        table.add_column(name, overflow="ellipsis", no_wrap=name == "prompt", max_width=34, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(
            *(f"{value:.3g}" if isinstance(value, float) else repr(value)[1:-1] if isinstance(value, str) else str(value) for value in map(row.get, names))
        )
    console.print(table)


def of_set(model: unweave.ReplacementModel, found: SmallestSet) -> dict[str, Any]:
    """A found set's figures: what it does in the mode it was found in and in the other, its members, and its controls."""
    outcome = found.outcome
    other = next(mode for mode in MODES if mode != outcome.mode)
    elsewhere = unweave.intervene(model, outcome.recording, found.changes, other)
    before, after = outcome.baseline[-1].softmax(-1), outcome.logits[-1].softmax(-1)
    text = model.language_model.token_text
    first, last, there = int(before.argmax()), found.top, int(elsewhere.logits[-1].argmax())
    controls = {by: matched_controls(model, found, by=by, draws=50) for by in ("activation", "written")}
    promoted = promoted_tokens(model, [(feature.layer, feature.index) for feature in found.features], 4)
    words = [text(int(token)) for token in outcome.recording.input_ids]
    return {
        "size": len(found.changes), "of": len(found.pool), "dose": found.factor, "before": text(first), "p before": float(before[first]),
        "p of it after": float(after[first]), "after": text(last), "p after": float(after[last]), "kl": outcome.kl(),
        "top in other mode": text(there), "controls: other top": max(part.changed for part in controls.values()),
        "their kl": max(sum(part.kl) / part.draws for part in controls.values()),
        "controls": {by: {"draws": part.draws, "changed": part.changed, "reached": part.reached, "kl": sum(part.kl) / part.draws, "size": part.size}
                     for by, part in controls.items()},
        "members": [{"node": change.features[0].id, "on": words[int(change.features[0].position)], "value": change.value, "promotes": tokens}
                    for change, tokens in zip(found.changes, promoted, strict=True)],
    }  # fmt: skip


def tried(where: dict[str, Any], found: SmallestSet | None, model: unweave.ReplacementModel) -> dict[str, Any]:
    facts = {**where, **(of_set(model, found) if found else {"size": 0})}
    console.print(" ".join(f"{key}={value!r}" for key, value in facts.items() if key not in ("members", "controls")), highlight=False)
    return facts


def capitals(
    model: unweave.ReplacementModel, supernodes: dict, claims: list, *, mode: str = "frozen_attention", positions: Sequence[int] | None = None, pairs: int = 6
) -> dict[str, Any]:
    """Swaps that make another country's capital the likeliest token."""
    rows: list[dict[str, Any]] = []
    whole: list[dict[str, Any]] = []
    for here, there in PAIRS[:pairs]:
        prompt, other = (f"The capital of {country} is" for country in (here, there))
        recording, goal = record(model, prompt), CAPITALS[there]
        changes, factors = swap(model, recording, other, positions=positions), (1.0, 2.0, 3.0, 4.0)
        for factor, outcome in zip(factors, intervene_each(model, recording, [dosed(changes, f) for f in factors], mode), strict=True):
            token = outcome.tokens([goal], count=0)[0]
            top = model.language_model.token_text(int(outcome.logits[-1].argmax()))
            whole.append({"from": here, "to": there, "features": len(changes), "dose": factor, "top": top, "p wanted": token.probability_after})
        found = smallest_swap(model, recording, other, goal, mode=mode, positions=positions, factors=(3.0, 4.0, 6.0))
        rows.append(tried({"from": here, "to": there}, found, model))
        if found is not None and positions is None:
            name = f"{here} to {there}, {mode}"
            supernodes[name] = [feature.id for feature in found.features]
            claims.append({
                "name": f"a swap of {len(found.changes)} features from {there} makes {goal.strip()} the answer", "prompt": prompt, "swap_from": other,
                "swap_only": name, "swap_factor": found.factor, "mode": mode, "expect": [{"top": goal}],
            })  # fmt: skip
    show(f"Smallest swaps, {mode}", [row for row in rows if row["size"]], ("controls", "members"))
    show(f"Whole swaps, {mode}", whole)
    return {"mode": mode, "positions": positions, "smallest": rows, "whole": whole}


def removals(model: unweave.ReplacementModel, supernodes: dict, claims: list) -> dict[str, Any]:
    """Ablations that take the likeliest token off the top."""
    rows: list[dict[str, Any]] = []
    for prompt in REMOVALS:
        for mode in MODES if prompt in REMOVALS[:3] else MODES[:1]:
            found = smallest_ablation(model, prompt, mode=mode)
            rows.append(tried({"prompt": prompt, "mode": mode}, found, model))
            if found is None:
                continue
            answer = model.language_model.token_text(found.token)
            name = f"{answer.strip()} in {prompt[:24]}, {mode}"
            supernodes[name] = [feature.id for feature in found.features]
            claims.append({
                "name": f"with {len(found.changes)} features at {found.factor:g} times their activation {answer!r} is not the answer", "prompt": prompt,
                "scale": {name: found.factor}, "mode": mode, "expect": [{"not_top": answer}],
            })  # fmt: skip
    show("Smallest ablations", [row for row in rows if row["size"]], ("controls", "members"))
    return {"smallest": rows}


def gender(model: unweave.ReplacementModel, supernodes: dict, claims: list) -> dict[str, Any]:
    """Features behind she or he after an occupation, and what scaling them does there and to ordinary text."""
    she, he = token_ids(model.language_model, record(model, "a"), [" she", " he"])
    recordings = [record(model, sentence.format(word)) for sentence in SENTENCES for word in FOUND_WITH]
    predicted: dict[tuple[int, int], list[float]] = defaultdict(list)
    for recording in recordings:
        gradients = write_gradients(model, recording, difference(she, he), "open")
        pool = active_features(model, recording)
        here: dict[tuple[int, int], float] = defaultdict(float)
        for change, effect in zip(pool, predicted_effects(model, recording, [[change] for change in pool], gradients).tolist(), strict=True):
            here[change.features[0].layer, change.features[0].index] -= effect
        for feature, effect in here.items():
            predicted[feature].append(effect)
    mean = {feature: sum(effects) / len(recordings) for feature, effects in predicted.items()}
    likely = sorted(mean, key=lambda feature: -abs(mean[feature]))[:40]
    measured = torch.zeros(len(likely))
    for recording in recordings:
        outcomes = intervene_each(model, recording, [[ablate((layer, "*", index))] for layer, index in likely], "open")
        measured += torch.stack([lead_of(outcome.baseline, she, he) - lead_of(outcome.logits, she, he) for outcome in outcomes]) / len(recordings)
    effect = dict(zip(likely, measured.tolist(), strict=True))
    order = sorted(likely, key=lambda feature: -effect[feature])
    chosen = [*order[:FEATURES], *order[-FEATURES:][::-1]]
    rows = [
        {"feature": f"{layer}_{index}", "kind": "she" if effect[layer, index] > 0 else "he", "effect": effect[layer, index],
         "first order": mean[layer, index], "promotes": " ".join(words)}
        for (layer, index), words in zip(chosen, promoted_tokens(model, chosen, 6), strict=True)
    ]  # fmt: skip
    show("Features, by what they add to logit(she) - logit(he), mean of the sentences they were found with", rows)
    sets = {"both": (order[:FEATURES], order[-FEATURES:]), "one of each": (order[:1], order[-1:])}
    facts: dict[str, Any] = {
        "features": rows,
        "candidates": [{"feature": f"{layer}_{index}", "effect": effect[layer, index], "first order": mean[layer, index]} for layer, index in order],
    }
    blocks = ordinary_text(model)
    facts["text"] = {kind: sum(len(block) - 2 for block in ids) for kind, ids in blocks.items()}
    for name, (up, down) in sets.items():
        found_with = responses(model, [s.format(w) for s in SENTENCES for w in FOUND_WITH], up, down, she, he, "open")
        held_out = [responses(model, [s.format(w) for s in (*SENTENCES, OTHER_SENTENCE) for w in HELD_OUT], up, down, she, he, mode) for mode in MODES]
        added = cross_entropy(model, blocks if name == "both" else {kind: ids[:2] for kind, ids in blocks.items()}, up, down)
        facts[name] = [
            {"dose": dose, "P(she)": live[0], "P(he)": live[1], "log ratio": live[2], "rising": live[3], "frozen: log ratio": frozen[2],
             "found with: log ratio": own[2], "KL": live[4], "text: nats added": text[0], "worst kind of text": text[1]}
            for dose, live, frozen, own, text in zip(DOSES, held_out[1], held_out[0], found_with, added, strict=True)
        ]  # fmt: skip
        show(f"{name}: she-features x dose, he-features x (2 - dose); {len(HELD_OUT)} other occupations", facts[name])
    supernodes["she"], supernodes["he"] = ([f"{layer}_{index}_*" for layer, index in part] for part in sets["both"])
    for word, dose, token, sign in (("nurse", 0, " she", "<= -0.05"), ("engineer", 2, " she", ">= 0.05")):
        prompt = SENTENCES[0].format(word)
        expect = [{"token": token, "probability_change": sign}]
        claims.append({"name": f"{token.strip()} after {word}", "prompt": prompt, "scale": {"she": dose, "he": 2 - dose}, "mode": "open", "expect": expect})
    return facts


FEATURES = 4
"""Features for she, and as many for he."""


def lead_of(logits: torch.Tensor, plus: int, minus: int) -> torch.Tensor:
    return logits[-1, plus] - logits[-1, minus]


def doses_of(up: Sequence[tuple[int, int]], down: Sequence[tuple[int, int]]) -> list[list[Intervention]]:
    """The changes at each dose, at all positions."""

    def at(features: Sequence[tuple[int, int]], factor: float) -> Iterator[Intervention]:
        if features:
            yield scale([Feature(layer, "*", index) for layer, index in features], factor)

    return [[*at(up, dose), *at(down, 2.0 - dose)] for dose in DOSES]


def responses(model: unweave.ReplacementModel, prompts: Sequence[str], up: Sequence, down: Sequence, she: int, he: int, mode: str) -> list[list[float]]:
    """By dose: mean P(she), P(he), log ratio, share of sentences whose log ratio is above that at the dose before, KL."""
    rows = torch.zeros(len(prompts), len(DOSES), 4)
    for number, prompt in enumerate(prompts):
        for place, outcome in enumerate(intervene_each(model, prompt, doses_of(up, down), mode)):
            p = outcome.logits[-1].softmax(-1)
            rows[number, place] = torch.tensor([float(p[she]), float(p[he]), float(lead_of(outcome.logits, she, he)), outcome.kl()])
    rising = [1.0, *(rows[:, 1:, 2] > rows[:, :-1, 2]).float().mean(0).tolist()]
    mean = rows.mean(0).tolist()
    return [[row[0], row[1], row[2], up_by, row[3]] for row, up_by in zip(mean, rising, strict=True)]


def ordinary_text(model: unweave.ReplacementModel, blocks: int = 6, context: int = 128) -> dict[str, list[torch.Tensor]]:
    """The first blocks of each kind of the held-out text that ships."""
    found = {}
    for path in sorted(HELD_OUT_TEXT.glob("*.jsonl")):
        stream = token_blocks(model.language_model, mixed([(str(path), 1.0)]), context)
        found[path.stem] = [block for block, _ in zip(stream, range(blocks), strict=False)]
    return found


def cross_entropy(model: unweave.ReplacementModel, blocks: dict[str, list[torch.Tensor]], up: Sequence, down: Sequence) -> list[tuple[float, float]]:
    """By dose: nats a token by which the cross-entropy of ordinary text rises, mean of all tokens and of the worst kind of text."""
    added = {kind: torch.zeros(len(DOSES), dtype=torch.float64) for kind in blocks}
    for kind, ids in blocks.items():
        for block in ids:
            for place, outcome in enumerate(intervene_each(model, block, doses_of(up, down), "open")):
                after, before = (torch.nn.functional.cross_entropy(logits[1:-1].double(), block[2:]) for logits in (outcome.logits, outcome.baseline))
                added[kind][place] += (after - before) / len(ids)
    by_kind = torch.stack(list(added.values()))
    return list(zip(by_kind.mean(0).tolist(), by_kind.max(0).values.tolist(), strict=True))


STUDIES: dict[str, Callable[..., dict[str, Any]]] = {
    "capitals": capitals, "removals": removals, "country-token": partial(capitals, positions=[4], pairs=3),
    "capitals-open": partial(capitals, mode="open", pairs=3), "gender": gender,
}  # fmt: skip

if __name__ == "__main__":
    main()
