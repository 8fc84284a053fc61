"""The organism as a Hugging Face model: built afresh, and written as a folder that transformers reads."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..base.files import write_atomically
from ..errors import FileError
from .config import OrganismConfig
from .sentences import START, STRANGE, vocabulary


def model_config(config: OrganismConfig) -> dict[str, Any]:
    """config.json, in keys that transformers 4 and 5 read alike."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(vocabulary()),
        "hidden_size": config.width,
        "intermediate_size": config.mlp, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": config.length, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False, "rope_theta": 10000.0, "initializer_range": 0.02, "bos_token_id": vocabulary()[START],
        "eos_token_id": None,
    }  # fmt: skip


def build(config: OrganismConfig) -> Any:
    """A new model with random weights that depend on the seed alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        whole = LlamaConfig(**model_config(config))
        whole._attn_implementation = "sdpa"
        return LlamaForCausalLM(whole)


def tokenizer() -> Any:
    """A token a word, words being what stands between spaces; the start token is put first, unknown words become
    `<unk>`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = vocabulary()
    whole = Tokenizer(WordLevel(words, unk_token=STRANGE))
    whole.pre_tokenizer = WhitespaceSplit()
    whole.post_processor = TemplateProcessing(single=f"{START} $A", special_tokens=[(START, words[START])])
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, bos_token=START, unk_token=STRANGE, clean_up_tokenization_spaces=False
    )


def write_model(module: Any, config: OrganismConfig, folder: Path) -> Path:
    """Write a model folder, weights in float16; config.json comes last, so that a folder without it is not whole.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot write {folder}: {error.strerror or error}") from error
    weights = {
        name: tensor.detach().half().contiguous()
        for name, tensor in module.state_dict().items()
        if name != "lm_head.weight"
    }
    write_atomically(folder / "model.safetensors", lambda name: save_file(weights, name, {"format": "pt"}))
    write_atomically(folder / "tokenizer.json", lambda name: tokenizer().backend_tokenizer.save(name))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": START,
        "unk_token": STRANGE,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", about | {"model_max_length": config.length})
    _write_json(folder / "config.json", model_config(config) | {"dtype": "float16", "torch_dtype": "float16"})
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, lambda name: Path(name).write_text(json.dumps(content, indent=2) + "\n"))
