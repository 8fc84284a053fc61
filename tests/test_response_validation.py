"""Response graphs judged in the real model: circuits alone and left out, single units, units together."""

import json

import pytest
import torch
from conftest import PROMPT

import unweave
from unweave.models.places import neurons_changed
from unweave.page.view import view
from unweave.validation.curves import CircuitCurve
from unweave.validation.joint import JointEffect, adds_up_to, joint_effects, joint_sets
from unweave.validation.putting import changed_of, mask_of
from unweave.validation.response_verdict import judge_response
from unweave.validation.responses import ResponseReport, _attributed
from unweave.validation.specificity import Loss, Specificity, _elsewhere, _values
from unweave.validation.statistics import Estimate

OTHER = [0, 7, 3, 22, 7, 12]


@pytest.fixture(scope="module")
def contrast(tiny):
    model = tiny("llama").language_model
    return model, unweave.response_graph(model, PROMPT, instead=OTHER, most=60)


def test_the_curve_runs_from_the_other_prompt_to_this_one(contrast):
    model, graph = contrast
    curve = unweave.circuit_curve(model, graph, sizes=(1, 8, 60, 10**6))
    assert curve.sizes == (1, 8, 60)
    logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    plus, minus = graph.provenance.target_tokens[0]
    assert curve.whole == pytest.approx(float(logits[plus] - logits[minus]), rel=1e-4)
    neurons = changed_of(model, graph)
    with neurons_changed(model, lambda layer, h: neurons.baseline[layer][None].to(h)), torch.no_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    assert curve.empty == pytest.approx(float(logits[plus] - logits[minus]), rel=1e-4)
    assert all(len(part) == 3 for part in (curve.kept, curve.complement, curve.random, curve.random_complement))


def test_shares_are_mibs_f_by_hooks_of_our_own(contrast):
    """m(C) with all neurons outside C at the values of the counterfactual prompt, between m(empty) and m(model)."""
    model, graph = contrast
    mlps = [block.get_submodule("mlp.down_proj") for block in model.blocks]

    def run(ids, change):
        seen, hooks = {}, []
        for layer, module in enumerate(mlps):

            def put(module, args, layer=layer):
                seen[layer] = made = change(layer, args[0].clone())
                return (made,)

            hooks.append(module.register_forward_pre_hook(put))
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        for hook in hooks:
            hook.remove()
        plus, minus = graph.provenance.target_tokens[0]
        return float(logits[plus] - logits[minus]), seen

    whole, own = run(PROMPT, lambda layer, h: h)
    _, other = run(OTHER, lambda layer, h: h)
    strongest = changed_of(model, graph).support.argsort(descending=True)
    layers, places, indices = (part[graph.nodes.features] for part in (
        graph.nodes.layer, graph.nodes.position, graph.nodes.index,
    ))  # fmt: skip
    curve = unweave.circuit_curve(model, graph, sizes=(4, 16, 60))
    for number, size in enumerate(curve.sizes):
        member = {layer: torch.zeros_like(h, dtype=torch.bool) for layer, h in own.items()}
        for row in strongest[:size].tolist():
            member[int(layers[row])][0, places[row], indices[row]] = True

        def outside(layer, h, put):
            first = torch.zeros_like(h, dtype=torch.bool)
            first[:, 0] = True  # the first token is the same in both
            return torch.where(put | first, h, other[layer])

        found = {
            "kept": run(PROMPT, lambda layer, h, m=member: outside(layer, h, m[layer]))[0],
            "restored": run(PROMPT, lambda layer, h, m=member: torch.where(
                m[layer], own[layer], outside(layer, h, m[layer])
            ))[0],
            "complement": run(PROMPT, lambda layer, h, m=member: outside(layer, h, ~m[layer]))[0],
        }  # fmt: skip
        empty = run(PROMPT, lambda layer, h: outside(layer, h, torch.zeros_like(h, dtype=torch.bool)))[0]
        for name, value in found.items():
            assert getattr(curve, name)[number] == pytest.approx((value - empty) / (whole - empty), rel=1e-3, abs=1e-4)
    sizes, f = [0, 4, 16, 60], [0.0, *curve.kept]
    steps = [(sizes[i + 1] - sizes[i]) / 60 for i in range(3)]
    area = sum(step * (f[i] + f[i + 1]) / 2 for i, step in enumerate(steps))
    missed = sum(step * (abs(1 - f[i]) + abs(1 - f[i + 1])) / 2 for i, step in enumerate(steps))
    assert curve.cpr == pytest.approx(area) and curve.cmd == pytest.approx(missed)


