"""Studies: files read with line numbers, each protocol on tiny random models against independent computation,
verdicts, reports."""

import json
import math
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import yaml
from serving import page_of
from studying import WORDS, answered, likeliest, load, words_of, write_study, write_worded_model

import unweave
from unweave.errors import FileError, StudyError
from unweave.graphs.nodes import NodeKind
from unweave.interventions.interventions import record
from unweave.interventions.steering import activations
from unweave.studies import report as reports
from unweave.studies.bench import Bench, Variant, fill
from unweave.studies.operand_map import share
from unweave.studies.overlap import OVERLAP, Overlap
from unweave.studies.protocols import PROTOCOLS
from unweave.studies.results import Found, Plot, Result, Step, StudyReport, check, facts, number
from unweave.studies.run import run_study
from unweave.studies.steer import STEER, Steer
from unweave.studies.studyfile import find_study, read_study, shipped
from unweave.studies.trace import TRACE, Trace
from unweave.validation.claimfile import Bound
from unweave.validation.claims import check_claims, read_claims

ANIMALS, PLACES = "cat dog bird fish tree".split(), "sea sky moon sun".split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_worded_model(tmp_path_factory.mktemp("studies") / "model")


@pytest.fixture(scope="module")
def model(folders):
    return load(folders)


@pytest.fixture(scope="module")
def rows(model):
    """Variants with what the model says to them as the answer."""
    return [
        {"animal": a, "place": p, "answer": likeliest(model, f"the {a} is in the {p} and")}
        for a in ANIMALS
        for p in PLACES
    ]


@pytest.fixture
def study(tmp_path, rows):
    """A study file with the given steps."""

    def write(steps, name="tiny", **more):
        content = {"prompt": "the {animal} is in the {place} and", "variants": rows, "steps": steps} | more
        return read_study(write_study(tmp_path / f"{name}.yaml", **content))

    return write


def bench_of(model, study):
    return Bench(model, study.variants)


def test_templates():
    assert fill("{a}+{b}={a+b} {", {"a": "17", "b": "-3"}) == "17+-3=14 {"
    with pytest.raises(ValueError, match="no field 'c'"):
        fill("{c}", {"a": "1"})
    with pytest.raises(ValueError, match="not whole numbers"):
        fill("{a+b}", {"a": "1", "b": "x"})


def test_accuracy_counts_right_answers(model, study, rows):
    wrong = [
        {**row, "answer": "green" if place % 4 == 0 and row["answer"] != "green" else row["answer"]}
        for place, row in enumerate(rows)
    ]
    changed = sum(row["answer"] != other["answer"] for row, other in zip(rows, wrong, strict=True))
    found = run_study(study([{"accuracy": {"by": "place"}, "expect": {"right": ">= 0.9"}}], variants=wrong), model)
    assert changed > 3
    assert found.steps[0].result.figures["right"] == pytest.approx(1 - changed / len(rows))
    assert (
        not found.holds and f"step accuracy: right is {number(1 - changed / len(rows))}, wanted >= 0.9" in found.verdict
    )
    whole = run_study(study([{"accuracy": {}, "expect": {"right": ">= 0.9"}}]), model)
    assert whole.holds and [whole.steps[0].result.figures[name] for name in ("right", "likeliest", "variants")] == [
        1,
        1,
        20,
    ]
    assert sum(row[-2] for row in found.steps[0].result.tables[1].rows) / len(rows) == pytest.approx(
        found.steps[0].result.figures["probability"]
    )


def test_a_foil_decides_what_is_right(model, rows, study):
    """The answer is the second likeliest word: right against an unlikely foil, wrong against the likeliest one."""
    prompt = "the cat is in the sea and"
    logits = record(model, prompt).logits[-1]
    first, second, last = (
        model.language_model.token_text(int(logits.argsort(descending=True)[place])) for place in (0, 1, -1)
    )
    variants = [{"animal": "cat", "place": "sea", "answer": second, "other": other} for other in (last, first)]
    found = run_study(study([{"accuracy": {}}], variants=variants, foil="{other}"), model)
    assert found.steps[0].result.figures["right"] == 0.5
    assert found.steps[0].result.figures["likeliest"] == 0


