"""Labels without any service: of many simple rules, the one that best tells where a feature fires.

A rule's recall on the pages is the share of the feature's firings at which it holds, its precision the share of the
positions where it holds at which the feature fires. Recall comes from counts of tokens or the even sample of
firings, how often a rule holds anywhere from the text kept, so precision follows by Bayes' rule. The rule with the
best F1 wins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.words import visible
from .rules import CLASSES, Members, Rule, Where, placed
from .tally import BEFORE

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""How many tokens a rule may list."""
FIRSTS = (1, 2, 4, 8, 16)
"""At how many positions from the start of a block a rule may hold."""
LISTED = 4
"""Tokens named in a label."""
SHRINK = 1.0
"""Firings at which a rule from the sample is counted as failing beyond those where it does: few firings prove
little."""

Offer = Callable[[Rule, float, float], None]
"""Takes a rule, its recall, and the share of all positions at which it holds."""


@dataclass(frozen=True)
class Evidence:
    """What is known of where one feature fires."""

    count: int
    """Firings in all the text."""
    tokens: np.ndarray
    """Tokens it fires on, the commonest first."""
    token_counts: np.ndarray
    around: np.ndarray
    """Tokens around sampled firings, [example, window]; -1 outside the block."""
    positions: np.ndarray
    """Where in their blocks sampled firings are, [example]; never at 0."""
    promoted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Label:
    """A label, the rule behind it, and how sure it is: the F1 that the rule has on the pages."""

    text: str
    rule: Rule
    confidence: float


@dataclass(frozen=True)
class Background:
    """Text as the pages saw it: its vocabulary, how often each token came, and some of its blocks [sequence, pos]."""

    vocabulary: Sequence[str]
    counts: np.ndarray
    blocks: np.ndarray

    @cached_property
    def members(self) -> Members:
        """Of every class of tokens, which are in it."""
        return Members(self.vocabulary)

    @cached_property
    def class_matrix(self) -> np.ndarray:
        """The same as [class, vocab], of `CLASSES`."""
        return np.stack([self.members[name] for name in CLASSES])

    @cached_property
    def seen(self) -> int:
        """Positions counted."""
        return int(self.counts.sum())

    @cached_property
    def share(self) -> np.ndarray:
        """Share of positions at which each class is the token, and is near, [2, class]."""
        of_token = self.class_matrix @ self.counts / max(1, self.seen)
        near = (
            [placed(member[self.blocks], "near")[:, 1:].mean() for member in self.class_matrix]
            if len(self.blocks)
            else of_token
        )
        return np.stack([of_token, np.array(near)])

    @cached_property
    def near_share(self) -> np.ndarray:
        """Share of positions that have each token near, [vocab]; of rare ones as if they were spread evenly."""
        return 1 - (1 - self.counts / max(1, self.seen)) ** 13.0


def label(evidence: Evidence, background: Background) -> Label | None:
    """The label of one feature; None if it never fired."""
    if not evidence.count:
        return None
    count, seen = evidence.count, max(1, background.seen)
    best: tuple[float, Rule] = (-1.0, Rule("token", (int(evidence.tokens[0]),) if len(evidence.tokens) else (0,)))
    counts = background.counts

    def offer(rule: Rule, recall: float, share: float) -> None:
        nonlocal best
        precision = min(1.0, recall * count / max(share * seen, recall * count, 1.0))
        score = 2 * precision * recall / max(precision + recall, 1e-9)
        if score > best[0] + 1e-9:
            best = (score, rule)

    order = np.argsort(
        -evidence.token_counts / np.maximum(counts[evidence.tokens], 1) * np.sqrt(evidence.token_counts), kind="stable"
    )
    for chosen in (np.arange(len(order)), order):  # the commonest first, and the most telling first
        hits, totals = np.cumsum(evidence.token_counts[chosen]), np.cumsum(counts[evidence.tokens[chosen]])
        for size in SIZES:
            if size <= len(chosen):
                offer(
                    Rule("token", tuple(int(token) for token in evidence.tokens[chosen[:size]])),
                    hits[size - 1] / count,
                    totals[size - 1] / seen,
                )
    known = np.maximum(evidence.token_counts.sum(), 1)
    of_class = background.class_matrix[:, evidence.tokens] @ evidence.token_counts / known
    names = list(CLASSES)
    for place in np.flatnonzero(of_class > 0.3):
        offer(Rule("token", (), names[place]), float(of_class[place]), float(background.share[0, place]))
    for kind in affixes([background.vocabulary[token] for token in map(int, evidence.tokens)], evidence.token_counts):
        member = background.members[kind]
        offer(
            Rule("token", (), kind),
            float(member[evidence.tokens] @ evidence.token_counts / known),
            float(member @ counts / seen),
        )
    n = len(evidence.around)
    if n >= 4:
        for size in FIRSTS:
            recall = max(0.0, (evidence.positions <= size).sum() - SHRINK) / n
            offer(Rule("start", (), f"first {size}"), float(recall), size / max(1, background.blocks.shape[1] - 1))
        _offer_neighbours(offer, "previous", evidence.around[:, BEFORE - 1], background)
        _offer_neighbours(offer, "next", evidence.around[:, BEFORE + 1], background)
        _offer_near(offer, evidence.around[:, BEFORE - 12 : BEFORE + 1], background)
    return Label(_words(best[1], evidence, background), best[1], round(max(0.0, min(1.0, best[0])), 3))


