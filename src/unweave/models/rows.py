"""The families whose MLPs are dense, a row each; a field that is not given has llama's value."""

from typing import Any

from .row import DECODER, GEMMA, WINDOWS, Architecture, one_of

_GEMMA_NORMS: dict[str, Any] = {
    "norm": "rms_plus_one",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_HEAD_NORMS: dict[str, Any] = {"query_norm": "q_norm", "key_norm": "k_norm"}
_POST_NORMS: dict[str, Any] = {
    "attention_norm": None,
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": None,
    "mlp_post_norm": "post_feedforward_layernorm",
}
_JOINT: dict[str, Any] = {
    "up": "gate_up_proj",
    "up_part": "tail",
    "gate": "gate_up_proj",
    "activation": "activation_fn",
}
_SHARED_NORM: dict[str, Any] = {"parallel": True, "mlp_norm": "input_layernorm"}
_COHERE_KEYS = frozenset({"layer_norm_eps", "logit_scale"})
_COHERE: dict[str, Any] = {
    "norm": "layer",
    "epsilon": "layer_norm_eps",
    "logit_factor": "logit_scale",
    "pairs": True,
    **_SHARED_NORM,
}
_GPT2_KEYS = frozenset(
    "vocab_size n_positions n_ctx n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop attn_pdrop "
    "layer_norm_epsilon scale_attn_weights summary_type summary_use_proj summary_activation summary_proj_to_labels "
    "summary_first_dropout tie_word_embeddings".split()
)
_GPT2: dict[str, Any] = {
    "norm": "layer",
    "epsilon": "layer_norm_epsilon",
    "blocks": "transformer.h",
    "final_norm": "transformer.ln_f",
    "attention": "attn",
    "attention_norm": "ln_1",
}
_GEMMA3_KEYS = DECODER | WINDOWS | GEMMA | frozenset("rope_local_base_freq sliding_window_pattern".split())

DENSE: tuple[Architecture, ...] = (
    Architecture("llama", keys=DECODER | {"pretraining_tp", "rope_interleaved"}),
    Architecture("mistral", keys=DECODER | {"sliding_window"}),
    Architecture("qwen2", keys=DECODER | WINDOWS),
    Architecture("qwen3", keys=DECODER | WINDOWS, **_HEAD_NORMS),
    Architecture("gemma", keys=DECODER | {"hidden_activation", "use_bidirectional_attention"}, norm="rms_plus_one"),
    Architecture(
        "gemma2",
        keys=DECODER | WINDOWS | GEMMA,
        softcap="final_logit_softcapping",
        score_cap="attn_logit_softcapping",
        **_GEMMA_NORMS,
    ),
    Architecture("gemma3_text", keys=_GEMMA3_KEYS, softcap="final_logit_softcapping", **_GEMMA_NORMS, **_HEAD_NORMS),
    Architecture(
        "gemma3",
        keys=_GEMMA3_KEYS
        | frozenset(
            "text_config vision_config boi_token_index eoi_token_index image_token_index mm_tokens_per_image".split()
        ),
        blocks="model.language_model.layers",
        final_norm="model.language_model.norm",
        text="text_config",
        # its model with a vision tower applies none, whatever the config says
        limits={"final_logit_softcapping": one_of(None)},
        **_GEMMA_NORMS,
        **_HEAD_NORMS,
    ),
    Architecture(
        "olmo2",
        keys=DECODER,
        **_POST_NORMS,
        **_HEAD_NORMS,
    ),
    Architecture(
        "phi3",
        keys=DECODER | {"sliding_window", "embd_pdrop", "resid_pdrop"},
        value="qkv_proj",
        value_part="tail",
        **_JOINT,
    ),
    Architecture(
        "granite",
        keys=DECODER | {"attention_multiplier", "embedding_multiplier", "logits_scaling", "residual_multiplier"},
        residual_multiplier="residual_multiplier",
        logit_divisor="logits_scaling",
    ),
    Architecture(
        "starcoder2",
        keys=DECODER | {"sliding_window", "norm_epsilon", "use_bias", "residual_dropout", "embedding_dropout"},
        norm="layer",
        epsilon="norm_epsilon",
        up="c_fc",
        gate=None,
        activation="act",
        down="c_proj",
    ),
    Architecture(
        "gpt2",
        keys=_GPT2_KEYS
        | frozenset("scale_attn_by_inverse_layer_idx reorder_and_upcast_attn add_cross_attention".split()),
        value="c_attn",
        value_part="tail",
        output="c_proj",
        mlp_norm="ln_2",
        up="c_fc",
        gate=None,
        activation="act",
        down="c_proj",
        **_GPT2,
    ),
    Architecture(
        "gpt_neox",
        keys=DECODER
        | frozenset(
            "layer_norm_eps use_parallel_residual hidden_dropout classifier_dropout rotary_pct rotary_emb_base".split()
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
    Architecture("smollm3", keys=DECODER | WINDOWS | {"no_rope_layers", "no_rope_layer_interval"}, rotates="use_rope"),
    Architecture("olmo3", keys=DECODER | WINDOWS, **_POST_NORMS, **_HEAD_NORMS),
    Architecture(
        "exaone4", keys=DECODER | WINDOWS | {"sliding_window_pattern"}, rotates="windows", **_POST_NORMS, **_HEAD_NORMS
    ),
    Architecture("ministral", keys=DECODER | WINDOWS),
    Architecture("ministral3", keys=DECODER | {"sliding_window"}, query_scale=True),
    Architecture(
        "mistral3",
        keys=DECODER
        | WINDOWS
        | frozenset(
            "text_config vision_config image_token_index multimodal_projector_bias projector_hidden_act "
            "spatial_merge_size vision_feature_layer".split()
        ),
        blocks="model.language_model.layers",
        final_norm="model.language_model.norm",
        text="text_config",
        loader="AutoModelForImageTextToText",
        query_scale=True,
        limits={"model_type": one_of("mistral", "ministral3")},
    ),
    Architecture("seed_oss", keys=DECODER | {"attention_out_bias", "residual_dropout", "pretraining_tp"}),
    Architecture(
        "hunyuan_v1_dense",
        keys=DECODER | {"pretraining_tp", "eod_token_id"},
        query_norm="query_layernorm",
        key_norm="key_layernorm",
        norm_last=True,
    ),
    Architecture("arcee", keys=DECODER, gate=None),
    Architecture(
        "apertus",
        keys=DECODER,
        attention_norm="attention_layernorm",
        mlp_norm="feedforward_layernorm",
        gate=None,
        **_HEAD_NORMS,
    ),
    Architecture(
        "glm4",
        keys=DECODER,
        attention_post_norm="post_self_attn_layernorm",
        mlp_post_norm="post_mlp_layernorm",
        pairs=True,
        **_JOINT,
    ),
    Architecture(
        "vaultgemma",
        keys=DECODER | WINDOWS | GEMMA,
        norm="rms_plus_one",
        mlp_norm="pre_feedforward_layernorm",
        softcap="final_logit_softcapping",
        score_cap="attn_logit_softcapping",
    ),
    Architecture(
        "stablelm",
        keys=DECODER | {"layer_norm_eps", "use_parallel_residual", "qk_layernorm", "use_qkv_bias", "hidden_dropout"},
        norm="layer",
        epsilon="layer_norm_eps",
        limits={"use_parallel_residual": one_of(False), "qk_layernorm": one_of(False)},
    ),
    Architecture(
        "phi",
        keys=DECODER | {"layer_norm_eps", "qk_layernorm", "embd_pdrop", "resid_pdrop"},
        norm="layer",
        epsilon="layer_norm_eps",
        final_norm="model.final_layernorm",
        output="dense",
        query_norm="q_layernorm",
        key_norm="k_layernorm",
        up="fc1",
        gate=None,
        activation="activation_fn",
        down="fc2",
        **_SHARED_NORM,
    ),
    Architecture(
        "cohere", keys=DECODER | _COHERE_KEYS | {"use_qk_norm"}, limits={"use_qk_norm": one_of(False)}, **_COHERE
    ),
    Architecture(
        "cohere2", keys=DECODER | WINDOWS | _COHERE_KEYS | {"sliding_window_pattern"}, rotates="windows only", **_COHERE
    ),
    Architecture(
        "gptj",
        keys=_GPT2_KEYS | {"rotary", "rotary_dim"},
        output="out_proj",
        up="fc_in",
        gate=None,
        activation="act",
        down="fc_out",
        parallel=True,
        mlp_norm="ln_1",
        **_GPT2,
    ),
)
