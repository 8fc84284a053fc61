"""The smallest sets of features, found by search, that change what a model says; and random sets to compare them
with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..base.choices import Mode
from ..base.progress import Progress
from ..errors import InterventionError, OptionError
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .attribution_patching import lead, predicted_effects, write_gradients
from .edits import Feature, Intervention, ablate, dosed, prompt_positions
from .interventions import Outcome, Prompt, intervene_each, record, token_ids
from .plans import prompt_edits
from .steering import activations, swap

T = TypeVar("T")
Size = Literal["activation", "written"]
"""What is alike in random features: the change of activation, or that times the norm of what the feature writes."""


@dataclass(frozen=True, eq=False)
class SmallestSet:
    """A set of features that is enough, none of which can be left out.

    Smaller sets may exist: the search adds features step by step, then takes out what is not needed.
    """

    changes: tuple[Intervention, ...]
    """One feature each, at the dose that was needed; in the order in which they were found."""
    factor: float
    outcome: Outcome
    token: int
    """The one that was to come to the top, or to leave it."""
    pool: tuple[Intervention, ...]
    """All changes that the set was chosen from, the set among them, before the dose."""

    def __repr__(self) -> str:
        return f"SmallestSet({len(self.changes)} features of {len(self.pool)}, factor {self.factor:g}; {self.outcome})"

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of the set."""
        return tuple(change.features[0] for change in self.changes)

    @property
    def top(self) -> int:
        """The likeliest token after."""
        return int(self.outcome.logits[-1].argmax())


@dataclass(frozen=True)
class Controls:
    """What as many random features of similar size do."""

    draws: int
    changed: float
    """Share of draws in which another token became the likeliest."""
    reached: float
    """Share of draws in which the set's likeliest token became the likeliest."""
    kl: tuple[float, ...]
    """Divergence of each draw, in nats."""
    size: float
    """Summed size of the random changes by that of the set's, mean of all draws."""


def smallest_swap(
    model: ReplacementModel,
    prompt: Prompt,
    other_prompt: Prompt,
    wanted: str | int,
    *,
    factors: Sequence[float] = (1.0, 2.0, 3.0, 4.0),
    mode: Mode = "frozen_attention",
    positions: Sequence[int] | None = None,
    max_features: int = 48,
    tries: int = 16,
    progress: Progress | None = None,
) -> SmallestSet | None:
    """The smallest set found of features whose swap for another prompt's makes a token the likeliest; None if none
    does.

    Factors are tried in the order given, and the first at which at most `max_features` are enough is taken. At each,
    features are added, a fifth of their number at a time: of the `tries` with the best first-order effects on the
        token's
    lead over all others, given the features chosen so far, those that really help most. Then those are taken out that
    are not needed.

    Args:
        wanted: the token, as text or id.
        factors: doses of the swap, see `dosed`.
        positions: the positions in `prompt` at which features may be swapped; None: as in `swap`.

    Raises:
        PromptError, TargetError, OptionError, InterventionError: as in `swap` and `intervene`, or the token is on
            top already.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> found = unweave.smallest_swap(model, "the capital of Texas is", "the capital of Ohio is", "Columbus")
    >>> 0 < len(found.features) <= 48
    True
    """
    recording = record(model, prompt)
    goal = token_ids(model.language_model, recording, [wanted])[0]
    if int(recording.logits[-1].argmax()) == goal:
        raise InterventionError(
            f"{model.language_model.token_text(goal)!r} is the likeliest token already; there is nothing to find"
        )
    pool = swap(model, recording, other_prompt, positions=positions)
    return _search(model, recording, pool, goal, 1, factors, mode, max_features, tries, progress)


def smallest_ablation(
    model: ReplacementModel,
    prompt: Prompt,
    *,
    factors: Sequence[float] = (0.0, -1.0, -2.0),
    mode: Mode = "frozen_attention",
    positions: Sequence[int] | None = None,
    max_features: int = 48,
    tries: int = 16,
    progress: Progress | None = None,
) -> SmallestSet | None:
    """The smallest set found of active features without which another token is the likeliest; None if there is none.

    Args:
        factors: what their activations are multiplied by; the first that is enough is taken.
        positions: where features may be ablated; None: everywhere.

    The search is that of `smallest_swap`. Raises the same errors.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> len(unweave.smallest_ablation(model, "the capital of Texas is").features)
    4
    """
    recording = record(model, prompt)
    pool = active_features(model, recording, positions)
    return _search(
        model, recording, pool, int(recording.logits[-1].argmax()), -1, factors, mode, max_features, tries, progress
    )


