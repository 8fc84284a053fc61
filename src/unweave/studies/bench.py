"""What the steps of a study share: its variants as prompts with answers, what the model says to them, and which it
gets right."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.progress import Progress
from ..errors import StudyError
from ..graphs.comparison import aligned
from ..interventions.interventions import record
from ..models.chats import chat_text
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .results import Result

Fields = dict[str, str]
KEPT = 8
"""Recordings in memory at once."""
_PLACE = re.compile(r"\{([A-Za-z_]\w*(?:\+[A-Za-z_]\w*)*)\}")


def fill(template: str, fields: Fields) -> str:
    """A template with its fields filled in; `{a+b}` is a sum of whole numbers. Other braces stay.

    Raises:
        ValueError: a field that is not there, or a sum of something else.

    >>> fill("{a} and {b} make {a+b}, { }", {"a": "3", "b": "4"})
    '3 and 4 make 7, { }'
    """

    # No inner function: tests check types, which would wrap it anew for each of thousands of variants.
    parts, end = [], 0
    for match in _PLACE.finditer(template):
        names = match[1].split("+")
        missing = next((name for name in names if name not in fields), None)
        if missing is not None:
            raise ValueError(f"{match[0]}: there is no field {missing!r}; the variant has {', '.join(fields)}")
        if len(names) > 1 and not all(re.fullmatch(r"-?\d+", fields[name]) for name in names):
            raise ValueError(f"{match[0]}: {', '.join(repr(fields[name]) for name in names)} are not whole numbers")
        parts += [
            template[end : match.start()],
            fields[names[0]] if len(names) == 1 else str(sum(int(fields[name]) for name in names)),
        ]
        end = match.end()
    return "".join(parts) + template[end:]


@dataclass(frozen=True)
class Variant:
    """One instance of a study's behaviour: a prompt, the answer that is right, perhaps a rival answer."""

    fields: Fields
    template: str
    answer: str
    foil: str | None = None

    @cached_property
    def prompt(self) -> str:
        """The template filled in."""
        return fill(self.template, self.fields)

    @property
    def asked(self) -> list[str]:
        """The fields that stand in the prompt."""
        return list(dict.fromkeys(name for place in _PLACE.findall(self.template) for name in place.split("+")))

    def __hash__(self) -> int:
        return hash(self.prompt)


class Said(NamedTuple):
    """What the model says to a variant, unchanged."""

    top: int
    p_top: float
    p_answer: float
    lead: float
    """Logit of the answer less that of the foil, or without one of the likeliest other token."""

    @property
    def right(self) -> bool:
        """Whether the answer beats the foil, or is the likeliest token."""
        return self.lead > 0


class PromptPair(NamedTuple):
    """Two variants that differ in one field."""

    here: Variant
    there: Variant


