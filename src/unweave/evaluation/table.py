"""An evaluation as tables: for the terminal, and row by row for the card."""

from collections.abc import Sequence

from .results import Evaluation, LayerFigures, NeuronScores, PromptScores, TextFigures, mean_unexplained

Row = tuple[str, ...]
TOTALS: Row = ("", "FVU", "weighted", "per token", "cross-entropy", "added", "KL", "top-1")
LAYERS: Row = ("layer", "FVU", "weighted", "per token", "affine", "random", "L0", "dead", "alone")
RESPONSES: Row = (
    "layer",
    *(f"{who}{kind}" for kind in ("feature", "towards", "noise") for who in ("", "held ", "affine ")),
)
PROMPTS: Row = (
    "prompt",
    "features",
    "replacement",
    "completeness",
    "peer-style replacement",
    "peer-style completeness",
)
NEURONS: Row = ("prompt", "features", "replacement", "neurons' replacement", "completeness", "neurons' completeness")


def totals(text: TextFigures) -> list[Row]:
    """One kind of text: the dictionary and the baselines, all MLPs replaced; FVU as means over layers."""
    rows: list[Row] = [("model", "", "", "", f"{text.cross_entropy:.3f}", "", "", "")]
    for one in text.stand_ins:
        fvu, replaced = mean_unexplained(one), one.replaced
        rows.append((
            one.name, _fvu(fvu.plain), _fvu(fvu.weighted), _fvu(fvu.token_mean), f"{replaced.cross_entropy:.3f}",
            f"{replaced.cross_entropy - text.cross_entropy:+.3f}", f"{replaced.kl:.3f}", f"{replaced.top1:.1%}",
        ))  # fmt: skip
    return rows


def layers(evaluation: Evaluation) -> list[Row]:
    """By layer, mean over kinds of text: FVU beside that of two baselines (weighted), active and dead features, nats
    added alone."""
    mean = evaluation.mean
    dictionary, affine, random = (mean.stand_in(name).unexplained for name in ("dictionary", "affine", "random"))
    return [
        (
            str(layer), _fvu(dictionary[layer].plain), _fvu(dictionary[layer].weighted),
            _fvu(dictionary[layer].token_mean),
            _fvu(affine[layer].weighted), _fvu(random[layer].weighted), f"{figures.l0:.1f}",
            f"{used.dead / used.width:.1%}", f"{figures.alone:+.3f}",
        )
        for layer, (figures, used) in enumerate(zip(mean.layers, evaluation.features, strict=True))
    ]  # fmt: skip


def responses(figures: Sequence[LayerFigures]) -> list[Row]:
    """By layer, and their mean: errors of predicted changes, of the dictionary, held as in a graph, and of the
    affine map."""
    values = [
        tuple(
            getattr(one, kind)
            for kind in ("feature", "towards", "noise")
            for one in (layer.response, layer.held_response, layer.affine_response)
        )
        for layer in figures
    ]
    known = [[value for value in column if value is not None] for column in zip(*values, strict=True)]
    means = tuple(sum(column) / len(column) if column else None for column in known)
    named = [*((str(number), row) for number, row in enumerate(values)), ("mean", means)]
    return [(name, *("" if value is None else f"{value:.2f}" for value in row)) for name, row in named]


def prompts(scores: Sequence[PromptScores]) -> list[Row]:
    """Scores of every prompt's graph, and their means."""
    rows = [
        (one.prompt.replace("\n", "⏎"), str(one.features), *(f"{value:.2f}" for value in _scores(one)))
        for one in scores
    ]
    if scores:
        means = [sum(column) / len(scores) for column in zip(*map(_scores, scores), strict=True)]
        rows.append(("mean", "", *(f"{value:.3f}" for value in means)))
    return rows


def neurons(scores: Sequence[NeuronScores]) -> list[Row]:
    """Scores of graphs of as many features and neurons, and their means."""
    values = [(one.replacement, one.neurons_replacement, one.completeness, one.neurons_completeness) for one in scores]
    rows = [
        (one.prompt.replace("\n", "⏎"), str(one.nodes), *(f"{value:.2f}" for value in row))
        for one, row in zip(scores, values, strict=True)
    ]
    means = [sum(column) / len(scores) for column in zip(*values, strict=True)]
    return [*rows, ("mean", "", *(f"{value:.3f}" for value in means))] if scores else []


def headline(evaluation: Evaluation) -> str:
    """The dictionary in one sentence."""
    mean, scores = evaluation.mean, evaluation.prompts
    dictionary = mean.stand_in("dictionary")
    graph = (
        f"; replacement {sum(one.replacement for one in scores) / len(scores):.2f} on {len(scores)} prompts"
        if scores
        else ""
    )
    return (
        f"FVU {mean_unexplained(dictionary).plain:.3f} (weighted {mean_unexplained(dictionary).weighted:.3f}) at L0 "
        f"{evaluation.l0:.0f}, "
        f"{evaluation.dead:.1%} dead; all MLPs replaced {dictionary.replaced.cross_entropy - mean.cross_entropy:+.2f} "
        f"nats, "
        f"top-1 agreement {dictionary.replaced.top1:.0%}{graph}"
    )


def scope(evaluation: Evaluation) -> str:
    """On how much text, and with what left out."""
    setting = evaluation.setting
    return (
        f"{setting.tokens:,} tokens in blocks of {setting.context}, position 0 excluded; layers alone and responses "
        f"on {setting.alone_tokens:,} of them; "
        f"baselines fitted to {setting.fit_tokens:,} others; features are dead if they never fired"
    )


def kinds(evaluation: Evaluation) -> tuple[TextFigures, ...]:
    """The kinds of text, and their mean where there are several."""
    return (*evaluation.texts, evaluation.mean) if len(evaluation.texts) > 1 else evaluation.texts


def _scores(one: PromptScores) -> tuple[float, ...]:
    return (one.replacement, one.completeness, one.replacement_dropped, one.completeness_dropped)


def _fvu(value: float) -> str:
    return f"{value:.3f}"