@pytest.mark.parametrize(
    "options", [{"pairs": 3}, {"pairs": 2, "at": "animal", "factors": [3, 6]}, {"pairs": 2, "mode": "open"}]
)
def test_what_a_swap_found_holds_as_claims(model, study, tmp_path, options):
    """The written claims are checked by code that knows nothing of studies: they swap these features and look at the
    top."""
    found = run_study(study([{"swap": {"field": "animal", "draws": 5, **options}}]), model)
    result = found.steps[0].result
    assert (
        result.figures["searches"] == options["pairs"]
        and result.figures["reached"] == len(result.found) / options["pairs"] > 0
    )
    reports.write_report(found, tmp_path)
    file = read_claims(tmp_path / "tiny.claims.yaml")
    assert len(file.claims) == len(result.found) and all(verdict.holds for verdict in check_claims(file, model))
    for row in result.tables[0].rows:
        assert row[0] != row[1] and {row[0], row[1]} <= set(ANIMALS)
    if "at" in options:
        assert {feature.rpartition("_")[2] for one in result.found for feature in one.features} == {"2"}
    assert result.figures["kl"] > result.figures["controls_kl"]
    assert sum(sum(values) for values in result.plots[0].data["series"].values()) == sum(
        len(one.features) for one in result.found
    )


def test_swaps_pair_variants_that_differ_in_the_field_alone(model, study):
    bench = bench_of(model, study([{"accuracy": {}}]))
    for name, same in (("animal", "place"), ("place", "animal")):
        pairs = bench.pairs(name, 100)
        assert len(pairs) > 5
        assert all(
            here.fields[same] == there.fields[same]
            and here.fields[name] != there.fields[name]
            and here.answer != there.answer
            for here, there in pairs
        )
    assert bench.pairs("place", 3) == bench.some(bench.pairs("place", 100), 3)
    assert bench.positions(bench.variants[0], "place") == [6] and bench.positions(bench.variants[0], "animal") == [2]
    with pytest.raises(StudyError, match="no field 'answer' stands in the prompt"):
        bench.positions(bench.variants[0], "answer")


def test_what_an_ablation_found_holds_as_claims(model, study, tmp_path):
    found = run_study(study([{"ablate": {"prompts": 3, "draws": 5}}]), model)
    result = found.steps[0].result
    reports.write_report(found, tmp_path)
    verdicts = check_claims(read_claims(tmp_path / "tiny.claims.yaml"), model)
    assert len(verdicts) == len(result.found) > 0 and all(verdict.holds for verdict in verdicts)
    for verdict, row in zip(verdicts, result.tables[0].rows, strict=True):
        assert verdict.kl == pytest.approx(row[6], rel=1e-4)


def test_trace_looks_at_the_right_tokens_and_features(model, study):
    plan = study([{"accuracy": {}}])
    bench = bench_of(model, plan)
    variant = bench.variants[0]
    graph = unweave.attribute(model, variant.prompt, variant.answer)
    influence, nodes = graph.influence(), graph.nodes
    tokens = (nodes.kind == NodeKind.EMBEDDING) & (nodes.position > 0)
    wanted = float(influence[tokens & (nodes.position == 6)].sum() / influence[tokens].sum())
    order = influence[nodes.features].argsort(descending=True).tolist()
    one = replace(
        plan, variants=(variant, replace(variant, fields={**variant.fields, "place": "moon"}, answer="green"))
    )
    for chosen, low, high in ((order[:3], 0.9, 1.0), (order[-3:], 0.0, 0.1)):
        bench = bench_of(model, one)
        bench.results["planted"] = Result(
            {}, "", found=(Found("x", variant.prompt, tuple(nodes[row].id for row in chosen)),)
        )
        result = TRACE.run(bench, Trace(field="place", of="planted"))
        assert result.figures["share"] == pytest.approx(wanted, rel=1e-4)
        assert low <= result.figures["percentile"] <= high
        assert result.figures["replacement"] == pytest.approx(graph.scores().replacement)
        assert result.tables[1].rows[0][0] == nodes[order[0]].id
    folded = TRACE.run(bench, Trace(of="planted", max_features=5))
    assert folded.figures["percentile"] == 0 and math.isnan(folded.figures["share"])


def test_shares_of_variance():
    a, b = (part.ravel() for part in np.meshgrid(range(10), range(10)))
    noise = np.random.default_rng(0).normal(size=100)
    assert share((a + b) % 10 * 1.0, (a + b) % 10) == 1 and share(a * 1.0, a) == 1
    assert abs(share(noise, a + b)) < 0.15 and share(np.zeros(100), a) == 0
    assert share((a + b) * 1.0, (a + b) % 10) < 0.6 < share((a + b) * 1.0, a + b)


