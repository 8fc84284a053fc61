"""What a row says of one family of models: where it keeps what must be frozen, and the config keys it covers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

NormKind = Literal["rms", "rms_plus_one", "layer"]
"""`rms`: gain w; `rms_plus_one`: gain 1 + w (Gemma); `layer`: LayerNorm, centred, gain w and bias."""

MixerKind = Literal["gated attention", "latent attention", "convolution", "delta rule", "state space"]
"""What carries tokens to later ones, where that is not plain attention; see `recurrence.py`."""

SIZES = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads max_position_embeddings".split()
)
ROTARY = frozenset(
    "rope_theta rope_scaling rope_parameters partial_rotary_factor original_max_position_embeddings".split()
)
DECODER = (
    SIZES
    | ROTARY
    | frozenset(
        "num_key_value_heads head_dim hidden_act rms_norm_eps attention_bias attention_dropout mlp_bias "
        "tie_word_embeddings".split()
    )
)
WINDOWS = frozenset("sliding_window use_sliding_window max_window_layers layer_types".split())
GEMMA = frozenset(
    "hidden_activation query_pre_attn_scalar final_logit_softcapping attn_logit_softcapping "
    "use_bidirectional_attention".split()
)


def one_of(*values: Any) -> Callable[[Any], bool]:
    """A test for these values."""
    return lambda value: value in values


def mask_kinds(value: Any) -> bool:
    """Whether layers differ in their masks alone."""
    return value is None or set(value) <= {"full_attention", "sliding_attention"}


def mxfp4(value: Any) -> bool:
    """Weights that are unpacked when they are read, without loss."""
    return value is None or (value if isinstance(value, Mapping) else vars(value)).get("quant_method") == "mxfp4"


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
    norm_last: bool = False
    """Whether queries and keys are rotated before their norms."""
    pairs: bool = False
    """Whether rotary embeddings turn neighbouring channels, instead of channels half a head apart."""
    rotates: Literal["all", "use_rope", "windows", "windows only"] = "all"
    """Which layers rotate: all; those whose `use_rope` says so; those with a window (`windows`: all, if none has)."""
    query_scale: bool = False
    """Whether queries grow with their position, as Llama 4's do (`llama_4_scaling_beta` of the rotary embeddings)."""
    output: str = "o_proj"
    mixers: Mapping[str, MixerKind] = field(default_factory=dict)
    """Modules that a block may have where others have attention (or as their attention), and their kinds."""
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
    """The activation function's name in the MLP, or in `torch.nn.functional`."""
    down: str = "down_proj"
    experts: Literal["interleaved", "halves"] | None = None
    """How experts keep gate and up in one tensor, where an MLP is several experts and a router."""
    router: str = "router"
    """The module in such an MLP that chooses experts; it returns their weights and numbers second and third."""
    parallel: str | Literal[True] | None = None
    """Config key that says whether the MLP reads what attention reads, instead of what attention made of it; True:
    always."""
    residual_multiplier: str | None = None
    """Config key of the factor on what attention and MLP add to the residual stream."""
    logit_divisor: str | None = None
    """Config key of what the logits are divided by."""
    logit_factor: str | None = None
    """Config key of what the logits are multiplied by."""
    softcap: str | None = None
    """Config key of the soft cap on the final logits."""
    text: str | None = None
    """Config key under which a model of several media keeps its language model's config."""
    loader: str = "AutoModelForCausalLM"
    """The class of transformers that loads it."""
    limits: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    """Which values of a key are covered, where not all are."""
