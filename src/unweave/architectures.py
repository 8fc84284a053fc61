"""Which models are frozen exactly: one declarative row per family, and the weights a row points at.

A row says where a family keeps its norms, its value and output projections and its MLP, and lists every config key
whose effect is covered. A config with any other key is refused by name, because what is not frozen exactly would be a
wrong answer that looks right. To add a family, add a row; the exactness check at every trace confirms or refutes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from .errors import UnsupportedModel

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
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens cache_implementation"
    ).split()
)
"""Keys that say nothing about what the forward pass computes on a prompt in evaluation mode."""

_SIZES = frozenset(("vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings").split())
_DECODER = frozenset(
    (
        "num_key_value_heads head_dim hidden_act rms_norm_eps rope_theta rope_scaling rope_parameters "
        "attention_bias attention_dropout mlp_bias tie_word_embeddings"
    ).split()
)
_WINDOWS = frozenset(("sliding_window use_sliding_window max_window_layers layer_types").split())


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value in values


def _mask_kinds(value: Any) -> bool:
    return value is None or set(value) <= {"full_attention", "sliding_attention"}


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
    attention_norm: str = "input_layernorm"
    attention_post_norm: str | None = None
    value: str = "v_proj"
    value_part: Literal["whole", "last third"] = "whole"
    output: str = "o_proj"
    mlp: str = "mlp"
    mlp_norm: str = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    softcap: str | None = None
    """Config key of the soft cap on the final logits."""
    limits: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Which values of a key are covered, where not all are."""


ARCHITECTURES: dict[str, Architecture] = {
    row.family: row
    for row in (
        Architecture("llama", keys=_SIZES | _DECODER | {"pretraining_tp", "rope_interleaved"}),
        Architecture(
            "gemma2",
            keys=_SIZES | _DECODER | _WINDOWS
            | {"hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"},
            norm="rms_plus_one",
            attention_post_norm="post_attention_layernorm",
            mlp_norm="pre_feedforward_layernorm",
            mlp_post_norm="post_feedforward_layernorm",
            softcap="final_logit_softcapping",
        ),
        Architecture("qwen3", keys=_SIZES | _DECODER | _WINDOWS),
        Architecture(
            "gpt2",
            keys=frozenset(
    (
        "vocab_size n_positions n_ctx n_embd n_layer n_head n_inner activation_function resid_pdrop "
        "embd_pdrop attn_pdrop layer_norm_epsilon summary_type summary_use_proj summary_activation "
        "summary_proj_to_labels summary_first_dropout scale_attn_weights scale_attn_by_inverse_layer_idx "
        "reorder_and_upcast_attn add_cross_attention tie_word_embeddings"
    ).split()
),
            norm="layer",
            epsilon="layer_norm_epsilon",
            blocks="transformer.h",
            final_norm="transformer.ln_f",
            attention="attn",
            attention_norm="ln_1",
            value="c_attn",
            value_part="last third",
            output="c_proj",
            mlp_norm="ln_2",
        ),
    )
}  # fmt: skip


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
    unknown = sorted(key for key in set(config) - row.keys - _BOOKKEEPING if not key.startswith("_"))
    if unknown:
        raise UnsupportedModel(f"{family}: config keys that are not frozen exactly: {unknown}; see docs/architectures.md")
    limits = {**_COMMON_LIMITS, **row.limits}
    wrong = [f"{key}={config[key]!r}" for key in sorted(set(config) & set(limits)) if not limits[key](config[key])]
    if wrong:
        raise UnsupportedModel(f"{family}: config values that are not frozen exactly: {', '.join(wrong)}; see docs/architectures.md")
    return row


class NormWeights(NamedTuple):
    """The learned part of a norm."""

    gain: Float[Tensor, " d"]
    bias: Float[Tensor, " d"] | None
    centred: bool


class Linear(NamedTuple):
    """A linear map in [out, in] orientation."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"] | None


class LayerWeights(NamedTuple):
    """What one transformer block keeps once attention patterns and norm denominators are fixed."""

    attention_norm: NormWeights
    attention_post_norm: NormWeights | None
    value: Linear
    output: Linear
    mlp_norm: NormWeights
    mlp_post_norm: NormWeights | None


def norm_weights(row: Architecture, module: Any) -> NormWeights:
    """Gain and bias of a norm module of this family."""
    gain = module.weight.detach().cpu()
    match row.norm:
        case "rms":
            return NormWeights(gain, None, centred=False)
        case "rms_plus_one":
            return NormWeights(1 + gain, None, centred=False)
        case "layer":
            return NormWeights(gain, module.bias.detach().cpu(), centred=True)


def layer_weights(row: Architecture, block: Any) -> LayerWeights:
    """The frozen weights of one transformer block of this family."""

    def norm(name: str | None) -> NormWeights | None:
        return None if name is None else norm_weights(row, block.get_submodule(name))

    attention = block.get_submodule(row.attention)
    value = _linear(attention.get_submodule(row.value))
    if row.value_part == "last third":
        weight, bias = value.weight.chunk(3, 0)[2], None if value.bias is None else value.bias.chunk(3)[2]
        value = Linear(weight, bias)
    return LayerWeights(
        attention_norm=norm_weights(row, block.get_submodule(row.attention_norm)),
        attention_post_norm=norm(row.attention_post_norm),
        value=value,
        output=_linear(attention.get_submodule(row.output)),
        mlp_norm=norm_weights(row, block.get_submodule(row.mlp_norm)),
        mlp_post_norm=norm(row.mlp_post_norm),
    )


def _linear(module: Any) -> Linear:
    bias = None if module.bias is None else module.bias.detach().cpu()
    weight = module.weight.detach().cpu()
    return Linear(weight if isinstance(module, nn.Linear) else weight.T, bias)  # GPT-2's Conv1D stores [in, out]
