"""Models that are not what they seem: adapters, quantised weights, keys that say nothing, other versions' configs,
resized vocabularies; with the logits of whoever saved them, from the formulas."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
from conftest import PROMPT
from safetensors.torch import save_file

import unweave
from unweave.errors import ModelError, PromptError, UnsupportedModel
from unweave.models.architectures import architecture_of, unread_keys
from unweave.models.loading import load_model


@pytest.fixture
def folder(tiny_folders, tmp_path):
    return shutil.copytree(tiny_folders("llama", "relu")[0], tmp_path / "model")


@pytest.mark.parametrize("whole", [True, False])
def test_adapters_beside_or_in_place_of_weights(folder, whole):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if not whole:
        (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds an adapter .*merge it into its model first"):
        load_model(str(folder))


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "fp8"])
def test_quantised_weights(method):
    config = {"model_type": "llama", "quantization_config": {"quant_method": method}}
    with pytest.raises(UnsupportedModel, match=rf"is quantised \({method}, .*give the unquantised model"):
        architecture_of(config)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llama", "unsloth_fixed", True), ("qwen2", "use_mrope", False), ("gemma2", "sliding_window_size", 4096),
        ("phi3", "full_attn_mod", 1), ("phi3", "interpolate_factor", 1), ("phi3", "lm_head_bias", False),
        ("llama", "note_of_a_fine_tune", {"by": "someone"}),
    ],
)  # fmt: skip
def test_keys_that_no_code_reads_pass_and_are_told(family, key, value):
    config = {"model_type": family, "hidden_size": 8, key: value}
    assert architecture_of(config).family == family
    assert unread_keys(config) == {key}
    assert architecture_of({"model_type": family, "quantization_config": None}).family == family


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("qwen2", "use_mrope", True), ("phi3", "lm_head_bias", True), ("phi3", "interpolate_factor", 2),
        ("llama", "sliding_window", 4), ("llama", "attention_chunk_size", 4), ("olmoe", "clip_qkv", 8.0),
        ("cohere", "use_qk_norm", True), ("stablelm", "use_parallel_residual", True),
    ],
)  # fmt: skip
def test_keys_that_code_reads_or_that_ask_for_what_is_not_done(family, key, value):
    with pytest.raises(UnsupportedModel, match=key):
        architecture_of({"model_type": family, key: value})


def test_what_no_code_reads_is_in_provenance(folder, tiny_folders):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"unsloth_fixed": True}))
    model = unweave.load(str(folder), str(tiny_folders("llama", "relu")[1]))
    assert unweave.attribute(model, PROMPT).provenance.unread_keys == ("unsloth_fixed",)
    assert unweave.response_graph(model.language_model, PROMPT, most=5).provenance.unread_keys == ("unsloth_fixed",)


@pytest.mark.parametrize(
    ("family", "why"),
    [("bloom", "residual stream themselves"), ("mamba2", "no attention pattern"), ("gemma4", "of each layer's")],
)
def test_families_without_a_row_say_why(family, why):
    with pytest.raises(UnsupportedModel, match=f"{family}' is not supported: .*{why}.*; supported: llama"):
        architecture_of({"model_type": family})


# -- the saved model's logits, or one line

D, WIDTH, WORDS, HEADS, LAYERS = 16, 24, 23, 2, 2
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": WORDS, "hidden_size": D,
    "intermediate_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "head_dim": D // HEADS, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
IDS = torch.tensor([1, 5, 2, 7, 9, 3, 11])
NEW = int(version("transformers").split(".")[0]) >= 5
Q = "model.layers.0.self_attn.q_proj"


def weights(words=WORDS, layers=LAYERS, head=True):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.35

    made = {"model.embed_tokens.weight": random(words, D), "model.norm.weight": 1 + random(D)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        made |= {f"{at}self_attn.{name}_proj.weight": random(D, D) for name in "qkvo"}
        made |= {f"{at}mlp.{name}_proj.weight": random(WIDTH, D) for name in ("gate", "up")}
        made[f"{at}mlp.down_proj.weight"] = random(D, WIDTH)
        made |= {f"{at}{name}_layernorm.weight": 1 + random(D) for name in ("input", "post_attention")}
    return made | ({"lm_head.weight": random(words, D)} if head else {})


def logits(made, theta=10000.0, factor=1.0):
    """A Llama by its formulas; rotary frequencies divided by `factor`."""

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * made[f"{name}.weight"]

    x, n, each = made["model.embed_tokens.weight"][IDS], len(IDS), D // HEADS
    angle = torch.arange(n)[:, None] / (theta ** (torch.arange(0, each, 2) / each) * factor)
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm")
        q, k, v = (
            (h @ made[f"{at}.self_attn.{name}_proj.weight"].T).view(n, HEADS, each).transpose(0, 1) for name in "qkv"
        )
        q, k = (y * cos + torch.cat([-y[..., each // 2 :], y[..., : each // 2]], -1) * sin for y in (q, k))
        scores = (q @ k.mT / each**0.5).masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, D)
        x = x + mixed @ made[f"{at}.self_attn.o_proj.weight"].T
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up, down = (made[f"{at}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
        x = x + (torch.nn.functional.silu(h @ gate.T) * (h @ up.T)) @ down.T
    return norm(x, "model.norm") @ made.get("lm_head.weight", made["model.embed_tokens.weight"]).T


def saved(folder, made, **config):
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    save_file({name: value.contiguous() for name, value in made.items()}, folder / "model.safetensors")
    return str(folder)


LINEAR = {"rope_type": "linear", "factor": 2.0}
ROPES = {
    "theta alone": ({"rope_theta": 500.0}, 500.0, 1.0, True),
    "older type": ({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}}, 500.0, 2.0, True),
    "type": ({"rope_theta": 500.0, "rope_scaling": LINEAR}, 500.0, 2.0, True),
    "parameters": ({"rope_parameters": LINEAR | {"rope_theta": 500.0}}, 500.0, 2.0, NEW),
    "parameters alone": ({"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0, 1.0, NEW),
    "both": ({"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0, 1.0, True),
    "theta beside parameters": ({"rope_theta": 500.0, "rope_parameters": LINEAR}, 500.0, 2.0, NEW),
    "two thetas": ({"rope_theta": 9.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 0, 0, False),
    "two scalings": ({"rope_scaling": LINEAR, "rope_parameters": {"rope_theta": 500.0}}, 0, 0, False),
    "two factors": ({"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"factor": 4.0}}, 0, 0, False),
}


@pytest.mark.parametrize(("config", "theta", "factor", "read"), ROPES.values(), ids=ROPES)
def test_rotary_frequencies_in_both_spellings(tmp_path, config, theta, factor, read):
    made = weights()
    path = saved(tmp_path, made, **config)
    if not read:
        with pytest.raises(
            ModelError, match=r"rope_parameters.*(transformers>=5|keep the one that is meant)"
        ) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
        return
    torch.testing.assert_close(load_model(path).module(IDS[None]).logits[0], logits(made, theta, factor))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["own", "equal", "none", "alone"])
def test_heads_that_are_there_or_not_whatever_the_flag_says(tmp_path, tied, head):
    made = weights(head=head == "own")
    expected = logits(made)
    if head in ("equal", "alone"):
        made["lm_head.weight"] = made["model.embed_tokens.weight"].clone()
    if head == "alone":
        del made["model.embed_tokens.weight"]
    path = saved(tmp_path, made, tie_word_embeddings=tied)
    if head in ("none", "alone") and not tied:
        with pytest.raises(ModelError, match="lacks 1 tensors"):
            load_model(path)
        return
    torch.testing.assert_close(load_model(path).module(IDS[None]).logits[0], expected, atol=1e-5, rtol=1e-5)


ODD = {
    "adapter beside": (lambda made: made | {f"{Q}.lora_A.weight": torch.ones(2, D)}, "hold an adapter's tensors"),
    "adapter's base": (
        lambda made: {f"base_model.model.{key}": value for key, value in made.items()}, "hold an adapter's tensors",
    ),
    "int8": (lambda made: made | {f"{Q}.weight": made[f"{Q}.weight"].to(torch.int8)}, "is quantised: .*q_proj.* is I8"),
    "fp8": (
        lambda made: made | {f"{Q}.weight": made[f"{Q}.weight"].to(torch.float8_e4m3fn)}, "is quantised: .*F8_E4M3",
    ),
    "scale": (lambda made: made | {f"{Q}.weight_scale": torch.ones(D)}, "hold .*weight_scale, for which"),
    "bias": (lambda made: made | {f"{Q}.bias": torch.ones(D)}, "hold .*q_proj.bias, for which"),
    "more layers": (lambda made: weights(layers=3), "model.layers.2.*and 8 more, for which"),
    "resized": (lambda made: weights(29), r"is \[29, 16\] in its files.*\[23, 16\]; .*set vocab_size to 29 there"),
    "cut": (lambda made: weights(20), r"is \[20, 16\] in its files.*set vocab_size to 20 there"),
    "head of other size": (
        lambda made: made | {"lm_head.weight": torch.ones(31, D)}, r"lm_head.weight is \[31, 16\] .*\[23, 16\]$",
    ),
    "layer gone": (
        lambda made: {key: value for key, value in made.items() if "layers.1" not in key}, "lacks 9 tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("tied", [False, True])
def test_files_that_do_not_fit_their_config_are_refused_in_one_line(tmp_path, change, said, tied):
    with pytest.raises((ModelError, UnsupportedModel), match=said) as caught:
        load_model(saved(tmp_path, change(weights()), tie_word_embeddings=tied))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_masks_and_frequencies_that_older_versions_stored_are_no_weights(tmp_path):
    made = weights()
    path = saved(tmp_path, made | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    torch.testing.assert_close(load_model(path).module(IDS[None]).logits[0], logits(made))


def test_a_resized_vocabulary_and_a_tokenizer_with_more_tokens(tmp_path):
    made = weights(29)
    model = load_model(saved(tmp_path, made, vocab_size=29))
    torch.testing.assert_close(model.module(IDS[None]).logits[0], logits(made))
    with pytest.raises(PromptError, match="token id 29 is outside the model's vocabulary of 29"):
        model.tokenize([1, 29])
