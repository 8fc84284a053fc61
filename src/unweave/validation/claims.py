"""Claims: statements about features in a YAML file, each checked by an intervention on the real model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..base.choices import Mode
from ..base.kinds import typed
from ..base.progress import Progress
from ..errors import ClaimError, UnweaveError
from ..graphs.graph import Graph
from ..interventions.edits import Change, Feature, ablate, add, dosed, scale, set_to
from ..interventions.interventions import Outcome, intervene_each, record, token_ids
from ..interventions.naming import Names, check_graph
from ..interventions.steering import swap
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .claimfile import OF_DIFFERENCE, OF_FEATURE, OF_TOKEN, Bound, Claim, ClaimsFile, Expectation
from .claimfile import read_claims as read_claims
from .partsclaim import PartsClaim


class ClaimCheck(NamedTuple):
    """One wanted figure beside the measured one."""

    what: str
    wanted: str
    measured: float | str
    holds: bool


@dataclass(frozen=True)
class ClaimVerdict:
    """What became of one claim."""

    name: str
    line: int
    prompt: str
    mode: Mode
    checks: tuple[ClaimCheck, ...]
    before: tuple[str, float]
    """The likeliest token on the unchanged prompt, and its probability."""
    after: tuple[str, float]
    kl: float

    @property
    def holds(self) -> bool:
        """Whether all that was wanted came."""
        return all(check.holds for check in self.checks)


@typed
def check_claims(file: ClaimsFile, model: ReplacementModel, progress: Progress | None = None) -> list[ClaimVerdict]:
    """Check every claim on the real model; all are worked out before the first is run.

    Raises:
        ClaimError: a claim that cannot be checked (a feature the dictionary does not have, text that is not one token,
            a position outside the prompt), a graph or hash of another model or dictionary; with the number of the line.

    >>> import unweave
    >>> file = unweave.read_claims("claims.yaml")                             # doctest: +SKIP
    >>> unweave.check_claims(file, unweave.load("smollm2"))[0].holds           # doctest: +SKIP
    True
    """
    sha256 = model.transcoders.sha256
    if file.transcoders_sha256 is not None and not model.transcoders.is_of(file.transcoders_sha256):
        with _in_claim(file, "transcoders_sha256"):
            raise ClaimError(
                f"the claims are about dictionary {file.transcoders_sha256[:12]}, {model.transcoders.name} is "
                f"{sha256[:12]}; give its --transcoders"
            )
    graph = None
    if file.graph is not None:
        with _in_claim(file, "graph"):
            graph = Graph.load(file.graph)
            check_graph(graph, file.graph, model)
    names = Names(model, file.supernodes, graph)
    named = {name: [feature.id for feature in members] for name, members in file.supernodes.items()}
    recordings: dict[Any, Recording] = {}

    def recorded(prompt: Any) -> Recording:
        if prompt not in recordings:
            recordings[prompt] = record(model, prompt)
        return recordings[prompt]

    planned = []
    for number, claim in enumerate(file.claims):
        with _in_claim(file, number):
            recording = recorded(
                claim.prompt if claim.prompt is not None or graph is None else graph.provenance.input_ids
            )
            tokens = [token_ids(model.language_model, recording, [token])[0] for token in _tokens(claim)]
            if claim.swap_parts:
                swapped = PartsClaim.read(claim, model.language_model, recording, recorded(claim.swap_from), named)
                planned.append((recording, tokens, swapped))
                continue
            watched = [_watched(names, expectation.feature) for expectation in claim.expect if expectation.feature]
            other = None if claim.swap_from is None else recorded(claim.swap_from)
            changes = _changes(names, claim, recording, other)
            planned.append(
                (
                    recording,
                    tokens,
                    intervene_each(model, recording, [changes], claim.mode, layers=claim.layers, watch=watched),
                )
            )
    verdicts = []
    for number, (claim, (recording, tokens, outcomes)) in enumerate(zip(file.claims, planned, strict=True)):
        with _in_claim(file, number):
            moved, outcome = outcomes.run() if isinstance(outcomes, PartsClaim) else ([], next(outcomes))
        words = (
            claim.prompt
            if isinstance(claim.prompt, str)
            else "".join(model.language_model.token_texts(recording.input_ids))
        )
        before, after = (_likeliest(outcome, logits) for logits in (outcome.baseline, outcome.logits))
        verdicts.append(
            ClaimVerdict(
                claim.name,
                file.lines[number],
                words,
                claim.mode,
                tuple(_checks(claim, outcome, tokens, moved)),
                before,
                after,
                outcome.kl(),
            )
        )
        if progress is not None:
            progress((number + 1) / len(file.claims))
    return verdicts


@contextmanager
def _in_claim(file: ClaimsFile, place: int | str) -> Iterator[None]:
    """Errors inside say which line and which claim of the file they come from."""
    try:
        yield
    except UnweaveError as error:
        name = f"claim {file.claims[place].name!r}: " if isinstance(place, int) else ""
        raise ClaimError(f"{file.path}, line {file.lines[place]}: {name}{error}") from error


def _tokens(claim: Claim) -> list[str | int]:
    return [
        token
        for wanted in claim.expect
        for token in (wanted.token, wanted.minus, wanted.top, wanted.not_top)
        if token is not None
    ]


def _watched(names: Names, word: str) -> Feature:
    features, _ = names.features(word)
    if len(features) != 1 or not isinstance(features[0].position, int):
        raise ClaimError(f"feature: {word!r} should be one feature at one position, such as '12_345_5'")
    return features[0]


def _changes(names: Names, claim: Claim, recording: Recording, other: Recording | None) -> list[Change]:
    changes: list[Change] = [ablate(*names.features(word)) for word in claim.ablate]
    for make, numbers in ((scale, claim.scale), (set_to, claim.set), (add, claim.add)):
        for word, value in numbers.items():
            features, name = names.features(word)
            changes.append(make(features, value, name))
    if other is not None:
        only = [feature for word in claim.swap_only for feature in names.features(word)[0]]
        changes += dosed(
            swap(names.model, recording, other, features=only or None, positions=claim.swap_at or None),
            claim.swap_factor,
        )
    return changes


def _likeliest(outcome: Outcome, logits: Any) -> tuple[str, float]:
    probability, token = logits[-1].softmax(-1).max(-1)
    return outcome.model.token_text(int(token)), float(probability)


def _checks(claim: Claim, outcome: Outcome, tokens: list[int], moved: Sequence[float]) -> Iterator[ClaimCheck]:
    """Every expectation's figures, in the order of the file."""
    ids, watched, ways = iter(tokens), iter(outcome.activations.T.tolist()), iter(moved)
    likeliest = int(outcome.logits[-1].argmax())
    text = outcome.model.token_text
    for wanted in claim.expect:
        if wanted.kl is not None:
            yield _number("KL", wanted.kl, outcome.kl())
        elif wanted.feature is not None:
            before, after = next(watched)
            yield from _numbers(wanted, wanted.feature, dict(zip(OF_FEATURE, (after, after - before), strict=True)))
        elif wanted.parts:
            yield _number(f"{', '.join(wanted.parts)[:60]} moved", wanted.moved, next(ways))
        elif wanted.minus is not None:
            plus, minus = next(ids), next(ids)
            before, after = (float(x[-1, plus] - x[-1, minus]) for x in (outcome.baseline, outcome.logits))
            subject = f"{text(plus)!r} minus {text(minus)!r}"
            yield from _numbers(wanted, subject, dict(zip(OF_DIFFERENCE, (after, after - before), strict=True)))
        elif wanted.token is not None:
            token = outcome.tokens([next(ids)], count=0)[0]
            rank = float((outcome.logits[-1] > outcome.logits[-1][token.id]).sum() + 1)
            figures = (
                token.logit_after,
                token.logit_change,
                token.probability_after,
                token.probability_after - token.probability_before,
                rank,
            )
            yield from _numbers(wanted, repr(token.text), dict(zip(OF_TOKEN, figures, strict=True)))
        else:
            token, negated = next(ids), wanted.top is None
            yield ClaimCheck(
                "top token", f"{'not ' * negated}{text(token)!r}", text(likeliest), (token == likeliest) != negated
            )


def _numbers(wanted: Expectation, subject: str, figures: dict[str, float]) -> Iterator[ClaimCheck]:
    for name, value in figures.items():
        bound = getattr(wanted, name)
        if bound is not None:
            yield _number(f"{subject} {name.replace('_', ' ')}", bound, value)


def _number(what: str, bound: Bound, value: float) -> ClaimCheck:
    return ClaimCheck(what, bound.text, value, bound.low <= value <= bound.high)


def claims_facts(file: ClaimsFile, verdicts: Sequence[ClaimVerdict]) -> dict[str, Any]:
    """What became of the claims; plain data, fit for JSON."""
    claims = [
        {**vars(verdict), "holds": verdict.holds, "checks": [check._asdict() for check in verdict.checks]}
        for verdict in verdicts
    ]
    for claim in claims:
        claim |= {when: dict(zip(("token", "probability"), claim[when], strict=True)) for when in ("before", "after")}
    return {"file": str(file.path), "holds": all(verdict.holds for verdict in verdicts), "claims": claims}