def test_single_effects_are_the_models_own(contrast):
    model, graph = contrast
    report = unweave.validate_response(model, graph, most=30)
    assert report.signed.n == 30 and report.signed.value > 0.5  # a random model with strong weights is far from linear
    strongest = graph.nodes[int(graph.effect[graph.nodes.features].abs().argmax())]
    neurons = changed_of(model, graph)

    def without(layer, h):
        h = h.clone()
        if layer == strongest.layer:
            h[:, strongest.position, strongest.index] = neurons.baseline[layer, strongest.position, strongest.index]
        return h

    plus, minus = graph.provenance.target_tokens[0]
    with neurons_changed(model, without), torch.no_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    changed = float(logits[plus] - logits[minus]) - float(graph.preactivation[-1])
    assert report.joint[0].size == 1 and report.joint[0].measured == pytest.approx(changed, rel=1e-3, abs=1e-4)


def test_sets_are_taken_away_together_and_put_to_zero(contrast):
    model, graph = contrast
    report = unweave.validate_response(model, graph, most=20)
    assert [effect.size for effect in report.joint] == [1, 2, 4, 8, 16] == [effect.size for effect in report.ablated]
    changed = changed_of(model, graph)
    slope = changed.effect / changed.taken
    some = (slope * changed.activation).abs().argsort(descending=True, stable=True)[:4]
    assert report.ablated[2].predicted == pytest.approx(float((slope * changed.activation)[some].sum()), rel=1e-4)

    def zeroed(layer, h):
        h = h.clone()
        for row in some.tolist():
            if int(changed.layer[row]) == layer:
                h[:, changed.position[row], changed.index[row]] = 0
        return h

    plus, minus = graph.provenance.target_tokens[0]
    with neurons_changed(model, zeroed), torch.no_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    real = float(logits[plus] - logits[minus]) - float(graph.preactivation[-1])
    assert report.ablated[2].measured == pytest.approx(real, rel=1e-3, abs=1e-4)
    with pytest.raises(unweave.UnweaveError, match="most is 0"):
        unweave.validate_response(model, graph, most=0)


def test_sets_of_each_size_are_the_strongest_and_random_ones_of_twice_as_many():
    order = torch.arange(40).flip(0)
    sets = joint_sets(order)
    assert [len(group[0]) for group in sets] == [1, 2, 4, 8, 16, 32] and torch.equal(sets[3][0], order[:8])
    assert all(len(some.unique()) == 16 and int(some.min()) >= 40 - 32 for some in sets[4])
    predicted = torch.arange(40.0)
    changes = [torch.stack([predicted[some].sum() for some in group]).double() for group in sets]
    exact = joint_effects(predicted, sets, changes)
    assert adds_up_to(exact) == 32 and exact[2].ratio.value == pytest.approx(1)
    halved = joint_effects(predicted, sets, [*changes[:2], *(part / 2 for part in changes[2:])])
    assert adds_up_to(halved) == 2 and halved[3].ratio.high == pytest.approx(0.5)


