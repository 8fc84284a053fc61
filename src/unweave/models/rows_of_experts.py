"""The families whose MLPs are several experts and a router, a row each."""

from typing import Any

from .row import DECODER, WINDOWS, Architecture, mxfp4, one_of

_NONE: dict[str, Any] = {"up": None, "gate": None}
"""Neurons are the experts' own; see `experts`."""
ROUTED = frozenset("num_experts_per_tok output_router_logits router_aux_loss_coef".split())
_LOCAL = ROUTED | frozenset("num_local_experts num_experts router_jitter_noise".split())
_QWEN = (
    ROUTED
    | WINDOWS
    | frozenset(
        "num_experts num_local_experts moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers "
        "shared_expert_intermediate_size qkv_bias".split()
    )
)
_HALVES: dict[str, Any] = {"experts": "halves", **_NONE}

EXPERTS: tuple[Architecture, ...] = (
    Architecture(
        "gpt_oss",
        keys=DECODER
        | WINDOWS
        | frozenset(
            "num_local_experts num_experts_per_tok experts_per_token output_router_logits router_aux_loss_coef "
            "swiglu_alpha swiglu_limit "
            "initial_context_length quantization_config".split()
        ),
        limits={"quantization_config": mxfp4},
        experts="interleaved",
        **_NONE,
    ),
    Architecture("qwen2_moe", keys=DECODER | _QWEN, router="gate", **_HALVES),
    Architecture("qwen3_moe", keys=DECODER | _QWEN, query_norm="q_norm", key_norm="k_norm", router="gate", **_HALVES),
    Architecture("mixtral", keys=DECODER | _LOCAL | {"sliding_window"}, router="gate", **_HALVES),
    Architecture(
        "olmoe",
        keys=DECODER | _LOCAL | {"norm_topk_prob", "clip_qkv"},
        query_norm="q_norm",
        key_norm="k_norm",
        router="gate",
        limits={"clip_qkv": one_of(None)},
        **_HALVES,
    ),
    Architecture(
        "granitemoe",
        keys=DECODER
        | _LOCAL
        | {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"},
        mlp="block_sparse_moe",
        residual_multiplier="residual_multiplier",
        logit_divisor="logits_scaling",
        **_HALVES,
    ),
    Architecture(
        "glm4_moe",
        keys=DECODER
        | ROUTED
        | frozenset(
            "moe_intermediate_size n_shared_experts n_routed_experts routed_scaling_factor n_group topk_group "
            "first_k_dense_replace norm_topk_prob use_qk_norm num_local_experts num_mtp_layers "
            "num_nextn_predict_layers".split()
        ),
        query_norm="q_norm",
        key_norm="k_norm",
        **_NONE,
    ),
    Architecture(
        "phimoe",
        keys=DECODER | _LOCAL | {"sliding_window", "input_jitter_noise", "lm_head_bias"},
        norm="layer",
        **_HALVES,
    ),
)
