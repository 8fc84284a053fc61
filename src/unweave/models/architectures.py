"""Which models are frozen exactly: one declarative row per family, and the weights a row points at.

A row says where a family keeps its norms, its value and output projections and its MLP, and lists every config key
whose effect is covered. A config with any other key is refused by name, because what is not frozen exactly would be a
wrong answer that looks right. To add a family, add a row; the exactness check at every trace confirms or refutes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UnsupportedModel

NormKind = Literal["rms", "rms_plus_one", "layer"]
"""`rms`: gain w; `rms_plus_one`: gain 1 + w (Gemma); `layer`: LayerNorm, centred, gain w and bias."""

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
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens cache_implementation auto_map "
        "unsloth_fixed"
    ).split()
)
"""Keys that say nothing about what the forward pass computes on a prompt in evaluation mode."""

_SIZES = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings".split()
)
_ROTARY = frozenset(
    "rope_theta rope_scaling rope_parameters partial_rotary_factor original_max_position_embeddings".split()
)
_DECODER = (
    _SIZES
    | _ROTARY
    | frozenset(
        "num_key_value_heads head_dim hidden_act rms_norm_eps attention_bias attention_dropout mlp_bias "
        "tie_word_embeddings".split()
    )
)
_WINDOWS = frozenset("sliding_window use_sliding_window max_window_layers layer_types".split())
_GEMMA = frozenset(
    "hidden_activation query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping "
    "use_bidirectional_attention".split()
)


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _mask_kinds(value: Any) -> bool:
    return value is None or set(value) <= {"full_attention", "sliding_attention"}


def _mxfp4(value: Any) -> bool:
    """Weights that are unpacked when they are read, without loss."""
    return value is None or (value if isinstance(value, Mapping) else vars(value)).get("quant_method") == "mxfp4"


_UNREAD: Mapping[str, Callable[[Any], bool]] = {
    "use_mrope": _one_of(False, None),
    "sliding_window_size": lambda value: True,
    "full_attn_mod": _one_of(1, None),
    "interpolate_factor": _one_of(1, None),
    "lm_head_bias": _one_of(False, None),
    "quantization_config": lambda value: value is None,
}
"""Keys of published configs that transformers reads in no family here, and the values with which they say nothing."""
_COMMON_LIMITS: Mapping[str, Callable[[Any], bool]] = {
    "add_cross_attention": _one_of(False, None),
    "is_encoder_decoder": _one_of(False, None),
    "pruned_heads": lambda value: not value,
    "chunk_size_feed_forward": _one_of(0, None),
    "layer_types": _mask_kinds,
    "pretraining_tp": _one_of(1, None),
    "rope_interleaved": _one_of(False, None),
    "use_bidirectional_attention": _one_of(False, None),
}


@dataclass(frozen=True)
class Architecture:
    """Where one family of models keeps what must be frozen; paths are attribute names of the Hugging Face module."""

    family: str
    keys: frozenset[str]
    """Every config key whose effect this row covers."""
    norm: NormKind = "rms"
    epsilon: str = "rms_norm_eps"
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    attention: str = "self_attn"
    attention_norm: str | None = "input_layernorm"
    attention_post_norm: str | None = None
    value: str = "v_proj"
    value_part: Literal["whole", "tail", "each head"] = "whole"
    """Where values are in a projection shared with queries and keys: after them, or after those of each head."""
    query: str = "q_proj"
    key: str = "k_proj"
    query_norm: str | None = None
    key_norm: str | None = None
    """Norms of queries and keys, of each head or of all heads together."""
    score_cap: str | None = None
    """Config key of the soft cap on attention scores (Gemma 3 has the key and no cap)."""
    output: str = "o_proj"
    mlp: str = "mlp"
    mlp_norm: str | None = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    up: str | None = "up_proj"
    """The MLP's linear map from its input to its neurons: the one that is not behind the activation function, where
    there are two."""
    up_part: Literal["whole", "tail"] = "whole"
    """The upper half where the gate is the lower."""
    gate: str | None = "gate_proj"
    """The MLP's linear map that is behind the activation function, where there are two."""
    activation: str = "act_fn"
    """The activation function's name in the MLP."""
    down: str = "down_proj"
    parallel: str | None = None
    """Config key that says whether the MLP reads what attention reads, instead of what attention made of it."""
    residual_multiplier: str | None = None
    """Config key of the factor on what attention and MLP add to the residual stream."""
    logit_divisor: str | None = None
    """Config key of what the logits are divided by."""
    softcap: str | None = None
    """Config key of the soft cap on the final logits."""
    text: str | None = None
    """Config key under which a model of several media keeps its language model's config."""
    limits: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Which values of a key are covered, where not all are."""


_GEMMA_NORMS: dict[str, Any] = {
    "norm": "rms_plus_one",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_HEAD_NORMS: dict[str, Any] = {"query_norm": "q_norm", "key_norm": "k_norm"}
_GEMMA3_KEYS = _DECODER | _WINDOWS | _GEMMA | frozenset("rope_local_base_freq sliding_window_pattern".split())

ARCHITECTURES: dict[str, Architecture] = {
    row.family: row
    for row in (
        Architecture("llama", keys=_DECODER | {"pretraining_tp", "rope_interleaved"}),
        Architecture("mistral", keys=_DECODER | {"sliding_window"}),
        Architecture("qwen2", keys=_DECODER | _WINDOWS),
        Architecture("qwen3", keys=_DECODER | _WINDOWS, **_HEAD_NORMS),
        Architecture(
            "gemma", keys=_DECODER | {"hidden_activation", "use_bidirectional_attention"}, norm="rms_plus_one"
        ),
        Architecture(
            "gemma2",
            keys=_DECODER | _WINDOWS | _GEMMA,
            softcap="final_logit_softcapping",
            score_cap="attn_logit_softcapping",
            **_GEMMA_NORMS,
        ),
        Architecture(
            "gemma3_text", keys=_GEMMA3_KEYS, softcap="final_logit_softcapping", **_GEMMA_NORMS, **_HEAD_NORMS
        ),
        Architecture(
            "gemma3",
            keys=_GEMMA3_KEYS
            | frozenset(
                "text_config vision_config boi_token_index eoi_token_index "
                "image_token_index mm_tokens_per_image".split()
            ),
            blocks="model.language_model.layers",
            final_norm="model.language_model.norm",
            text="text_config",
            # its model with a vision tower applies none, whatever the config says
            limits={"final_logit_softcapping": _one_of(None)},
            **_GEMMA_NORMS,
            **_HEAD_NORMS,
        ),
        Architecture(
            "olmo2",
            keys=_DECODER,
            attention_norm=None,
            attention_post_norm="post_attention_layernorm",
            mlp_norm=None,
            mlp_post_norm="post_feedforward_layernorm",
            **_HEAD_NORMS,
        ),
        Architecture(
            "phi3",
            keys=_DECODER | {"sliding_window", "embd_pdrop", "resid_pdrop"},
            value="qkv_proj",
            value_part="tail",
            up="gate_up_proj",
            up_part="tail",
            gate="gate_up_proj",
            activation="activation_fn",
        ),
        Architecture(
            "granite",
            keys=_DECODER | {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"},
            residual_multiplier="residual_multiplier",
            logit_divisor="logits_scaling",
        ),
        Architecture(
            "gpt_oss",
            keys=_DECODER
            | _WINDOWS
            | frozenset(
                "num_local_experts num_experts_per_tok experts_per_token output_router_logits router_aux_loss_coef "
                "swiglu_alpha swiglu_limit "
                "initial_context_length quantization_config".split()
            ),
            limits={"quantization_config": _mxfp4},
            up=None,
            gate=None,
        ),
        Architecture(
            "starcoder2",
            keys=_DECODER | {"sliding_window", "norm_epsilon", "use_bias", "residual_dropout", "embedding_dropout"},
            norm="layer",
            epsilon="norm_epsilon",
            up="c_fc",
            gate=None,
            activation="act",
            down="c_proj",
        ),
        Architecture(
            "gpt2",
            keys=frozenset(
                "vocab_size n_positions n_ctx n_embd n_layer n_head n_inner activation_function resid_pdrop "
                "embd_pdrop attn_pdrop layer_norm_epsilon "
                "summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout "
                "scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn "
                "add_cross_attention tie_word_embeddings".split()
            ),
            norm="layer",
            epsilon="layer_norm_epsilon",
            blocks="transformer.h",
            final_norm="transformer.ln_f",
            attention="attn",
            attention_norm="ln_1",
            value="c_attn",
            value_part="tail",
            output="c_proj",
            mlp_norm="ln_2",
            up="c_fc",
            gate=None,
            activation="act",
            down="c_proj",
        ),
        Architecture(
            "gpt_neox",
            keys=_DECODER
            | frozenset(
                "layer_norm_eps use_parallel_residual hidden_dropout classifier_dropout "
                "rotary_pct rotary_emb_base".split()
            ),
            norm="layer",
            epsilon="layer_norm_eps",
            blocks="gpt_neox.layers",
            final_norm="gpt_neox.final_layer_norm",
            attention="attention",
            value="query_key_value",
            value_part="each head",
            output="dense",
            up="dense_h_to_4h",
            gate=None,
            activation="act",
            down="dense_4h_to_h",
            parallel="use_parallel_residual",
        ),
    )
}


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
        raise UnsupportedModel(f"model family {family!r} is not supported; supported: {', '.join(ARCHITECTURES)}")
    if row.text is not None:
        config = {**config, **config[row.text]}
    quantized = config.get("quantization_config")
    if quantized is not None and "quantization_config" not in row.keys:
        kind = (quantized if isinstance(quantized, Mapping) else vars(quantized)).get(
            "quant_method", "in an unknown way"
        )
        raise UnsupportedModel(
            f"this {family} model is quantised ({kind}, by quantization_config), and its weights are not those "
            f"that were trained; give the unquantised model"
        )
    silent = {key for key, harmless in _UNREAD.items() if key in config and harmless(config[key])}
    unknown = sorted(key for key in set(config) - row.keys - _BOOKKEEPING - silent if not key.startswith("_"))
    if unknown:
        raise UnsupportedModel(
            f"{family}: config keys that are not frozen exactly: {unknown}; see docs/architectures.md"
        )
    limits = {**_COMMON_LIMITS, **row.limits}
    wrong = [f"{key}={config[key]!r}" for key in sorted(set(config) & set(limits)) if not limits[key](config[key])]
    if wrong:
        raise UnsupportedModel(
            f"{family}: config values that are not frozen exactly: {', '.join(wrong)}; see docs/architectures.md"
        )
    return row
