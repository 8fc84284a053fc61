"""Which models are frozen exactly: one declarative row per family, and the weights a row points at.

A row says where a family keeps its norms, its value and output projections and its MLP, and lists every config key
whose effect is covered. A config with any other key that code of the family reads is refused by name, because what is
not frozen exactly would be a wrong answer that looks right; what nobody reads is let pass and kept in provenance. To
add a family, add a row; the exactness check at every trace confirms or refutes it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UnsupportedModel
from .row import Architecture, mask_kinds, one_of
from .rows import DENSE
from .rows_of_experts import EXPERTS
from .rows_of_hybrids import HYBRIDS
from .unread import unread

ARCHITECTURES: dict[str, Architecture] = {row.family: row for row in (*DENSE, *EXPERTS, *HYBRIDS)}

_BOOKKEEPING = frozenset(
    (
        "transformers_version architectures model_type dtype torch_dtype name_or_path use_cache return_dict "
        "output_hidden_states output_attentions is_encoder_decoder is_decoder id2label label2id problem_type "
        "chunk_size_feed_forward bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id "
        "decoder_start_token_id tokenizer_class task_specific_params initializer_range gradient_checkpointing "
        "transformers.js_config attn_implementation is_llama_config unsloth_version finetuning_task prefix "
        "pruned_heads tie_encoder_decoder torchscript use_bfloat16 tf_legacy_loss cross_attention_hidden_size "
        "add_cross_attention num_labels return_dict_in_generate output_scores max_length min_length do_sample "
        "early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
        "num_return_sequences forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens cache_implementation auto_map"
    ).split()
)
"""Keys that say nothing about what the forward pass computes on a prompt in evaluation mode."""

_COMMON_LIMITS: Mapping[str, Callable[[Any], bool]] = {
    "add_cross_attention": one_of(False, None),
    "is_encoder_decoder": one_of(False, None),
    "pruned_heads": lambda value: not value,
    "chunk_size_feed_forward": one_of(0, None),
    "layer_types": mask_kinds,
    "pretraining_tp": one_of(1, None),
    "rope_interleaved": one_of(False, None),
    "use_bidirectional_attention": one_of(False, None),
    "use_mrope": one_of(False, None),
    "full_attn_mod": one_of(1, None),
    "interpolate_factor": one_of(1, None),
    "quantization_config": lambda value: value is None,
}
"""Which values of keys are covered, whether a row lists them or nobody reads them."""
_NOT_YET = {
    "bloom": "its attention and MLP add the residual stream themselves",
    "opt": "its MLP is no module of its own",
    "falcon": "its MLP adds what attention made, in place",
    "llama4_text": "its experts weigh what they read",
    "gemma3n_text": "it has several residual streams and embeddings of each layer's own",
    "gemma4_text": "it has embeddings of each layer's own",
    "nemotron_h": "its layers are attention, a recurrence or an MLP, one each",
    "falcon_h1": "its layers have attention and a recurrence side by side, and factors inside their MLPs",
    **dict.fromkeys(
        "mamba mamba2 jamba zamba2 recurrent_gemma rwkv olmo_hybrid".split(),
        "some of its layers have no attention pattern to hold (recurrence or convolution)",
    ),
}
"""Why families that people ask for have no row."""


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The row that freezes a model with this config exactly.

    Raises:
        UnsupportedModel: no row for the family, or keys (or values of keys) that the row does not cover.

    >>> architecture_of({"model_type": "llama", "hidden_size": 64}).family
    'llama'
    """
    family = str(config.get("model_type", "?"))
    row = ARCHITECTURES.get(family)
    if row is None:
        why = next((_NOT_YET[name] for name in (family, f"{family}_text") if name in _NOT_YET), None)
        reason = "" if why is None else f": {why}"
        raise UnsupportedModel(
            f"model family {family!r} is not supported{reason}; supported: {', '.join(ARCHITECTURES)}"
        )
    whole = _whole(config, row)
    quantized = whole.get("quantization_config")
    if quantized is not None and "quantization_config" not in row.keys:
        kind = (quantized if isinstance(quantized, Mapping) else vars(quantized)).get(
            "quant_method", "in an unknown way"
        )
        raise UnsupportedModel(
            f"this {family} model is quantised ({kind}, by quantization_config), and its weights are not those "
            f"that were trained; give the unquantised model"
        )
    unknown = sorted(_strange(whole, row) - unread_keys(config))
    if unknown:
        raise UnsupportedModel(
            f"{family}: config keys that are not frozen exactly: {unknown}; see docs/architectures.md"
        )
    limits = {**_COMMON_LIMITS, **row.limits}
    wrong = [f"{key}={whole[key]!r}" for key in sorted(set(whole) & set(limits)) if not limits[key](whole[key])]
    if wrong:
        raise UnsupportedModel(
            f"{family}: config values that are not frozen exactly: {', '.join(wrong)}; see docs/architectures.md"
        )
    return row


def unread_keys(config: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a supported family's config that its row does not list and that no code of transformers reads."""
    row = ARCHITECTURES[str(config["model_type"])]
    whole = _whole(config, row)
    strange = _strange(whole, row)
    silent = unread(str(whole["model_type"]), strange) & unread(row.family, strange) if strange else strange
    return frozenset(key for key in silent if key != "lm_head_bias" or not whole[key])  # weights would be left out


def _whole(config: Mapping[str, Any], row: Architecture) -> Mapping[str, Any]:
    """A config with that of its language model over it."""
    return config if row.text is None else {**config, **config.get(row.text, {})}


def _strange(config: Mapping[str, Any], row: Architecture) -> frozenset[str]:
    """Keys that are neither the row's nor bookkeeping."""
    return frozenset(
        key for key in set(config) - row.keys - _BOOKKEEPING - {"quantization_config"} if not key.startswith("_")
    )
