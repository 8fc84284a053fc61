"""Small texts that people give, such as tokens, layers and token ids, as values; needs nothing else, so that it is
checked first."""

from ..errors import OptionError, PromptError, TargetError

MOST_DIGITS = 18
"""Of a number that could be meant."""


def target_of(text: str) -> str | int:
    """A token given as text, or as `#id`.

    Raises:
        TargetError: it is empty.
    """
    if text.startswith("#") and text[1:].isdecimal():
        if len(text) > MOST_DIGITS:
            raise TargetError(f"target {text[:MOST_DIGITS]}... is no token's id; ids are below the vocabulary's size")
        return int(text[1:])
    if not text:
        raise TargetError("a target is empty; give a token such as ' Paris', or '#7042' for an id")
    return text


def layer_range(text: str, what: str = "layers") -> range:
    """Layers given as the first and the last, such as `3-7`, or as one.

    Raises:
        OptionError: anything else; `what` says of which option.
    """
    first, sign, last = text.partition("-")
    if not (first.isdecimal() and (last.isdecimal() or not sign)) or len(text) > 2 * MOST_DIGITS:
        raise OptionError(f"{what} {text[:60]}: give the first and the last layer, such as 3-7")
    return range(int(first), int(last or first) + 1)


def token_ids(text: str) -> list[int]:
    """Token ids from text such as `1 504 3575`.

    Raises:
        PromptError: anything but whole numbers.
    """
    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not part.isdecimal() or len(part) > MOST_DIGITS), None)
    if wrong is not None:
        raise PromptError(f"--ids takes whole numbers, not {wrong[:60]!r}")
    return [int(part) for part in parts]


def prompt_of(text: str, ids: bool = False) -> str | list[int]:
    """A prompt as text, or as ids if it is a list of those.

    Raises:
        PromptError: it is empty, or not whole numbers.
    """
    prompt = token_ids(text) if ids else text
    if not prompt:
        raise PromptError("the prompt is empty; give at least one word, such as 'The capital of France is'")
    return prompt