def test_operand_maps_are_activations(model, tmp_path):
    prompts = {(a, b): f"{a} + {b} =" for a in range(4) for b in range(4)}
    variants = [{"a": str(a), "b": str(b), "answer": likeliest(model, text)} for (a, b), text in prompts.items()]
    steps = [{"operand_map": {"fields": ["a", "b"], "features": 6, "prompts": 5, "draws": 3}}]
    found = run_study(
        read_study(write_study(tmp_path / "sums.yaml", prompt="{a} + {b} =", variants=variants, steps=steps)), model
    )
    result = found.steps[0].result
    panels = result.plots[0].data["panels"]
    assert len(panels) == len(result.tables[0].rows) == 6
    for panel, row in zip(panels, result.tables[0].rows, strict=True):
        layer, index = map(int, row[0].split("_"))
        values = [
            [float(activations(model, record(model, prompts[a, b]), layer)[-1, index]) for b in range(4)]
            for a in range(4)
        ]
        assert np.allclose(panel["values"], values, atol=1e-5) and np.max(values) > 0
        assert row[1] == pytest.approx(share(np.array(values).ravel(), np.repeat(range(4), 4)), abs=1e-6)
    chosen = {tuple(map(int, row[0].split("_"))) for row in result.tables[0].rows}
    sample = Bench(model, tuple(Variant({}, text, "") for text in prompts.values())).some(list(prompts), 5)
    lost = []
    for place in sample:
        recording = record(model, prompts[place])
        own = [(layer, -1, index) for layer, index in chosen if float(activations(model, recording, layer)[-1, index])]
        after = unweave.intervene(model, recording, [unweave.ablate(own)]).logits[-1]
        lost.append(int(after.argmax()) != int(recording.logits[-1].argmax()))
    assert result.figures["broken"] == pytest.approx(sum(lost) / 5)
    assert result.figures["broken"] >= result.figures["controls"]


@pytest.mark.parametrize(("plus", "minus"), [("red", "blue"), ("blue", "red")])
def test_steering_goes_the_wanted_way_on_what_it_was_not_found_with(model, study, plus, minus):
    bench = bench_of(model, study([{"accuracy": {}}]))
    options = Steer(
        plus=plus, minus=minus, hold_out="animal", features=3, candidates=12, doses=(0.0, 1.0, 2.0), blocks=0
    )
    result = STEER.run(bench, options)
    turned = result.tables[0].rows
    assert result.figures["range"] > 1.5 * abs(result.figures["controls_range"]) and result.figures["range"] > 0.3
    assert result.figures["variants"] == 8 and math.isnan(result.figures["text"])
    held_out = [variant for variant in bench.variants if variant.fields["animal"] in ("dog", "fish")]
    logits = torch.stack([record(model, variant.prompt).logits[-1] for variant in held_out])
    assert turned[1][3] == pytest.approx(
        float((logits[:, bench.token(plus)] - logits[:, bench.token(minus)]).mean()), abs=1e-4
    )
    assert turned[1][3] == pytest.approx(turned[1][5], abs=1e-4) and result.figures["range"] == pytest.approx(
        turned[2][3] - turned[0][3]
    )
    up, down = ([row[0] for row in result.tables[1].rows if row[1] == word] for word in (plus, minus))
    outcome = unweave.intervene(
        model, held_out[0].prompt,
        [unweave.scale([f"{name}_*" for name in up], 2.0), unweave.scale([f"{name}_*" for name in down], 0.0)], "open"
    )  # fmt: skip
    assert len(up) == len(down) == 3 and not set(up) & set(down)
    assert float(outcome.logits[-1].softmax(-1)[bench.token(plus)]) <= 1


def test_overlap_counts_common_features(model, study):
    bench = bench_of(model, study([{"accuracy": {}}]))

    def found(name, *sets):
        bench.results[name] = Result(
            {}, "", found=tuple(Found(f"{name}{place}", "p", features) for place, features in enumerate(sets))
        )

    found("one", ("1_2_3", "1_3_3"), ("1_2_9",))
    found("other", ("1_2_4", "2_2_3", "2_5_1"))
    result = OVERLAP.run(bench, Overlap(of=("one", "other")))
    assert result.figures == pytest.approx({"between": (1 / 4 + 1 / 3) / 2, "within": 1 / 2})


