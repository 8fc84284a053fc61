"""Small texts that people give, such as tokens, layers and token ids, as values; needs nothing else, so that it is
checked first."""

from ..errors import OptionError, PromptError, TargetError


def target_of(text: str) -> str | int:
    """A token given as text, or as `#id`.

    Raises:
        TargetError: it is empty.
    """
    if text.startswith("#") and text[1:].isdecimal():
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
    if not (first.isdecimal() and (last.isdecimal() or not sign)):
        raise OptionError(f"{what} {text}: give the first and the last layer, such as 3-7")
    return range(int(first), int(last or first) + 1)


def token_ids(text: str) -> list[int]:
    """Token ids from text such as `1 504 3575`.

    Raises:
        PromptError: anything but whole numbers.
    """
    parts = text.replace(",", " ").split()
    wrong = next((part for part in parts if not part.isdecimal()), None)
    if wrong is not None:
        raise PromptError(f"--ids takes whole numbers, not {wrong!r}")
    return [int(part) for part in parts]
