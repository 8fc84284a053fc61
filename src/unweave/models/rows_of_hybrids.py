"""The families in which some layers have a recurrence or a convolution in place of attention, a row each."""

from typing import Any

from .row import DECODER, Architecture, one_of
from .rows_of_experts import ROUTED

_LINEAR = frozenset(
    "linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim linear_num_key_heads linear_num_value_heads "
    "layer_types full_attention_interval".split()
)
_DELTA: dict[str, Any] = {
    "norm": "rms_plus_one",
    "query_norm": "q_norm",
    "key_norm": "k_norm",
    "mixers": {"self_attn": "gated attention", "linear_attn": "delta rule"},
}
_DELTA_LIMITS: dict[str, Any] = {
    "hidden_act": one_of("silu"),
    "layer_types": lambda value: value is None or set(value) <= {"full_attention", "linear_attention"},
}

_STATE = frozenset(
    "mamba_n_heads mamba_d_head mamba_n_groups mamba_d_state mamba_d_conv mamba_expand mamba_chunk_size "
    "mamba_conv_bias mamba_proj_bias time_step_limit".split()
)
_SILU: dict[str, Any] = {"hidden_act": one_of("silu")}

HYBRIDS: tuple[Architecture, ...] = (
    Architecture(
        "lfm2",
        keys=DECODER
        | frozenset(
            "norm_eps conv_bias conv_L_cache block_multiple_of block_ffn_dim_multiplier block_auto_adjust_ff_dim "
            "full_attn_idxs layer_types block_dim block_ff_dim block_norm_eps block_use_swiglu "
            "block_use_xavier_init conv_dim conv_dim_out conv_use_xavier_init num_heads tie_embedding theta "
            "block_mlp_init_scale block_out_init_scale".split()
        ),
        epsilon="norm_eps",
        final_norm="model.embedding_norm",
        attention_norm="operator_norm",
        mlp_norm="ffn_norm",
        output="out_proj",
        query_norm="q_layernorm",
        key_norm="k_layernorm",
        mixers={"conv": "convolution"},
        mlp="feed_forward",
        up="w3",
        gate="w1",
        activation="silu",
        down="w2",
        limits={"layer_types": lambda value: value is None or set(value) <= {"full_attention", "conv"}},
    ),
    Architecture(
        "bamba",
        keys=DECODER | _STATE | frozenset("attn_layer_indices num_logits_to_keep z_loss_coefficient".split()),
        final_norm="model.final_layernorm",
        mixers={"mamba": "state space"},
        mlp="feed_forward",
        mlp_norm="pre_ff_layernorm",
        limits=_SILU,
    ),
    Architecture(
        "granitemoehybrid",
        keys=DECODER
        | _STATE
        | frozenset(
            "attention_multiplier embedding_multiplier logits_scaling residual_multiplier num_local_experts "
            "num_experts_per_tok output_router_logits router_aux_loss_coef shared_intermediate_size "
            "position_embedding_type layer_types rope_type init_method normalization_function".split()
        ),
        mixers={"mamba": "state space"},
        mlp="shared_mlp",
        up="input_linear",
        up_part="tail",
        gate="input_linear",
        activation="activation",
        down="output_linear",
        residual_multiplier="residual_multiplier",
        logit_divisor="logits_scaling",
        limits=_SILU
        | {
            # with experts, two modules side by side are the MLP
            "num_local_experts": one_of(0, None),
            "layer_types": lambda value: value is None or set(value) <= {"linear_attention", "full_attention"},
        },
    ),
    Architecture(
        "qwen3_next",
        keys=DECODER
        | _LINEAR
        | ROUTED
        | frozenset(
            "num_experts num_local_experts moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers "
            "shared_expert_intermediate_size".split()
        ),
        experts="halves",
        up=None,
        gate=None,
        router="gate",
        limits=_DELTA_LIMITS,
        **_DELTA,
    ),
    Architecture("qwen3_5_text", keys=DECODER | _LINEAR, limits=_DELTA_LIMITS, **_DELTA),
    Architecture(
        "qwen3_5",  # transformers loads its language model alone
        keys=DECODER
        | _LINEAR
        | frozenset(
            "text_config vision_config image_token_id video_token_id vision_start_token_id vision_end_token_id".split()
        ),
        text="text_config",
        limits=_DELTA_LIMITS | {"model_type": one_of("qwen3_5_text")},
        **_DELTA,
    ),
)
