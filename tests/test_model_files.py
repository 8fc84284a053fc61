"""Models that are not what they seem: adapters, quantised weights, keys that say nothing."""

import json
import shutil

import pytest
from conftest import PROMPT

import unweave
from unweave.errors import ModelError, UnsupportedModel
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
    [("bloom", "residual stream themselves"), ("qwen3_next", "no attention pattern"), ("gemma4", "of each layer's")],
)
def test_families_without_a_row_say_why(family, why):
    with pytest.raises(UnsupportedModel, match=f"{family}' is not supported: .*{why}.*; supported: llama"):
        architecture_of({"model_type": family})
