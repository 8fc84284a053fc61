"""Total effects, modes with the dictionary in place of the MLPs, and the trust report."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from conftest import DICTIONARIES, FAMILIES, PROMPT, VOCAB
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.errors import GraphError, OptionError
from unweave.graphs.nodes import NodeKind
from unweave.graphs.totals import removals, total_effects
from unweave.interventions.attribution_patching import slope_effects
from unweave.interventions.edits import Feature, scale, set_to
from unweave.interventions.interventions import intervene, intervene_each
from unweave.validation import statistics
from unweave.validation.ablations import feature_of, measure, predictions
from unweave.validation.control import Control, neuron_graph
from unweave.validation.figures import ablation_figures
from unweave.validation.measured import Measurements
from unweave.validation.pairs import choose_pairs, measure_pairs
from unweave.validation.perturbations import KINDS, measure_perturbations
from unweave.validation.results import Figure, Settings, TrustReport, report_path
from unweave.validation.sample import JudgedGraph, sample_features
from unweave.validation.validate import validate
from unweave.validation.verdict import judge

LITTLE = Settings(ablations=12, pairs=6, reach=2, disturbances=4, control=False, neurons=False)
REPLACED = ("replacement", "replacement_frozen", "replacement_open")
MOST = 40


def quiet(*_):
    return None


@pytest.fixture(scope="module")
def question(tiny):
    model = tiny("llama", "jumprelu")
    return JudgedGraph.of(model, unweave.attribute(model, PROMPT))


def dense_totals(graph, target):
    """Total effects by a dense linear solve: `(1 - B^T) x = a`, B the weights with every feature's row divided by
    its size."""
    weights = graph.dense().double()
    size = torch.where(graph.nodes.kind == NodeKind.FEATURE, graph.preactivation.double(), math.inf)
    passed = weights / size[:, None]
    return torch.linalg.solve(torch.eye(len(size), dtype=torch.float64) - passed.T, weights[target])


@pytest.mark.parametrize("kind", ["skip", "clt", "topk"])
def test_total_effects_are_the_sum_over_all_paths(tiny, kind):
    graph = unweave.attribute(tiny("llama", kind, "float64"), PROMPT)
    target = graph.nodes.logits.start
    expected = dense_totals(graph, target)
    found = total_effects(graph, graph.nodes[target])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    sources = [0, 5, graph.nodes.errors.start, graph.nodes.embeddings.start]
    change = removals(graph, sources)
    torch.testing.assert_close(change[target], -expected[sources], rtol=1e-9, atol=1e-9)
    assert change[0, 0] == -graph.preactivation[0]


def test_total_effects_of_tokens_errors_and_constants_make_up_the_logit(tiny):
    """With nothing left out, all that starts somewhere adds up to the value: tokens, errors, and what biases give."""
    graph = unweave.attribute(tiny("llama", "relu", "float64"), PROMPT)
    target = graph.nodes.logits.start
    totals = total_effects(graph, graph.nodes[target])
    starts = torch.isin(graph.nodes.kind, torch.tensor([int(NodeKind.ERROR), int(NodeKind.EMBEDDING)]))
    size = torch.where(graph.preactivation != 0, graph.preactivation, math.inf)
    biases = (totals / size * graph.bias)[graph.nodes.features].sum() + graph.bias[target]
    torch.testing.assert_close(totals[starts].sum() + biases, graph.preactivation[target], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_in_the_frozen_replacement_model_small_changes_do_what_the_graph_predicts(tiny, family, kind):
    model = tiny(family, kind, "float64")
    graph = unweave.attribute(model, PROMPT)
    question = JudgedGraph.of(model, graph)
    predicted = total_effects(graph, graph.nodes[question.target])
    step = 1e-5
    rows = torch.argsort(predicted[graph.nodes.features].abs(), descending=True)[:6].tolist()
    variants = [[scale(feature_of(question, row), 1 - step)] for row in rows]
    for row, outcome in zip(rows, intervene_each(model, PROMPT, variants, "replacement_frozen"), strict=True):
        change = float(question.value(outcome.raw_logits[-1]) - question.value(outcome.recording.logits[-1]))
        assert change / -step == pytest.approx(float(predicted[row]), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("mode", REPLACED)
@pytest.mark.parametrize("kind", DICTIONARIES)
def test_the_replacement_model_left_alone_is_the_model(tiny, mode, kind):
    model = tiny("gemma2" if kind == "skip" else "llama", kind, "float64")
    graph = unweave.attribute(model, PROMPT)
    node = next(node for node in graph.nodes if node.kind == NodeKind.FEATURE)
    outcome = intervene(model, PROMPT, [set_to(node, node.activation)], mode)
    torch.testing.assert_close(outcome.logits, outcome.baseline, rtol=1e-6, atol=1e-6)
    assert (intervene(model, PROMPT, [scale(node, -3.0)], mode).logits - outcome.baseline).abs().max() > 1e-4


def test_a_range_of_layers_makes_no_sense_where_all_mlps_are_replaced(tiny):
    with pytest.raises(OptionError, match="replaces the MLPs of all layers"):
        intervene(tiny(), PROMPT, [scale((1, 2, 3), 0.0)], "replacement", layers=range(1, 2))


@pytest.mark.parametrize("mode", ["frozen_attention", "open"])
@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "skip"), ("gemma2", "clt"), ("gpt2", "relu"), ("gemma2", "topk")]
)
def test_first_order_effects_are_the_real_models_slope(tiny, mode, family, kind):
    model = tiny(family, kind, "float64")
    graph = unweave.attribute(model, PROMPT)
    question, step = (
        JudgedGraph.of(model, graph),
        1e-2,
    )  # transformers takes softmax in float32 even here, so smaller ones drown
    rows = range(0, graph.nodes.features.stop, 7)
    features = [feature_of(question, row) for row in rows]
    found = unweave.first_order_effects(model, graph, mode=mode)[rows]
    variants = [[scale(feature, factor)] for feature in features for factor in (1 - step, 1 + step)]
    values = [
        float(question.value(outcome.raw_logits[-1])) for outcome in intervene_each(model, PROMPT, variants, mode)
    ]
    for number, (less, more) in enumerate(zip(values[::2], values[1::2], strict=True)):
        assert (more - less) / (2 * step) == pytest.approx(float(found[number]), rel=1e-2, abs=1e-4)
    assert all(parameter.grad is None for parameter in model.language_model.module.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in model.language_model.module.modules()
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_ranks_are_means_over_ties(values):
    found = statistics.ranks(torch.tensor([values], dtype=torch.float64))[0].tolist()
    for value, rank in zip(values, found, strict=True):
        below, same = sum(other < value for other in values), values.count(value)
        assert rank == below + (same - 1) / 2


def test_correlations_and_their_intervals():
    x = torch.arange(50, dtype=torch.float64)
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    assert statistics.estimate(statistics.spearman, x, -x.pow(3)).value == pytest.approx(-1)
    noisy = statistics.estimate(statistics.spearman, x, x + noise)
    assert 0.5 < noisy.low < noisy.value < noisy.high < 1 and noisy.n == 50
    again = statistics.estimate(statistics.spearman, x, x + noise)
    assert again == noisy
    assert statistics.estimate(statistics.log_log, x + 1, (x + 1).pow(2)).value == pytest.approx(1)
    clustered = statistics.estimate(statistics.spearman, x, x + noise, cluster=(x // 10).long())
    assert clustered.value == noisy.value and clustered[1:3] != noisy[1:3]
    assert statistics.estimate(statistics.explained, 2 * x, x).value == pytest.approx(0)
    assert math.isnan(statistics.estimate(statistics.spearman, x, torch.zeros(50)).value)
    assert math.isnan(statistics.estimate(statistics.spearman, x[:2], x[:2]).value)


def test_a_sample_is_half_the_strongest_and_every_beginning_is_mixed():
    strength = torch.arange(100, dtype=torch.float64)
    allowed = torch.arange(100) < 90
    sample = sample_features(strength, allowed, 20, seed=1)
    assert len(sample.rows.unique()) == 20 and bool(allowed[sample.rows].all())
    assert sorted(sample.rows[sample.strong].tolist()) == list(range(80, 90))
    assert 2 <= int(sample.strong[:10].sum()) <= 8
    assert sample_features(strength, allowed, 20, seed=1).rows.equal(sample.rows)
    assert len(sample_features(strength, torch.arange(100) < 5, 20, seed=1).rows) == 5


def test_ablations_are_measured_on_the_real_model(question):
    sample = sample_features(question.graph.influence(), question.graph.nodes.kind == NodeKind.FEATURE, 10, 0)
    rows = measure(question, sample, Measurements(None, {}), "x", ["frozen_attention", "open"], 10, quiet)
    feature = feature_of(question, int(sample.rows[3]))
    outcome = intervene(question.model, PROMPT, [unweave.ablate(feature)], "open")
    target = question.tokens[0]
    change = [float(logits[-1, target] - logits[-1].mean()) for logits in (outcome.baseline, outcome.logits)]
    assert rows["open"][3] == pytest.approx([outcome.kl(), change[1] - change[0]], abs=1e-5)
    assert rows["open"] != rows["frozen_attention"]
    predicted = predictions(question, sample, 0)
    edge = {edge.source.row: edge.weight for edge in question.graph.incoming(question.graph.nodes[question.target])}
    assert predicted["edge"].tolist() == pytest.approx([-edge.get(row, 0.0) for row in sample.rows.tolist()])


def test_a_graph_with_wrong_edges_is_found_out(question):
    """The same weights in another order: the report's figures must fall."""
    graph = question.graph
    order = torch.randperm(len(graph.rows.value), generator=torch.Generator().manual_seed(0))
    wrong = replace(question, graph=replace(graph, rows=graph.rows._replace(value=graph.rows.value[order])))
    found = {}
    for name, tested in (("right", question), ("wrong", wrong)):
        sample = sample_features(
            graph.influence(), (graph.nodes.kind == NodeKind.FEATURE) & (graph.nodes.layer < 2), 12, 0
        )
        pairs = choose_pairs(tested, sample, 2, 0)
        held, live = measure_pairs(tested, pairs, Measurements(None, {}), "x", 2, quiet)
        found[name] = statistics.estimate(
            statistics.spearman, pairs.direct.flatten(), torch.tensor(held, dtype=torch.float64).flatten()
        ).value
        assert live != held
    assert found["right"] > 0.85 and abs(found["wrong"]) < 0.5