def test_where_leaves_the_other_variants_out(model, study):
    found = run_study(study([{"accuracy": {}, "where": {"place": ["sea", "sun"], "animal": "cat"}}]), model)
    assert found.steps[0].result.figures["variants"] == 2
    stopped = run_study(study([{"accuracy": {}, "where": {"place": "home"}}]), model)
    assert stopped.verdict == "fails: step accuracy cannot be run: no variant is left: none has place 'home'"


def test_a_model_that_gets_nothing_right_fails_at_the_first_step_that_needs_it(model, study, rows):
    wrong = [{**row, "answer": "moon"} for row in rows if row["answer"] != "moon"]
    steps = [{"accuracy": {}, "expect": {"right": ">= 0.5"}}, {"swap": {"field": "animal"}}, {"trace": {}}]
    found = run_study(study(steps, variants=wrong), model)
    assert not found.holds and len(found.steps) == 1
    assert "step accuracy: right is 0, wanted >= 0.5" in found.verdict
    assert f"step swap cannot be run: the model answers none of {len(wrong)} variants rightly" in found.verdict


def test_verdicts_go_both_ways():
    figures = {"a": 0.5, "b": float("nan")}
    bounds = {name: Bound.parse(text) for name, text in (("a", ">= 0.5"), ("b", "<= 1"))}
    good, bad = check(figures, {"a": bounds["a"]}), check(figures, bounds)
    assert [one.holds for one in bad] == [True, False]
    step = Step("one", "accuracy", "", Result(figures, ""), good)
    report = StudyReport("s", "t", "q", "", "m", "d", "0" * 64, "1", (step,))
    assert report.holds and report.verdict == "holds: 1 of 1 figures in 1 steps are as wanted"
    failed = replace(report, steps=(replace(step, checks=bad),))
    assert not failed.holds and failed.verdict == "fails: step one: b is not measured, wanted <= 1"
    assert not replace(report, stopped="step two cannot be run").holds
    assert facts(failed)["steps"][0]["figures"] == {"a": 0.5, "b": None}