@dataclass(eq=False)
class Bench:
    """A model and a study's variants; what was computed is kept while the study runs."""

    model: ReplacementModel
    variants: tuple[Variant, ...]
    chat: bool = False
    system: str | None = None
    seed: int = 0
    progress: Progress = lambda share: None
    results: dict[str, Result] = field(default_factory=dict)
    """Of the steps that were run, by their names."""
    _said: dict[Variant, Said] = field(default_factory=dict)
    _recordings: dict[Variant, Recording] = field(default_factory=dict)
    _ids: dict[Variant, list[int]] = field(default_factory=dict)

    def where(self, wanted: dict[str, tuple[str, ...]]) -> "Bench":
        """The same bench with those variants alone whose fields have one of the wanted values; what was computed is
        shared.

        Raises:
            StudyError: there are none.
        """
        if not wanted:
            return self
        kept = tuple(
            one for one in self.variants if all(one.fields.get(name) in values for name, values in wanted.items())
        )
        if not kept:
            raise StudyError(
                "no variant is left: none has "
                + " and ".join(f"{name} {' or '.join(map(repr, values))}" for name, values in wanted.items())
            )
        return Bench(
            self.model,
            kept,
            self.chat,
            self.system,
            self.seed,
            self.progress,
            self.results,
            self._said,
            self._recordings,
            self._ids,
        )

    def text(self, variant: Variant) -> str:
        """The prompt as the model gets it."""
        return chat_text(self.model.language_model, variant.prompt, self.system) if self.chat else variant.prompt

    def ids(self, variant: Variant) -> list[int]:
        """The prompt as tokens."""
        if variant not in self._ids:
            self._ids[variant] = self.model.language_model.tokenize(self.text(variant)).tolist()
        return self._ids[variant]

    def record(self, variant: Variant) -> Recording:
        """A variant's recording; the last few are kept."""
        found = self._recordings.pop(variant, None)
        if found is None:
            found = record(self.model, self.text(variant))
        self._recordings[variant] = found
        while len(self._recordings) > KEPT:
            del self._recordings[next(iter(self._recordings))]
        return found

    def token(self, text: str) -> int:
        """The first token of an answer.

        Raises:
            StudyError: the model has no tokenizer, or the text has no token.
        """
        tokenizer = self.model.language_model.tokenizer
        ids = [] if tokenizer is None else list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise StudyError(f"{text!r} has no tokens in {self.model.language_model.name}")
        return ids[0]

    def word(self, token: int) -> str:
        """A token as text."""
        return self.model.language_model.token_text(token)

    def words(self, variant: Variant) -> list[str]:
        """The tokens of a variant's prompt."""
        return [self.word(token) for token in self.record(variant).input_ids.tolist()]

    def measure(self, variant: Variant, logits: Float[Tensor, " vocab"]) -> Said:
        """What logits say to a variant's question."""
        answer, p = self.token(variant.answer), logits.softmax(-1)
        rival = (
            torch.cat([logits[:answer], logits[answer + 1 :]]).max()
            if variant.foil is None
            else logits[self.token(variant.foil)]
        )
        top = int(logits.argmax())
        return Said(top, float(p[top]), float(p[answer]), float(logits[answer] - rival))

    def said(self, variant: Variant) -> Said:
        """What the unchanged model says to a variant."""
        if variant not in self._said:
            self._said[variant] = self.measure(variant, self.record(variant).logits[-1])
        return self._said[variant]

    def unasked(self, variants: Sequence[Variant]) -> list[Variant]:
        """Those of which it is not known yet what the unchanged model says."""
        return [variant for variant in variants if variant not in self._said]

    def hear(self, variant: Variant, logits: Float[Tensor, " vocab"]) -> Said:
        """Keep what the unchanged model says to a variant, so that it need not be asked alone."""
        return self._said.setdefault(variant, self.measure(variant, logits))

    def right(self) -> list[Variant]:
        """The variants that the model answers rightly.

        Raises:
            StudyError: there are none.
        """
        found = [variant for variant in self.variants if self.said(variant).right]
        if not found:
            raise StudyError(
                f"the model answers none of {len(self.variants)} variants rightly, so there is nothing to explain"
            )
        return found

    def some(self, variants: Sequence[Any], most: int) -> list[Any]:
        """At most so many, in order: of as many equal stretches one each, drawn at random, as even steps fall in
        with any period of a grid."""
        if len(variants) <= most:
            return list(variants)
        draw, edges = random.Random(self.seed), [place * len(variants) // most for place in range(most + 1)]
        return [variants[draw.randrange(*stretch)] for stretch in pairwise(edges)]

    def pairs(self, name: str, most: int, *, right: bool = True) -> list[PromptPair]:
        """Pairs of variants that differ in one field (and in what depends on it) and have other answers, spread evenly.

        Each variant is paired with the next that fits, the last with the first.

        Args:
            right: both are answered rightly.

        Raises:
            StudyError: no variant has the field, or no two differ in it alone.
        """
        fixed = self.free(name)
        pool = self.right() if right else list(self.variants)
        found = []
        for place, here in enumerate(pool):
            others = [*pool[place + 1 :], *pool[:place]]
            fits = (
                there
                for there in others
                if there.template == here.template
                and there.fields[name] != here.fields[name]
                and all(there.fields[field] == here.fields[field] for field in fixed)
                and self.token(there.answer) != self.token(here.answer)
            )
            found += [PromptPair(here, there) for there in fits][:1]
        if not found:
            raise StudyError(
                f"of {len(pool)} variants that the model answers rightly no two differ in {name} and its answer alone"
            )
        return self.some(found, most)

    def free(self, name: str) -> list[str]:
        """The other fields of prompts that do not depend on this one: not the same for all variants with one value
        of it."""
        if name not in self.variants[0].fields:
            raise StudyError(f"no field {name!r}; the variants have {', '.join(self.variants[0].fields)}")
        free = []
        for other in (one for one in self.variants[0].asked if one != name):
            values: dict[str, set[str]] = {}
            for variant in self.variants:
                values.setdefault(variant.fields[name], set()).add(variant.fields[other])
            if any(len(seen) > 1 for seen in values.values()):
                free.append(other)
        return free

    def positions(self, variant: Variant, name: str) -> list[int]:
        """Where in a variant's prompt a field's value stands: the tokens that differ when it has another value.

        Raises:
            StudyError: the field has the same value everywhere, or does not stand in the prompt.
        """
        if name not in variant.asked:
            raise StudyError(f"no field {name!r} stands in the prompt {variant.template!r}")
        other = next((one.fields[name] for one in self.variants if one.fields[name] != variant.fields[name]), None)
        if other is None:
            raise StudyError(f"{name} is {variant.fields[name]!r} in all variants; where it stands cannot be told")
        ids = self.record(variant).input_ids.tolist()
        others = self.model.language_model.tokenize(
            self.text(replace(variant, fields={**variant.fields, name: other}))
        ).tolist()
        pairs = aligned(ids, others)
        return [place for place in range(len(ids)) if place not in pairs or ids[place] != others[pairs[place]]]

    def each(self, things: Sequence[Any]) -> Iterator[Any]:
        """The things one by one, with progress."""
        for number, thing in enumerate(things):
            self.progress(number / len(things))
            yield thing
