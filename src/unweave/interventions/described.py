"""An intervention in words and numbers: one set of facts, shown to people or given to machines."""

from collections.abc import Callable, Mapping
from typing import Any

from ..attribution.promoted import promoted_tokens
from ..base.choices import Mode
from ..models.language_model import Recording
from ..transcoders.replacement import ReplacementModel
from .edits import Change, Feature, SteeringVector
from .generation import Generation
from .interventions import Outcome
from .steering import Sweep

Labels = Callable[[list[tuple[int, int]]], Mapping[tuple[int, int], str]]
NAMED = 10
"""Changed features that carry the tokens they promote."""


def describe(
    model: ReplacementModel,
    recording: Recording,
    changes: list[Change],
    mode: Mode,
    layers: range | None,
    outcome: Outcome | None,
    tokens: list[str | int],
    generation: Generation | None = None,
    sweep: Sweep | None = None,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """The facts about an intervention; plain data, fit for JSON.

    Args:
        outcome: None if only generated tokens were changed.
        tokens: those to be reported in any case.
        labels: gives the labels of some (layer, index), those that have one.
    """
    language_model = model.language_model
    words = list(language_model.token_texts(recording.input_ids))
    facts: dict[str, Any] = {
        "tokens": words,
        "model": language_model.name,
        "transcoders": {"name": model.transcoders.name, "sha256": model.transcoders.sha256},
        "mode": mode,
        "layers": None if layers is None else [layers.start, layers.stop - 1],
        "changes": [_change_facts(change) for change in changes],
    }
    if outcome is not None:
        changed = sorted(outcome.changed, key=lambda change: -abs(change.after - change.before))
        shown = [(change.feature.layer, change.feature.index) for change in changed[:NAMED]]
        named = dict(zip(shown, promoted_tokens(model, shown), strict=True)) if shown else {}
        watched = [(feature.layer, feature.index) for feature in outcome.watched]
        known = {} if labels is None else labels(list(dict.fromkeys([*shown, *watched])))
        groups = _groups(changes, len(words))
        facts["changed"] = [
            {
                **_feature_facts(change.feature, words, known),
                "supernode": groups.get((change.feature.layer, change.feature.index, int(change.feature.position))),
                "before": change.before,
                "after": change.after,
                "promotes": named.get((change.feature.layer, change.feature.index), []),
            }
            for change in changed
        ]
        facts["inactive"] = [change.feature.id for change in changed if change.before == 0]
        facts["idle"] = [feature.id for feature in outcome.idle]
        facts["watched"] = [
            {
                **_feature_facts(feature, words, known),
                "before": before,
                "after": after,
                "preactivation_before": low,
                "preactivation_after": high,
            }
            for feature, before, after, low, high in zip(
                outcome.watched, *outcome.activations.tolist(), *outcome.preactivations.tolist(), strict=True
            )
        ]
        facts["next"] = [
            {
                **token._asdict(),
                "logit_change": token.logit_change,
                "log_probability_change": token.log_probability_change,
            }
            for token in outcome.tokens(tokens)
        ]
        facts["kl"] = outcome.kl()
    if generation is not None:
        facts["generation"] = {
            name: {"text": part.text, "ids": list(part.ids)} for name, part in vars(generation).items()
        }
    if sweep is not None:
        named_tokens = [{"id": token, "text": text} for token, text in zip(sweep.tokens, sweep.texts, strict=True)]
        facts["sweep"] = {"tokens": named_tokens, "rows": [row._asdict() for row in sweep.rows]}
    return facts


def _change_facts(change: Change) -> dict[str, Any]:
    if isinstance(change, SteeringVector):
        return {
            "action": "push",
            "layer": change.layer,
            "position": change.position,
            "at": change.at,
            "norm": float(change.vector.norm()),
        }
    return {
        "action": change.action,
        "value": change.value,
        "name": change.name,
        "features": [feature.id for feature in change.features],
    }


def _feature_facts(feature: Feature, words: list[str], labels: Mapping[tuple[int, int], str]) -> dict[str, Any]:
    label = labels.get((feature.layer, feature.index), "")
    return {"node": feature.id, "token": words[int(feature.position)], "label": label}


def _groups(changes: list[Change], n_tokens: int) -> dict[tuple[int, int, int], str]:
    """The name of the supernode by which a feature (layer, index, position) was changed."""
    found = {}
    for change in changes:
        if isinstance(change, SteeringVector) or change.name is None:
            continue
        for feature in change.features:
            places = [feature.position % n_tokens] if isinstance(feature.position, int) else range(n_tokens)
            found |= {(feature.layer, feature.index, place): change.name for place in places}
    return found
