"""Studies by contrast: units that turn an answer against independent hooks, sets apart, what survives, cards."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from studying import likeliest, load, write_study, write_worded_model
from typer.testing import CliRunner

import unweave
from unweave.cli.main import app
from unweave.errors import OptionError, StudyError
from unweave.studies import report as reports
from unweave.studies.bench import Bench
from unweave.studies.contrast import RECURRING, pairs_of, strengths, units_between
from unweave.studies.results import Found, Result, Step, StepCheck, StudyReport
from unweave.studies.run import run_study
from unweave.studies.stability import AXES, Finding, Repeat, Stability, counterpart, repeat_study, told
from unweave.studies.stabilitycard import grade, stability_card
from unweave.studies.studyfile import find_study, read_study, shipped
from unweave.studies.turning import Norms, fewest, random_sets, random_units, without_spare

ANIMALS, PLACES = "cat dog bird fish tree".split(), "sea sky moon sun".split()
NEURONS = {"contrast": {"field": "animal", "pairs": 3, "most": 20, "draws": 4, "carry": 8}, "name": "neurons"}
FEATURES = {**NEURONS, "contrast": {**NEURONS["contrast"], "units": "features", "most": 8}, "name": "features"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_worded_model(tmp_path_factory.mktemp("contrast") / "model")


@pytest.fixture(scope="module")
def model(folders):
    return load(folders)


@pytest.fixture(scope="module")
def rows(model):
    return [
        {"animal": a, "place": p, "answer": likeliest(model, f"the {a} is in the {p} and")}
        for a in ANIMALS
        for p in PLACES
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("files")

    def write(steps, name="tiny", **more):
        content = {"prompt": "the {animal} is in the {place} and", "variants": rows, "steps": steps} | more
        return read_study(write_study(folder / f"{name}.yaml", **content))

    return write


@pytest.fixture(scope="module")
def bench(model, study):
    return Bench(model, study([{"accuracy": {}}]).variants)


def in_the_model(model, here: str, there: str, ids: tuple[str, ...]) -> torch.Tensor:
    """The logits of a prompt with neurons at their values in another, by hooks of this test alone."""
    own = model.language_model
    seen: list[torch.Tensor] = []
    downs = [block.mlp.down_proj for block in own.module.model.layers]
    handles = [down.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone())) for down in downs]
    with torch.no_grad():
        own.module(own.tokenize(there)[None])
    for handle in handles:
        handle.remove()

    def put(layer: int, h: torch.Tensor) -> torch.Tensor:
        h = h.clone()
        for name in ids:
            at, index, position = map(int, name.split("_"))
            if at == layer:
                h[0, position, index] = seen[layer][0, position, index]
        return h

    handles = [
        down.register_forward_pre_hook(lambda module, args, layer=layer: (put(layer, args[0]),))
        for layer, down in enumerate(downs)
    ]
    with torch.no_grad():
        logits = own.module(own.tokenize(here)[None]).logits[0, -1]
    for handle in handles:
        handle.remove()
    return logits


def test_neurons_found_turn_the_answer_in_the_model(model, study):
    found = run_study(study([NEURONS]), model).steps[0].result
    assert found.figures["turned"] > 0 and len(found.found) == found.figures["turned"] * found.figures["pairs"]
    for one in found.found:
        row = next(row for row in found.tables[0].rows if row[0] == one.prompt)
        _, there, answer, other, ranked, needed = row[:6]
        assert one.units == "neurons" and len(one.features) == needed <= ranked <= 20
        tokens = [
            model.language_model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (answer, other)
        ]
        logits = in_the_model(model, one.prompt, str(there), one.features)
        assert logits[tokens[1]] > logits[tokens[0]]
        assert float(logits.softmax(-1)[tokens[1]]) == pytest.approx(row[10], rel=1e-4)
        for left_out in one.features if len(one.features) > 1 else ():
            rest = tuple(name for name in one.features if name != left_out)
            logits = in_the_model(model, one.prompt, str(there), rest)
            assert logits[tokens[1]] < logits[tokens[0]]


@pytest.mark.parametrize("step", [NEURONS, FEATURES])
def test_figures_are_those_of_the_rows(model, study, step):
    result = run_study(study([step]), model).steps[0].result
    figures, rows = result.figures, result.tables[0].rows
    assert set(figures) == set(unweave.studies.protocols.PROTOCOLS["contrast"].figures)
    assert figures["pairs"] == len(rows) and figures["right"] == 1
    assert figures["turned"] == sum(row[5] is not None for row in rows) / len(rows)
    assert figures["without"] == sum(row[9] == "yes" for row in rows) / len(rows)
    assert figures["mediated"] >= 0 and not figures["at_last"] > 1 and figures["whole"] in (0, 1 / 3, 2 / 3, 1)
    assert sum(result.plots[0].data["series"][step["contrast"].get("units", "neurons")]) == sum(
        row[5] or 0 for row in rows
    )
    assert {name for name in figures if figures[name] != figures[name]} >= {"like", "like_random"}


def test_pairs_differ_in_the_field_alone(bench):
    pairs = pairs_of(bench, "animal", (), 50)
    assert len(pairs) > 5
    assert all(a.fields["place"] == b.fields["place"] and a.fields["animal"] != b.fields["animal"] for a, b in pairs)
    assert all(a.answer != b.answer for a, b in pairs)
    assert {here.fields["animal"] for here, _ in pairs_of(bench, "animal", (), 50, "dog")} == {"dog"}
    assert any(a.fields["place"] != b.fields["place"] for a, b in pairs_of(bench, "animal", ("answer_like",), 50))
    with pytest.raises(StudyError, match="fewer than two"):
        pairs_of(bench, "animal", ("answer",), 5)


@pytest.mark.parametrize("units", ["neurons", "features"])
def test_random_sets_are_of_the_same_layers_and_never_of_the_set(bench, units):
    here, there = pairs_of(bench, "animal", (), 4)[0]
    norms = Norms(bench.model, units)
    one = units_between(bench, here, there, units, 8, norms)
    places = one.ranked[:4]
    for drawn in random_sets(one, places, 5, 0):
        assert not set(drawn.tolist()) & set(places.tolist()) and len(set(drawn.tolist())) == len(drawn) <= len(places)
        assert set(one.layer[drawn].tolist()) <= set(one.layer[places].tolist())
    assert one.at(one.ids(places)).tolist() == sorted(places.tolist())
    assert set(one.units(one.everywhere(one.units(places)))) == set(one.units(places))
    assert len(one.everything_but(places)) == len(one.layer) - len(places)


def test_random_neurons_write_about_as_much(bench):
    here, there = pairs_of(bench, "animal", (), 4)[0]
    one = units_between(bench, here, there, "neurons", 8, Norms(bench.model, "neurons"))
    place = one.ranked[:1]
    same = (one.layer == one.layer[place]) & (one.position == one.position[place])
    away = (one.moved[same] - one.moved[place]).abs().sort().values
    for drawn in random_sets(one, place, 10, 1):
        assert (one.moved[drawn] - one.moved[place]).abs() <= away[20]
        assert one.position[drawn] == one.position[place]


def test_the_fewest_turn_and_nothing_spare_is_left(bench):
    tried = 0
    for here, there in pairs_of(bench, "animal", (), 6):
        one = units_between(bench, here, there, "neurons", 20, Norms(bench.model, "neurons"))
        places = fewest(one)
        if places is None:
            continue
        tried += 1
        assert one.turns([places]) == [True]
        assert places.tolist() == one.ranked[: len(places)].tolist()
        left = without_spare(one, places)
        assert one.turns([left]) == [True] and set(left.tolist()) <= set(places.tolist())
        smaller = [torch.cat([left[:at], left[at + 1 :]]) for at in range(len(left))] if len(left) > 1 else []
        assert not any(one.turns(smaller))
    assert tried


@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 5)), min_size=1), st.integers(0, 5))
def test_random_units_are_of_the_same_layers(units, seed):
    drawn = random_units(sorted(units), [6, 6, 6], seed)
    assert not set(drawn) & units and drawn == random_units(sorted(units), [6, 6, 6], seed)
    for layer in range(3):
        mine = sum(at == layer for at, _ in units)
        assert sum(at == layer for at, _ in drawn) == min(mine, 6 - mine)


def test_units_of_another_step_are_swapped(model, study):
    steps = [NEURONS, {**NEURONS, "contrast": {**NEURONS["contrast"], "like": "neurons"}, "name": "again"}]
    found = run_study(study(steps), model)
    assert 0 <= found.steps[1].result.figures["like"] <= 1
    table = next(one for one in found.steps[0].result.tables if one.title == RECURRING)
    shares = [row[2] for row in table.rows]
    assert shares == sorted(shares, reverse=True) and all(0 < row[3] <= 3 for row in table.rows)
    wrong = [{"accuracy": {}}, {"contrast": {"field": "animal", "like": "accuracy"}}]
    assert "has no units to swap" in run_study(study(wrong), model).stopped


def test_strengths_are_means_over_pairs(bench):
    pairs = pairs_of(bench, "animal", (), 2)
    both = [units_between(bench, *pair, "neurons", 5, Norms(bench.model, "neurons")) for pair in pairs]
    found = {unit: (share, count) for unit, share, count in strengths(both)}
    for unit, (share, count) in found.items():
        shares = [sum(float(s) for p, s in zip(one.ranked, one.support, strict=True) if one.units(p[None]) == [unit])
                  for one in both]  # fmt: skip
        assert share == pytest.approx(sum(shares) / 2, rel=1e-5) and count == sum(bool(value) for value in shares)


def test_sets_for_two_things_are_told_apart(model, study, rows):
    """On a random model nothing is promised, but what is counted adds up."""
    found = run_study(study([{"apart": {"fields": ["animal", "place"], "fours": 4, "most": 20}}]), model)
    if found.stopped:
        assert "no four variants" in found.stopped
        return
    result = found.steps[0].result
    counts = {row[0]: row[1:] for row in result.tables[0].rows}
    n = round(result.figures["found"] * result.figures["fours"])
    assert all(sum(row) == n for row in counts.values())
    if n:
        assert counts["animal"][1] / n == result.figures["first_alone"]
        assert counts["both"][3] / n == result.figures["together"]


def test_a_study_may_use_the_variants_of_another(tmp_path, rows):
    write_study(
        tmp_path / "one.yaml", prompt="the {animal} is in the {place} and", variants=rows, steps=[{"accuracy": {}}]
    )
    two = {"variants_of": str(tmp_path / "one.yaml"), "steps": [{"contrast": {"field": "place"}}]}
    found = read_study(write_study(tmp_path / "two.yaml", **two, rephrased=["a {animal} in the {place}"]))
    assert found.variants == read_study(tmp_path / "one.yaml").variants and found.rephrased == (
        "a {animal} in the {place}",
    )
    for more, message in (
        ({"prompt": "x"}, "'prompt' is given by"),
        ({"variants_of": "no-such-study"}, "no study 'no-such-study'"),
        ({"variants_of": str(tmp_path / "two.yaml")}, "has no variants of its own"),
    ):
        with pytest.raises(StudyError, match=message):
            read_study(write_study(tmp_path / "wrong.yaml", **{**two, **more}))
    with pytest.raises(StudyError, match="give a 'prompt'"):
        read_study(write_study(tmp_path / "wrong.yaml", variants=rows, steps=[{"accuracy": {}}]))


@pytest.mark.parametrize("name", [name for name in shipped() if "units" in name] + ["agreement", "induction"])
def test_the_studies_by_contrast_can_be_read(name):
    study = read_study(find_study(name))
    bounds = {plan.name: {key: bound.text for key, bound in plan.expect.items()} for plan in study.steps}
    same = {"turned": ">= 0.8", "random": "<= 0.05", "carried": ">= 0.5", "carried_random": "<= 0.1"}
    kinds = [plan for plan in study.steps if plan.protocol == "contrast"]
    assert kinds and all(bounds[plan.name] == same for plan in kinds)
    assert {getattr(plan.options, "units", None) for plan in kinds} >= {"neurons", "features"}


def test_what_survives(model, study, folders, tmp_path):
    expect = {"turned": ">= 0", "random": "<= 1"}
    steps = [
        {"accuracy": {}, "expect": {"right": ">= 0.9"}},
        {**NEURONS, "expect": expect},
        {**FEATURES, "expect": {"turned": ">= 2"}},
    ]
    one = study(steps, rephrased=["the {animal} is in the {place} and"])
    found = repeat_study(one, model, seeds=1, others=[model])
    assert [(repeat.axis, len(repeat.report.steps)) for repeat in found.repeats] == [
        ("wordings", 3), ("seeds", 3), ("dictionaries", 2),
    ]  # fmt: skip
    by = {(finding.step, finding.first.figure): finding for finding in found.findings}
    assert by["neurons", "random"].survives is False  # the features' step does not ask it
    assert not by["features", "turned"].survives and by["features", "turned"].held("dictionaries") == "0 of 1"
    assert by["neurons", "turned"].held("dictionaries") == "not repeated"
    assert by["neurons", "turned"].held("seeds") == "1 of 1" and by["neurons", "turned"].held("units") == "0 of 1"
    assert counterpart(one, "neurons") == "features" and counterpart(one, "accuracy") is None
    page = reports.write_stability(found, tmp_path).read_text()
    assert page.index("Which findings survive") < page.index("| step | figure | measured | wanted |  | meaning |")
    assert told(found) in page
    facts = json.loads((tmp_path / "tiny.stability.json").read_text())
    assert [one["survives"] for one in facts["findings"]] == [one.survives for one in found.findings]
    card = json.loads((tmp_path / "tiny.neurons.card.json").read_text())
    assert card["claim"]["universe_size"] == sum(Norms(model, "neurons").widths)


def planted(verdicts: list[bool], sets: list[list[str]], study) -> Stability:
    """Runs with these verdicts and sets."""

    def report(holds: bool, features: list[str]) -> StudyReport:
        check = StepCheck("turned", float(holds), ">= 0.5", holds)
        found = (Found("one", "p", tuple(features), "neurons"),)
        step = Step("neurons", "contrast", "", Result({"turned": float(holds)}, "", found=found), (check,))
        return StudyReport("s", "S", "?", "", "m", "d", "0" * 64, "1", (step,))

    runs = [report(*pair) for pair in zip(verdicts, sets, strict=True)]
    repeats = tuple(Repeat("seeds", f"seed {n}", run) for n, run in enumerate(runs[1:], 1))
    return Stability(study, runs[0], repeats, {"neurons": 100, "features": 10})


def test_a_card_is_graded_as_stresskit_grades(study):
    plan = study([NEURONS])
    same = stability_card(planted([True] * 3, [["1_2_3", "1_4_3"]] * 3, plan), "neurons")
    assert same["verdict"]["grade"] == "A" and same["metrics"]["pooled"]["mean_pairwise_jaccard"] == 1
    assert set(same) >= {"schema_version", "stresskit_version", "created_at", "claim", "battery", "metrics", "verdict",
                         "provenance"}  # fmt: skip
    assert [check["state"] for check in same["verdict"]["checks"].values()] == ["inconclusive"] * 4
    other = stability_card(planted([True, False, True], [["1_2_3"], ["1_3_3"], ["1_4_3"]], plan), "neurons")
    pooled = other["metrics"]["pooled"]
    assert other["verdict"]["grade"] == "D" and pooled["mean_pairwise_jaccard"] == 0
    assert pooled["modal_share"] == pytest.approx(2 / 3) and pooled["flip_rate"] == pytest.approx(2 / 3)
    assert pooled["expected_random_jaccard"] == pytest.approx(1 / 199)
    assert [run["components"] for run in other["runs"]] == [["1_2"], ["1_3"], ["1_4"]]
    half = stability_card(planted([True, True], [["1_2_3", "1_3_3"], ["1_2_9", "1_5_3"]], plan), "neurons")
    assert half["verdict"]["grade"] == "B"  # sets agree by a third, above chance; verdict and figure are the same
    with pytest.raises(OptionError, match="no step 'x'"):
        stability_card(planted([True], [[]], plan), "x")


@given(st.dictionaries(st.sampled_from("abcd"), st.booleans()))
def test_more_checks_passed_never_lower_a_grade(passed):
    checks = {name: {"passed": yes, "value": 1.0} for name, yes in passed.items()}
    for name in checks:
        better = {**checks, name: {"passed": True, "value": 1.0}}
        assert grade(better) <= grade(checks)


def test_a_finding_that_could_not_be_measured_again_does_not_survive():
    check = StepCheck("turned", 1.0, ">= 0.5", True)
    assert Finding("s", check, (("seeds", "seed 1", check),)).survives
    lost = Finding("s", check, (("seeds", "seed 1", check), ("seeds", "seed 2", None)))
    assert not lost.survives and lost.held("seeds") == "1 of 2"
    assert [lost.held(axis) for axis in AXES if axis != "seeds"] == ["not repeated"] * 3


def test_the_command_repeats_a_study(folders, tmp_path, rows):
    steps = [{**NEURONS, "expect": {"turned": ">= 0"}}]
    path = write_study(tmp_path / "mine.yaml", prompt="the {animal} is in the {place} and", variants=rows, steps=steps)
    arguments = ["study", "repeat", str(path), "-m", str(folders[0]), "-t", str(folders[1]), "--seeds", "1"]
    shown = CliRunner().invoke(app, [*arguments, "--dictionary", "neurons", "--report", str(tmp_path / "out")])
    assert shown.exit_code == 0, shown.output
    assert "1 of 1 findings survive" in shown.output and (tmp_path / "out" / "mine.neurons.card.json").exists()
    as_json = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(as_json.stdout)["findings"][0]["survives"] is True


def test_neurons_are_in_no_claim_or_graph_of_features(model, study, tmp_path):
    found = run_study(study([NEURONS, {"trace": {"prompts": 1}}]), model)
    reports.write_report(found, tmp_path)
    assert not (tmp_path / "tiny.claims.yaml").exists()
    graph = unweave.Graph.load(tmp_path / "tiny.graph.safetensors")
    assert graph.provenance.extra["qParams"]["supernodes"] == []
    assert replace(found, seconds=0.0).holds
