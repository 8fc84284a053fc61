"""How units are chosen: integrated gradients against whole-model autograd, and what follows for the graph."""

import pytest
import torch
from conftest import PROMPT

import unweave
from unweave.models.places import neurons_changed
from unweave.response.ranking import GATES, INPUTS, reference_neurons, strengths
from unweave.response.routes import setting_of

OTHER = [0, 7, 3, 22, 7, 12]


@pytest.fixture(scope="module")
def setting(tiny):
    model = tiny("llama").language_model
    graph = unweave.response_graph(model, PROMPT, instead=OTHER, most=60)
    assert graph.provenance.ranking == "gates"
    return setting_of(model, graph)


def everything(setting):
    asked = setting.asked
    return asked.basis.all_units(asked.firing, asked.reference, asked.silent, len(PROMPT) - 1)


def target_of(setting, change, ids=PROMPT, entered=None):
    model = setting.asked.model
    plus, minus = setting.asked.target.tokens
    with neurons_changed(model, change), torch.enable_grad():
        words = {"input_ids": torch.tensor([ids])} if entered is None else {"inputs_embeds": entered}
        logits = model.module(**words, use_cache=False).logits[0, -1]
    return logits[plus] - logits[minus]


def test_gates_are_the_derivative_by_shares(setting):
    reference, units = reference_neurons(setting.asked), everything(setting)
    true = 0
    for share in GATES:
        shares = torch.full_like(reference, share).requires_grad_()

        def change(layer, h, shares=shares):
            return reference[layer] + shares[layer] * (h - reference[layer])

        true += torch.autograd.grad(target_of(setting, change), shares)[0] / len(GATES)
    for layer, ours in enumerate(strengths(setting.asked, setting.start, units, "gates")):
        part = units[layer]
        assert torch.allclose(ours, true[layer][part.position, part.index], rtol=1e-3, atol=1e-5)


def test_gates_add_up_to_what_all_neurons_do(setting):
    reference = reference_neurons(setting.asked)
    none, all_ = (
        float(target_of(setting, change)) for change in (lambda layer, h: h, lambda layer, h: reference[layer][None])
    )
    total = sum(float(part.sum()) for part in strengths(setting.asked, setting.start, everything(setting), "gates"))
    assert total == pytest.approx(none - all_, rel=0.15)  # five steps


def test_inputs_are_the_mean_of_gradients_on_the_way(setting):
    model, units = setting.asked.model, everything(setting)
    own, other = (model.module.get_input_embeddings()(torch.tensor([ids])).detach() for ids in (PROMPT, OTHER))
    true = 0
    for share in INPUTS:
        leaves = torch.zeros_like(reference_neurons(setting.asked)).requires_grad_()
        entered = own + share * (other - own)
        target = target_of(setting, lambda layer, h, leaves=leaves: h + leaves[layer], entered=entered)
        true += torch.autograd.grad(target, leaves)[0] / len(INPUTS)
    for layer, ours in enumerate(strengths(setting.asked, setting.start, units, "inputs")):
        part = units[layer]
        assert torch.allclose(ours, true[layer][part.position, part.index] * part.taken, rtol=1e-3, atol=1e-5)


def test_the_ranking_chooses_and_effects_stay(tiny):
    replacement = tiny("llama")
    model = replacement.language_model
    graphs = {
        name: unweave.response_graph(model, PROMPT, instead=OTHER, most=40, ranking=name)
        for name in ("gradient", "inputs", "gates")
    }
    chosen = {name: {node.id for node in graph.nodes if node.kind.name == "FEATURE"} for name, graph in graphs.items()}
    assert chosen["gradient"] != chosen["gates"]
    effects = [{graph.nodes[row].id: float(graph.effect[row]) for row in range(40)} for graph in graphs.values()]
    for unit in effects[0].keys() & effects[2].keys():
        assert effects[0][unit] == pytest.approx(effects[2][unit], rel=1e-3, abs=1e-6)
    assert unweave.response_graph(model, PROMPT, baseline="zero", most=5).provenance.ranking == "gradient"
    features = unweave.response_graph(replacement, PROMPT, instead=OTHER, units="features", most=5)
    assert features.provenance.ranking == "inputs"
