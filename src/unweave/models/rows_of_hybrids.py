"""The families in which some layers have a recurrence, a convolution or attention of another kind in place of plain
attention, a row each."""

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

_LATENT: dict[str, Any] = {"mixers": {"self_attn": "latent attention"}, "up": None, "gate": None}
_LATENT_KEYS = ROUTED | frozenset(
    "moe_intermediate_size n_shared_experts n_routed_experts routed_scaling_factor kv_lora_rank q_lora_rank "
    "qk_rope_head_dim v_head_dim qk_nope_head_dim qk_head_dim n_group topk_group first_k_dense_replace norm_topk_prob "
    "num_local_experts num_experts pretraining_tp num_mtp_layers num_nextn_predict_layers".split()
)
_EXPERTS_OF_QWEN = frozenset(
    "num_experts num_local_experts moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers "
    "shared_expert_intermediate_size".split()
)
_HALVES: dict[str, Any] = {"experts": "halves", "up": None, "gate": None, "router": "gate"}
_MEDIA = frozenset(
    "text_config vision_config image_token_id video_token_id vision_start_token_id vision_end_token_id".split()
)

_LFM2_KEYS = frozenset(
    "norm_eps conv_bias conv_L_cache layer_types block_norm_eps conv_dim conv_dim_out conv_use_xavier_init num_heads "
    "tie_embedding theta".split()
)
_LFM2: dict[str, Any] = {
    "epsilon": "norm_eps",
    "final_norm": "model.embedding_norm",
    "attention_norm": "operator_norm",
    "mlp_norm": "ffn_norm",
    "output": "out_proj",
    "query_norm": "q_layernorm",
    "key_norm": "k_layernorm",
    "mixers": {"conv": "convolution"},
    "mlp": "feed_forward",
    "limits": {"layer_types": lambda value: value is None or set(value) <= {"full_attention", "conv"}},
}

HYBRIDS: tuple[Architecture, ...] = (
    Architecture(
        "lfm2",
        keys=DECODER
        | _LFM2_KEYS
        | frozenset(
            "block_multiple_of block_ffn_dim_multiplier block_auto_adjust_ff_dim full_attn_idxs block_dim "
            "block_ff_dim block_use_swiglu block_use_xavier_init block_mlp_init_scale block_out_init_scale".split()
        ),
        up="w3",
        gate="w1",
        activation="silu",
        down="w2",
        **_LFM2,
    ),
    Architecture(
        "lfm2_moe",
        keys=DECODER
        | _LFM2_KEYS
        | ROUTED
        | frozenset(
            "moe_intermediate_size num_dense_layers num_experts num_local_experts use_expert_bias "
            "routed_scaling_factor norm_topk_prob".split()
        ),
        up=None,
        gate=None,
        **_LFM2,
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
        keys=DECODER | _LINEAR | ROUTED | _EXPERTS_OF_QWEN,
        limits=_DELTA_LIMITS,
        **_HALVES,
        **_DELTA,
    ),
    Architecture(
        "qwen3_5_moe_text",
        keys=DECODER | _LINEAR | ROUTED | _EXPERTS_OF_QWEN,
        limits=_DELTA_LIMITS,
        **_HALVES,
        **_DELTA,
    ),
    Architecture(
        "qwen3_5_moe",
        keys=DECODER | _LINEAR | ROUTED | _EXPERTS_OF_QWEN | _MEDIA,
        text="text_config",
        limits=_DELTA_LIMITS | {"model_type": one_of("qwen3_5_moe_text")},
        **_HALVES,
        **_DELTA,
    ),
    Architecture("qwen3_5_text", keys=DECODER | _LINEAR, limits=_DELTA_LIMITS, **_DELTA),
    Architecture(
        "qwen3_5",  # transformers loads its language model alone
        keys=DECODER | _LINEAR | _MEDIA,
        text="text_config",
        limits=_DELTA_LIMITS | {"model_type": one_of("qwen3_5_text")},
        **_DELTA,
    ),
    Architecture("deepseek_v2", keys=DECODER | _LATENT_KEYS | {"topk_method"}, **_LATENT),
    Architecture(
        "deepseek_v3",
        keys=DECODER | _LATENT_KEYS | {"rope_interleave"},
        limits={"rope_interleave": one_of(True, False, None)},
        **_LATENT,
    ),
)
