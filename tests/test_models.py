import json
import shutil

import pytest
import torch
from conftest import FAMILIES, MORE_FAMILIES, PROMPT
from safetensors.torch import load_file, save_file

import unweave
from unweave.models.architectures import ARCHITECTURES, architecture_of


class Words:
    """A tokenizer of whole words; the special tokens are what the test says."""

    def __init__(self, bos=None, pad=None, eos=None, special=()):
        self.bos_token_id, self.pad_token_id, self.eos_token_id, self.all_special_ids = bos, pad, eos, list(special)

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [int(word) for word in text.split()]}

    def convert_ids_to_tokens(self, token):
        return str(token)

    def get_vocab(self):
        return {str(token): token for token in range(50)}

    def decode(self, ids, clean_up_tokenization_spaces):
        assert not clean_up_tokenization_spaces  # it would make ` .` and `.` one
        return f"<{ids[0]}>"


def with_tokenizer(model, tokenizer):
    return unweave.LanguageModel("tiny", model.language_model.module, tokenizer, model.language_model.architecture)


@pytest.mark.parametrize(
    ("tokenizer", "text", "ids"),
    [
        (Words(bos=0, special=[0]), "5 6", [0, 5, 6]),
        (Words(bos=0, special=[0]), "0 5 6", [0, 5, 6]),
        (Words(bos=0, eos=9, special=[0, 9]), "9 5", [9, 5]),
        (Words(pad=3, eos=9, special=[3, 9]), "5", [3, 5]),
        (Words(eos=0, special=[0]), "5", [0, 5]),
        (Words(special=[7]), "5", [7, 5]),
    ],
)
def test_one_rule_for_the_leading_token(tiny, tokenizer, text, ids):
    assert with_tokenizer(tiny(), tokenizer).tokenize(text).tolist() == ids


def test_prompts_that_cannot_be_run(tiny):
    model = with_tokenizer(tiny(), Words())
    for prompt, words in [
        ("", "empty"),
        ([], "empty"),
        ("5", "no special token"),
        ([50], "outside the model's vocabulary"),
        ([-1], "outside"),
        ([1] * 65, "at most 64"),
    ]:
        with pytest.raises(unweave.UnweaveError, match=words):
            model.tokenize(prompt)
    with pytest.raises(unweave.UnweaveError, match="without a tokenizer"):
        tiny().language_model.tokenize("hello")


def test_named_targets(tiny):
    model = unweave.ReplacementModel(with_tokenizer(tiny(), Words(bos=0, special=[0])), tiny().transcoders)
    graph = unweave.attribute(model, "7 3 41", ["5", 9])
    assert graph.provenance.logit_labels == ("<5>", "<9>")
    assert graph.nodes.index[graph.nodes.logits].tolist() == [5, 9]
    for target, words in [
        ("5 6", "is 2 tokens"),
        (50, "outside the model's vocabulary"),
        ([], "empty"),
        (unweave.Direction(torch.zeros(3), "x"), "d_model is 24"),
    ]:
        with pytest.raises(unweave.UnweaveError, match=words):
            unweave.attribute(model, "7 3 41", target)
    for options, words in [
        ({"position": 4}, "outside the prompt"),
        ({"max_logits": 0}, "at least 1"),
        ({"logit_mass": 1.5}, "at most at 1"),
        ({"max_features": -1}, "at least 1"),
    ]:
        with pytest.raises(unweave.UnweaveError, match=words):
            unweave.attribute(model, "7 3 41", **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bloom"}, "family 'bloom' is not supported: its attention"),
        ({"sliding_window": 8}, "sliding_window"),
        ({"pretraining_tp": 2}, "pretraining_tp=2"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_is_not_frozen_is_refused_by_name(change, words):
    with pytest.raises(unweave.UnweaveError, match=words):
        architecture_of({"model_type": "llama", "hidden_size": 8} | change)


def test_rows_are_complete():
    media = {"qwen3_5", "qwen3_5_moe"}  # loaded as their language models, which have rows (test_hybrids.py)
    assert set(ARCHITECTURES) == media | {family.partition("-")[0] for family in (*FAMILIES, *MORE_FAMILIES)}


def copied(tiny_folders, tmp_path, change):
    folder = shutil.copytree(tiny_folders("llama", "relu")[0], tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    change(folder, tensors)
    return str(folder), str(tiny_folders("llama", "relu")[1])


def test_models_that_cannot_be_used(tiny_folders, tmp_path):
    def nan(folder, tensors):
        save_file(
            tensors | {"model.norm.weight": tensors["model.norm.weight"] * torch.nan},
            folder / "model.safetensors",
            {"format": "pt"},
        )

    def missing(folder, tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    def cut(folder, tensors):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])

    def broken(folder, tensors):
        (folder / "config.json").write_text("{")

    for number, (change, words) in enumerate(
        [(nan, "not finite"), (missing, "lacks 1 tensors"), (cut, "cannot load model"), (broken, "cannot load model")]
    ):
        model, dictionary = copied(tiny_folders, tmp_path / str(number), change)
        with pytest.raises(unweave.UnweaveError, match=words) as caught:
            unweave.attribute(unweave.load(model, dictionary), PROMPT)
        assert "\n" not in str(caught.value)


def test_an_extra_config_key_is_refused_when_loading(tiny_folders, tmp_path):
    def extra(folder, tensors):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 4}))

    with pytest.raises(unweave.UnweaveError, match="sliding_window"):
        unweave.load(*copied(tiny_folders, tmp_path, extra))


