"""Response graphs judged in the real model: circuits alone and left out, single units, units together."""

import json

import pytest
import torch
from conftest import PROMPT

import unweave
from unweave.page.view import view
from unweave.validation.putting import neurons_changed, neurons_of

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
    neurons = neurons_of(model, graph)
    with neurons_changed(model, lambda layer, h: neurons.baseline[layer][None].to(h)), torch.no_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
    assert curve.empty == pytest.approx(float(logits[plus] - logits[minus]), rel=1e-4)
    assert all(len(part) == 3 for part in (curve.kept, curve.complement, curve.random, curve.random_complement))


def test_single_effects_are_the_models_own(contrast):
    model, graph = contrast
    report = unweave.validate_response(model, graph, most=30)
    assert report.signed.n == 30 and report.signed.value > 0.5  # a random model with strong weights is far from linear
    strongest = graph.nodes[int(graph.effect[graph.nodes.features].abs().argmax())]
    neurons = neurons_of(model, graph)

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


def test_what_cannot_be_judged_is_refused(contrast, tiny):
    model, graph = contrast
    replacement = tiny("llama")
    features = unweave.response_graph(replacement, PROMPT, units="features", most=10)
    attribution = unweave.attribute(replacement, PROMPT)
    for other, words in ((features, "of neurons"), (attribution, "response graph is needed")):
        with pytest.raises(unweave.UnweaveError, match=words):
            unweave.circuit_curve(replacement, other)
    with pytest.raises(unweave.UnweaveError, match="sizes are"):
        unweave.circuit_curve(model, graph, sizes=(0,))
    with pytest.raises(unweave.UnweaveError, match="the model is"):
        unweave.circuit_curve(tiny("gemma2").language_model, graph)


def test_the_command_judges_response_graphs(run, tiny_folders, tmp_path, contrast):
    _, graph = contrast
    model, _ = tiny_folders("llama", "jumprelu")
    graph.save(tmp_path / "a.graph.safetensors")
    code, out, _ = run("validate", "a.graph.safetensors", "--model", model, "--ablations", "10")
    assert code == 0 and "rank correlation" in out and "random left out" in out
    code, out, _ = run("validate", "a.graph.safetensors", "--model", model, "--ablations", "10", "--json")
    assert code == 0 and json.loads(out)["signed"]["n"] == 10


def test_other_commands_refuse_or_read_it(contrast, tiny):
    _, graph = contrast
    with pytest.raises(unweave.UnweaveError, match="validate_response"):
        unweave.validate(tiny("llama"), graph)
    shown = view(unweave.prune(graph, 0.7), "a")
    assert shown["total_edges"] > 0 and len(shown["nodes"]["layer"]) < len(graph.nodes)
