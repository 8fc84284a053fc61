"""The benchmark: models compute by the circuits they are said to have, scores are right, files need no torch."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import jsonschema
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.benchmark import dictionaries, interchange_training
from unweave.benchmark import known as known_
from unweave.benchmark.compiler import compile_program
from unweave.benchmark.data import TARGET, KnownInput, before, read_circuit, write_circuit
from unweave.benchmark.faithfulness import faithfulness
from unweave.benchmark.feature_methods import feature_methods
from unweave.benchmark.interchange_training import held_out
from unweave.benchmark.known import (
    ALL_TASKS,
    interchange_accuracy,
    known_circuit,
    known_model,
    rest_accuracy,
    trained_model,
)
from unweave.benchmark.methods import METHODS
from unweave.benchmark.program import Program, lookup
from unweave.benchmark.question import BenchmarkQuestion
from unweave.benchmark.run import SURE, heads_of, run_benchmark
from unweave.benchmark.score import CircuitScores, auroc, average_precision, read_found, score_circuit, spearman
from unweave.benchmark.tasks import TASKS
from unweave.errors import FileError, OptionError
from unweave.graphs import limits
from unweave.graphs.provenance import Provenance
from unweave.transcoders.neurons import neurons
from unweave.transcoders.replacement import ReplacementModel
from unweave.validation import statistics

WIRING = {
    "two-hop": {
        ("token", "city"), ("city", "city at the end"), ("city at the end", "answer"), ("answer", TARGET)},
    "induction": {("token", "previous"), ("previous", "answer"), ("token", "answer"), ("answer", TARGET)},
    "count": {("token", "is x"), ("is x", "count"), ("count", TARGET)},
    "modular-sum": {("token", "pair"), ("pair", "sum"), ("sum", TARGET)},
    "largest": {("token", "at least"), ("at least", "largest"), ("largest", TARGET)},
    "two-routes": {
        ("token", "one way"), ("token", "other way"), ("one way", "known"), ("other way", "known"), ("known", TARGET)},
    "brackets": {
        ("token", "opens"), ("token", "closes"), ("opens", "depth"), ("closes", "depth"), ("depth", TARGET)},
    "sort-three": {
        ("token", "at least"), ("token", "asked for"), ("at least", "sorted"), ("asked for", "sorted"),
        ("sorted", TARGET)},
    "indirect-object": {("token", "repeated"), ("repeated", "subject"), ("subject", "answer"), ("answer", TARGET)},
}  # fmt: skip
"""Which variables the programs say may act on which."""


@pytest.fixture(scope="module")
def made():
    """Models and circuits by task, compiled once."""
    found = {}

    def get(task, seed=0):
        if (task, seed) not in found:
            model = known_model(task, seed)
            found[task, seed] = model, known_circuit(model, 1 if seed else 12 if task == "sort-three" else 4)
        return found[task, seed]

    return get


def variable_of(known, node):
    if node == TARGET or node.startswith("E_"):
        return TARGET if node == TARGET else "token"
    place = tuple(map(int, node.split("_")[:2]))
    pairs = zip(known.program.neurons, known.places.neurons, strict=True)
    return next(part.variable for part, at in pairs if at == place).rstrip(" 0123456789")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("task", TASKS)
def test_models_compute_by_their_circuits(made, task, seed):
    _, circuit = made(task, seed)
    assert circuit.accuracy >= SURE
    assert {one.name: one.interchange for one in circuit.variables if one.interchange < SURE} == {}


@pytest.mark.parametrize("task", [task for task in ALL_TASKS if task not in TASKS])
def test_trained_models_compute_by_the_neurons_that_were_chosen_before(made, task):
    model, circuit = made(task)
    assert circuit.accuracy >= SURE
    assert {one.name: one.interchange for one in circuit.variables if one.interchange < SURE} == {}
    for one in circuit.inputs:
        assert set(one.nodes) <= set(one.candidates) and len(one.scored_nodes()) > 3 * len(one.nodes)
    first = circuit.inputs[0]
    words = [tuple(model.program.tokens[token] for token in ids) for ids in (first.prompt, first.instead)]
    assert held_out(*words) or held_out(*words[::-1])


def test_what_ships_is_small():
    files = [path for path in known_.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000_000
    assert len([path for path in files if path.name.endswith("-trained-0.safetensors")]) >= 7


def test_a_training_is_the_same_again_and_begins_with_nothing_known():
    task = TASKS["modular-sum"]()
    first, again, other = (interchange_training.train(task, seed, steps=2) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])
    known = trained_model(task, 0, first)
    assert interchange_accuracy(known, task.variables[0], 32) < 0.9


def test_training_leaves_pairs_out():
    task = TASKS["two-hop"]()
    program, places = interchange_training.placed(task, 0)
    cases = interchange_training._cases(task, program, places, 0)
    pairs = [tuple(tuple(program.tokens[token] for token in ids) for ids in pair)
             for pair in zip(cases.base[:200].tolist(), cases.source[:200].tolist(), strict=True)]  # fmt: skip
    assert not any(held_out(*pair) for pair in pairs)
    random = Random(0)
    assert 20 < sum(held_out(task.draw(random), task.draw(random)) for _ in range(200)) < 60


@pytest.mark.parametrize("task", TASKS)
def test_edges_are_the_programs_wiring(made, task):
    model, circuit = made(task)
    seen = {tuple(variable_of(model, node) for node in edge) for one in circuit.inputs for edge in one.edges}
    assert seen == WIRING[task]


@pytest.mark.parametrize("task", TASKS)
def test_a_circuit_lies_among_active_candidates_most_of_which_are_distractors(made, task):
    _, circuit = made(task)
    for one in circuit.inputs:
        assert set(one.nodes) <= set(one.candidates) - set(one.either)
        assert len(one.scored_nodes()) > 6 * len(one.nodes)
        assert {node for edge in one.edges for node in edge} <= {*one.nodes, *one.sources, TARGET}
        assert set(one.edges) <= set(one.scored_edges())
        assert one.heads


def test_distractors_are_as_active_as_the_program(made):
    model, circuit = made("two-hop")
    values = known_.run(model.model, [one.prompt for one in circuit.inputs[:1]]).neurons[0]
    program = set(model.places.neurons)
    mine = [float(values[layer, :, index].max()) for layer, index in program]
    others = [float(value) for layer, at, index in (values > 0.5).nonzero().tolist() if (layer, index) not in program
              for value in [values[layer, at, index]]]  # fmt: skip
    assert len(others) > 20 and max(others) > max(mine)


def test_a_broken_circuit_fails_the_interchange_check(made):
    model, _ = made("two-hop")
    city = model.task.variables[0]
    wrong = replace(city, carried_by="answer")
    assert interchange_accuracy(model, wrong, 32) < 0.9


def test_seeds_decide_everything_and_differ():
    program = TASKS["count"]().program
    first, again, other = compile_program(program, 1), compile_program(program, 1), compile_program(program, 2)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert first.places == again.places != other.places


@pytest.mark.parametrize("task", TASKS)
def test_causal_models_answer_their_own_prompts(task):
    one, random = TASKS[task](), Random(0)
    for _ in range(50):
        tokens = one.draw(random)
        values = one.solve(tokens, {})
        assert len(tokens) == one.program.length and values["answer"] in one.program.tokens
        for variable in one.variables:  # putting a variable to its own value changes nothing
            assert one.solve(tokens, {variable.name: values[variable.name]}) == values


def test_programs_too_large_are_refused():
    many = tuple(lookup(0, "x", ["token a"], {"say a": 1.0}) for _ in range(41))
    with pytest.raises(OptionError, match="more than 40 neurons"):
        compile_program(Program(("BOS", "a"), 2, many, ()), 0)
    one = (lookup(0, "x", [f"direction {i}" for i in range(130)], {"say a": 1.0}),)
    with pytest.raises(OptionError, match="directions"):
        compile_program(Program(("BOS", "a"), 2, one, ()), 0)


def question(model, circuit, one):
    return BenchmarkQuestion(
        ReplacementModel(model.model, neurons(model.model)), one.prompt, one.instead, one.answer, one.rival,
        one.candidates, one.sources, heads_of(circuit, one),
    )  # fmt: skip


def test_patching_gives_the_measured_effects(made):
    model, circuit = made("induction")
    for one in circuit.inputs[:2]:
        found = METHODS["activation-patching"](question(model, circuit, one))
        assert found.nodes == pytest.approx(one.effects, abs=1e-9)


def test_response_graphs_and_attribution_patching_are_one_first_order_effect(made):
    model, circuit = made("two-hop")
    one = question(model, circuit, circuit.inputs[0])
    graph, slopes = (METHODS[name](one).nodes for name in ("response", "attribution-patching"))
    for name in one.neurons:
        assert graph.get(name, 0.0) == pytest.approx(slopes[name], abs=1e-4)


def test_edges_of_gradients_are_those_of_the_response_graph(made):
    model, circuit = made("induction")
    one = question(model, circuit, circuit.inputs[0])
    graph, slopes = (METHODS[name](one).edges for name in ("response", "attribution-patching"))
    assert max(map(abs, graph.values())) > 0.5
    for pair, value in slopes.items():
        assert graph.get(pair, 0.0) == pytest.approx(value, abs=1e-4)


def test_relp_holds_what_attribution_graphs_hold(made):
    model, circuit = made("two-hop")
    one = question(model, circuit, circuit.inputs[0])
    graph, slopes = (METHODS[name](one) for name in ("attribution-contrast", "relp"))
    for name in one.neurons:
        assert graph.nodes.get(name, 0.0) == pytest.approx(slopes.nodes[name], abs=1e-4)
    for pair, value in slopes.edges.items():
        if not pair[0].startswith("E_"):  # there the graph counts a whole token, not what differs
            assert graph.edges.get(pair, 0.0) == pytest.approx(value, abs=1e-4)
    before = known_.run(model.model, [one.prompt]).logits
    METHODS["relp"](one)
    assert torch.equal(known_.run(model.model, [one.prompt]).logits, before)  # its hooks are gone


def test_the_true_circuit_carries_the_answer_and_its_opposite_does_not(made):
    model, circuit = made("two-hop")
    one = circuit.inputs[0]
    right = faithfulness(model.model, one, dict.fromkeys(one.nodes, 1.0))
    wrong = faithfulness(model.model, one, {name: 1.0 for name in one.scored_nodes() if name not in one.nodes})
    assert right["cpr"] > 0.9 and right["cmd"] < 0.1
    assert wrong["cpr"] < 0.5 and wrong["cmd"] > 0.5


def test_taking_over_a_variable_is_not_taking_over_the_rest(made):
    model, circuit = made("two-hop")
    assert circuit.rest == rest_accuracy(model, 100) >= SURE
    hidden = replace(model, task=replace(model.task, variables=model.task.variables[:1]))
    assert rest_accuracy(hidden, 32) < 0.9


def test_integrated_gradients_point_the_way_of_the_change(made):
    model, circuit = made("modular-sum")
    one = circuit.inputs[0]
    found = METHODS["integrated-gradients"](question(model, circuit, one))
    values = [known_.run(model.model, [ids]).logits[0] for ids in (one.prompt, one.instead)]
    change = float((values[1] - values[0])[one.answer] - (values[1] - values[0])[one.rival])
    middle = sum(found.nodes[node] for node in one.mediators["pair"])
    assert math.copysign(1, middle) == math.copysign(1, change)
    assert change < -1


def test_frozen_patterns_hide_the_key_of_induction_and_live_ones_do_not(made):
    model, circuit = made("induction")
    keyed = [one for one in circuit.inputs if "previous" in one.mediators]
    assert keyed
    for one in keyed:
        asked = question(model, circuit, one)
        frozen, live = (score_circuit(one, METHODS[name](asked)) for name in ("attribution-contrast", "response"))
        assert frozen["mediators"] == 0.0 and live["mediators"] == 1.0


def test_a_run_and_its_figures(tmp_path):
    def first(asked):
        return CircuitScores({asked.neurons[0]: 1.0})

    run = run_benchmark(["two-routes"], {"first": first, "random": METHODS["random"]}, seeds=1, inputs=2, out=tmp_path)
    assert run.methods == ("first", "random") and len(run.rows) == 4 and run.interchange >= SURE
    found = run.summary("first")
    assert math.isnan(found["edges"].value) and 0 <= found["nodes"].value <= 1 and found["seconds"].value > 0
    circuit = unweave.read_circuit(tmp_path / "two-routes-0" / "circuit.json")
    assert circuit == run.circuits[0]
    loaded = unweave.load_model(str(tmp_path / "two-routes-0"))
    ids = torch.tensor(circuit.inputs[0].prompt)
    assert int(loaded.record(ids).logits[-1].argmax()) == circuit.inputs[0].answer


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tasks": ["nothing"]}, "no task 'nothing'"),
        ({"methods": ["nothing"]}, "no method 'nothing'"),
        ({"tasks": []}, "no task is chosen"),
        ({"dictionaries": ["nothing"]}, "kind 'nothing'"),
        ({"seeds": 0}, "at least 1"),
        ({"inputs": 0}, "at least 1"),
        ({"tasks": ["two-hop-trained"], "seeds": 9}, "9 models of 'two-hop-trained'"),
    ],
)
def test_bad_questions_are_refused(options, match):
    with pytest.raises(OptionError, match=match):
        run_benchmark(**options)


SCORES = st.lists(st.tuples(st.integers(-3, 3).map(float), st.booleans()), min_size=2, max_size=12)


@given(SCORES)
def test_auroc_is_the_share_of_ordered_pairs(items):
    sizes, labels = zip(*items, strict=True)
    pairs = [(a, b) for a, inside in items if inside for b, other in items if not other]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else math.nan
    assert auroc(sizes, labels) == pytest.approx(expected, nan_ok=True)


@given(SCORES)
def test_average_precision_lies_between_the_base_rate_and_one(items):
    sizes, labels = zip(*items, strict=True)
    found = average_precision(sizes, labels)
    if not any(labels):
        assert math.isnan(found)
        return
    assert 0 < found <= 1
    assert average_precision([float(label) for label in labels], labels) == 1.0
    assert average_precision([0.0] * len(labels), labels) == pytest.approx(sum(labels) / len(labels))


@given(st.lists(st.tuples(st.integers(-5, 5).map(float), st.integers(-5, 5).map(float)), min_size=3, max_size=20))
def test_rank_correlation_is_that_of_tensors(items):
    x, y = zip(*items, strict=True)
    expected = float(statistics.spearman(torch.tensor([x]), torch.tensor([y]))[0])
    assert spearman(x, y) == pytest.approx(expected, nan_ok=True)


ONE = KnownInput(
    (0, 1), (0, 2), 3, 4, nodes=("0_1_1",), either=("0_2_1",), candidates=("0_0_1", "0_1_1", "0_2_1"),
    sources=("E_1_1",), heads=(), edges=(("E_1_1", "0_1_1"), ("0_1_1", TARGET)), mediators={"x": ("0_1_1",)},
    effects={"0_0_1": 0.1, "0_1_1": -1.0, "0_2_1": 5.0},
)  # fmt: skip


def test_what_is_either_is_not_scored():
    assert ONE.scored_nodes() == ("0_0_1", "0_1_1")
    found = score_circuit(ONE, CircuitScores({"0_2_1": 9.0, "0_1_1": 1.0}))
    assert found["nodes"] == 1.0 and found["mediators"] == 1.0 and math.isnan(found["effects"])
    assert set(ONE.scored_edges()) == {
        ("E_1_1", "0_0_1"), ("E_1_1", "0_1_1"), ("E_1_1", TARGET), ("0_0_1", TARGET), ("0_1_1", TARGET)}  # fmt: skip


def test_a_tie_finds_no_middle():
    assert score_circuit(ONE, CircuitScores({}))["mediators"] == 0.0
    assert score_circuit(ONE, CircuitScores({}))["nodes"] == 0.5


def test_other_units_find_middles_by_the_neurons_they_go_with():
    first, second = frozenset({"0_0_1"}), frozenset({"0_1_1", "0_0_1"})
    assert score_circuit(ONE, CircuitScores({}, carried=[first, second]))["mediators"] == 0.0  # one neuron is in it
    assert score_circuit(ONE, CircuitScores({}, carried=[second, first]))["mediators"] == 1.0


def test_order_of_nodes():
    assert before("E_1_1", "0_0_1") and before("0_0_1", "1_0_1")
    assert not before("0_0_2", "1_0_1") and not before("1_0_1", "0_0_1") and not before("0_0_1", "E_1_2")


def test_scores_of_other_tools(tmp_path, made):
    _, circuit = made("two-routes")
    entries = [
        {"nodes": one.effects, "edges": [[*edge, 1.0] for edge in one.edges], "signed": True} for one in circuit.inputs
    ]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({circuit.name: entries}))
    found = score_circuit(circuit.inputs[0], read_found(path, [circuit])[circuit.name][0])
    assert found["edges"] == 1.0 and found["effects"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "{}", '{"two-routes-0": []}', '{"two-routes-0": [1, 2, 3, 4]}',
     '{"two-routes-0": [{"nodes": {"0_1_1": "x"}}, {}, {}, {}]}',
     '{"two-routes-0": [{"nodes": {}, "edges": [["a", 1]]}, {}, {}, {}]}'],
)  # fmt: skip
def test_bad_scores_are_refused(tmp_path, made, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(FileError):
        read_found(path, [made("two-routes")[1]])


def test_circuits_go_through_files_and_bad_ones_are_refused(tmp_path, made):
    _, circuit = made("induction")
    path = write_circuit(circuit, tmp_path / "circuit.json")
    assert read_circuit(path) == circuit
    content = json.loads(path.read_text())
    for change in ({"schema_version": 1}, {"inputs": [1]}, {"variables": None}, {"seed": "x"}):
        path.write_text(json.dumps(content | change))
        with pytest.raises(FileError):
            read_circuit(path)


def test_data_and_scoring_need_no_torch(tmp_path, made):
    path = write_circuit(made("two-routes")[1], tmp_path / "circuit.json")
    check = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from unweave.benchmark.data import read_circuit
from unweave.benchmark.score import CircuitScores, score_circuit
one = read_circuit({str(path)!r}).inputs[0]
print(score_circuit(one, CircuitScores(one.effects))["nodes"])
"""
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.9