def affixes(words: Sequence[str], counts: np.ndarray) -> list[str]:
    """Classes of words with the ending, and the beginning, that most firings share: of two to four letters, in three
    or more words.

    >>> affixes([" Hamburg", " Augsburg", " Freiburg", " the"], np.array([3, 2, 2, 1]))
    ['words in -burg']
    """
    found: dict[str, list[int]] = {}
    for word, count in zip(words, counts.tolist(), strict=True):
        letters = word.strip()
        if letters.isascii() and letters.isalpha():
            for size in (2, 3, 4):
                if len(letters) > size:
                    found.setdefault(f"words in -{letters[-size:]}", []).append(count)
                    if word == f" {letters.lower()}":
                        found.setdefault(f"words beginning with {letters[:size]}-", []).append(count)
    least = 0.3 * counts.sum()
    shared = [kind for kind, parts in found.items() if len(parts) >= 3 and sum(parts) > least and kind not in CLASSES]
    # The longest says most, and of those equally long the one that most firings share.
    shared.sort(key=lambda kind: (-len(kind), -sum(found[kind])))
    return [
        part[0] for part in ([kind for kind in shared if (" in -" in kind) == ends] for ends in (True, False)) if part
    ]


def _offer_neighbours(offer: Offer, where: Where, tokens: np.ndarray, background: Background) -> None:
    inside = tokens[tokens >= 0]
    if not len(inside):
        return
    found, hits = np.unique(inside, return_counts=True)
    order = np.argsort(-hits, kind="stable")
    for size in (1, 2, 4):
        chosen = found[order[:size]]
        if len(chosen) == size and hits[order[size - 1]] >= 2:
            share = background.counts[chosen].sum() / max(1, background.seen)
            offer(
                Rule(where, tuple(int(token) for token in chosen)),
                max(0.0, hits[order[:size]].sum() - SHRINK) / len(tokens),
                float(share),
            )
    of_class = background.class_matrix[:, inside].sum(1)
    for place in np.flatnonzero(of_class > 0.6 * len(tokens)):
        offer(
            Rule(where, (), list(CLASSES)[place]),
            float(max(0.0, of_class[place] - SHRINK) / len(tokens)),
            float(background.share[0, place]),
        )


def _offer_near(offer: Offer, around: np.ndarray, background: Background) -> None:
    """Tokens that are near many firings and near few other positions."""
    n = len(around)
    pairs = np.unique(np.stack([np.repeat(np.arange(n), around.shape[1]), around.reshape(-1)]), axis=1)
    token, hits = np.unique(pairs[1][pairs[1] >= 0], return_counts=True)
    often = hits >= 2
    token, hits = token[often], hits[often]
    if not len(token):
        return
    share = background.near_share[token]
    order = np.argsort(-(hits / n) * np.log((hits / n + 0.01) / (share + 0.01)), kind="stable")[:6]
    for size in (1, 2, 3, 4, 6):
        chosen = token[order[:size]]
        if len(chosen) == size:
            recall = max(0.0, float(np.isin(around, chosen).any(1).sum()) - SHRINK) / n
            offer(
                Rule("near", tuple(int(item) for item in chosen)),
                recall,
                float(min(1.0, background.near_share[chosen].sum())),
            )


def _words(rule: Rule, evidence: Evidence, background: Background) -> str:
    """A rule for people, with what the feature promotes where its own tokens say little."""
    if rule.kind:
        named = rule.kind
    else:
        texts = list(dict.fromkeys(background.vocabulary[token] for token in rule.tokens))
        merged = list(dict.fromkeys(visible(text).strip().lower() or visible(text) for text in texts))
        named = " ".join(f"‘{text}’" for text in merged[:LISTED]) + (
            f" and {len(merged) - LISTED} more" if len(merged) > LISTED else ""
        )
    text = {
        "token": named,
        "previous": f"after {named}",
        "next": f"before {named}",
        "near": f"text with {named} just before",
        "start": "first token of a text" if rule.kind == "first 1" else f"{named} tokens of a text",
    }[rule.where]
    if rule.where != "token" and evidence.promoted:
        text += promotes(evidence.promoted[0])
    return text


PROMOTES = "; promotes ‘"


def promotes(token: str) -> str:
    """What a label adds of the token that is made likelier most."""
    return f"{PROMOTES}{visible(token).strip()}’"
