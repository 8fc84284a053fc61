"""Twenty prompts on which every dictionary is judged by the graphs it gives; fixed, so that figures can be compared."""

from pathlib import Path

from ..base.catalogue import shipped_beside
from ..errors import OptionError

PROMPTS: tuple[str, ...] = (
    # facts
    "The capital of France is",
    "The Golden Gate Bridge is in San",
    "The Eiffel Tower stands in the city of",
    "Water is made of hydrogen and",
    "The author of Hamlet was William",
    # opposites and lists
    'The opposite of "hot" is "',
    "Up and down, left and",
    "Monday, Tuesday, Wednesday, Thursday,",
    # arithmetic
    "1+1=2, 2+2=",
    "One, two, three, four,",
    # induction
    "red blue green red blue green red blue",
    "Mr. Dursley met Mrs. D",
    # pronouns and names
    "The queen raised the glass to",
    "Mary gave the book to John, and John thanked",
    # grammar
    "The keys to the cabinet",
    "Yesterday she went to the",
    # code
    "import numpy as np\nimport pandas as",
    "for i in range(",
    # chat
    "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n",
    "Question: What is a dog?\nAnswer:",
)


def prompts_of(model: str, file: Path | None = None) -> tuple[str, ...]:
    """Prompts to judge a dictionary on: the lines of a file if one is given, those that ship with a model, or
    `PROMPTS`.

    Raises:
        OptionError: a file that cannot be read, or has no line with text.
    """
    beside = shipped_beside(model)
    file = file or (None if beside is None else beside / "prompts.txt")
    if file is None:
        return PROMPTS
    try:
        lines = tuple(line for line in file.expanduser().read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read prompts from {file}: {error}") from error
    if not lines:
        raise OptionError(f"{file} holds no prompt; write one on each line")
    return lines
