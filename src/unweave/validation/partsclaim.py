"""A claim about parts of the real model: neurons, heads and MLPs put to their values in another prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import ClaimError
from ..interventions.interventions import Outcome
from ..interventions.live import TokenPair, Variant, heads_of, look, run, run_logits
from ..interventions.parts import Part
from ..models.language_model import LanguageModel, Recording
from .claimfile import Claim


@dataclass(frozen=True)
class PartsClaim:
    """One such claim, checked and ready to run."""

    model: LanguageModel
    recording: Recording
    other: Recording
    swapped: Part
    held: Part
    watched: tuple[Part, ...]

    @staticmethod
    def read(
        claim: Claim,
        model: LanguageModel,
        recording: Recording,
        other: Recording,
        named: Mapping[str, Sequence[str]],
    ) -> "PartsClaim":
        """Refuse what cannot be run.

        Raises:
            ClaimError: prompts of two lengths.
            InterventionError: a part that does not exist.
        """
        n, m = len(recording.input_ids), len(other.input_ids)
        if n != m:
            raise ClaimError(f"swap_parts: the prompt has {n} tokens, swap_from {m}; give two of one length")
        swapped, held = (Part.parse(words, named) for words in (claim.swap_parts, claim.hold_parts))
        watched = tuple(Part.parse(wanted.parts, named) for wanted in claim.expect if wanted.parts)
        for part in (swapped, held, *watched):
            part.check(model, n)
        return PartsClaim(model, recording, other, swapped, held, watched)

    def run(self) -> tuple[list[float], Outcome]:
        """How far each watched part moved towards the other prompt, and the outcome."""
        ids, count = self.recording.input_ids, heads_of(self.model)
        here, there = look(self.model, ids), look(self.model, self.other.input_ids)
        variant: Variant = [*self.held.put(here, count), *self.swapped.put(there, count)]
        gauges = [part.gauge(here, there, count) for part in self.watched]
        ran = run(self.model, ids, TokenPair(0, 0), [variant], gauges=gauges)
        none = torch.zeros(2, 0)
        logits = run_logits(self.model, ids[None], [variant])
        outcome = Outcome(
            self.model, self.recording, (), "open", None, _uncapped(self.model, logits), (), (), (), none, none
        )
        return ran.gauges[0].tolist(), outcome


def _uncapped(model: LanguageModel, logits: torch.Tensor) -> torch.Tensor:
    """Logits before a final soft cap."""
    cap = model.softcap
    return logits if cap is None else cap * torch.atanh((logits.double() / cap).clamp(-1 + 1e-12, 1 - 1e-12)).to(logits)
