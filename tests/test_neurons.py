"""Without a dictionary: neurons as features are exact on every family but mixtures of experts, and obey the same
laws."""

import random

import pytest
import torch
from conftest import FAMILIES, PROMPT, VOCAB

import unweave
from unweave import ablate, set_to
from unweave.errors import OptionError, TranscoderError, UnsupportedModel
from unweave.evaluation.evaluate import evaluate

DENSE = [family for family in FAMILIES if family != "gpt_oss"]


@pytest.fixture(scope="module")
def neural(tiny_folders):
    made = {}

    def model(family, dtype="float64"):
        if (family, dtype) not in made:
            made[family, dtype] = unweave.load(str(tiny_folders(family, "relu")[0]), "neurons", dtype=dtype)
        return made[family, dtype]

    return model


@pytest.mark.parametrize("family", DENSE)
def test_neurons_are_exact_and_leave_no_error(neural, family):
    model = neural(family)
    local = model.localize(PROMPT)
    assert float(local.errors.abs().max()) <= 1e-9
    assert len(local.features) == 3 * 40 * len(PROMPT)  # every neuron at every position, the first included
    graph = unweave.attribute(model, PROMPT, max_logits=3)
    assert float(graph.residual().max()) <= 1e-9 and graph.provenance.logits_error <= 1e-9
    assert graph.scores().replacement == pytest.approx(1.0) and graph.scores().completeness == pytest.approx(1.0)
    part = graph.nodes.features
    assert torch.allclose(graph.preactivation[part], graph.nodes.activation[part].to(graph.preactivation), atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_neurons_activation_is_what_enters_the_last_linear_map(neural, family):
    model = neural(family)
    mlp, seen = model.language_model.blocks[1].mlp, []
    handle = (mlp.down_proj if family == "llama" else mlp.c_proj).register_forward_pre_hook(
        lambda module, args: seen.append(args[0][0])
    )
    model.language_model.module(input_ids=torch.tensor([PROMPT]), use_cache=False)
    handle.remove()
    local = model.localize(PROMPT)
    span = local.layer_slice(1)
    assert torch.allclose(local.features.activation[span].view(len(PROMPT), -1), seen[0], atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "granite", "olmo2", "phi3"])
def test_where_all_is_frozen_effects_are_the_graphs_edges(neural, family):
    model = neural(family)
    graph = unweave.attribute(model, PROMPT, max_logits=VOCAB, logit_mass=1.0)
    edges, nodes = graph.dense(), list(graph.nodes)
    features = nodes[graph.nodes.features]
    chosen = random.Random(1).sample(features, 6)
    outcomes = unweave.intervene_each(model, PROMPT, [[ablate(node)] for node in chosen], "frozen", watch=features)
    for node, outcome in zip(chosen, outcomes, strict=True):
        change = outcome.preactivations[1] - outcome.preactivations[0]
        effect = outcome.raw_logits[-1] - outcome.recording.logits[-1]
        effect = (effect - effect.mean())[[target.index for target in nodes[graph.nodes.logits]]]
        for measured, rows in ((change, graph.nodes.features), (effect, graph.nodes.logits)):
            assert (measured + edges[rows, node.row]).norm() <= 1e-5 * edges[rows, node.row].norm() + 1e-9
    assert edges[graph.nodes.logits][:, [node.row for node in chosen]].norm(dim=0).count_nonzero() >= len(chosen) / 2


@pytest.mark.parametrize("how", [{}, {"mode": "open"}, {"layers": range(2)}, {"mode": "frozen"}], ids=str)
def test_a_neuron_set_to_its_own_value_changes_nothing(neural, how):
    model = neural("llama")
    part = model.localize(PROMPT).features
    own = [
        set_to((int(part.layer[i]), int(part.position[i]), int(part.index[i])), float(part.activation[i]))
        for i in range(0, len(part), 97)
    ]
    outcome = unweave.intervene(model, PROMPT, own, **how)
    assert torch.allclose(outcome.logits, outcome.baseline, atol=1e-9)
    assert not torch.allclose(
        unweave.intervene(model, PROMPT, [ablate("1_5_3")], **how).logits, outcome.baseline, atol=1e-6
    )


def test_limits_fold_the_rest_into_errors(neural, monkeypatch):
    from unweave.attribution import work

    model = neural("llama")
    small = unweave.attribute(model, PROMPT, max_features=30)
    assert small.nodes.features == slice(0, 30) and float(small.residual().max()) <= 1e-9
    assert small.scores().replacement < 1
    monkeypatch.setattr(work, "NEURONS_AT_MOST", 100)
    with pytest.raises(OptionError, match="all 720 neurons at once are too many; limit them with max_features"):
        unweave.attribute(model, PROMPT)


def test_from_the_command_line(run, tiny_folders, monkeypatch):
    from unweave.attribution import work

    monkeypatch.setattr(work, "DEFAULT_NEURONS", 50)
    model, ids = str(tiny_folders("llama", "relu")[0]), " ".join(map(str, PROMPT))
    code, out, _ = run("trace", ids, "--ids", "-m", model, "-t", "neurons", "--node-threshold", "1", "--json")
    assert code == 0 and '"features": 50' in out
    code, out, _ = run("steer", ids, "--ids", "-m", model, "-t", "neurons", "--ablate", "1_5_3", "--json")
    assert code == 0


def test_what_is_refused(neural, tiny_folders, tmp_path):
    with pytest.raises(UnsupportedModel, match="the neurons of gpt_oss's experts cannot be features"):
        neural("gpt_oss")
    with pytest.raises(OptionError, match="neurons stand in for the MLPs exactly, so there is nothing to measure"):
        evaluate(neural("llama"), {"x": torch.zeros(2, 8, dtype=torch.int64)}, torch.zeros(2, 8, dtype=torch.int64))
    with pytest.raises(TranscoderError, match="neurons"):
        unweave.write_transcoders(neural("llama").transcoders, tmp_path / "out")
    with pytest.raises(TranscoderError, match="no dictionary at neurons"):
        unweave.read_transcoders("neurons")


def test_another_models_neurons_have_another_hash(neural):
    assert len({neural(family).transcoders.sha256 for family in ("llama", "qwen2", "gpt2")}) == 3


@pytest.mark.real
def test_the_default_models_neurons():
    model = unweave.load("smollm2", "neurons")
    graph = unweave.attribute(model, "The capital of France is", max_features=20, max_logits=1)
    assert float(graph.residual().max()) <= 1e-3
    assert graph.provenance.active_features > 30 * 1536 * len(graph.tokens) * 0.99
