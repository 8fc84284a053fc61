"""Families whose rows differ by little: both engines against autograd in float64, one tiny model each."""

import hybrids
import pytest
import torch
from conftest import MORE_FAMILIES, PROMPT
from oracle import attribution as oracle

import unweave
from unweave.errors import InexactAttribution, UnsupportedModel
from unweave.models.architectures import ARCHITECTURES
from unweave.models.passes import run as run_pass
from unweave.response.tangents import Cut, Starts, tangent_model

NO_RESPONSE = {
    "gptj": "its attention pattern",
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "glm4_moe", "lfm2_moe"), "is not experts as"),
}
"""Families of which no response graph is made, and what the refusal says."""


@pytest.fixture(autouse=True)
def in_float64(monkeypatch):
    """transformers takes softmaxes, and some rotations, in float32 whatever the model; autograd needs more digits."""
    softmax, single = torch.nn.functional.softmax, torch.Tensor.float

    def wide(x, dim=None, _stacklevel=3, dtype=None):
        return softmax(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)

    hybrids.in_float64(monkeypatch)
    monkeypatch.setattr(torch.nn.functional, "softmax", wide)
    monkeypatch.setattr(torch.Tensor, "float", lambda x: x if x.dtype == torch.float64 else single(x))


def listed(graph):
    part, nodes = graph.nodes.features, graph.nodes
    return torch.stack([nodes.layer[part], nodes.position[part], nodes.index[part]], dim=1)


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_edges_equal_autograd(tiny, tiny_folders, family):
    model = tiny(family, "skip", "float64")
    graph = unweave.attribute(model, PROMPT, max_logits=3)
    tokens = graph.nodes.index[graph.nodes.logits].tolist()
    truth = oracle(model.language_model.module, family, tiny_folders(family, "skip")[1], PROMPT, tokens, drop=False)
    assert torch.equal(listed(graph), truth["features"])
    numbers = torch.arange(len(graph.nodes))
    targets = torch.cat([numbers[graph.nodes.features], numbers[graph.nodes.logits]])
    edges = graph.dense()[targets, : truth["rows"].shape[1]]
    assert (edges - truth["rows"]).norm() <= 1e-9 * truth["rows"].norm()
    assert torch.allclose(graph.preactivation[targets], truth["preactivation"], atol=1e-9)
    assert float(graph.residual().max()) <= 1e-9
    assert graph.provenance.logits_error <= 1e-9


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_the_derivative_is_autograds_and_patterns_may_be_held(tiny, family):
    model = tiny(family, "skip", "float64").language_model
    if family in NO_RESPONSE:
        with pytest.raises((InexactAttribution, UnsupportedModel), match=f"{NO_RESPONSE[family]}.*no response graph"):
            tangent_model(model, torch.tensor(PROMPT))
        return
    tangent, last = tangent_model(model, torch.tensor(PROMPT)), len(PROMPT) - 1
    read_out = torch.randn(model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = tangent.final.transpose_at(read_out[None], torch.tensor([last]))
    swept = tangent.sweep(Starts(torch.tensor([model.n_layers]), torch.tensor([last]), start), Cut())
    true = autograd_derivative(model, read_out)
    assert float((swept.tokens[0] - true).abs().max()) <= 1e-9 * float(true.abs().max())
    change = torch.randn(len(PROMPT), model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for layer in tangent.layers:  # `forward` is the adjoint of `transpose`, rotations and norms of queries included
        moved = (layer.attention.forward(change) * tangent.recording.embeddings).sum()
        back = (layer.attention.transpose(tangent.recording.embeddings[None])[0] * change).sum()
        assert float((moved - back).abs()) <= 1e-9 * float(moved.abs())
    assert unweave.response_graph(model, PROMPT, baseline="zero", most=8).agreement <= 1e-9


def autograd_derivative(model, read_out):
    """Of a direction of the final norm's output by what enters layer 0, routers (and gates of shared experts) held."""
    row, entered, left, handles = model.architecture, {}, {}, []

    def leaf(module, args, kwargs):
        entered["x"] = x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    def held(module, args, output):
        return tuple(part.detach() for part in output) if isinstance(output, tuple) else output.detach()

    handles.append(model.blocks[0].register_forward_pre_hook(leaf, with_kwargs=True))
    final = model.module.get_submodule(row.final_norm)
    handles.append(final.register_forward_hook(lambda module, args, output: left.update(y=output)))
    for block in model.blocks if row.experts else ():
        mlp = block.get_submodule(row.mlp)
        for name in (row.router, "shared_expert_gate"):
            if hasattr(mlp, name):
                handles.append(mlp.get_submodule(name).register_forward_hook(held))
    with torch.enable_grad():
        model.module(input_ids=torch.tensor([PROMPT]), use_cache=False)
        (true,) = torch.autograd.grad((left["y"][0, -1] * read_out).sum(), entered["x"])
    for handle in handles:
        handle.remove()
    return true[0]


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_passes_and_interventions_go_the_same_ways(tiny, family):
    """Batched passes see what a recording sees; an edge is what taking its source away does with all else held."""
    model, ids = tiny(family, "skip", "float64"), torch.tensor([PROMPT])
    made, recorded = run_pass(model.language_model, ids, "mlp_out"), model.language_model.record(ids[0])
    for layer in range(model.language_model.n_layers):
        assert torch.allclose(made.resid_mid[layer][0], recorded.resid_mid[layer], atol=1e-12)
        assert torch.allclose(made.outputs[layer][0], recorded.mlp_outputs[layer], atol=1e-12)
    graph = unweave.attribute(model, PROMPT, max_logits=2)
    features = list(graph.nodes)[graph.nodes.features]
    outcome = unweave.intervene(model, PROMPT, [unweave.ablate(features[3])], "frozen", watch=features)
    change = outcome.preactivations[1] - outcome.preactivations[0]
    edges = graph.dense()[graph.nodes.features, features[3].row]
    assert float(edges.norm()) > 0
    assert (change + edges).norm() <= 1e-9 * edges.norm()


@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_neurons_stand_for_dense_mlps_without_error(tiny, tiny_folders, family):
    folder, dense = str(tiny_folders(family, "skip")[0]), ARCHITECTURES[family.partition("-")[0]].up is not None
    if not dense:
        with pytest.raises(UnsupportedModel, match="experts"):
            unweave.load(folder, "neurons", dtype="float64")
        return
    local = unweave.load(folder, "neurons", dtype="float64").localize(PROMPT)
    assert float(local.errors.abs().max()) <= 1e-9
