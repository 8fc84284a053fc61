"""Writing on after a prompt, default and steered side by side, with a cache of keys and values."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.choices import Mode
from ..base.kinds import typed
from ..base.progress import Progress
from ..errors import InterventionError, OptionError
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .edits import Change, changes_of
from .interventions import Prompt, record
from .patching import patched
from .plans import FrozenParts, check_reach, frozen_parts, generation_edits, prompt_edits


@dataclass(frozen=True, eq=False)
class Continuation:
    """What was written after a prompt, an end token included."""

    ids: tuple[int, ...]
    text: str
    """Without the end token."""
    logits: Float[Tensor, "new vocab"]
    """Those that each token was chosen from."""


@dataclass(frozen=True)
class Generation:
    """The unchanged model's continuation and the steered one."""

    default: Continuation
    steered: Continuation

    def __repr__(self) -> str:
        return f"Generation({self.default.text!r} -> {self.steered.text!r})"


@typed
def generate(
    model: ReplacementModel,
    prompt: Prompt,
    changes: Change | Sequence[Change],
    mode: Mode = "frozen_attention",
    *,
    layers: range | None = None,
    max_new_tokens: int = 20,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> Generation:
    """Let the model write on, unchanged and steered.

    The mode and the layers hold for the pass over the prompt, whose keys and values stay in the cache. Generated tokens
    have no unchanged run to be held at: they are always run open, with the changes at positions `*` and `+` alone.

    Args:
        temperature: 0 takes the likeliest token; else tokens are drawn from the logits divided by it, both texts with
            the same random numbers.

    Raises:
        OptionError: a number of tokens beyond the model's context, a temperature below 0; else as in `intervene`.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> changes = unweave.swap(model, "the capital of Texas is", "the capital of Ohio is")
    >>> unweave.generate(model, "the capital of Texas is", changes, max_new_tokens=1)
    Generation('Austin' -> 'Columbus')
    """
    if max_new_tokens < 1:
        raise OptionError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if not 0 <= temperature < float("inf"):
        raise OptionError(f"temperature is {temperature:g}; it must be 0 or above")
    language_model, recording = model.language_model, record(model, prompt)
    changes, frozen = changes_of(changes), frozen_parts(mode, layers, language_model.n_layers)
    context = getattr(language_model.config, "max_position_embeddings", None)
    if context is not None and len(recording.input_ids) + max_new_tokens > context:
        raise OptionError(
            f"prompt and {max_new_tokens} new tokens are longer than the {context} that {language_model.name} takes; "
            f"ask for fewer"
        )
    first, later = prompt_edits(model, recording, [[], changes]), generation_edits(model, changes, row=1)
    if not later:
        check_reach([[], changes], first, model, frozen)
    generator = torch.Generator().manual_seed(seed)
    ends, rows, logits = _end_tokens(language_model), [], []
    module, alive = language_model.module, torch.tensor([True, True])
    with torch.no_grad():
        with patched(model, first, recording, frozen):
            out = module(input_ids=recording.input_ids[None].expand(2, -1).to(language_model.device), use_cache=True)
        with patched(model, later, None, FrozenParts()):
            for number in range(max_new_tokens):
                logits.append(out.logits[:, -1].to("cpu", language_model.engine_dtype))
                if not bool(logits[-1][alive].isfinite().all()):
                    raise InterventionError(
                        "the model's logits are not finite after this intervention; use smaller numbers"
                    )
                rows.append(_chosen(logits[-1], temperature, generator))
                alive &= ~torch.isin(rows[-1], ends)
                if progress is not None:
                    progress((number + 1) / max_new_tokens)
                if not bool(alive.any()) or number + 1 == max_new_tokens:
                    break
                out = module(
                    input_ids=rows[-1][:, None].to(language_model.device),
                    past_key_values=out.past_key_values,
                    use_cache=True,
                )
    ids, scores = torch.stack(rows, 1), torch.stack(logits, 1)
    return Generation(*(_continuation(language_model, ids[row], scores[row], ends) for row in range(2)))


def _end_tokens(model: LanguageModel) -> Int[Tensor, " end"]:
    found = model.module.generation_config.eos_token_id
    return torch.tensor([] if found is None else found, dtype=torch.int64).flatten()


def _chosen(logits: Float[Tensor, "row vocab"], temperature: float, generator: torch.Generator) -> Int[Tensor, " row"]:
    """The likeliest token of each row, or one drawn; all rows are drawn with the same number, so equal rows stay
    equal."""
    if temperature == 0:
        return logits.argmax(-1)
    running = (logits.double() / temperature).softmax(-1).cumsum(-1)
    drawn = torch.rand(1, generator=generator, dtype=torch.float64) * running[:, -1:]
    return torch.searchsorted(running, drawn, right=True)[:, 0].clamp_max(logits.shape[-1] - 1)


def _continuation(
    model: LanguageModel, ids: Int[Tensor, " new"], logits: Float[Tensor, "new vocab"], ends: Int[Tensor, " end"]
) -> Continuation:
    stops = torch.isin(ids, ends).nonzero().flatten().tolist()
    kept = ids[: stops[0] + 1 if stops else len(ids)].tolist()
    words = kept[:-1] if stops else kept
    if model.tokenizer is None:
        text = " ".join(map(model.token_text, words))
    else:
        text = model.tokenizer.decode(words, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Continuation(tuple(kept), text, logits[: len(kept)])
