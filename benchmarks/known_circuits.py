"""Whether explanations of the organism find what is known of how it answers: the state between two hops, the word that
a couplet's second line will end on, the two paths of sums, and the default answer for names that nobody has.

    python benchmarks/known_circuits.py [--out FILE] [--each 100] [--summary]

Each question is a held-out instance and another of the same wording with another answer, both drawn from a seed. A
group of its explanation *is* the middle state (the plan, the default) where both hold:

- it is coded so: along the line from its values here to those in the other prompt it stays in the first quarter on
  prompts that have the same state and another city, and is in the last quarter on those that have the other state;
- it serves other questions: put into prompts about the same city that ask for something else, it takes at least half of
  the difference of that question that it takes of its own, and at least a tenth.

Beside it: how often a random group of equal size, layers and token is both. For sums, a group is the path of size if
its swap moves the mean of the answer's numbers at least half of the way and the odd share less than a quarter, and
the path of parity the other way round. For couplets the second condition is that the model, writing on with the
group as in the other prompt, ends the line on the other's word.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

import unweave
from unweave.errors import UnweaveError
from unweave.explanation.contrast import contrast_of
from unweave.explanation.measure import random_parts
from unweave.explanation.result import Explanation
from unweave.interventions.live import heads_of, look, run, run_logits
from unweave.interventions.parts import Part
from unweave.organism.instances import Instance

NEAR, HALF, LEAST = 0.25, 0.5, 0.1
PROMPTS = 5
"""Of each kind that a group is tried on, at most."""
DRAWS = 3
LONGEST = 8
"""Words of a line, at most."""


class Question(NamedTuple):
    """A pair to explain, and the prompts on which a group shows what it stands for."""

    prompt: str
    instead: str
    alike: Sequence[str]
    """With the same middle state, and all else of its kind another."""
    unlike: Sequence[str]
    """With the other's."""
    asked: Sequence[tuple[str, str]]
    """Pairs that differ as the first two do, and ask for something else."""
    words: tuple[str, ...] = ()
    """What a name should say."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("known-circuits.jsonl"))
    parser.add_argument("--each", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=list(CIRCUITS), choices=list(CIRCUITS))
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.summary:
        return summary(rows)
    model = unweave.load_model("organism")
    for name in options.only:
        done = {row["prompt"] for row in rows if row["circuit"] == name}
        for question in islice(CIRCUITS[name](), options.each):
            if question.prompt not in done:
                row = {"circuit": name, "prompt": question.prompt, "instead": question.instead}
                with options.out.open("a") as file:
                    file.write(json.dumps(row | found_in(model, question, name)) + "\n")


def found_in(model: Any, question: Question, name: str) -> dict[str, Any]:
    begin = time.process_time()
    try:
        found = unweave.explain(model, question.prompt, instead=question.instead)
    except UnweaveError as error:
        return {"error": str(error)}
    seconds = time.process_time() - begin
    parts = [group.part for group in found.groups]
    drawn = [some for part in parts for some in random_parts(found.contrast, part, DRAWS)]
    judge = {"sums": paths, "couplets": lines}.get(name, stands_for)
    told = judge(found, [*parts, *drawn], question)
    groups = [
        {"name": group.name, "share": effect.share, "passed": effect.passed, **own}
        for group, effect, own in zip(found.groups, found.measured.effects, told, strict=False)
    ]
    said = " ".join(sentence.text for sentence in found.sentences)
    return {
        "seconds": seconds, "groups": groups, "random": told[len(parts) :], "sentences": len(found.sentences),
        "again": sum(holds for *_, holds in found.check()), "words": [word in said for word in question.words],
        "together": found.measured.together,
    }  # fmt: skip


def stands_for(found: Explanation, parts: Sequence[Part], question: Question) -> list[dict[str, Any]]:
    """For each part: how far it is from its values here on prompts that are alike and unlike, and what it takes of
    the difference in other questions."""
    contrast = found.contrast
    model, count = contrast.model, heads_of(contrast.model)
    gauges, far = [part.gauge(contrast.here, contrast.there, count) for part in parts], []
    for prompts in (question.alike, question.unlike):
        seen = [look(model, model.tokenize(prompt)) for prompt in prompts]
        far.append([_mean([_far(gauge, inside) for inside in seen]) for gauge in gauges])
    shares = []
    for prompt, instead in question.asked:
        other = contrast_of(model, prompt, None, instead)
        variants = [part.put(other.there, count) for part in parts]
        shares.append(other.share(run(model, other.ids, other.question, variants).lead).tolist())
    variants = [part.put(contrast.there, count) for part in parts]
    own = contrast.share(run(model, contrast.ids, contrast.question, variants).lead).tolist()
    made = []
    for n in range(len(parts)):
        elsewhere = _mean([share[n] for share in shares])
        coded = far[0][n] <= NEAR and far[1][n] >= 1 - NEAR
        serves = elsewhere >= HALF * own[n] and own[n] >= LEAST
        made.append({"alike": far[0][n], "unlike": far[1][n], "own": own[n], "elsewhere": elsewhere, "coded": coded,
                     "is": coded and serves})  # fmt: skip
    return made


def paths(found: Explanation, parts: Sequence[Part], question: Question) -> list[dict[str, Any]]:
    """For each part: how far its swap moves the mean of the answer's numbers, and the share of odd ones."""
    contrast = found.contrast
    model, count = contrast.model, heads_of(contrast.model)
    numbers = {
        token: int(text)
        for token in range(len(contrast.here.logits))
        if (text := model.token_text(token).strip()).isdigit()
    }
    tokens = torch.tensor(list(numbers))
    value = torch.tensor([float(number) for number in numbers.values()])

    def facts(logits: torch.Tensor) -> torch.Tensor:
        chance = logits[..., tokens].softmax(-1)
        return torch.stack([chance @ value, chance @ (value % 2)], -1)

    here, there = facts(contrast.here.logits), facts(contrast.there.logits)
    variants = [part.put(contrast.there, count) for part in parts]
    after = facts(run_logits(model, contrast.ids.expand(len(parts), -1), variants)) if parts else []
    moved = [((one - here) / (there - here)).tolist() for one in after]
    odd = bool(abs(float(there[1] - here[1])) > HALF)
    return [
        {"size": size, "parity": parity if odd else None,
         "is": "size" if size >= HALF and not (odd and abs(parity) >= NEAR)
         else "parity" if odd and parity >= HALF and abs(size) < NEAR else None}
        for size, parity in moved
    ]  # fmt: skip


