"""Models that are not what they seem: adapters, quantised weights, keys that say nothing."""

import json
import shutil

import pytest

from unweave.errors import ModelError, UnsupportedModel
from unweave.models.architectures import architecture_of
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
    ("key", "value"),
    [
        ("unsloth_fixed", True), ("use_mrope", False), ("sliding_window_size", 4096), ("full_attn_mod", 1),
        ("interpolate_factor", 1), ("lm_head_bias", False), ("quantization_config", None),
    ],
)  # fmt: skip
def test_keys_that_say_nothing(key, value):
    assert architecture_of({"model_type": "llama", key: value}).family == "llama"


@pytest.mark.parametrize(("key", "value"), [("use_mrope", True), ("lm_head_bias", True), ("router", 3)])
def test_keys_that_say_something(key, value):
    with pytest.raises(UnsupportedModel, match=key):
        architecture_of({"model_type": "llama", key: value})