def test_first_order_predicts_signs_better_than_chance(question):
    sample = sample_features(question.graph.influence(), question.graph.nodes.kind == NodeKind.FEATURE, 40, 0)
    rows = measure(question, sample, Measurements(None, {}), "x", ["frozen_attention"], 40, quiet)
    figures = {
        figure.name: figure for figure in ablation_figures(predictions(question, sample, 0), rows, sample.strong)
    }
    assert figures["real model's slope and the target's change, attention held"].value > 0.6
    assert abs(figures["random order and KL, attention held"].value) < 0.5
    assert figures["influence and KL, attention held"].low < figures["influence and KL, attention held"].value


def test_disturbances_are_the_same_in_both_models_until_an_mlp_responds(question):
    travelled = measure_perturbations(question, 4, 0, Measurements(None, {}), "x", quiet)
    assert {one.kind for one in travelled} == set(KINDS)
    for one in travelled:
        assert len(one.cosine) == len(one.error) == question.model.language_model.n_layers - one.start
        if one.kind != "encoder":
            assert one.cosine[0] == pytest.approx(1) and one.error[0] == pytest.approx(0, abs=1e-6)
        assert min(one.cosine) >= -1.001 and max(one.cosine) <= 1.001
    assert any(one.error[-1] > 1e-3 for one in travelled)