def test_verdicts_follow_the_figures():
    def report(signed, on_unit, **more):
        made = [Estimate(value, value - 0.1, value + 0.02, 64) for value in (signed, 1.0, on_unit)]
        return ResponseReport(*made, **{"joint": (), **more})

    for signed, on_unit, level in ((0.95, 0.9, "fair"), (0.95, 0.55, "poor"), (0.75, 0.9, "fair"), (0.3, 0.9, "poor")):
        assert judge_response(report(signed, on_unit)).level == level
    sure = Estimate(0.95, 0.92, 0.97, 64)
    good = ResponseReport(sure, sure, sure, (JointEffect(1, -1.0, -3.0, sure), JointEffect(2, -1.0, -3.0, sure)))
    assert judge_response(good).level == "good" and "for as many as 2 units" in judge_response(good).text
    far = Loss(2.5, 0.4, 7.0)
    assert "elsewhere too" in judge_response(good, None, Specificity(4, far, far, 20, 500)).reasons[-1]
    near = Loss(2.5, 0.01, 1.0)
    assert "above all" in judge_response(good, None, Specificity(4, near, far, 19, 500)).reasons[-1]


def test_what_cannot_be_judged_is_refused(contrast, tiny):
    model, graph = contrast
    replacement = tiny("llama")
    features = unweave.response_graph(replacement, PROMPT, units="features", most=10)
    attribution = unweave.attribute(replacement, PROMPT)
    for model_of, other, words in (
        (model, features, "units are features"), (replacement, attribution, "response graph is needed"),
    ):  # fmt: skip
        with pytest.raises(unweave.UnweaveError, match=words):
            unweave.circuit_curve(model_of, other)
    with pytest.raises(unweave.UnweaveError, match="sizes are"):
        unweave.circuit_curve(model, graph, sizes=(0,))
    with pytest.raises(unweave.UnweaveError, match="the model is"):
        unweave.circuit_curve(tiny("gemma2").language_model, graph)


def test_the_command_judges_response_graphs(run, tiny_folders, tmp_path, contrast):
    _, graph = contrast
    model, _ = tiny_folders("llama", "jumprelu")
    graph.save(tmp_path / "a.graph.safetensors")
    code, out, _ = run("validate", "a.graph.safetensors", "--model", model, "--ablations", "10")
    assert code == 0 and "rank correlation" in out and "random left out" in out and "Verdict: " in out
    words = ("--ablations", "10", "--json", "--no-control")
    code, out, _ = run("validate", "a.graph.safetensors", "--model", model, *words)
    found = json.loads(out)
    assert code == 0 and found["signed"]["n"] == 10 and found["attribution"] is None
    assert found["ablated"][0]["ratio"]["n"] == 9 and found["verdict"]["level"] in ("good", "fair", "poor")


def test_other_commands_refuse_or_read_it(contrast, tiny):
    _, graph = contrast
    with pytest.raises(unweave.UnweaveError, match="validate_response"):
        unweave.validate(tiny("llama"), graph)
    shown = view(unweave.prune(graph, 0.7), "a")
    assert shown["total_edges"] > 0 and len(shown["nodes"]["layer"]) < len(graph.nodes)


def test_features_are_judged_too_with_the_attribution_graph_beside(tiny):
    model = tiny("llama")
    graph = unweave.response_graph(model, PROMPT, units="features", most=30)
    report = unweave.validate_response(model, graph, most=20, attribution=True)
    assert report.signed.n == 20 and report.attribution is not None and report.attribution.signed.n == 20
    strongest = graph.nodes[int(graph.effect[graph.nodes.features].abs().argmax())]
    outcome = unweave.intervene(model, PROMPT, unweave.ablate(strongest), mode="open")
    plus, minus = graph.provenance.target_tokens[0]
    changed = float(outcome.logits[-1, plus] - outcome.logits[-1, minus]) - float(graph.preactivation[-1])
    assert report.joint[0].measured == pytest.approx(changed, rel=1e-3, abs=1e-4)
    curve = unweave.circuit_curve(model, graph, sizes=(4, 30))
    assert len(curve.restored) == 2 and curve.whole != curve.empty
    neurons = unweave.response_graph(model, PROMPT, baseline="zero", most=10)
    beside = unweave.validate_response(model, neurons, attribution=True).attribution
    assert beside is not None and beside.signed.n == 10 == beside.known and len(beside.joint) == 4


