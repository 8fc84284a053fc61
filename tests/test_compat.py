"""circuit-tracer's names: three cells such as its users write, against what it answered itself."""

import json

import pytest
import torch
from conftest import GOLDEN, PROMPT
from safetensors.torch import load_file

import unweave
from unweave.compat.circuit_tracer import (
    Graph,
    ReplacementModel,
    attribute,
    compute_graph_scores,
    create_graph_files,
    prune_graph,
)
from unweave.errors import OptionError

FOLDERS = pytest.mark.parametrize("folder", sorted(GOLDEN.iterdir()), ids=lambda folder: folder.name)


def loaded(folder, **options):
    return ReplacementModel.from_pretrained(str(folder / "model"), str(folder / "transcoders"), **options)


@FOLDERS
def test_cell_of_attribution_and_pruning(folder, tmp_path):
    golden = load_file(folder / "graph.safetensors")
    model = loaded(folder, dtype=torch.float32, lazy_encoder=True)
    graph = attribute(golden["input_ids"], model, max_n_logits=5, batch_size=64, offload="cpu", verbose=False)
    assert torch.equal(graph.active_features, golden["active_features"])
    assert torch.equal(graph.logit_token_ids, golden["logit_tokens"])
    assert [target.vocab_idx for target in graph.logit_targets] == golden["logit_tokens"].tolist()
    assert torch.allclose(graph.logit_probabilities.float(), golden["logit_probabilities"], atol=1e-5)
    assert torch.allclose(graph.activation_values, golden["activation_values"], atol=1e-4)
    assert (graph.adjacency_matrix - golden["adjacency"]).norm() <= 1e-5 * golden["adjacency"].norm()
    assert torch.allclose(torch.tensor(compute_graph_scores(graph)), golden["scores"], atol=1e-4)
    node_mask, edge_mask, cumulative = prune_graph(graph, node_threshold=0.8, edge_threshold=0.98)
    assert torch.equal(node_mask, golden["node_mask"].bool())
    assert int((edge_mask != golden["edge_mask"].bool()).sum()) <= 1  # one edge at the cut may fall either way
    assert torch.allclose(cumulative, golden["cumulative_scores"], atol=1e-3)
    path = create_graph_files(graph, "a-slug", tmp_path, scan="gemma-2-2b")
    written = json.loads(path.read_text())
    assert written["metadata"]["slug"] == "a-slug" and written["metadata"]["scan"] == "gemma-2-2b"
    assert len(written["nodes"]) == int(node_mask.sum())


@FOLDERS
def test_cell_of_interventions(folder):
    golden = load_file(folder / "interventions.safetensors")
    ids = load_file(folder / "graph.safetensors")["input_ids"]
    model = loaded(folder)
    places = golden["interventions"].tolist()
    wanted = [(*place, value) for place, value in zip(places, golden["values"].tolist(), strict=True)]
    layers = model.native.language_model.n_layers
    for name, options in {
        "frozen_attention": {},
        "open": {"freeze_attention": False},
        "constrained_0_1": {"constrained_layers": range(0, 2)},
        "direct": {"constrained_layers": range(layers)},
    }.items():
        logits, _ = model.feature_intervention(ids, wanted, **options)
        assert logits.shape == (1, *golden["clean"].shape)
        assert torch.allclose(logits[0], golden[f"logits_{name}"], atol=2e-4), name


def test_cell_of_activations(tiny, tiny_folders):
    folder, dictionary = tiny_folders("llama", "topk")
    model = ReplacementModel.from_pretrained(str(folder), str(dictionary), backend="nnsight", dtype="float64")
    with pytest.raises(OptionError, match="differ in width"):
        model.get_activations(PROMPT)
    layer, position, feature = attribute(PROMPT, model).active_features[-1].tolist()
    logits, after = model.feature_intervention(PROMPT, [(0, slice(1, 3), 2, 0.7), (0, torch.tensor(4), 3, 1.0)])
    native = unweave.intervene(
        model.native,
        PROMPT,
        [unweave.set_to((0, 1, 2), 0.7), unweave.set_to((0, 2, 2), 0.7), unweave.set_to((0, 4, 3), 1.0)],
        watch=[(layer, position, feature)],
    )
    assert torch.equal(logits[0], native.logits)
    assert float(after[layer, position, feature]) == float(native.activations[1, 0])
    assert after[layer, position - len(PROMPT), [feature]].shape == (1,)
    assert model.feature_intervention(PROMPT, [], return_activations=False)[1] is None


@FOLDERS
def test_all_activations(folder):
    golden = load_file(folder / "graph.safetensors")
    model = loaded(folder)
    logits, activations = model.get_activations(golden["input_ids"])
    assert torch.allclose(logits[0, -1], golden["final_logits"], atol=1e-4)
    layer, position, feature = golden["active_features"].T
    assert torch.allclose(activations[layer, position, feature], golden["activation_values"], atol=1e-4)
    assert int((activations != 0).sum()) == len(layer) and float(activations[:, 0].abs().max()) == 0
    assert torch.equal(model.get_activations(golden["input_ids"], sparse=True)[1].to_dense(), activations)


def test_pickles_and_strange_options_are_refused_with_a_word(tiny_folders, tmp_path):
    folder, dictionary = map(str, tiny_folders("llama", "relu"))
    model = ReplacementModel.from_pretrained(folder, dictionary)
    graph = attribute(PROMPT, model, attribution_targets=torch.tensor([5, 9]))
    assert graph.logit_token_ids.tolist() == [5, 9] and graph.n_pos == len(PROMPT)
    for refused, words in [
        (lambda: graph.to_pt(tmp_path / "graph.pt"), "is a pickle.*graph.native.save"),
        (lambda: Graph.from_pt("graph.pt"), "graph.pt is a pickle.*unweave.Graph.load"),
        (lambda: create_graph_files("graph.pt", "x", tmp_path), "is a pickle"),
        (lambda: attribute(PROMPT, model, max_logits=3), "max_logits: no such option here"),
        (lambda: ReplacementModel.from_pretrained(folder, dictionary, backend="jax"), "backend is 'jax'"),
        (lambda: ReplacementModel.from_pretrained(folder, dictionary, hf_model=1), "hf_model: no such option"),
        (lambda: model.get_activations(PROMPT, apply_activation_function=False), "pre-activations"),
    ]:
        with pytest.raises(OptionError, match=words):
            refused()
    assert not list(tmp_path.iterdir())