@pytest.fixture(scope="module")
def report(question):
    return validate(question.model, question.graph, LITTLE, name="x.graph.safetensors")


def test_a_report_is_saved_and_read_back(report, tmp_path):
    path = report.save(tmp_path / "x.validation.json")
    back = TrustReport.load(path)
    assert json.dumps(back.facts()) == json.dumps(report.facts())
    assert back.complete and back.verdict == report.verdict and back.settings == LITTLE
    assert report_path("a/x.graph.safetensors").name == report_path("a/x.json").name == "x.validation.json"
    (tmp_path / "other.json").write_text('{"format": "something"}')
    for wrong in ("other.json", "absent.json"):
        with pytest.raises(GraphError, match="not a validation report"):
            TrustReport.load(tmp_path / wrong)


def test_figures_of_a_report_are_those_of_its_parts(report, question):
    assert report.figure("explained", "replacement score").value == pytest.approx(question.graph.scores().replacement)
    names = {(figure.group, figure.name) for figure in report.figures}
    assert len(names) == len(report.figures)
    assert {figure.group for figure in report.figures} == {
        "explained",
        "ranks",
        "signs",
        "links",
        "pairs",
        "faithfulness",
    }
    assert report.figure("pairs", "edge and change, MLPs between held").value > 0.8


