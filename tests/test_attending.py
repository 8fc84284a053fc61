"""Why a head looked there: against autograd of the pattern's entry, and against patching."""

import json

import pytest
import torch
from conftest import PROMPT

import unweave
from unweave.models.places import neurons_changed
from unweave.response.attending import looked_at, pattern_starts
from unweave.response.pairs import channel_effects, pair_terms
from unweave.response.routes import setting_of
from unweave.validation.putting import changed_of

FAMILIES = ("llama", "gemma2", "qwen3", "olmo2", "gpt2", "gpt_neox", "gpt_oss")


@pytest.fixture
def softmax_in_float64(monkeypatch):
    true = torch.nn.functional.softmax
    monkeypatch.setattr(
        torch.nn.functional,
        "softmax",
        lambda x, dim=None, _stacklevel=3, dtype=None: true(
            x, dim=dim, dtype=x.dtype if x.dtype == torch.float64 else dtype
        ),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2])
def test_the_sides_are_autograds_derivative_of_the_pattern(tiny, softmax_in_float64, family, layer):
    model = tiny(family, "jumprelu", "float64").language_model
    graph = unweave.response_graph(model, PROMPT, most=10, baseline="zero")
    setting, head, query, key = setting_of(model, graph), 1, 4, 3
    looked = looked_at(setting, layer, head, query, key)
    entered, seen, handles = {}, {}, []

    def leaf(module, args, kwargs):
        entered["x"] = x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    handles.append(model.blocks[0].register_forward_pre_hook(leaf, with_kwargs=True))
    attention = model.blocks[layer].get_submodule(model.architecture.attention)
    handles.append(attention.register_forward_hook(lambda module, args, output: seen.update(pattern=output[1])))
    if family == "gpt_oss":
        for block in model.blocks:
            router = block.mlp.router
            handles.append(router.register_forward_hook(lambda m, a, output: tuple(part.detach() for part in output)))
    with torch.enable_grad():
        model.module(input_ids=torch.tensor([PROMPT]), use_cache=False)
        (true,) = torch.autograd.grad(seen["pattern"][0, head, query, key], entered["x"])
    for handle in handles:
        handle.remove()
    tokens = -(true[0] * setting.tokens).sum(-1)
    ours = looked.effect[graph.nodes.embeddings]
    assert float((ours - tokens).abs().max()) <= 1e-9 * float(tokens.abs().max()) + 1e-12
    starts = pattern_starts(setting, layer, head, query, key)
    assert starts.position.tolist() == [query, *range(query + 1)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_account_of_a_look_counts_every_source_and_the_bias(tiny, family):
    model = tiny(family, "jumprelu", "float64").language_model
    graph = unweave.response_graph(model, PROMPT, most=10, instead=[0, 7, 3, 22, 7, 12])
    setting, (layer, head, query, key) = setting_of(model, graph), (2, 1, 4, 3)
    found = looked_at(setting, layer, head, query, key).account
    pattern = setting.asked.tangent.layers[layer].attention.pattern[head, query, : query + 1]
    if family not in ("gemma2", "gpt_oss"):  # whose scores are capped, whose patterns share with sinks
        logs = pattern.log()  # scores but for a constant
        assert found.lead == pytest.approx(float(logs[key] - pattern @ logs), rel=1e-5, abs=1e-7)
    assert torch.allclose(found.total, torch.full((2,), found.lead, dtype=torch.float64), atol=1e-12)
    assert (float(found.bias.abs().max()) > 1e-6) == (family not in ("gemma2", "qwen3"))  # which have no biases
    assert all(float(part.abs().min()) > 0 for part in (found.heads[:, :layer], found.kept))
    assert float(found.heads[:, layer:].abs().max()) == 0
    tokens = found.nodes[:, graph.nodes.embeddings]
    assert float(tokens[0, :query].abs().max()) == 0 and float(tokens[:, query + 1 :].abs().max()) == 0


def test_the_strongest_heads_come_first(tiny):
    model = tiny("llama").language_model
    graph = unweave.response_graph(model, PROMPT, most=20)
    heads = unweave.attend(model, graph, most=4)
    assert len(heads) == 4 and all(one.key > 0 and one.key <= one.query for one in heads)
    assert [abs(one.carried) for one in heads] == sorted((abs(one.carried) for one in heads), reverse=True)
    assert len(heads[0].effect) == len(graph.nodes)
    with pytest.raises(unweave.UnweaveError, match="most is 0"):
        unweave.attend(model, graph, most=0)


def test_the_command_names_heads_and_sources(run, tiny_folders, tmp_path):
    folder, _ = tiny_folders("llama", "jumprelu")
    graph = unweave.response_graph(unweave.load_model(str(folder)), PROMPT, most=20)
    graph.save(tmp_path / "a.graph.safetensors")
    code, out, _ = run("attend", "a.graph.safetensors", "--model", folder, "--most", "2", "--check", "9")
    assert code == 0 and "of its attention" in out and "query side" in out and "in the real model" in out
    code, out, _ = run("attend", "a.graph.safetensors", "--model", folder, "--most", "2", "--json", "--check", "5")
    heads = json.loads(out)["heads"]
    assert code == 0 and len(heads) == 2 and set(heads[0]["checked"]) == {"units", "signed", "sign_share", "together"}
    account = heads[0]["account"]
    for side in ("query", "key"):
        parts = [account[side][name] for name in ("units", "rests", "tokens", "kept", "heads", "bias")]
        assert sum(parts) == pytest.approx(account["lead"], rel=1e-4, abs=1e-4)


def test_what_is_said_of_a_look_is_checked_in_the_real_model(tiny):
    model = tiny("llama").language_model
    graph = unweave.response_graph(model, PROMPT, most=60)
    looked = next(one for one in unweave.attend(model, graph, most=12) if one.layer == 2)
    found = unweave.check_look(model, graph, looked, most=20)
    assert len(found.rows) == 20 and found.signed.n == 20
    changed, row = changed_of(model, graph), int(found.rows[0])
    place, seen = (int(changed.position[row]), int(changed.index[row])), {}

    def without(layer, h):
        h = h.clone()
        if layer == int(changed.layer[row]):
            h[:, place[0], place[1]] = changed.baseline[layer, place[0], place[1]]
        return h

    attention = model.blocks[2].get_submodule(model.architecture.attention)
    hook = attention.register_forward_hook(lambda module, args, output: seen.update(pattern=output[1]))
    with neurons_changed(model, without), torch.no_grad():
        model.module(input_ids=torch.tensor([PROMPT]), use_cache=False)
    hook.remove()
    entry = float(seen["pattern"][0, looked.head, looked.query, looked.key])
    assert float(found.measured[0]) == pytest.approx(entry - looked.pattern, rel=1e-3, abs=1e-6)
    assert float(found.predicted[0]) == pytest.approx(float(looked.effect[row]))
    with pytest.raises(unweave.UnweaveError, match="most is 0"):
        unweave.check_look(model, graph, looked, most=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3", "gpt2"])
@pytest.mark.parametrize("layer", [0, 2])
def test_pairs_are_made_of_the_same_parts_as_the_sides(tiny, family, layer):
    model = tiny(family, "jumprelu", "float64").language_model
    graph = unweave.response_graph(model, PROMPT, most=10, baseline="zero")
    setting, head, query, key = setting_of(model, graph), 1, 4, 3
    looked = looked_at(setting, layer, head, query, key)
    attention = setting.asked.tangent.layers[layer].attention
    pattern = attention.pattern[head, query, : query + 1]
    slope = -pattern * pattern[key]
    slope[key] += pattern[key]
    if attention.slope is not None:
        slope = slope * attention.slope[head, query, : query + 1]
    by_query = channel_effects(setting, layer, head, query, 0)
    by_key = [channel_effects(setting, layer, head, at, 1) for at in range(query + 1)]
    assert torch.allclose((slope @ attention.keys[head, : query + 1]) @ by_query, looked.by_query, atol=1e-12)
    told = sum(slope[at] * (attention.queries[head, query] @ by_key[at]) for at in range(query + 1))
    assert torch.allclose(told, looked.by_key, atol=1e-12)
    terms = pair_terms(model, graph, layer, head, query, key)
    assert terms.shape == (len(graph.nodes), len(graph.nodes))
    assert torch.allclose(terms, attention.factor * torch.einsum("cs,ct->st", by_query, by_key[key]), atol=1e-12)
    wrong = ((9, head, query, key), (layer, 99, query, key), (layer, head, 99, key), (layer, head, key, query))
    for place in wrong:
        with pytest.raises(unweave.UnweaveError, match=r"no head|does not see"):
            pair_terms(model, graph, *place)