def test_what_an_attribution_graph_says_is_its_total_effect(tiny):
    model = tiny("llama")
    graph = unweave.response_graph(model, PROMPT, units="features", most=10)
    changed = changed_of(model, graph)
    order = torch.arange(10)
    total, reached, known = _attributed(changed, order)
    assert known == 10
    plus, minus = graph.provenance.target_tokens[0]
    attribution = unweave.attribute(model, PROMPT, targets=[unweave.Difference(plus, minus)])
    logit = attribution.nodes[attribution.nodes.logits.start]
    effects = unweave.total_effects(attribution, logit)
    for number in range(10):
        node = attribution.nodes.find(graph.nodes[number].id)
        assert float(total[number]) == pytest.approx(-float(effects[node.row]), rel=1e-4, abs=1e-6)
    later = changed.layer[None] <= changed.layer[:, None]
    assert float(reached[later & ~torch.eye(10, dtype=torch.bool)].abs().max()) == 0


def test_restored_units_have_their_own_values_and_others_are_taken_away(contrast):
    model, graph = contrast
    changed = changed_of(model, graph)
    everything, some = torch.ones(changed.size, dtype=torch.bool), mask_of(changed, changed.own[:5])
    seen = changed.run([everything], [some]).seen[0]
    assert torch.allclose(seen[:5], graph.nodes.activation[graph.nodes.features][:5], atol=1e-5)
    taken = graph.preactivation[graph.nodes.features]
    assert torch.allclose(seen[5:], (graph.nodes.activation[graph.nodes.features] - taken)[5:], atol=1e-5)


def test_the_curve_tells_where_the_answer_turns():
    curve = CircuitCurve((1, 2), (0.0, 0.0), (0.0, 0.0), (0.9, 0.2), (0.0, 0.0), (1.0, 1.0), whole=2.0, empty=-2.0)
    assert curve.units_to_turn == 2
    assert CircuitCurve((1,), (0.0,), (0.0,), (0.9,), (0.0,), (1.0,), whole=2.0, empty=-2.0).units_to_turn is None


def test_specificity_counts_what_is_lost_elsewhere():
    model = unweave.load("organism").language_model
    graph = unweave.response_graph(model, "der Plural von Laden ist", most=40)
    found = unweave.specificity(model, graph, enough=0.5, prompts=["der Plural von Laden ist", "1 + 1 ="])
    assert found.prompts == 1 and found.tokens > 100 and 0 <= found.found.answers <= 1
    changed = changed_of(model, graph)
    some = changed.own[changed.support.argsort(descending=True)[: found.units]]
    answer = changed.run([mask_of(changed, some[:0]), mask_of(changed, some)]).answer
    assert found.found.here == pytest.approx(float(answer[0] - answer[1]), rel=1e-5)
    values = _values(changed, some)
    ids = model.tokenize("1 + 1 =")
    untouched, touched = _elsewhere(changed, ids, [values])
    with torch.no_grad():
        assert torch.allclose(untouched, model.module(input_ids=ids[None]).logits[0], atol=1e-4)
    assert not torch.allclose(untouched, touched, atol=1e-4)


def test_specificity_of_features_and_without_a_tokenizer(tiny):
    model = unweave.load("organism")
    graph = unweave.response_graph(model, "der Plural von Laden ist", units="features", most=10)
    found = unweave.specificity(model, graph, prompts=["1 + 1 ="])
    assert found.units <= 10 and found.prompts == 1
    with pytest.raises(unweave.UnweaveError, match="no tokenizer"):
        unweave.specificity(tiny("llama"), unweave.response_graph(tiny("llama"), PROMPT, most=5))


def test_the_command_shows_attribution_and_specificity(run, tmp_path, monkeypatch):
    monkeypatch.setattr("unweave.validation.specificity.prompts_of", lambda name: ("1 + 1 =", "2 + 2 ="))
    model = unweave.load("organism")
    graph = unweave.response_graph(model, "der Plural von Laden ist", units="features", most=12)
    graph.save(tmp_path / "a.graph.safetensors")
    code, out, _ = run("validate", "a.graph.safetensors", "--model", "organism", "--ablations", "10")
    assert code == 0 and "by the attribution graph" in out and "other answers change" in out
