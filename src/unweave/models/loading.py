"""Loading a model: from a folder, the hub or the package that ships the default one.

transformers is imported here and in `smollm2.py` alone, inside functions, so that `import unweave` stays light.
"""

import logging
from importlib.metadata import version
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ..base.catalogue import PAIRS, SHIPPED_MODELS
from ..base.devices import usable_device
from ..base.fetching import Choose, fetch
from ..base.hub import Reference
from ..base.kinds import typed
from ..errors import ModelError
from .architectures import architecture_of
from .language_model import LanguageModel
from .row import Architecture
from .smollm2 import DEFAULT_MODEL, FULL_WEIGHTS, OTHER_NUMBERS, default_model, quiet, readable
from .stored import check_kinds, check_rope, check_sizes, check_unexpected, keep_head, stored_tensors

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@typed
def load_model(name: str = DEFAULT_MODEL, *, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """Load a causal language model: `smollm2` or another short name, a local folder, or a Hugging Face name
    (`org/model[@revision]`).

    Raises:
        ModelError: not found, not readable, or an unknown dtype or device.
        UnsupportedModel: a family or config that is not frozen exactly.

    >>> import unweave
    >>> unweave.load_model("organism")
    LanguageModel('organism': llama, 6 layers, d 192, torch.float32)
    """
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}")
    if usable_device(device).type == "mps" and dtype == "float64":
        raise ModelError("device mps knows no float64; use --dtype float32 or --device cpu")
    config = loadable(name)
    row = architecture_of(config.to_dict())
    path = _folder(name, model_files)
    import transformers
    from transformers import Mxfp4Config  # pyright: ignore[reportAttributeAccessIssue]

    quantized = (
        getattr(config, "quantization_config", None) is not None
    )  # GPT-OSS's mxfp4, the only one that its row lets pass
    stored = stored_tensors(path)
    check_kinds(name, stored, quantized)
    loader = getattr(transformers, row.loader)
    with readable(name):
        try:
            loaded: Any = loader.from_pretrained(
                path, dtype=DTYPES[dtype], attn_implementation="eager", config=config,
                output_loading_info=True,
                **({"quantization_config": Mxfp4Config(dequantize=True)} if quantized else {}),
            )  # fmt: skip
        except (RuntimeError, ValueError):  # which of the tensors does not fit, transformers says in a table
            with torch.device("meta"):
                expected = loader.from_config(config).state_dict()
            check_sizes(stored, {key: value.shape for key, value in expected.items()})
            raise
    module, report = loaded[0], loaded[1]
    missing = sorted(report["missing_keys"])
    if missing:  # transformers would fill them with random numbers
        raise ModelError(
            f"model {name!r} lacks {len(missing)} tensors, {missing[0]} among them; its files are incomplete"
        )
    check_unexpected(name, report["unexpected_keys"])
    keep_head(module, stored)
    with readable(name):
        for parameter in module.parameters() if quantized else ():
            parameter.data = parameter.data.to(
                DTYPES[dtype]
            )  # transformers 4 leaves the unpacked experts in bfloat16, which holds them exactly
        module = module.to(device).eval().requires_grad_(False)
    if hasattr(module, "set_experts_implementation"):  # the plain loop: grouped products know no float64
        module.set_experts_implementation("eager")
    if dtype == "float64":
        _norms_in_float64(module, row)
    tokenizer = _tokenizer(path)
    if name == DEFAULT_MODEL and _locate(name)[0] == FULL_WEIGHTS:
        logging.getLogger(__name__).warning(OTHER_NUMBERS)
        name = FULL_WEIGHTS  # so that a graph says which weights it is of
    return LanguageModel(name, module, tokenizer, row)


def loadable(name: str) -> Any:
    """A model's Hugging Face config, after a look at whether it can be loaded and is frozen exactly; of a model on the
    hub nothing else is fetched.

    Raises:
        ModelError: not found, gated, or not readable.
        UnsupportedModel: a family or config that is not frozen exactly.
    """
    config = _config(name)
    architecture_of(config.to_dict())
    return config


def model_config(name: str) -> dict[str, Any]:
    """A model's config as Hugging Face reads it, without loading weights.

    Raises:
        ModelError: not found or not readable.
    """
    return _config(name).to_dict()


def _config(name: str) -> Any:
    quiet()
    from transformers import AutoConfig

    folder = _folder(name, lambda names: ["config.json"] if "config.json" in names else [])
    check_rope(name, folder, int(version("transformers").split(".")[0]) >= 5)
    with readable(name):
        return AutoConfig.from_pretrained(folder)


def _folder(name: str, choose: Choose) -> str:
    """The local folder of a model, with the files that are wanted of one on the hub."""
    path, revision = _locate(name)
    if Path(path).is_dir():
        return path
    with readable(name):
        return str(fetch(Reference(path, "", revision), choose))


def model_files(names: list[str]) -> list[str]:
    """A model's files on the hub that loading reads: configs, tokenizer and one form of the weights."""
    top = [name for name in names if "/" not in name]
    said = [name for name in top if name.endswith((".json", ".model", ".txt", ".jinja", ".tiktoken"))]
    whole = [name for name in top if name.endswith(".safetensors") and name.startswith("model")]
    weights = whole or [name for name in top if name.startswith("pytorch_model") and name.endswith(".bin")]
    return [name for name in said if not name.startswith("pytorch_model") or not whole] + weights


def _locate(name: str) -> tuple[str, str | None]:
    if name == DEFAULT_MODEL:
        return default_model(), None
    short = PAIRS[name].model if name in PAIRS else name
    if short in SHIPPED_MODELS:
        return str(SHIPPED_MODELS[short]), None
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / "adapter_config.json").is_file():  # transformers would load its base model, or mix it in unseen
            raise ModelError(
                f"{folder} holds an adapter (PEFT, adapter_config.json); merge it into its model first "
                f"(peft: model.merge_and_unload().save_pretrained(FOLDER)) and give that folder"
            )
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} has no config.json; a model folder holds config.json and model.safetensors")
        return str(folder), None
    if folder.exists() or short.startswith(("/", ".", "~")) or short.count("/") != 1:
        raise ModelError(
            f"no model {name!r}: neither a short name (`unweave models`), a local folder, nor a Hugging Face name "
            f"like 'org/model'"
        )
    repository, _, revision = short.partition("@")
    return repository, revision or None


def _tokenizer(path: str) -> Any | None:
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    if not any((Path(path) / name).is_file() for name in files):
        return None
    with readable(path):
        return AutoTokenizer.from_pretrained(path)


def _norms_in_float64(module: nn.Module, row: Architecture) -> None:
    """Let RMS norms, and LayerNorms of transformers' own, work in the model's own dtype; transformers computes them in
    float32, which is a 1e-7 error here."""
    for part in module.modules():
        if row.norm == "layer" and type(part).__name__.endswith("LayerNorm") and not isinstance(part, nn.LayerNorm):
            part.forward = MethodType(_layer_norm, part)
        elif row.norm != "layer" and type(part).__name__.endswith("RMSNorm"):
            part.forward = MethodType(_rms_norm_plus_one if row.norm == "rms_plus_one" else _rms_norm, part)


def _rms_norm(self: Any, x: Tensor) -> Tensor:
    epsilon = self.eps if hasattr(self, "eps") else self.variance_epsilon
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * self.weight


def _layer_norm(self: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


def _rms_norm_plus_one(self: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)
