"""Prompts as an instruct model's chat template frames them."""

from collections.abc import Callable
from typing import Any

from ..base.hub import first_line
from ..errors import PromptError, UnweaveError
from .language_model import LanguageModel


def chat_text(model: LanguageModel, prompt: str, system: str | None = None) -> str:
    """The text of a conversation up to where the model answers: a system message, if given, and the prompt as the
    user's.

    Some templates put a system message of their own where none is given.

    Raises:
        PromptError: the model has no chat template, or its template refuses the messages.
    """
    messages = [] if system is None else [{"role": "system", "content": system}]
    advice = "" if system is None else "; leave --system out, or put it before the prompt"
    return _framed(model, [*messages, {"role": "user", "content": prompt}], advice)


def conversation_text(model: LanguageModel, messages: list[dict[str, str]]) -> str:
    """The text of a whole conversation (`role` and `content`), up to where the model answers, or goes on with its
    last answer.

    Raises:
        PromptError: as `chat_text`.
    """
    return _framed(model, messages, "")


def _framed(model: LanguageModel, messages: list[dict[str, str]], advice: str) -> str:
    begun = messages[-1]["role"] == "assistant"

    def complaint(reason: str | None) -> PromptError:
        if reason is None:
            return PromptError(
                f"{model.name} has no chat template; leave --chat and --system out, or give the instruct model"
            )
        return PromptError(f"the chat template of {model.name} refuses this: {reason}{advice}")

    return render(model, messages, complaint, add_generation_prompt=not begun, continue_final_message=begun)


def render(
    model: LanguageModel, messages: list[dict[str, str]], complaint: Callable[[str | None], UnweaveError], **how: bool
) -> str:
    """Messages as the model's template has them.

    Raises:
        UnweaveError: `complaint` of the template's own words, or of None where there is no template.
    """
    tokenizer: Any = model.tokenizer
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise complaint(None)
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except Exception as error:  # a template is a program and may refuse in any way
        raise complaint(first_line(error)) from error