def test_a_pruned_graph_is_tested_whole(report, question):
    pruned = unweave.prune(question.graph, 0.5, 0.8)
    again = validate(question.model, pruned, LITTLE)
    assert [str(figure) for figure in again.figures] == [str(figure) for figure in report.figures]


class Stop(Exception):
    pass


def test_a_stopped_validation_goes_on_where_it_was(question, report, tmp_path, monkeypatch):
    monkeypatch.setattr("unweave.validation.ablations.PIECE", 5)
    keep = tmp_path / "x.partial"
    seen = []

    def stop(share, title=""):
        seen.append(title)
        if title == "ablations: open" and share > 0.5:
            raise Stop

    with pytest.raises(Stop):
        validate(question.model, question.graph, LITTLE, keep=keep, progress=stop)
    kept = json.loads(keep.read_text())["measured"]
    assert len(kept["ablations: frozen_attention"]) == 12 and len(kept["ablations: open"]) == 10
    seen.clear()
    found = validate(
        question.model, question.graph, LITTLE, keep=keep, progress=lambda share, title="": seen.append(title)
    )
    assert "ablations: frozen_attention" not in seen and seen.count("ablations: open") == 1
    assert [str(figure) for figure in found.figures] == [str(figure) for figure in report.figures]
    other = validate(question.model, question.graph, replace(LITTLE, seed=3), keep=keep)
    assert [str(figure) for figure in other.figures] != [str(figure) for figure in report.figures]
    keep.write_text("{damaged")
    assert validate(question.model, question.graph, LITTLE, keep=keep).complete


def test_a_budget_ends_it_early_and_says_so(question):
    found = validate(question.model, question.graph, replace(LITTLE, control=True), budget=1e-9)
    assert not found.complete and {figure.group for figure in found.figures} == {"explained"}
    assert found.verdict.level == "poor" and "nothing was measured" in found.verdict.text


def test_the_control_is_a_random_dictionary_that_is_on_as_often(question):
    generator = torch.Generator().manual_seed(0)
    control = Control(question.model, torch.randint(1, VOCAB, (24, 12), generator=generator), quiet)
    model, graph = control.random_graph(question.graph, 0)
    kinds = [int((one.nodes.kind == NodeKind.FEATURE).sum()) for one in (question.graph, graph)]
    assert model.transcoders.name == "random" and 0.5 < kinds[1] / kinds[0] < 2
    assert graph.provenance.input_ids == question.graph.provenance.input_ids
    assert graph.provenance.target_tokens == question.graph.provenance.target_tokens
    found = validate(question.model, question.graph, replace(LITTLE, control=True), control=control)
    assert found.complete and found.figure("control: ranks", "influence and KL, attention held") is not None
    assert found.figure("control: explained", "replacement score").value == pytest.approx(graph.scores().replacement)
    assert found.figure("control: links", "norms respond") is None


def test_neurons_are_asked_the_same(question):
    model, graph = neuron_graph(question.model, question.graph)
    features = question.graph.nodes.features
    assert model.transcoders.of_neurons and graph.nodes.features.stop == features.stop - features.start
    assert (graph.provenance.input_ids, graph.provenance.target_tokens) == (
        question.graph.provenance.input_ids,
        question.graph.provenance.target_tokens,
    )
    found = validate(question.model, question.graph, replace(LITTLE, ablations=30, pairs=12, neurons=True))
    ranks = found.figure("neurons: ranks", "influence and KL, attention held")
    assert found.complete and ranks is not None and ranks.n == 10  # a third as many
    assert found.figure("neurons: explained", "replacement score").value == pytest.approx(graph.scores().replacement)
    pair = found.figure("neurons: pairs", "edge and change, MLPs between held")
    assert pair.value > 0.4 and "gates held in the graph" in pair.note
    assert not any(figure.group in ("neurons: links", "neurons: faithfulness") for figure in found.figures)
    assert any(
        line.startswith("The model's own neurons, without any dictionary, get") for line in found.verdict.reasons
    )
    own = Settings(**{**asdict(LITTLE), "neurons": True})
    assert {
        figure.group for figure in validate(model, graph, own).figures if figure.group.startswith("neurons")
    } == set()