def test_small_dictionaries_as_methods(monkeypatch, made):
    monkeypatch.setattr(dictionaries, "STEPS", 40)
    monkeypatch.setattr(dictionaries, "PROMPTS", 48)
    monkeypatch.setattr(dictionaries, "BATCH", 96)
    monkeypatch.setattr(dictionaries, "SHIPPED", Path("nowhere"))
    model, circuit = made("two-routes")
    features, missed = dictionaries.known_features(model, "cross-layer")
    methods = feature_methods("cross-layer", features)
    one = question(model, circuit, circuit.inputs[0])
    for method in methods.values():
        found = method(one)
        assert set(found.nodes) == set(one.neurons) and max(found.nodes.values()) > 0 and max(found.edges.values()) > 0
    rows = [score_circuit(known, methods["attribution, cross-layer"](question(model, circuit, known)))
            for known in circuit.inputs[:1]]  # fmt: skip
    figures = dictionaries.middles_kept(circuit, "cross-layer", features, missed, rows)
    assert 0 < figures.unexplained < 1 and 0 <= figures.found <= 1 and 0 <= figures.held <= 1
    loud = dictionaries._loud(dictionaries._recorded(model)[0])
    layers = features.model.transcoders.layers
    assert all(float((layer.encoder.dense(torch.float32) @ loud).abs().max()) < 1e-4 for layer in layers)


