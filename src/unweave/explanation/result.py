"""An explanation: what was found, what is said of it, and the same for others to read or to check."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..graphs.comparison import aligned
from ..models.places import Place
from .arrows import agreement_of_arrows
from .choose import Chosen
from .contrast import same_question
from .groups import PartGroup
from .maps import Contrast, Head, Map, text_of
from .measure import Measured
from .picture import picture
from .report import claims_yaml, markdown
from .say import CheckedSentence, elsewhere, run_tests, values_of
from .wordings import nowhere


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """What one prompt's answer hangs on, in the model as it is."""

    contrast: Contrast
    maps: dict[Place, Map]
    heads: tuple[Head, ...]
    chosen: Chosen
    groups: tuple[PartGroup, ...]
    measured: Measured
    sentences: tuple[CheckedSentence, ...]

    @cached_property
    def prompt(self) -> str:
        """The prompt, as text."""
        return text_of(self.contrast.model, self.contrast.ids)

    @property
    def answer(self) -> str:
        """The token that is explained."""
        return self.contrast.model.token_text(self.contrast.question.answer)

    @property
    def rival(self) -> str:
        """The token that it is held against."""
        return self.contrast.model.token_text(self.contrast.question.rival)

    @property
    def found(self) -> bool:
        """Whether anything was found that the answer hangs on."""
        return any(sentence.kind in ("hangs", "direct") for sentence in self.sentences)

    def __repr__(self) -> str:
        return f"Explanation({self.headline}; {len(self.groups)} groups, {len(self.sentences)} sentences)"

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"{n}. {s.text}" for n, s in enumerate(self.sentences, 1))])

    def check(self, prompt: Any = None, instead: Any = None) -> list[tuple[CheckedSentence, float, bool]]:
        """Every sentence measured again, on this prompt or, with tokens matched from both ends, on a rephrasing.

        On a rephrasing the question is the same: why the answer rather than the same rival. Where there the other
        prompt does not change that, nothing holds.

        Args:
            instead: the rephrasing of the prompt that this one is held against; None: as in `explain`.

        Returns:
            Each sentence, the new measurement, and whether it agrees: at least half of what was measured first.

        Raises:
            PromptError: as in `explain`.
        """
        contrast = self.contrast
        tests = [sentence.test for sentence in self.sentences]
        if prompt is not None:
            contrast = same_question(self.contrast, prompt, instead)
            places = aligned(self.contrast.ids.tolist(), contrast.ids.tolist())
            tests = [elsewhere(test, places) for test in tests]
        changed = contrast.whole * self.contrast.whole > 0
        values = run_tests(contrast, tests) if changed else [0.0] * len(tests)
        return [
            (sentence, value, sentence.test.holds(value))
            for sentence, value in zip(self.sentences, values, strict=True)
        ]

    @property
    def headline(self) -> str:
        """What is explained, and against what."""
        contrast, measured = self.contrast, self.measured
        match contrast.kind:
            case "instead":
                how = "found by exchanging a token" if contrast.proposed else "given"
                against = f"against {contrast.instead!r} ({how}), where {self.answer!r} has {100 * measured.other:.1f}%"
            case "mean":
                against = "against the model's mean values over text"
            case _:
                against = "against zero"
        chance = f"({100 * measured.answer:.1f}%)"
        if contrast.why_not:
            return f"{self.prompt!r}: why not {self.answer!r} {chance} but {self.rival!r}, {against}"
        return f"{self.prompt!r} -> {self.answer!r} {chance} rather than {self.rival!r}, {against}"

    @property
    def legend(self) -> str:
        """How figures and names are to be read."""
        contrast = self.contrast
        return (
            f"Swapped: put to {values_of(contrast)}, everything else free to respond. Held: kept as on this prompt; "
            f"so are all other groups where one acts on another, or directly. The difference: by how much the logit "
            f"of {self.answer!r} leads that of {self.rival!r}, {contrast.lead:.1f} on the prompt and "
            f"{contrast.other:.1f} with everything swapped; 100% is all of it; more than all and less than nothing "
            f"are possible, because some parts work against others. All of the way: to {values_of(contrast)}. Random "
            f"parts: sets of as many other parts of the same layers and token, swapped likewise. Predicted: from "
            f"slopes on this prompt alone. Head 23.4 is head 4 of layer 23; layers, heads and neurons count from 0. "
            f"What parts push was tried in other texts."
        )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that was found, as plain data fit for JSON."""
        return _facts(self)

    @property
    def picture(self) -> str:
        """Groups and the arrows that passed, as SVG."""
        return picture(self.facts)

    @property
    def markdown(self) -> str:
        """The report, with its picture."""
        return markdown(self.facts)

    @property
    def claims(self) -> str | None:
        """The sentences as a claims file; None where the contrast is no prompt."""
        return claims_yaml(self.facts)

    @property
    def supernodes(self) -> dict[str, list[str]]:
        """Neurons by the name of their group, as graphs and claims take them."""
        return {group.name: group.part.units.ids for group in self.groups if group.kind == "neurons"}


def _facts(explanation: Explanation) -> dict[str, Any]:
    contrast, measured, chosen = explanation.contrast, explanation.measured, explanation.chosen
    text, agreement = contrast.model.token_text, agreement_of_arrows(measured.arrows)
    return {
        "headline": explanation.headline,
        "legend": explanation.legend,
        "prompt": explanation.prompt,
        "tokens": [text(token) for token in contrast.ids.tolist()],
        "ids": contrast.ids.tolist(),
        "model": contrast.model.name,
        "answer": {"token": explanation.answer, "id": contrast.question.answer, "probability": measured.answer},
        "rival": {"token": explanation.rival, "id": contrast.question.rival},
        "baseline": {
            "kind": contrast.kind,
            "instead": contrast.instead,
            "ids": None if contrast.other_ids is None else contrast.other_ids.tolist(),
            "proposed": contrast.proposed,
            "probability": measured.other,
        },
        "lead": contrast.lead,
        "difference": contrast.whole,
        "found": explanation.found,
        "why_not": contrast.why_not,
        "sentences": [
            {
                "text": sentence.text,
                "kind": sentence.kind,
                "value": sentence.test.value,
                "control": sentence.control,
                "wordings": None if sentence.wordings is None else list(sentence.wordings),
                "groups": list(sentence.groups),
                "claim": _claim(explanation, sentence),
            }
            for sentence in explanation.sentences
        ],
        "groups": [
            {
                "name": effect.group.name,
                "place": effect.group.place,
                "kind": effect.group.kind,
                "position": effect.group.position,
                "layers": [effect.group.part.layers.start, effect.group.part.layers.stop - 1],
                "evidence": effect.group.evidence,
                "against": effect.group.against,
                "pushes": list(effect.group.pushes),
                "support": effect.group.support,
                "members": len(effect.group),
                "label": effect.group.label,
                "parts": list(effect.group.part.words),
                "share": effect.share,
                "direct": effect.direct,
                "predicted": effect.predicted,
                "probability": effect.answer,
                "rank": effect.rank,
                "top": text(effect.top),
                "random": effect.control,
                "passed": effect.passed,
            }
            for effect in measured.effects
        ],
        "arrows": _arrows(measured),
        "arrow_agreement": None if agreement is None else agreement._asdict(),
        "units": {
            "count": len(chosen.units),
            "swapped": chosen.swapped,
            "kept": chosen.kept,
            "random": float(chosen.random.abs().max()) if len(chosen.random) else 0.0,
            "stages": [
                {
                    "position": carried.stage.position,
                    "layers": [carried.stage.layers.start, carried.stage.layers.stop - 1],
                    "share": carried.stage.share,
                    "units": carried.units,
                    "carried": carried.share,
                }
                for carried in chosen.carried
            ],
        },
        "wording_alone": nowhere(explanation.sentences),
        "way": {
            "groups": list(measured.way.groups),
            "share": measured.way.share,
            "random": measured.way.control,
        },
        "together": {
            "share": measured.together,
            "probability": measured.together_answer,
            "random": measured.random_together,
            "kept": measured.kept,
        },
        "maps": {
            place: {
                "positions": list(found.positions),
                "layers": [[span.start, span.stop - 1] for span in found.layers],
                "share": found.share.tolist(),
            }
            for place, found in explanation.maps.items()
        },
        "supernodes": explanation.supernodes,
        "heads": [head._asdict() for head in explanation.heads],
    }


def _arrows(measured: Measured) -> list[dict[str, Any]]:
    return [
        {
            "source": arrow.source,
            "target": "answer" if arrow.target is None else arrow.target,
            "moved": arrow.moved,
            "carried": arrow.carried,
            "random": arrow.control,
            "predicted": arrow.predicted,
            "predicted_carried": arrow.predicted_carried,
            "passed": arrow.passed,
            "heads": [f"{head.layer}.{head.head}" for head in arrow.heads],
            "by_heads": arrow.by_heads,
        }
        for arrow in measured.arrows
    ]


def _claim(explanation: Explanation, sentence: CheckedSentence) -> dict[str, Any] | None:
    """A sentence as a claim; None where the contrast is no prompt."""
    contrast, test = explanation.contrast, sentence.test
    if contrast.instead is None:
        return None
    sign = ">=" if test.value > 0 else "<="
    if test.watch is None:
        change = -test.bound * contrast.whole
        bound = f"{'<=' if change < 0 else '>='} {change:.4f}"
        answer, rival = contrast.question.answer, contrast.question.rival
        expect: dict[str, Any] = {"token": f"#{answer}", "minus": f"#{rival}", "logit_change": bound}
    else:
        expect = {"parts": list(test.watch.words), "moved": f"{sign} {test.bound:.4f}"}
    claim: dict[str, Any] = {
        "name": sentence.text,
        "prompt": [str(token) for token in contrast.ids.tolist()],
        "swap_from": [str(token) for token in contrast.other_ids.tolist()] if contrast.other_ids is not None else "",
        "swap_parts": list(test.swap.words),
        "mode": "open",
        "expect": [expect],
    }
    return claim | ({"hold_parts": list(test.hold.words)} if len(test.hold) else {})