def test_mixtures_of_experts_have_no_neurons(tiny):
    model = tiny("gpt_oss", "relu")
    found = validate(model, unweave.attribute(model, PROMPT), replace(LITTLE, neurons=True))
    assert found.complete and not any(figure.group.startswith("neurons") for figure in found.figures)


def test_the_target_may_be_a_difference_but_not_a_direction(tiny):
    model = tiny()
    graph = unweave.attribute(model, PROMPT, targets=unweave.Difference(3, 4))
    question = JudgedGraph.of(model, graph)
    assert question.tokens == (3, 4)
    assert float(question.value(question.recording.logits[-1])) == pytest.approx(
        float(graph.preactivation[question.target]), abs=1e-5
    )
    direction = unweave.attribute(model, PROMPT, targets=unweave.Direction(torch.ones(24), "sum"))
    with pytest.raises(GraphError, match="a token or a difference"):
        JudgedGraph.of(model, direction)
    with pytest.raises(GraphError, match="is not the logit of a token"):
        unweave.first_order_effects(model, direction, direction.nodes[direction.nodes.logits.start])


def test_with_norms_held_too_slopes_follow_the_edges_where_the_dictionary_is_exact(tiny):
    """In the last layer features act on the logits through the direct edge alone, so slope and edge must agree."""
    model = tiny("llama", "relu", "float64")
    graph = unweave.attribute(model, PROMPT)
    question = JudgedGraph.of(model, graph)
    found = slope_effects(model, graph, question.recording, question.target, "frozen_norms")
    last = (graph.nodes.kind == NodeKind.FEATURE) & (graph.nodes.layer == graph.provenance.n_layers - 1)
    torch.testing.assert_close(
        found[last], total_effects(graph, graph.nodes[question.target])[last], rtol=1e-6, atol=1e-8
    )


def figure(group, name, value, low=None):
    return Figure(group, name, value, value - 0.05 if low is None else low, value + 0.05, 300)


KNOWN = (
    figure("explained", "replacement score", 0.6), figure("ranks", "influence and KL, attention live", 0.9),
    figure("ranks", "direct edge and KL, attention live", 0.6),
    figure("signs", "all paths and the target's change, attention held", 0.8),
    figure("signs", "all paths: share of the change with the right sign, attention held", 0.9),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "level", "word"),
    [
        ({}, "good", "which way they push"),
        ({"all paths and the target's change, attention held": 0.2}, "fair", "test by intervention"),
        ({"influence and KL, attention live": 0.4}, "poor", "does not surely rank"),
        ({"direct edge and KL, attention live": 0.95}, "poor", "direct edge alone"),
        ({"replacement score": 0.1}, "poor", "not explained"),
        ({"replacement score": 0.4}, "fair", "left to errors"),
    ],
)
def test_verdicts(changes, level, word):
    figures = [figure(one.group, one.name, changes.get(one.name, one.value)) for one in KNOWN]
    verdict = judge(figures)
    assert verdict.level == level and word in verdict.text
    beaten = judge([*figures, figure("control: ranks", "influence and KL, attention live", 0.99)])
    assert beaten.level == ("poor" if level == "poor" else "fair") and any(
        "random dictionary" in line for line in (beaten.text, *beaten.reasons)
    )
    rivals = [figure(f"{group}: ranks", "influence and KL, attention live", 0.99) for group in ("control", "neurons")]
    both = judge([*figures, *rivals])
    assert both.level == beaten.level and "neurons, without any dictionary, get 0.99" in " ".join(both.reasons)
    assert (
        level == "poor"
        or "the graph of a random dictionary and the graph of the model's own neurons rank its own" in both.text
    )


def test_the_cause_of_misses_is_named():
    links = [
        ("the graph: norms held, errors constant", 0.2),
        ("norms respond", 0.3),
        ("errors respond", 0.25),
        ("norms and errors respond", 0.9),
    ]
    verdict = judge([*KNOWN, *(figure("links", name, value) for name, value in links)])
    assert any("0.30 if norms responded, 0.25 if errors did, 0.90 if both did" in reason for reason in verdict.reasons)