def test_a_dictionary_of_the_neurons_themselves_is_judged_as_they_are(made):
    model, circuit = made("two-routes")
    own = ReplacementModel(model.model, neurons(model.model))
    alike = tuple(torch.eye(40) for _ in range(2))
    one = question(model, circuit, circuit.inputs[0])
    found = feature_methods("x", dictionaries.KnownFeatures(own, alike))["attribution, x"](one)
    assert found.nodes == pytest.approx(
        {name: abs(METHODS["attribution"](one).nodes.get(name, 0.0)) for name in one.neurons}
    )


def test_circuits_and_scores_fit_their_schemas(made, tmp_path):
    schemas = {name: json.loads((known_.SHIPPED / f"{name}.schema.json").read_text()) for name in ("circuit", "scores")}
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    _, circuit = made("indirect-object")
    content = json.loads(write_circuit(circuit, tmp_path / "circuit.json").read_text())
    jsonschema.validate(content, schemas["circuit"])
    for change in ({"schema_version": 1}, {"accuracy": 2}, {"inputs": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | change, schemas["circuit"])
    scores = {circuit.name: [{"nodes": one.effects, "edges": [["E_1_1", "0_1_1", 0.5]]} for one in circuit.inputs]}
    jsonschema.validate(scores, schemas["scores"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({circuit.name: [{"nodes": {"x": 1}}]}, schemas["scores"])


def test_graphs_say_what_was_measured_of_their_kind(monkeypatch):
    def of(**shares):
        models = {"two_hop": 3, "count": 1, "induction": 2}
        return {name.replace("_", "-"): {"found": share, "models": models[name]} for name, share in shares.items()}

    methods = {"attribution, per-layer": of(two_hop=0.25, count=0.75), "attribution, skip": of(two_hop=0.0),
               "response": of(two_hop=1.0, count=0.9), "attribution": of(induction=0.0)}  # fmt: skip
    measured = {"date": "2026-11-29", "methods": methods}
    monkeypatch.setattr(limits, "_measured", lambda: measured)
    facts = Provenance("m", 2, None, (), (), ())

    def said(**changes):
        return unweave.known_limits(replace(facts, **changes))

    assert said(transcoders="x", transcoders_kind="per-layer") == (
        "attribution graphs of small per-layer dictionaries found 38% of the middle steps of 4 small models whose "
        "circuits are known; least: two-hop 25% (2026-11-29)",
        "attribution graphs of small per-layer dictionaries with skip matrices found 0% of the middle steps of 3 small "
        "models whose circuits are known; least: two-hop 0% (2026-11-29)",
    )
    (told,) = said(kind="response", units="neurons", baseline="contrast")
    assert told.startswith("response graphs of neurons with a contrast found 98%") and "in no task less" in told
    assert said(kind="response", units="neurons", baseline="zero") == ()  # not measured
    assert said(kind="response", units="features", baseline="zero", transcoders_kind="per-layer") == ()
    assert said(transcoders_kind="cross-layer") == said() == ()
    (neurons_,) = said(transcoders="neurons", transcoders_kind="per-layer")
    assert "induction 0%" in neurons_


def test_what_ships_was_measured_by_methods_that_there_are():
    found = json.loads(limits.MEASURED.read_text())
    assert {"response", "attribution", "response-alone"} <= set(found["methods"])
    assert {task for tasks in found["methods"].values() for task in tasks} <= set(ALL_TASKS)
    assert all(0 <= one["found"] <= 1 for tasks in found["methods"].values() for one in tasks.values())


def test_the_example_of_the_documentation_runs(capsys):
    text = (Path(__file__).parents[1] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert 0 <= float(capsys.readouterr().out) <= 1


def test_the_command(run, tmp_path):
    words = ("benchmark", "--tasks", "two-routes", "--methods", "response,random", "--seeds", 1, "--inputs", 1)
    code, out, _ = run(*words, "--out", tmp_path / "made")
    assert code == 0 and "response" in out and "middles found" in out
    assert (tmp_path / "made" / "benchmark.md").read_text().startswith("# Benchmark")
    code, out, _ = run(*words, "--json", "--scores", f"mine={tmp_path / 'mine.json'}")
    assert code == 2
    circuit = read_circuit(tmp_path / "made" / "two-routes-0" / "circuit.json")
    entry = {"nodes": circuit.inputs[0].effects}
    (tmp_path / "mine.json").write_text(json.dumps({circuit.name: [entry]}))
    code, out, _ = run(*words, "--json", "--scores", f"mine={tmp_path / 'mine.json'}")
    assert code == 0 and set(json.loads(out)["methods"]) == {"response", "random", "mine"}
    code, _, err = run("benchmark", "--scores", "mine")
    assert code == 2 and "--scores" in err
