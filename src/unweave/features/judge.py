"""Scoring the labels of many features at once, beside the baseline; and asking an endpoint for labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ..base.progress import Progress
from ..errors import TextError
from ..transcoders.replacement import ReplacementModel
from .details import feature_page
from .endpoint import Endpoint, detects, proposed
from .pages import Pages
from .rules import Members, Rule
from .score import CONTEXT, Detection, Place, contexts, detect, firing_on, summary

ASKED = (8, 16)
"""Contexts of each feature that an endpoint judges: in which it fires, and in which it does not."""


def sample_live(pages: Pages, count: int, seed: int) -> list[Place]:
    """Random features that fired on the pages' text, evenly over all of them; all if there are fewer."""
    live = [
        (layer, int(index)) for layer, density in enumerate(pages.densities()) for index in np.flatnonzero(density > 0)
    ]
    chosen = np.random.default_rng(seed).permutation(len(live))[:count]
    return [live[place] for place in np.sort(chosen)]


def stored_labels(pages: Pages, features: Sequence[Place]) -> dict[Place, dict[str, Any]]:
    """Rows of the labels of some features: layer, index, label, rule, confidence, source."""
    rows = pages.query(f"SELECT * FROM {pages.file('labels.parquet')}")
    wanted = set(features)
    return {(row["layer"], row["index"]): row for row in rows if (row["layer"], row["index"]) in wanted}


def first_tokens(pages: Pages, features: Sequence[Place]) -> dict[Place, int]:
    """The token that each feature fires on most often."""
    found = {}
    for layer in sorted({layer for layer, _ in features}):
        rows = pages.query(
            f"SELECT index, token[1] first FROM {pages.file(f'features_{layer}.parquet')} WHERE len(token) > 0"
        )
        found |= {(layer, row["index"]): row["first"] for row in rows}
    return {place: found[place] for place in features if place in found}


def judge(
    model: ReplacementModel,
    pages: Pages,
    blocks: Int[Tensor, "sequence pos"],
    features: Sequence[Place],
    report: Progress = lambda share: None,
) -> tuple[dict[str, Any], dict[Place, Detection]]:
    """How well labels made from evidence pick the contexts of held-out text in which features fire, and the baseline
    beside it.

    Returns:
        Plain data: features, scored (those that fire here), contexts, positions; by detector (`label`, `baseline`) and
        unit (`contexts`, `positions`) the mean precision, recall, F1 and the median F1; and `better`, the share of
        features whose label has the higher F1 over contexts (ties count half). And each scored feature's detection.

    Raises:
        TextError: none of the features fires on the text.
    """
    ids = blocks.numpy()
    members = Members(pages.vocabulary[0])
    firing = firing_on(model, blocks, features, report, pages.levels if pages.of_neurons else ())
    labels, baseline = stored_labels(pages, features), first_tokens(pages, features)
    found: dict[str, list[tuple[Detection, Detection]]] = {"label": [], "baseline": []}
    by_feature: dict[Place, Detection] = {}
    for place in features:
        if not firing[place].any() or place not in labels or place not in baseline:
            continue
        found["label"].append(detect(Rule.from_json(labels[place]["rule"]), ids, firing[place], members))
        found["baseline"].append(detect(Rule("token", (baseline[place],)), ids, firing[place], members))
        by_feature[place] = found["label"][-1][0]
    if not by_feature:
        raise TextError("none of the features fires on the held-out text; give more of it")
    pairs = list(zip(found["label"], found["baseline"], strict=True))
    better = np.mean([(a[0].f1 > b[0].f1) + 0.5 * (a[0].f1 == b[0].f1) for a, b in pairs])
    facts: dict[str, Any] = {
        "features": len(features),
        "scored": len(by_feature),
        "contexts": by_feature[next(iter(by_feature))].of,
    }
    facts |= {"context": CONTEXT, "positions": int(ids[:, 1:].size), "better": round(float(better), 4)}
    for name, both in found.items():
        facts[name] = {"contexts": summary([one for one, _ in both]), "positions": summary([one for _, one in both])}
    return facts, by_feature


def ask_for_labels(
    endpoint: Endpoint,
    model: ReplacementModel,
    pages: Pages,
    blocks: Int[Tensor, "sequence pos"] | None,
    features: Sequence[Place],
    seed: int = 0,
    report: Progress = lambda share: None,
) -> list[dict[str, Any]]:
    """Labels by an endpoint, and how well it finds with them the contexts of held-out text in which the features fire.

    Returns:
        layer, index, label, and detection (precision, recall, f1) or None without text or where the feature stays
        silent.

    Raises:
        EndpointError: the service cannot be used.
    """  # fmt: skip
    firing = {} if blocks is None else firing_on(model, blocks, features)
    generator, found = np.random.default_rng(seed), []
    token = model.language_model.token_text
    for number, (layer, index) in enumerate(features):
        label = proposed(endpoint, feature_page(pages, layer, index))
        score = None
        if blocks is not None and firing[layer, index].any():
            fires = contexts(firing[layer, index])
            ids = blocks.numpy()[:, 1:]
            samples = []
            for places, most in zip((np.argwhere(fires), np.argwhere(~fires)), ASKED, strict=True):
                chosen = places[np.sort(generator.permutation(len(places))[:most])]
                samples.append(
                    [
                        "".join(token(int(one)) for one in ids[row, CONTEXT * part : CONTEXT * (part + 1)])
                        for row, part in chosen
                    ]
                )
            result = detects(endpoint, label, samples[0], samples[1], int(fires.sum()), int((~fires).sum()))
            score = {name: round(getattr(result, name), 4) for name in ("precision", "recall", "f1")}
        found.append({"layer": layer, "index": index, "label": label, "detection": score})
        report((number + 1) / len(features))
    return found