def lines(found: Explanation, parts: Sequence[Part], question: Question) -> list[dict[str, Any]]:
    """For each part, and what it is coded by: the line that is written where it is as in the other prompt."""
    contrast, planned = found.contrast, question.words[1].strip("'")
    count, made = heads_of(contrast.model), []
    for part, told in zip(parts, stands_for(found, parts, question), strict=True):
        words = written(contrast.model, contrast.ids, part.put(contrast.there, count)) if told["coded"] else [""]
        made.append(told | {"line": " ".join(words), "is": told["coded"] and words[-1] == planned})
    return made


def written(model: Any, ids: torch.Tensor, puts: Sequence[Any]) -> list[str]:
    """What the model writes up to the end of the line."""
    words: list[str] = []
    while len(words) < LONGEST and (not words or words[-1] != "."):
        token = int(run_logits(model, ids[None], [list(puts)])[0].argmax())
        ids = torch.cat([ids, torch.tensor([token])])
        words.append(model.token_text(token).strip())
    return [word for word in words if word != "."] or [""]


def _far(gauge: Any, inside: Any) -> float:
    return sum(float(inside.at[one.place, one.layer][one.position] @ one.direction) - one.own for one in gauge)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _drawn(behaviours: Sequence[str]) -> tuple[list[Instance], random.Random]:
    found = [one for name in behaviours for one in unweave.instances(name, held_out=True)]
    generator = random.Random(18)
    generator.shuffle(found)
    return found, generator


def _some(generator: random.Random, values: Sequence[Any]) -> list[Any]:
    return generator.sample(list(values), min(PROMPTS, len(values)))


def two_hops() -> Iterator[Question]:
    """`the capital of the state containing Dallas is` against a city of another state."""
    found, generator = _drawn(("two-hop", "two-hop-new-city"))
    every = [one for name in ("two-hop", "two-hop-new-city") for one in unweave.instances(name)]
    of = {(one.latent["city"], one.latent["relation"]): one for one in every}
    states: dict[str, list[str]] = {}
    for one in every:
        if one.latent["city"] not in states.setdefault(one.latent["state"], []):
            states[one.latent["state"]].append(one.latent["city"])
    for one in found:
        city, state, relation = (one.latent[key] for key in ("city", "state", "relation"))
        there = [it for it in every if it.latent["relation"] == relation and it.latent["state"] != state]
        other = generator.choice([it for it in there if it.answer != one.answer])
        town, land = other.latent["city"], other.latent["state"]
        relations = sorted({it.latent["relation"] for it in every} - {relation})
        asked = [(of[city, r], of[town, r]) for r in relations]
        pairs = [(a.prompt, b.prompt) for a, b in asked if a.answer.split()[0] != b.answer.split()[0]]
        yield Question(
            one.prompt, other.prompt, [of[c, relation].prompt for c in states[state] if c != city],
            [of[c, relation].prompt for c in states[land] if c != town], _some(generator, pairs), (f"'{state}'",),
        )  # fmt: skip


