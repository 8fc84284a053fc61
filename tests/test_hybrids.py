"""Layers without attention patterns: parts and their adjoints, held in interventions, taken apart in routes. Edges and
derivatives of these families stand with the others' in test_families.py."""

import hybrids
import pytest
import torch
from conftest import LAYERS, PROMPT
from hypothesis import given
from hypothesis import strategies as st

import unweave
from unweave.errors import OptionError
from unweave.models.frozen import FrozenNorm
from unweave.models.mixers import Convolve, FrozenMixer, Mix, Normed, Project, Scale
from unweave.models.recurrence import delta_matrix
from unweave.models.workspace import Workspace

HYBRIDS = ("lfm2", "qwen3_next", "qwen3_5_text", "bamba", "granitemoehybrid")
OTHER = [0, 7, 3, 40, 7, 12]


def drawn(seed, *shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 4))
def test_parts_and_their_adjoints(seed, n, width):
    norm = FrozenNorm(drawn(seed, n).exp(), drawn(seed, 12), drawn(seed + 1, 12), centred=bool(seed % 2))
    steps = (
        Project(drawn(seed, 6, 12), drawn(seed, 6)), Convolve(drawn(seed, 6, width), drawn(seed, 6)),
        Scale(drawn(seed, n, 6)), Mix(drawn(seed, 4, n, n).tril(), groups=2), Project(drawn(seed, 12, 12)),
    )  # fmt: skip
    for step, channels in zip((Normed(norm), *steps), (12, 12, 6, 6, 6, 12), strict=True):
        x, zero = drawn(seed + 2, 3, n, channels), torch.zeros(n, channels, dtype=torch.float64)
        y = step.forward(x)
        g = drawn(seed + 3, *y.shape)
        assert torch.allclose((y * g).sum(), (x * step.transpose(g)).sum(), atol=1e-9)
        assert torch.allclose(step.affine(x), y + step.affine(zero), atol=1e-9)
        assert torch.allclose(step.cut(1).forward(x[:, :1]), y[:, :1], atol=1e-9)  # no later position matters
    whole = FrozenMixer.freeze(norm, steps, norm)
    x, r, at = drawn(seed, n, 12), drawn(seed + 1, 2, 12), torch.tensor([0, n - 1])
    g = torch.zeros(2, n, 12, dtype=torch.float64)
    g[torch.arange(2), at] = r
    assert torch.allclose(whole.start(r, at), g + whole.transpose(g), atol=1e-9)
    assert torch.allclose((whole.forward(x) * g).sum(), (whole.transpose(g).sum(0) * x).sum(), atol=1e-9)
    added = whole.transpose(g) + g
    whole.add_transpose(g, Workspace(), None)
    assert torch.equal(g, added)


def test_a_recurrence_is_one_matrix_for_each_head():
    query, key, value = drawn(0, 7, 3, 4), drawn(1, 7, 3, 4), drawn(2, 1, 7, 3, 5)
    rates, write = -drawn(3, 7, 3).exp(), drawn(4, 7, 3).sigmoid()
    query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    matrix = delta_matrix(query * 4**-0.5, key, write, rates.exp())
    made = torch.einsum("hpq,qhc->phc", matrix, value[0])
    true = hybrids.delta_rule(query[None], key[None], value, rates[None], write[None])[0]
    assert torch.allclose(made, true, atol=1e-5)  # the loop norms once more: 1e-6 beside lengths of 1
    assert torch.equal(matrix, matrix.tril())


@pytest.mark.parametrize("family", HYBRIDS)
def test_what_is_held_stays(tiny, family):
    """Holding gates and coefficients changes nothing on the unchanged prompt, and something on a changed one."""
    model = tiny(family, "skip")
    feature = next(iter(unweave.attribute(model, PROMPT).nodes))
    assert feature.layer == 0
    none, held = (
        unweave.intervene(model, PROMPT, [unweave.scale(feature, by)], mode="frozen_attention") for by in (1.0, -3.0)
    )
    live = unweave.intervene(model, PROMPT, [unweave.scale(feature, -3.0)], mode="open")
    assert torch.allclose(none.logits, none.baseline, atol=1e-4)
    assert float((held.logits - live.logits).abs().max()) > 1e-3
    made = unweave.generate(model, PROMPT, [unweave.scale(feature, -3.0)], max_new_tokens=3)
    assert made.default.ids
    assert made.steered.ids


@pytest.mark.parametrize("family", HYBRIDS)
def test_edges_travel_through_mixers(tiny, family):
    model = tiny(family, "skip").language_model
    graph = unweave.response_graph(model, PROMPT, instead=OTHER, most=12)
    answer = graph.nodes[graph.nodes.logits.start]
    weights = graph.dense()[answer.row]
    mixers = torch.zeros(LAYERS, dtype=torch.float64)
    for row in range(graph.nodes.features.stop):
        routes = unweave.routes(model, graph, answer, graph.nodes[row])
        assert abs(routes.total + float(weights[row])) < 1e-4
        mixers += routes.mixers.abs()
    plain = [layer for layer in range(LAYERS) if model.mixer_kind(layer) is None]
    assert float(mixers.sum()) > 0
    assert not mixers[plain].any()
    assert graph.agreement < 1e-5
    assert unweave.response_graph(model, PROMPT, instead=OTHER, most=12, attention="held").agreement < 1e-5
    if plain:
        assert {looked.layer for looked in unweave.attend(model, graph)} <= set(plain)
    else:
        with pytest.raises(OptionError, match="has plain attention"):
            unweave.attend(model, graph)


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_the_language_model_of_a_model_of_several_media(tiny_folders, tmp_path, family):
    """Published Qwen3.5 folders hold a vision tower beside the language model."""
    import transformers

    folder = str(tiny_folders(f"{family}_text", "skip")[0])
    text = transformers.AutoModelForCausalLM.from_pretrained(folder)
    vision = {
        "model_type": f"{family}_vision", "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": 24, "num_position_embeddings": 16,
    }  # fmt: skip
    tokens = dict.fromkeys(("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"), 49)
    name = "Qwen3_5" if family == "qwen3_5" else "Qwen3_5Moe"
    config = getattr(transformers, f"{name}Config")(text_config=text.config.to_dict(), vision_config=vision, **tokens)
    both = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    both.model.language_model.load_state_dict(text.model.state_dict())
    both.lm_head.load_state_dict(text.lm_head.state_dict())
    both.save_pretrained(tmp_path)
    graph = unweave.response_graph(unweave.load_model(str(tmp_path)), PROMPT, baseline="zero", most=4)
    alone = unweave.response_graph(unweave.load_model(folder), PROMPT, baseline="zero", most=4)
    assert torch.equal(graph.effect, alone.effect)


def test_explanations_of_hybrids_name_heads_of_attention_alone(tiny):
    explanation = unweave.explain(tiny("lfm2", "skip").language_model, PROMPT, instead=OTHER)
    assert explanation.groups
    named = [*explanation.heads, *(head for arrow in explanation.measured.arrows for head in arrow.heads)]
    assert {head.layer for head in named} <= {1}