GOOD = """title: A tiny study
question: Does it work?
prompt: the {animal} is in the
answer: "{place}"
variants:
  - {animal: cat, place: sea}
  - {animal: dog, place: sun}
steps:
  - accuracy: {}
    expect: {right: ">= 0.5"}
  - swap: {field: animal}
"""
MISTAKES = {
    "no title": ("title: A tiny study\n", "", 1, "'title' is missing"),
    "unknown key": ("answer:", "anser:", 4, "unknown key 'anser'; known here: title, question"),
    "no field": ("{animal} is", "{thing} is", 6, "no field 'thing'; the variant has animal, place"),
    "one row": ("animal: dog, ", "", 7, "no field 'animal'; the variant has place"),
    "empty answer": ("place: sun", 'place: ""', 7, "the answer of a variant is empty"),
    "no step": (
        "  - accuracy: {}\n    expect",
        "  - expect",
        9,
        "a step is one protocol, not none; there are: accuracy",
    ),
    "unknown step": ("  - accuracy: {}", "  - precision: {}", 9, "unknown key 'precision'; there are: accuracy"),
    "two steps in one": ("  - accuracy: {}", "  - accuracy: {}\n    trace: {}", 9, "not accuracy and trace"),
    "unknown figure": ("right:", "left:", 10, "accuracy gives no figure 'left'; it gives: right"),
    "not a bound": ('">= 0.5"', "much", 10, "right: 'much' is not a bound"),
    "unknown option": (
        "{field: animal}",
        "{field: animal, dose: 3}",
        11,
        "unknown key 'dose'; known here: field, pairs",
    ),
    "not a number": ("{field: animal}", "{field: animal, pairs: some}", 11, "pairs: 'some' is not a whole number"),
    "mode": (
        "{field: animal}",
        "{field: animal, mode: live}",
        11,
        "mode: 'live' is not one of 'frozen_attention', 'open'",
    ),
    "option's field": ("{field: animal}", "{field: colour}", 11, "no field 'colour'; all variants have: animal, place"),
    "option missing": ("{field: animal}", "{}", 11, "'field' is missing"),
    "no earlier step": (
        "  - swap: {field: animal}",
        "  - trace: {of: swap}",
        11,
        "no earlier step 'swap'; there are: accuracy",
    ),
    "same name": ("  - swap: {field: animal}", "  - accuracy: {}", 11, "two steps are called 'accuracy'"),
    "where": ("  - swap: {field: animal}", "  - swap: {field: animal}\n    where: {size: big}", 12, "no field 'size'"),
    "name": ("  - swap: {field: animal}", "  - swap: {field: animal}\n    name: Swap one", 12, "name: 'Swap one'"),
    "not YAML": ("question: Does", "\tquestion: Does", 2, "not YAML"),
    "tag": ("question: Does it work?", "question: !!python/none x", 2, "has no place in a study file"),
    "too many": ("variants:", "grid: {x: 0..999, y: 0..999}\nvariants:", 5, "2000000 variants are too many"),
    "no variants": (
        "variants:\n  - {animal: cat, place: sea}\n  - {animal: dog, place: sun}\n",
        "",
        1,
        "give 'variants'",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_with_their_line(tmp_path, run, case):
    old, new, line, message = MISTAKES[case]
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(StudyError) as error:
        read_study(path)
    assert f"line {line}: " in str(error.value) and message in str(error.value) and "\n" not in str(error.value)
    code, out, err = run("study", "run", path)
    assert (code, out) == (2, "") and f"line {line}" in " ".join(err.split())


def test_a_good_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    study = read_study(tmp_path / "mine.yaml")
    assert [variant.prompt for variant in study.variants] == ["the cat is in the", "the dog is in the"]
    assert [step.name for step in study.steps] == ["accuracy", "swap"] and study.name == "mine"
    grid = GOOD.replace("variants:\n", "grid: {n: 0..2, m: [4, 5]}\nvariants:\n").replace(
        "prompt: the", "prompt: [the, a]\n#"
    )
    (tmp_path / "grid.yaml").write_text(grid)
    many = read_study(tmp_path / "grid.yaml").variants
    assert len(many) == 2 * 3 * 2 * 2
    assert {variant.fields["wording"] for variant in many} == {"1", "2"} and {
        variant.fields["n"] for variant in many
    } == {"0", "1", "2"}
    with pytest.raises(StudyError, match=r"no study .capital.; there are: .*capitals"):
        find_study("capital")
    with pytest.raises(StudyError, match=r"cannot read study from .*nowhere\.yaml"):
        read_study(find_study(str(tmp_path / "nowhere.yaml")))


STEPS = [
    {"accuracy": {"by": "place"}, "expect": {"right": ">= 0.9"}},
    {"swap": {"field": "animal", "pairs": 2, "draws": 3}, "expect": {"reached": ">= 0.5"}},
    {"trace": {"field": "animal", "of": "swap"}},
    {"trace": {"field": "place"}, "name": "trace-place"},
]


def test_reports_are_the_same_twice_and_whole(model, study, tmp_path):
    plan = study(STEPS)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        reports.check_folder(folder, ["tiny"])
        page = reports.write_report(run_study(plan, model), folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(
        "index.md tiny.md tiny.study.json tiny.claims.yaml tiny.graph.safetensors tiny.2.graph.safetensors "
        "tiny.accuracy.by.svg tiny.swap.layers.svg".split()
    )
    for name in names:
        if name.endswith(".safetensors"):  # the library writes its header in any order
            one, two = (unweave.Graph.load(folder / name) for folder in folders)
            assert one.provenance == two.provenance and torch.equal(one.dense(), two.dense())
        else:
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
        if name.endswith(".svg"):
            ElementTree.parse(folders[0] / name)
            assert f"({name})" in page.read_text()
    text = page.read_text()
    assert (
        "**The study holds: 2 of 2 figures in 4 steps are as wanted.**" in text
        and "| accuracy | right | 1 | ≥ 0.9 | ✓ | share of variants" in text
    )
    found = json.loads((folders[0] / "tiny.study.json").read_text())
    assert found["holds"] and found["graphs"] == ["tiny.graph.safetensors", "tiny.2.graph.safetensors"]
    assert "| [tiny](tiny.md) |" in (folders[0] / "index.md").read_text()
    reports.write_report(run_study(study(STEPS[:1]), model), folders[0])
    assert sorted(path.name for path in folders[0].iterdir()) == [
        "index.md",
        "tiny.accuracy.by.svg",
        "tiny.md",
        "tiny.study.json",
    ]


def test_a_report_that_cannot_be_written_leaves_the_older_one(model, study, tmp_path, monkeypatch):
    folder = reports.check_folder(tmp_path / "out", ["tiny"])
    reports.write_report(run_study(study(STEPS[:1]), model), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    failing = run_study(
        study(
            [{**STEPS[0], "expect": {"right": "<= 0.1"}}],
            variants=[{"animal": "cat", "place": "sea", "answer": "moon"}],
        ),
        model,
    )

    def full(*_):
        raise FileError("cannot write: no space left on device")

    monkeypatch.setattr(reports, "draw", full)
    with pytest.raises(FileError):
        reports.write_report(failing, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        reports.check_folder(tmp_path / "file", ["tiny"])
    (folder / "other.study.json").write_text("[]")
    with pytest.raises(FileError, match=r"other.study.json is not a study's report"):
        reports.index_of(folder)


@pytest.mark.parametrize("kind", ["bars", "lines", "heat"])
def test_plots_of_any_text(tmp_path, kind):
    data = {
        "bars": {
            "labels": ["$x$", "a\nb"],
            "series": {"<&>": [1.0, 2.0], "$": [0.0, -1.0]},
            "ylabel": "$",
            "line": 1.0,
        },
        "lines": {"x": [0, 1], "series": {"☃": [1.0, float("nan")]}, "ylim": [0, 2]},
        "heat": {
            "panels": [{"title": "$_{", "values": [[0.0, 1.0]]}] * 7,
            "rows": [1],
            "columns": [3, 4],
            "xlabel": "<b>",
        },
    }[kind]
    from unweave.studies.plots import draw

    ElementTree.parse(draw(Plot("x", kind, "$title <b> ☃", data), tmp_path / "x.svg"))


def test_the_page_shows_what_a_study_found(model, study, tmp_path):
    found = run_study(study(STEPS), model)
    reports.write_report(found, reports.check_folder(tmp_path / "out", ["tiny"]))
    page = page_of(tmp_path / "out")
    listed = {entry["slug"]: entry for entry in page.get("/api/graphs").json()["graphs"]}
    assert set(listed) == {"tiny", "tiny.2"}
    prompts = [graph.prompt for step in found.steps for graph in step.result.graphs]
    assert listed["tiny"]["title"] == f"tiny (holds): {prompts[0]}" and listed["tiny"]["prompt"] == prompts[0]
    annotations = page.get("/api/graphs/tiny/annotations").json()["annotations"]
    assert "The study holds: 2 of 2" in annotations["notes"]
    groups = {one.name: one.features for one in found.steps[1].result.found if one.prompt == prompts[0]}
    present = {
        name: [feature for feature in features if feature in found.steps[2].result.graphs[0].nodes.rows]
        for name, features in groups.items()
    }
    assert {group["name"]: group["members"] for group in annotations.get("supernodes", [])} == {
        name: part for name, part in present.items() if part
    }


def test_the_command_line(run, tmp_path, folders, rows):
    model = ["--model", folders[0], "--transcoders", folders[1]]
    path = write_study(tmp_path / "mine.yaml", prompt="the {animal} is in the {place} and", variants=rows, steps=STEPS)
    code, out, err = run("study", "run", path, *model, "--report", tmp_path / "out", "--json")
    said = json.loads(out)
    assert (code, err.strip()) == (0, "") and said["holds"] and said["studies"][0]["study"] == "mine"
    assert (tmp_path / "out" / "mine.md").exists()
    code, out, err = run("study", "run", path, *model, "--only", "accuracy")
    assert code == 0 and "holds: 1 of 1 figures" in out
    bad = write_study(
        tmp_path / "bad.yaml",
        prompt="the {animal} is in the {place} and",
        variants=rows,
        steps=[{"accuracy": {}, "expect": {"right": "<= 0.5"}}],
    )
    code, out, err = run("study", "run", path, bad, *model, "--only", "accuracy")
    assert code == 1 and "fails: step accuracy: right is 1, wanted <= 0.5" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give the names of studies, or --all"),
        (("capitals", "--all"), "give names or --all, not both"),
        (("capitals", "--only", "swap", "--report", "x"), "leave one of them out"),
        (("capitals", "--only", "prove"), "--only prove: capitals has the steps accuracy, swap"),
        (("nothing",), "no study 'nothing'; there are:"),
        (("--all", "--model", "gpt5"), "no study is meant for gpt5"),
        (("dallas",), "dallas is meant for google/gemma-2-2b, which cannot be loaded here"),
    ],
)
def test_what_cannot_be_run_is_one_line(run, words, message):
    code, out, err = run("study", "run", *words)
    assert (code, out) == (2, "") and message in " ".join(err.split()) and "Traceback" not in err


def test_the_list(run):
    code, out, _ = run("study", "list")
    assert code == 0 and all(name in out for name in shipped())
    code, out, _ = run("study", "list", "--json")
    listed = {study["name"]: study for study in json.loads(out)["studies"]}
    assert listed["capitals"]["meant_for"] == ["smollm2"] and listed["capitals"]["variants"] >= 30


def test_studies_that_ship_are_no_lucky_prompts():
    for name, path in shipped().items():
        study = read_study(path)
        assert study.meant_for and study.source and study.question.endswith("?"), name
        if study.meant_for == ("smollm2",):
            assert len(study.variants) >= 30, name
            assert study.steps[0].protocol == "accuracy" and study.steps[0].expect, name
            figures = [figure for step in study.steps for figure in step.expect if step.protocol != "accuracy"]
            assert not figures or any("controls" in figure or "random" in figure for figure in figures), name
        assert not any(word in yaml.safe_load(path.read_text()) for word in ("features", "supernodes")), name


PAPERS = [
    name
    for name, path in shipped().items()
    if set(read_study(path).meant_for) & {"gemma", "llama", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b"}
]


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_prompts_run_on_a_tiny_model(name, tmp_path):
    """With the tiny model's own answers for the right ones the steps can be run; with wrong ones the study fails and
    says where."""
    study = replace(read_study(find_study(name)), chat=False, system=None)
    model = load(write_worded_model(tmp_path / "model", words_of(study), seed=1))
    steps = tuple(
        replace(step, options=step.options.model_copy(update=LIGHT.get(step.protocol, {}))) for step in study.steps
    )
    found = run_study(replace(answered(study, model), steps=steps), model)
    names = [step.name for step in study.steps]
    assert [step.name for step in found.steps] == names[: len(found.steps)]
    assert len(found.steps) == len(names) or "no two differ in" in found.stopped, (
        found.stopped
    )  # a tiny model may say one word to all
    for step in found.steps:
        assert set(step.result.figures) == set(PROTOCOLS[step.protocol].figures)
    wrong = replace(
        study, variants=tuple(replace(variant, answer="<unk>", foil=None) for variant in study.variants), steps=steps
    )
    assert "fails: step accuracy: right is 0" in run_study(wrong, model).verdict


LIGHT = {
    "swap": {"pairs": 1, "draws": 2, "max_features": 3}, "ablate": {"prompts": 1, "draws": 2, "max_features": 3},
    "trace": {"prompts": 1},
    "operand_map": {"prompts": 3, "draws": 2}, "contrast": {"pairs": 2, "draws": 2, "most": 40},
}  # fmt: skip


def test_all_words_are_one_token_each(model):
    assert all(len(model.language_model.tokenize(word)) == 2 for word in WORDS)


@pytest.mark.real
def test_capitals_of_smollm2(smollm2, tmp_path):
    """The study that ships, with fewer variants and one pair, end to end."""
    whole = read_study(find_study("capitals"))
    few = tuple(variant for variant in whole.variants if variant.fields["country"] in ("France", "Italy", "Egypt"))
    steps = tuple(
        replace(step, options=step.options.model_copy(update=LIGHT.get(step.protocol, {})))
        for step in whole.steps
        if step.name in ("accuracy", "swap")
    )
    found = run_study(replace(whole, variants=few, steps=steps), smollm2)
    assert found.holds, found.verdict
    assert found.steps[0].result.figures["right"] == pytest.approx(2 / 3)
    reports.write_report(found, tmp_path)
    assert all(verdict.holds for verdict in check_claims(read_claims(tmp_path / "capitals.claims.yaml"), smollm2))


def test_the_documentation_names_all_there_is():
    docs = Path(__file__).parents[1] / "docs"
    text = (docs / "studies.md").read_text()
    for name, protocol in PROTOCOLS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        whole = row + next(line for line in text.splitlines() if line.startswith("| `swap`")) * (name == "ablate")
        assert all(f"`{word}`" in whole for word in [*protocol.options.model_fields, *protocol.figures]), name
    page = (docs / "cli.md").read_text()
    section = page.split("## unweave study run")[1].split("\n## ")[0]
    assert all(
        f"`{option}`" in section
        for option in ("--all", "--model", "--only", "--report", "--transcoders", "--device", "--json")
    )