def test_no_hook_is_left_behind(tiny):
    module = tiny().language_model.module
    unweave.attribute(tiny(), PROMPT)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_model_computed_otherwise_is_caught(tiny_folders):
    """A change of the forward pass that no config key tells shows up as inexact, not as a wrong graph."""
    model = unweave.load(*map(str, tiny_folders("qwen3", "relu")))
    block = model.language_model.blocks[1]
    block.self_attn.register_forward_hook(lambda module, args, output: (output[0] * 1.05, output[1]))
    with pytest.raises(unweave.UnweaveError, match="does not freeze"):
        unweave.attribute(model, PROMPT)


# -- GPT-OSS as it is published: experts in mxfp4

FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def packed(weight):
    """(blocks, scales, what they stand for) of experts [expert, in, out]: rows of 32 inputs share a power of two,
    two numbers a byte."""
    rows = weight.transpose(1, 2)
    groups = rows.unflatten(-1, (-1, 32))
    exponent = groups.abs().amax(-1).clamp_min(1e-30).log2().floor() - 2
    scaled = groups / exponent[..., None].exp2()
    code = (scaled[..., None] - FP4).abs().argmin(-1)
    blocks = (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8)
    dense = (FP4[code] * exponent[..., None].exp2()).flatten(-2).transpose(1, 2)
    return blocks, (exponent + 127).to(torch.uint8), dense.contiguous()


@pytest.fixture(scope="module")
def published_gpt_oss(tmp_path_factory):
    """(folder with mxfp4 experts, folder with the same numbers as floats, dictionary)."""
    import transformers

    root, generator = tmp_path_factory.mktemp("gpt-oss"), torch.Generator().manual_seed(3)
    config = transformers.GptOssConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
        max_position_embeddings=64, num_local_experts=4, num_experts_per_tok=2, sliding_window=3, bos_token_id=0,
        eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    state = {name: torch.randn(value.shape, generator=generator) * 0.3 for name, value in model.state_dict().items()}
    tensors = {}
    for name in [name for name in state if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"], state[name] = packed(state[name])
    model.load_state_dict(state)
    model.save_pretrained(root / "float")
    (root / "mxfp4").mkdir()
    saved = load_file(root / "float" / "model.safetensors")
    experts = [name for name in saved if f"{name}_blocks" in tensors]
    assert len(experts) == 4
    save_file(
        {name: value for name, value in saved.items() if name not in experts} | tensors,
        root / "mxfp4" / "model.safetensors",
        {"format": "pt"},
    )
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    about = json.loads((root / "float" / "config.json").read_text())
    (root / "mxfp4" / "config.json").write_text(
        json.dumps(about | {"quantization_config": {"modules_to_not_convert": kept, "quant_method": "mxfp4"}})
    )
    dictionary = root / "dictionary"
    dictionary.mkdir()
    for layer in range(2):
        shapes = {"W_enc": (20, 32), "W_dec": (20, 32), "b_enc": (20,), "b_dec": (32,)}
        save_file(
            {name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()},
            dictionary / f"layer_{layer}.safetensors",
        )
    (dictionary / "config.yaml").write_text(
        "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    )
    return str(root / "mxfp4"), str(root / "float"), str(dictionary)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_mxfp4_experts_are_the_floats_they_stand_for(published_gpt_oss, dtype):
    quantized, dense, dictionary = published_gpt_oss
    one, other = unweave.load(quantized, dictionary, dtype=dtype), unweave.load(dense, dictionary, dtype=dtype)
    ours, theirs = (dict(model.language_model.module.named_parameters()) for model in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    graph, truth = unweave.attribute(one, PROMPT), unweave.attribute(other, PROMPT)
    assert torch.equal(graph.dense(), truth.dense())
    if dtype != "bfloat16":
        assert float(graph.residual().max()) <= (1e-9 if dtype == "float64" else 1e-4)


def test_other_quantised_weights_are_refused(published_gpt_oss, tmp_path, run):
    folder = shutil.copytree(published_gpt_oss[0], tmp_path / "other")
    code, out, _ = run("info", published_gpt_oss[0], "--json")
    assert code == 0 and json.loads(out)["exact"] is True
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    with pytest.raises(
        unweave.UnweaveError, match=r"config values that are not frozen exactly: quantization_config=.*gptq"
    ):
        unweave.load(str(folder), published_gpt_oss[2])


def test_what_a_killed_conversion_left_is_cleared(tmp_path, monkeypatch):
    from unweave.base.files import locked
    from unweave.errors import FileError
    from unweave.models import smollm2

    monkeypatch.setattr(smollm2, "SECONDS_TO_LOCK", -1)
    for name in ("left", "at-work"):
        (tmp_path / f".converting-{name}").mkdir()
        (tmp_path / f".converting-{name}" / "model.safetensors").write_bytes(b"half")
    with locked(tmp_path / ".converting-at-work", FileError("taken")):
        smollm2._clear_left(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".converting-at-work"]