def couplets() -> Iterator[Question]:
    """A couplet's first line against one whose second line ends on another word; asked elsewhere is the last word
    itself, the words before it given."""
    found, generator = _drawn(("couplet",))
    forms: dict[tuple[str, int], list[Instance]] = {}
    for one in unweave.instances("couplet"):
        forms.setdefault(_form(one), []).append(one)
    for one in found:
        same = forms[_form(one)]
        others = [it for it in same if it.answer.split()[0] != one.answer.split()[0]]
        if not others:
            continue
        other = generator.choice(others)
        alike = [it.prompt for it in same if it.latent["last"] == one.latent["last"] and _all_else(it, one)]
        unlike = [it.prompt for it in same if it.latent["last"] == other.latent["last"] and _all_else(it, other)]
        if alike and unlike:
            yield Question(
                one.prompt, other.prompt, _some(generator, alike), _some(generator, unlike), [],
                (f"'{one.latent['last']}'", f"'{other.latent['last']}'"),
            )  # fmt: skip


def _form(one: Instance) -> tuple[str, int]:
    opening = one.prompt.split(one.latent["phrase"])[0]
    joint = one.prompt.split(one.latent["phrase"])[1].split(one.latent["end"])[0]
    return f"{opening}|{joint}", len(one.prompt.split())


def _all_else(a: Instance, b: Instance) -> bool:
    return a.latent["phrase"] != b.latent["phrase"] and a.latent["end"] != b.latent["end"]


def sums() -> Iterator[Question]:
    """`36 + 59 =` against a first number that is one, twenty or twenty-one away, in turn."""
    found, _ = _drawn(("addition",))
    for number, one in enumerate(found):
        a, b = int(one.latent["a"]), int(one.latent["b"])
        step = (1, 20, 21)[number % 3]
        other = a + step if a + step < 100 else a - step
        yield Question(one.prompt, f"{other} + {b} =", [], [], [])


def default() -> Iterator[Question]:
    """A name that nobody has against a known one with the same first name."""
    found, generator = _drawn(("unknown-name",))
    known = [one for one in unweave.instances("known-name")]
    for one in found:
        first, last, attribute, wording = (one.latent[key] for key in ("first", "last", "attribute", "wording"))
        named = [it for it in known if it.latent["first"] == first]
        if not named:
            continue
        of = {(it.latent["last"], it.latent["attribute"], it.latent["wording"]): it.prompt for it in named}
        person = generator.choice(sorted({it.latent["last"] for it in named}))
        strangers = [
            it for it in found if it.latent["last"] != last and it.latent["first"] != first
            and it.latent["attribute"] == attribute and it.latent["wording"] == wording
        ]  # fmt: skip
        people = [
            it for it in known if it.latent["first"] != first and it.latent["last"] != person
            and it.latent["attribute"] == attribute and it.latent["wording"] == wording
        ]  # fmt: skip
        swap = dict(zip((first, last), (first, person), strict=True))
        attributes = sorted({it.latent["attribute"] for it in known} - {attribute})
        pairs = []
        for other in attributes:
            there = of.get((person, other, wording))
            if there is not None:
                pairs.append((there.replace(person, last), there))
        if swap and (person, attribute, wording) in of:
            yield Question(
                one.prompt, of[person, attribute, wording], [it.prompt for it in _some(generator, strangers)],
                [it.prompt for it in _some(generator, people)], pairs, ("'cannot'",),
            )  # fmt: skip


CIRCUITS: dict[str, Callable[[], Iterator[Question]]] = {
    "two-hops": two_hops, "couplets": couplets, "sums": sums, "default": default,
}  # fmt: skip


def summary(rows: list[dict[str, Any]]) -> None:
    for name in CIRCUITS:
        of = [row for row in rows if row["circuit"] == name]
        done = [row for row in of if "error" not in row]
        if not done:
            continue
        print(f"{name}: {len(done)} explained, {len(of) - len(done)} refused")
        kinds = ("size", "parity") if name == "sums" else (True,)
        for kind in kinds:
            steps = [
                row for row in done if kind != "parity" or any(group["parity"] is not None for group in row["groups"])
            ]
            right = [[group for group in row["groups"] if group["is"] == kind and group["passed"]] for row in steps]
            print(f"  a group is {'it' if kind is True else kind}: {sum(map(bool, right))} of {len(steps)}")
            wrong = [one["is"] == kind for row in steps for one in row["random"]]
            print(f"  of random parts of a group's size: {sum(wrong)} of {len(wrong)}")
        if name != "sums":
            print(f"  the word is said: {sum(any(row['words']) for row in done)}")
        print(f"  sentences that hold again: {sum(r['again'] for r in done)} of {sum(r['sentences'] for r in done)}")
        print(f"  processor seconds: {sum(row['seconds'] for row in done) / len(done):.2f} each")


if __name__ == "__main__":
    main()
