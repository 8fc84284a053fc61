"""The benchmark: models compute by the circuits they are said to have, scores are right, files need no torch."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.benchmark import dictionaries
from unweave.benchmark import known as known_
from unweave.benchmark.compiler import compile_program
from unweave.benchmark.data import TARGET, KnownInput, before, read_circuit, write_circuit
from unweave.benchmark.known import interchange_accuracy, known_circuit, known_model
from unweave.benchmark.methods import METHODS, BenchmarkQuestion
from unweave.benchmark.program import Program, lookup
from unweave.benchmark.run import SURE, heads_of, run_benchmark
from unweave.benchmark.score import CircuitScores, auroc, average_precision, read_found, score_circuit, spearman
from unweave.benchmark.tasks import TASKS
from unweave.errors import FileError, OptionError
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
}  # fmt: skip
"""Which variables the programs say may act on which."""


@pytest.fixture(scope="module")
def made():
    """Models and circuits by task, compiled once."""
    found = {}

    def get(task, seed=0):
        if (task, seed) not in found:
            model = known_model(task, seed)
            found[task, seed] = model, known_circuit(model, 1 if seed else 4)
        return found[task, seed]

    return get


def variable_of(known, node):
    if node == TARGET or node.startswith("E_"):
        return TARGET if node == TARGET else "token"
    place = tuple(map(int, node.split("_")[:2]))
    pairs = zip(known.program.neurons, known.compiled.places.neurons, strict=True)
    return next(part.variable for part, at in pairs if at == place).rstrip(" 0123456789")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", TASKS)
def test_models_compute_by_their_circuits(made, task, seed):
    _, circuit = made(task, seed)
    assert circuit.accuracy >= SURE
    assert {one.name: one.interchange for one in circuit.variables if one.interchange < SURE} == {}


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
    program = set(model.compiled.places.neurons)
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
    for change in ({"schema_version": 2}, {"inputs": [1]}, {"variables": None}, {"seed": "x"}):
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


def test_middles_in_small_dictionaries(monkeypatch, made):
    monkeypatch.setattr(dictionaries, "STEPS", 40)
    model, circuit = made("two-routes")
    found = dictionaries.middles_kept(model, circuit, "cross-layer")
    assert 0 < found.unexplained < 1 and 0 <= found.found <= found.held <= 1
    inputs, outputs = dictionaries._recorded(model)
    transcoders, _ = dictionaries.train_small(model, "per-layer", inputs, outputs)
    loud = dictionaries._loud(inputs)
    assert all(float((layer.encoder.dense(torch.float32) @ loud).abs().max()) < 1e-4 for layer in transcoders.layers)
    assert {neuron for _, _, neuron in dictionaries._carriers(model, transcoders, inputs)} <= {
        index for _, index in model.compiled.places.neurons}  # fmt: skip


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
