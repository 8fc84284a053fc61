"""Labels by any service that speaks the OpenAI chat protocol, scored like the others; nothing is sent unless it is
asked for."""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.words import visible
from ..errors import EndpointError, OptionError
from .score import Detection

KEY = "UNWEAVE_API_KEY"
"""The environment variable with the key, if the service wants one."""
ASKED_AT_ONCE = 10


@dataclass(frozen=True)
class Endpoint:
    """A service: the address up to `/v1`, and the name of its model."""

    url: str
    model: str
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/\s]+", self.url):
            raise OptionError(f"--endpoint {self.url!r} is no address; give one such as http://127.0.0.1:8080/v1")


def ask(endpoint: Endpoint, question: str) -> str:
    """The answer of the service's model to one question, at temperature 0.

    Raises:
        EndpointError: no answer, a refusal, or an answer that is not the protocol's.
    """
    body = {"model": endpoint.model, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
    )
    request = urllib.request.Request(f"{endpoint.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=endpoint.timeout) as answer:
            content: Any = json.loads(answer.read())["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        raise EndpointError(
            f"{endpoint.url} refuses: {error.code} {error.reason}; is the model {endpoint.model!r} there, and {KEY} "
            f"set?"
        ) from error
    except OSError as error:
        raise EndpointError(f"{endpoint.url} does not answer: {getattr(error, 'reason', error)}") from error
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise EndpointError(f"{endpoint.url} answers something that is not a chat completion") from error
    if not isinstance(content, str) or not content.strip():
        raise EndpointError(f"{endpoint.url} answers without text")
    return content.strip()


def marked(tokens: Sequence[str], activations: Sequence[float]) -> str:
    """A context as text, tokens of at least a third of its strongest activation in «»."""
    top = max([*activations, 1e-9])
    return "".join(
        f"«{visible(token)}»" if value > top / 3 else visible(token)
        for token, value in zip(tokens, activations, strict=True)
    )


def proposed(endpoint: Endpoint, page: dict[str, Any]) -> str:
    """A label for the feature of a page, at most 80 characters."""
    examples = "\n".join(f"- {marked(context['tokens'], context['activations'])}" for context in page["contexts"][:12])
    promoted = ", ".join(repr(token) for token, _ in page["promoted"][:8])
    answer = ask(
        endpoint,
        f"A feature of a language model is active on the tokens in «» of these texts:\n{examples}\nIt makes these "
        f"next tokens likelier: {promoted}.\n"
        "Say in at most eight words what it stands for. Answer with these words alone.",
    )
    return " ".join(answer.split()).strip("\"'. ")[:80]


def detects(
    endpoint: Endpoint, label: str, firing: Sequence[str], silent: Sequence[str], n_firing: int, n_silent: int
) -> Detection:
    """A label's detection, judged by the service on a sample of contexts, scaled to all of them.

    Args:
        firing, silent: contexts in which the feature fires, and in which it does not.
        n_firing, n_silent: how many there are of each in all.
    """
    picked = []
    for texts in (firing, silent):
        hits = 0
        for begin in range(0, len(texts), ASKED_AT_ONCE):
            part = texts[begin : begin + ASKED_AT_ONCE]
            listed = "\n".join(f"{number}. {' '.join(text.split())}" for number, text in enumerate(part, 1))
            question = (
                f"Which of these texts contain: {label}?\n{listed}\nAnswer with their numbers, separated by "
                f"commas, or with 0 if none does."
            )
            numbers = {int(found) for found in re.findall(r"\d+", ask(endpoint, question))}
            hits += len(numbers & set(range(1, len(part) + 1)))
        picked.append(hits / max(1, len(texts)))
    both, wrong = round(picked[0] * n_firing), round(picked[1] * n_silent)
    return Detection(both, both + wrong, n_firing, n_firing + n_silent)
