"""Response graphs: derivatives against autograd in float64, agreement, totals, files, and clear refusals."""

import json

import pytest
import torch
from conftest import FAMILIES, PROMPT
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.graphs.interchange import write_json
from unweave.graphs.nodes import NodeKind
from unweave.models.weights import NormWeights
from unweave.response.attention import Rotary
from unweave.response.norms import TangentNorm
from unweave.response.tangents import Cut, Starts, tangent_model
from unweave.response.targets import unit_of

OTHER = [0, 7, 3, 22, 7, 12]


@pytest.fixture
def softmax_in_float64(monkeypatch):
    """transformers computes softmax in float32 whatever the model; the oracle needs more digits."""
    true = torch.nn.functional.softmax

    def softmax(x, dim=None, _stacklevel=3, dtype=None):
        return true(x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", softmax)


def neuron_hooks(model, change=None):
    """Hooks on every MLP's last linear map (or experts' gates): keep activations, and put chosen ones to leaves."""
    seen, handles = {}, []
    for layer, block in enumerate(model.blocks):
        down = block.get_submodule(model.architecture.mlp).get_submodule(model.architecture.down)

        def keep(module, args, layer=layer):
            h = args[0]
            seen[layer] = h[0]
            if change is not None:
                h = change(layer, h)
                return (h, *args[1:])
            return None

        handles.append(down.register_forward_pre_hook(keep))
    return seen, handles


@pytest.mark.parametrize("family", FAMILIES)
def test_the_derivative_of_the_whole_model_is_autograds(tiny, softmax_in_float64, family):
    model = tiny(family, "jumprelu", "float64").language_model
    tangent, last = tangent_model(model, torch.tensor(PROMPT)), len(PROMPT) - 1
    read_out = torch.randn(model.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start = tangent.final.transpose_at(read_out[None], torch.tensor([last]))
    swept = tangent.sweep(Starts(torch.tensor([model.n_layers]), torch.tensor([last]), start), Cut())
    entered, left, handles = {}, {}, []

    def leaf(module, args, kwargs):
        entered["x"] = x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    handles.append(model.blocks[0].register_forward_pre_hook(leaf, with_kwargs=True))
    final = model.module.get_submodule(model.architecture.final_norm)
    handles.append(final.register_forward_hook(lambda module, args, output: left.update(y=output)))
    if family == "gpt_oss":  # the router is held
        for block in model.blocks:
            router = block.mlp.router
            handles.append(router.register_forward_hook(lambda m, a, output: tuple(part.detach() for part in output)))
    with torch.enable_grad():
        model.module(input_ids=torch.tensor([PROMPT]), use_cache=False)
        (true,) = torch.autograd.grad((left["y"][0, last] * read_out).sum(), entered["x"])
    for handle in handles:
        handle.remove()
    assert float((swept.tokens[0] - true[0]).abs().max()) <= 1e-9 * float(true.abs().max())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt_oss"])
def test_edges_are_autograds_derivatives_with_the_other_units_held(tiny, softmax_in_float64, family):
    model = tiny(family, "jumprelu", "float64").language_model
    graph = unweave.response_graph(model, PROMPT, target=(3, 4), most=40, baseline="zero")
    units = graph.nodes.select(graph.nodes.kind == NodeKind.FEATURE)
    places = {layer: torch.nonzero(units.layer == layer).flatten() for layer in range(model.n_layers)}
    leaves = {}

    def hold(layer, h):
        which = places[layer]
        leaves[layer] = value = h[0, units.position[which], units.index[which]].detach().requires_grad_()
        kept = h.clone()
        kept[0, units.position[which], units.index[which]] = value
        return kept

    seen, handles = neuron_hooks(model, hold)
    with torch.enable_grad():
        logits = model.module(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0, -1]
        outputs = torch.cat(
            [
                *(seen[layer][units.position[which], units.index[which]] for layer, which in places.items()),
                (logits[3] - logits[4])[None],
            ]
        )
        true = torch.zeros(len(outputs), len(units), dtype=torch.float64)
        for row, output in enumerate(outputs):
            given = torch.autograd.grad(output, list(leaves.values()), retain_graph=True, allow_unused=True)
            for layer, part in enumerate(given):
                if part is not None:
                    true[row, places[layer]] = part
    for handle in handles:
        handle.remove()
    activation = torch.cat([leaf.detach() for leaf in leaves.values()])
    true = true * activation
    rows = [*range(len(units)), len(graph.nodes) - 1]
    ours = -graph.dense()[rows][:, : len(units)]
    assert float((ours - true).abs().max()) <= 1e-9 * float(true.abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("instead", [None, OTHER])
def test_paths_agree_with_one_backward_pass(tiny, family, instead):
    model = tiny(family).language_model
    graph = unweave.response_graph(model, PROMPT, instead=instead, most=30)
    assert graph.agreement <= 1e-5
    totals = unweave.total_effects(graph, graph.nodes[len(graph.nodes) - 1]).to(graph.effect)
    assert float((totals + graph.effect)[:-1].abs().max()) <= 1e-4 * float(graph.effect.abs().max())


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "topk", "skip", "clt"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("instead", [None, OTHER])
def test_features_of_every_dictionary_agree_with_one_backward_pass(tiny, softmax_in_float64, family, kind, instead):
    model = tiny(family, kind, "float64")
    graph = unweave.response_graph(model, PROMPT, instead=instead, units="features", most=20)
    assert graph.agreement <= 1e-9
    assert graph.provenance.units == "features" and len(graph.nodes.ids) > 0


def test_held_patterns_give_another_graph(tiny):
    model = tiny("llama").language_model
    live, held = (unweave.response_graph(model, PROMPT, attention=word, most=30) for word in ("live", "held"))
    assert held.agreement <= 1e-5 and not torch.allclose(live.effect[-8:-1], held.effect[-8:-1])


def test_a_unit_may_be_the_target(tiny):
    model = tiny("llama").language_model
    whole = unweave.response_graph(model, PROMPT, most=60)
    unit = next(node for node in reversed(list(whole.nodes)) if node.kind == NodeKind.FEATURE and node.layer == 2)
    graph = unweave.response_graph(model, PROMPT, target=unit.id, most=20)
    assert unit_of(unit.id) == (unit.layer, unit.position, unit.index)
    assert graph.agreement <= 1e-5 and int(graph.nodes.layer[graph.nodes.features].max()) < unit.layer


def test_a_file_keeps_everything(tiny, tmp_path):
    graph = unweave.response_graph(tiny("llama").language_model, PROMPT, instead=OTHER, most=30)
    read = unweave.Graph.load(graph.save(tmp_path / "a.graph.safetensors"))
    assert read.is_response and read.provenance == graph.provenance
    assert torch.equal(read.effect, graph.effect) and torch.equal(read.dense(), graph.dense())
    small = unweave.prune(read, 0.6, 0.9)
    assert len(small.effect) == len(small.nodes) < len(read.nodes)


def test_prompts_of_two_lengths_are_matched_where_they_agree(tiny, caplog):
    graph = unweave.response_graph(tiny("llama").language_model, PROMPT, instead=[0, 7, 41, 7, 12], most=10)
    assert graph.provenance.instead_places == (0, 1, -1, 2, 3, 4)
    assert graph.agreement <= 1e-5
    assert "no counterpart" in caplog.text


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"instead": PROMPT}, unweave.UnweaveError, "same prompt"),
        ({"most": 0}, unweave.UnweaveError, "most is 0"),
        ({"most": 10**6}, unweave.UnweaveError, "most is 1000000"),
        ({"units": "features"}, unweave.UnweaveError, "dictionary"),
        ({"units": "heads"}, unweave.UnweaveError, "use 'neurons' or 'features'"),
        ({"baseline": "mean"}, unweave.UnweaveError, "no tokenizer"),
        ({"baseline": "none"}, unweave.UnweaveError, "use 'auto', 'zero', 'mean' or 'resampled'"),
        ({"target": (3, 3)}, unweave.UnweaveError, "itself"),
        ({"target": "9_0_0"}, unweave.UnweaveError, "outside the model"),
        ({"target": "0_999_1"}, unweave.UnweaveError, "layer 0 has 40 neurons"),
        ({"target": 99}, unweave.UnweaveError, "vocabulary"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(tiny, asked, error, words, unchecked):
    with pytest.raises(error) as refused:
        unweave.response_graph(tiny("llama").language_model, PROMPT, **asked)
    assert words in str(refused.value) and "\n" not in str(refused.value)


@given(st.integers(0, 10**6), st.booleans())
def test_norms_have_their_adjoint(seed, centred):
    torch.manual_seed(seed)
    x, dx, g = torch.randn(3, 4, 6, dtype=torch.float64)
    norm = TangentNorm.at(NormWeights(torch.randn(6).double(), torch.randn(6).double(), centred), x, 1e-5, 0.7)
    assert float((norm.forward(dx) * g).sum()) == pytest.approx(
        float((norm.transpose(g) * dx).sum()), rel=1e-9, abs=1e-9
    )


@given(st.integers(0, 10**6), st.integers(1, 3))
def test_rotations_have_their_adjoint(seed, halves):
    torch.manual_seed(seed)
    rotary = Rotary(torch.randn(5, 2 * halves).double(), torch.randn(5, 2 * halves).double())
    x, g = torch.randn(2, 5, 3, 6, dtype=torch.float64)
    assert float((rotary.forward(x) * g).sum()) == pytest.approx(float((rotary.transpose(g) * x).sum()), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("held", [False, True])
def test_layers_have_their_adjoint(tiny, family, held):
    tangent = tangent_model(tiny(family, "jumprelu", "float64").language_model, torch.tensor(PROMPT))
    generator = torch.Generator().manual_seed(1)
    x, g = torch.randn(2, len(PROMPT), tangent.final.frozen.gain.shape[0], dtype=torch.float64, generator=generator)
    for layer in tangent.layers:
        there = float((layer.attention.forward(x, held=held) * g).sum())
        back = float((layer.attention.transpose(g[None], held=held)[0] * x).sum())
        assert there == pytest.approx(back, rel=1e-9)


@pytest.mark.parametrize(("family", "kind", "units"), [
    *((family, "jumprelu", "neurons") for family in FAMILIES),
    ("gemma2", "clt", "features"), ("llama", "clt", "features"),
    ("llama", "skip", "features"),
])  # fmt: skip
def test_routes_add_up_to_the_edge(tiny, softmax_in_float64, family, kind, units):
    model = tiny(family, kind, "float64")
    graph = unweave.response_graph(model, PROMPT, units=units, most=20)
    matrix = -graph.dense()
    targets = [len(graph.nodes) - 1, graph.nodes.features.stop - 1]
    sources = [0, 5, graph.nodes.errors.start + 3, graph.nodes.errors.start + 8, graph.nodes.embeddings.stop - 1]
    for target in targets:
        for source in sources:
            found = graph.routes(graph.nodes[target], graph.nodes[source])
            assert found.total == pytest.approx(float(matrix[target, source]), rel=1e-7, abs=1e-9)


def test_routes_of_a_graph_from_a_file(tiny, tmp_path):
    model = tiny("llama").language_model
    graph = unweave.response_graph(model, PROMPT, instead=OTHER, most=20)
    read = unweave.Graph.load(graph.save(tmp_path / "a.graph.safetensors"))
    edge = graph.incoming(graph.nodes[len(graph.nodes) - 1])[0]
    found = unweave.routes(model, read, edge.target, edge.source)
    assert found.total == pytest.approx(edge.weight, rel=1e-4)
    assert found.strongest(1)[0][1] == pytest.approx(
        graph.routes(edge.target, edge.source).strongest(1)[0][1], rel=1e-4
    )
    with pytest.raises(unweave.UnweaveError, match="just computed"):
        read.routes(edge.target, edge.source)
    with pytest.raises(unweave.UnweaveError, match="pruned"):
        unweave.routes(model, unweave.prune(read, 0.6), edge.target, edge.source)


def test_json_says_which_kind_of_graph_it_is(tiny, tmp_path):
    graph = unweave.response_graph(tiny("llama").language_model, PROMPT, instead=OTHER, most=20)
    write_json(graph, tmp_path / "a.json")
    read = unweave.Graph.load(tmp_path / "a.json")
    assert read.is_response and read.provenance.baseline == "contrast"
    assert read.provenance.instead_ids == tuple(OTHER) and read.agreement == graph.agreement
    assert torch.allclose(read.effect, graph.effect) and torch.allclose(read.dense(), graph.dense())
    assert json.loads((tmp_path / "a.json").read_text())["metadata"]["unweave"]["kind"] == "response"


def test_the_command_tells_and_writes(run, tiny_folders, tmp_path):
    model, _ = tiny_folders("llama", "jumprelu")
    asked = ("trace", "0 7 3 41 7 12", "--ids", "--model", model, "--response", "--most", "20")
    code, out, _ = run(*asked, "--instead", "0 7 3 22 7 12", "--json", "--out", "a.graph.safetensors")
    facts = json.loads(out)
    assert code == 0 and facts["baseline"] == "contrast" and len(facts["strongest"]) == 12
    assert unweave.Graph.load(tmp_path / "a.graph.safetensors").is_response
    code, out, _ = run(*asked, "--out", "b.json")
    assert code == 0 and "one backward pass" in out and "effect" in out
    code, out, _ = run("info", "a.graph.safetensors", "--json")
    assert code == 0 and json.loads(out)["graph"] == "response"
    for words, message in (
        (("--instead", "0 7 3 41 7 12"), "same prompt"),
        (("--units", "features"), "no dictionary is known"),
        (("--most", "0"), "most is 0"),
    ):
        code, _, err = run(*asked, *words)
        assert code == 2 and message in " ".join(err.split())
    code, _, err = run("trace", "0 7 3", "--ids", "--model", model, "--instead", "0 7 4")
    assert code == 2 and "--response" in err
