"""What the figures mean, in words: what was tested, what held, what failed, and whether the graph is worth reading."""

from collections.abc import Callable, Sequence

from .results import Figure, Verdict

Lookup = Callable[[str, str], Figure | None]

ENOUGH = 0.5
"""Rank correlation with effects that a graph's ordering must surely (lower bound) exceed to be worth reading."""
RIVALS = {"control: ": "a random dictionary", "neurons: ": "the model's own neurons"}
"""What a dictionary must beat, by the beginning of its figures' groups."""
BARELY = 0.2
GOOD = 0.7
READABLE = 0.3
"""Replacement score below which most of the answer is not explained at all."""


def judge(figures: Sequence[Figure]) -> Verdict:
    """The verdict on one graph, from its figures.

    `good`: its order of features and its signs hold, better than a random dictionary's, and features explain at
    least half of the answer. `poor`: it orders features no better than simpler rules, or features explain less than
    0.3. `fair`: between.
    """
    known = {(figure.group, figure.name): figure for figure in figures}

    def get(group: str, name: str) -> Figure | None:
        return known.get((group, name))

    replacement = get("explained", "replacement score")
    rank, strong = (
        get("ranks", "influence and KL, attention live"),
        get("ranks", "influence and KL among the strongest half, attention live"),
    )
    rank = rank or get("ranks", "influence and KL, attention held")
    sign = get("signs", "all paths and the target's change, attention held")
    reasons, failures = [], []
    if replacement is not None:
        lost = "the rest in errors, which no feature explains."
        reasons.append(
            f"Followed back from the answer, {replacement.value:.0%} of all paths end in the prompt's tokens, {lost}"
        )
        if replacement.value < READABLE:
            failures.append("most of the answer is not explained by features")
    if rank is not None:
        reasons.append(
            f"Influence ranks {rank.n} features by what happens without them at {rank} (Spearman with KL; 1 is "
            f"perfect)."
        )
        _compare(get, rank, reasons, failures)
        if rank.low <= ENOUGH:
            failures.append("influence does not surely rank features by their effect")
    if strong is not None:
        word = "still ranks" if strong.low > BARELY else "hardly ranks"
        reasons.append(f"Among the strongest half influence {word} them: {strong}.")
    reasons += _signs_and_edges(get, sign)
    rivals = (
        []
        if rank is None
        else [(who, figure) for group, who in RIVALS.items() if (figure := get(f"{group}ranks", rank.name)) is not None]
    )
    beaten = [who for who, figure in rivals if rank is not None and figure.value >= rank.value]
    return _conclude(failures, reasons, replacement, rank, sign, beaten)


def _compare(get: Lookup, rank: Figure, reasons: list[str], failures: list[str]) -> None:
    """Beside simpler rules and a random dictionary."""
    mode = rank.name.rpartition(", ")[2]
    rivals = [
        (name, figure)
        for name in ("direct edge", "activation")
        if (figure := get("ranks", f"{name} and KL, {mode}")) is not None
    ]
    if rivals:
        name, best = max(rivals, key=lambda rival: rival[1].value)
        reasons.append(f"The best simpler rule, {name}, reaches {best}.")
        if best.value >= rank.value:
            failures.append(f"{name} alone ranks features as well as influence does")
    control, own = get("control: ranks", rank.name), get("neurons: ranks", rank.name)
    if control is not None:
        reasons.append(f"A random dictionary that is on as often gets {control} with its own graph.")
        if control.value >= rank.value:
            reasons.append("So this ranking says nothing for these features in particular.")
    if own is not None:
        reasons.append(f"The model's own neurons, without any dictionary, get {own} with theirs.")


def _signs_and_edges(get: Lookup, sign: Figure | None) -> list[str]:
    """What signed sums over paths and single edges say of changes."""
    reasons = []
    right = get("signs", "all paths: share of the change with the right sign, attention held")
    if sign is not None and right is not None:
        word = "predicts" if sign.low > ENOUGH else "barely predicts" if sign.value < 0.4 else "roughly predicts"
        reasons.append(
            f"The signed sum over paths {word} how the target moves: {sign}; {right.value:.0%} of the movement has "
            f"the sign it says."
        )
    cause = _cause(get)
    if cause is not None:
        reasons.append(cause)
    knock = get("pairs", "paths over other features and what the MLPs between add")
    edges = get("pairs", "edge and change, MLPs between held")
    if knock is not None and edges is not None:
        reasons.append(
            f"Edges between features hold with all else held ({edges}), as they must; effects by way of further "
            f"features at {knock}."
        )
    return reasons


def _cause(get: Lookup) -> str | None:
    """Which links the misses of the signed prediction come from."""
    plain, norms, errors, both = (
        get("links", name)
        for name in (
            "the graph: norms held, errors constant",
            "norms respond",
            "errors respond",
            "norms and errors respond",
        )
    )
    if plain is None or norms is None or errors is None or both is None:
        return None
    ways = f"{norms.value:.2f} if norms responded, {errors.value:.2f} if errors did, {both.value:.2f} if both did"
    return (
        f"Where its misses come from: on the same features the graph reaches {plain.value:.2f}, and would reach {ways}."
    )


def _conclude(
    failures: list[str],
    reasons: list[str],
    replacement: Figure | None,
    rank: Figure | None,
    sign: Figure | None,
    beaten: list[str],
) -> Verdict:
    if failures or rank is None:
        why = "; ".join(failures) or "nothing was measured"
        return Verdict("poor", f"Do not rely on this graph: {why}.", tuple(reasons))
    signed = sign is not None and sign.low > ENOUGH
    which = "Worth reading for which features matter"
    if beaten:
        whose = " and ".join(f"the graph of {who}" for who in beaten)
        verb = "rank" if len(beaten) > 1 else "ranks"
        return Verdict(
            "fair",
            f"{which}, though {whose} {verb} its own as well; test by intervention what they do.",
            tuple(reasons),
        )
    if signed and replacement is not None and replacement.value >= 0.5 and rank.low > GOOD:
        return Verdict("good", "Worth reading: it says which features matter, and which way they push.", tuple(reasons))
    if signed:
        return Verdict(
            "fair", f"{which} and which way they push; much of the answer is left to errors.", tuple(reasons)
        )
    return Verdict("fair", f"{which}; test by intervention which way, and how far, each one pushes.", tuple(reasons))