def active_features(
    model: ReplacementModel, recording: Recording, positions: Sequence[int] | None = None
) -> list[Intervention]:
    """The ablation of each active feature of a prompt (at some positions), by layer, position and number.

    Raises:
        InterventionError: a position outside the prompt, or none at which a feature is active.
    """
    n = len(recording.input_ids)
    wanted = (
        range(n)
        if positions is None
        else [place for position in positions for place in prompt_positions("ablation", position, n)]
    )
    found = [
        ablate((layer, position, index))
        for layer in range(model.language_model.n_layers)
        for position, index in activations(model, recording, layer).nonzero().tolist()
        if position in wanted
    ]
    if not found:
        raise InterventionError(
            f"no feature is active at position {', '.join(map(str, wanted))}; give others (position 0 never has any)"
        )
    return found


def _search(
    model: ReplacementModel,
    recording: Recording,
    pool: Sequence[Intervention],
    token: int,
    sign: int,
    factors: Sequence[float],
    mode: Mode,
    max_features: int,
    tries: int,
    progress: Progress | None,
) -> SmallestSet | None:
    if not factors or max_features < 1 or tries < 1:
        raise OptionError(
            f"give at least one factor, one feature and one try (factors {list(factors)}, max_features "
            f"{max_features}, tries {tries})"
        )
    goal = _Goal(model, recording, token, sign, mode)
    for number, factor in enumerate(factors):
        doses = _at_dose(pool, factor)
        chosen = _grown(goal, doses, max_features, tries)
        if chosen:
            kept, outcome = _pruned(goal, chosen)
            return SmallestSet(tuple(kept), factor, outcome, token, tuple(pool))
        if progress is not None:
            progress((number + 1) / len(factors))
    return None


@dataclass(frozen=True)
class _Goal:
    """What is wanted of a token: to be on top (sign 1) or not to be (-1)."""

    model: ReplacementModel
    recording: Recording
    token: int
    sign: int
    mode: Mode

    def run(self, variants: Sequence[Sequence[Intervention]]) -> list[Outcome]:
        return list(intervene_each(self.model, self.recording, variants, self.mode))

    def value(self, outcome: Outcome) -> float:
        """Above 0 when it is reached."""
        return self.sign * float(lead(self.token)(outcome.logits[-1]))

    def predicted(self, doses: Sequence[Intervention], changes: Sequence[Intervention]) -> Float[Tensor, " dose"]:
        """What each dose would add to the value when some changes are made already, to first order."""
        gradients = write_gradients(self.model, self.recording, lead(self.token), self.mode, changes=changes)
        return self.sign * predicted_effects(self.model, self.recording, [[dose] for dose in doses], gradients)


def _at_dose(changes: Sequence[Intervention], factor: float) -> list[Intervention]:
    return [change for change in dosed(changes, factor) if isinstance(change, Intervention)]