@pytest.fixture
def traced(run, tiny_folders, tmp_path):
    model, dictionary = tiny_folders("llama", "jumprelu")
    options = ("--model", model, "--transcoders", dictionary)
    code, _, error = run("trace", "0 7 3 41 7 12", "--ids", *options, "--out", "x.graph.safetensors")
    assert code == 0, error
    return options


SMALL = ("--ablations", 12, "--pairs", 6, "--disturbances", 4, "--no-control")


def test_validate_command(run, traced, tmp_path):
    code, out, error = run("validate", "x.graph.safetensors", *traced, *SMALL)
    assert code == 0, error
    assert "Trust report" in out and "Does influence say which features matter?" in out and "x.validation.json" in out
    saved = json.loads((tmp_path / "x.validation.json").read_text())
    assert (
        saved["complete"] and saved["settings"]["ablations"] == 12 and not (tmp_path / "x.validation.partial").exists()
    )
    code, out, _ = run("validate", "x.graph.safetensors", *traced, *SMALL, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["figures"] == saved["figures"] and facts["verdict"] == saved["verdict"]


def test_several_graphs_end_with_a_summary(run, traced, tmp_path):
    (tmp_path / "y.graph.safetensors").write_bytes((tmp_path / "x.graph.safetensors").read_bytes())
    code, out, error = run("validate", "x.graph.safetensors", "y.graph.safetensors", *traced, *SMALL)
    assert code == 0, error
    assert out.count("Trust report") == 2 and "influence ~ KL" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to validate"),
        (("absent.graph.safetensors",), "no graph file at absent"),
        (("x.graph.safetensors", "--ablations", 3), "ablations is 3; it must be at least 10"),
        (("x.graph.safetensors", "--reach", 0), "reach is 0"),
        (("x.graph.safetensors", "--budget", 0), "not a time"),
        (("x.graph.safetensors", "--claims", "c.yaml"), "not both"),
        (("x.graph.safetensors", "x.graph.safetensors"), "give each graph once"),
        (("--claims", "absent.yaml"), "absent.yaml"),
    ],
)
def test_bad_requests_are_one_line(run, traced, words, message):
    code, out, error = run("validate", *words, *traced)
    assert code == 2 and not out and message in " ".join(error.split())
    assert len(error.strip().splitlines()) <= 2 and "Traceback" not in error


def test_a_graph_of_another_dictionary_is_refused(run, traced, tiny_folders):
    model, other = tiny_folders("llama", "relu")
    code, _, error = run("validate", "x.graph.safetensors", "--model", model, "--transcoders", other, *SMALL)
    assert code == 2 and "traced with another dictionary" in error


def test_a_graph_of_another_tool_is_refused(run, traced, tmp_path):
    run("convert", "x.graph.safetensors", "x.json")
    code, _, error = run("validate", "x.json", *traced, *SMALL)
    assert code == 2 and "trace" in error


def test_claims_decide_the_exit_code(run, traced, tmp_path):
    claim = (
        "claims:\n  - name: it changes\n    prompt: [0, 7, 3, 41, 7, 12]\n    scale: {{1_5_3: 4}}\n    expect:\n  "
        "    - kl: '{bound}'\n"
    )
    (tmp_path / "true.yaml").write_text(claim.format(bound=">= 0"))
    (tmp_path / "false.yaml").write_text(claim.format(bound=">= 100"))
    (tmp_path / "bad.yaml").write_text("claims:\n  - name: nothing\n    unknown: 3\n")
    code, out, error = run("validate", "--claims", "true.yaml", *traced)
    assert code == 0 and "all hold" in out, error
    code, out, _ = run("validate", "--claims", "false.yaml", *traced)
    assert code == 1 and "1 of 1 fail" in out
    code, out, _ = run("validate", "--claims", "false.yaml", *traced, "--json")
    assert code == 1 and json.loads(out)["holds"] is False
    code, _, error = run("validate", "--claims", "bad.yaml", *traced)
    assert code == 2 and "bad.yaml, line" in " ".join(error.split())


def test_features_are_named_as_in_graphs(question):
    node = question.graph.nodes[3]
    assert feature_of(question, 3) == Feature(node.layer, node.position, node.index)