def _grown(goal: _Goal, doses: list[Intervention], most: int, tries: int) -> list[Intervention]:
    """Changes added until they are enough, a fifth at a time: of those with the best first-order effects the ones
    that really help most. Empty if `most` are not enough.
    """
    chosen: list[Intervention] = []
    while len(chosen) < most:
        best = goal.predicted(doses, chosen).topk(min(tries + len(chosen), len(doses))).indices.tolist()
        likely = [doses[place] for place in best if doses[place] not in chosen][:tries]
        values = [goal.value(outcome) for outcome in goal.run([[*chosen, change] for change in likely])]
        order = sorted(range(len(likely)), key=lambda place: -values[place])
        if not order:
            break
        if values[order[0]] > 0:
            return [*chosen, likely[order[0]]]
        chosen += [likely[place] for place in order[: min(max(1, len(chosen) // 5), most - len(chosen))]]
    return chosen if chosen and goal.value(goal.run([chosen])[0]) > 0 else []


def _pruned(goal: _Goal, chosen: list[Intervention]) -> tuple[list[Intervention], Outcome]:
    """What is left when nothing more can be left out, and what it does; what is missed least goes first."""
    outcome = goal.run([chosen])[0]
    while len(chosen) > 1:
        without = [chosen[:place] + chosen[place + 1 :] for place in range(len(chosen))]
        outcomes = goal.run(without)
        values = [goal.value(found) for found in outcomes]
        if max(values) <= 0:
            break
        place = values.index(max(values))
        chosen, outcome = without[place], outcomes[place]
    return chosen, outcome


def matched_controls(
    model: ReplacementModel,
    found: SmallestSet,
    *,
    draws: int = 50,
    by: Size = "activation",
    nearest: int = 20,
    seed: int = 0,
) -> Controls:
    """As many random features changed at the same positions, by the same factor, in the same mode.

    Each feature of the set is replaced by one drawn at random from the `nearest` of the pool at its position, by the
    size of their change, that are not of the set; no feature twice in a draw.

    Args:
        by: what is to be alike, the change of activation, or of what the feature writes (its norm, over all layers).

    Raises:
        OptionError: no draws, or too few features at a position.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> found = unweave.smallest_ablation(model, "the capital of Texas is")
    >>> unweave.matched_controls(model, found, draws=10).changed <= 0.5
    True
    """
    if draws < 1 or nearest < 1:
        raise OptionError(
            f"controls need at least one draw among one nearest feature (draws {draws}, nearest {nearest})"
        )
    recording, mode = found.outcome.recording, found.outcome.mode
    sizes = dict(
        zip((change.features[0] for change in found.pool), _sizes(model, recording, found, by).tolist(), strict=True)
    )
    others = [change for change in found.pool if change.features[0] not in found.features]
    close: list[list[Intervention]] = []
    for feature in found.features:
        here = [change for change in others if change.features[0].position == feature.position]
        alike = sorted(here, key=lambda change: abs(sizes[change.features[0]] - sizes[feature]))
        needed = sum(other.position == feature.position for other in found.features)
        if len(here) < needed:
            raise OptionError(
                f"only {len(here)} other features at position {feature.position}, too few for a control of {needed}"
            )
        close.append(alike[: max(nearest, needed)])
    generator = torch.Generator().manual_seed(seed)
    variants = [one_of_each(close, generator) for _ in range(draws)]
    before = int(found.outcome.baseline[-1].argmax())
    tops, kl = [], []
    for outcome in intervene_each(model, recording, [dosed(variant, found.factor) for variant in variants], mode):
        tops.append(int(outcome.logits[-1].argmax()))
        kl.append(outcome.kl())
    own = sum(sizes[feature] for feature in found.features)
    size = sum(sizes[change.features[0]] for variant in variants for change in variant) / (own * draws)
    return Controls(
        draws,
        sum(top != before for top in tops) / draws,
        sum(top == found.top for top in tops) / draws,
        tuple(kl),
        size,
    )


def one_of_each(lists: Sequence[Sequence[T]], generator: torch.Generator, spare: Sequence[T] = ()) -> list[T]:
    """One drawn from each list, none twice; from `spare` where a list has no other left."""
    drawn: list[T] = []
    for alike in lists:
        free = [one for one in alike if one not in drawn] or [one for one in spare if one not in drawn]
        if free:
            drawn.append(free[int(torch.randint(len(free), (), generator=generator))])
    return drawn


def _sizes(model: ReplacementModel, recording: Recording, found: SmallestSet, by: Size) -> Float[Tensor, " change"]:
    """How far each change of the pool moves its feature's activation, or what the feature writes."""
    if by not in ("activation", "written"):
        raise OptionError(f"controls can be alike by 'activation' or 'written', not by {by!r}")
    sizes = torch.zeros(len(found.pool), dtype=model.language_model.engine_dtype)
    for layer, edits in prompt_edits(model, recording, [[change] for change in found.pool]).layers.items():
        amount = ((edits.slope - 1) * edits.clean + edits.offset).abs()
        if by == "written":
            rows = [
                model.transcoders.decoder_rows(layer, edits.index, at, amount.dtype)
                for at in model.transcoders.writes(layer)
            ]
            amount = amount * torch.cat(rows, -1).norm(dim=-1)
        sizes[edits.row] = amount
    return sizes
