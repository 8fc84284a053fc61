"""From measured rows to figures: correlations of what was predicted with what happened."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..base.choices import Mode
from .ablations import divergence, target_change
from .measured import Row
from .pairs import Pairs
from .perturbations import Travelled
from .results import Figure, TrustReport
from .statistics import Statistic, estimate, explained, log_log, mean, same_sign, spearman

MODES: dict[Mode, str] = {"frozen_attention": "attention held", "open": "attention live"}
SIZES = {"influence": "influence", "direct": "direct edge", "activation": "activation", "random": "random order"}
SIGNED = {"total": "all paths", "edge": "direct edge", "slope": "real model's slope"}
DISTANCES = (1, 2, 4, 8, 16)
FOLLOWED = {"feature": "removed feature", "encoder": "push along an encoder", "random": "random direction"}


def ablation_figures(
    predicted: dict[str, Float[Tensor, " sample"]],
    rows: dict[str, list[Row]],
    strong: Bool[Tensor, " sample"],
    group: str = "",
) -> list[Figure]:
    """How well what is known of a feature says what happens without it, by mode."""
    figures = []
    for mode, word in MODES.items():
        n = len(rows.get(mode, ()))
        if n < 3:
            continue
        kl, change, top = divergence(rows[mode]), target_change(rows[mode]), strong[:n]

        def add(kind: str, name: str, x: Tensor, y: Tensor, how: Statistic = spearman, note: str = "") -> None:
            figures.append(Figure.of(group + kind, name, estimate(how, x, y), note))

        for key, name in SIZES.items():
            x = predicted[key][:n]
            add("ranks", f"{name} and KL, {word}", x, kl)
            add("ranks", f"{name} and KL among the strongest half, {word}", x[top], kl[top])
            add("ranks", f"{name} and size of the target's change, {word}", x, change.abs())
            if key != "random":
                add("ranks", f"log {name} and log KL, {word}", x, kl, log_log)
                add("ranks", f"log {name} and log size of the target's change, {word}", x, change, log_log)
        for key, name in SIGNED.items():
            x = predicted["slope_open" if (key, mode) == ("slope", "open") else key][:n]
            add("signs", f"{name} and the target's change, {word}", x, change)
            add("signs", f"{name} and the target's change among the strongest half, {word}", x[top], change[top])
            add("signs", f"{name}: share of the change with the right sign, {word}", x, change, same_sign)
            add("signs", f"{name}: share of the change's squares explained, {word}", x, change, explained)
    return figures


def link_figures(
    predicted: dict[str, Float[Tensor, " sample"]], rows: dict[str, list[Row]], rungs: dict[str, list[Row]]
) -> list[Figure]:
    """Where misses come from: what a prediction gains that lets one link or another respond, against the real model
    with attention held."""
    n = min([len(rows.get("frozen_attention", ())), *map(len, rungs.values())])
    if n < 3:
        return []
    real = target_change(rows["frozen_attention"][:n])
    replaced = {mode: target_change(part[:n]) for mode, part in rungs.items()}
    found = (
        ("the graph: norms held, errors constant", predicted["total"][:n], ""),
        ("features switch on and off", replaced["replacement_frozen"], "the replacement model, norms held"),
        ("norms respond", replaced["replacement"], "the replacement model: errors constant"),
        ("errors respond", predicted["slope_norms_held"][:n], "to first order in the real model, norms held"),
        ("norms and errors respond", predicted["slope"][:n], "to first order in the real model"),
    )
    figures = [Figure.of("links", name, estimate(spearman, x, real), note) for name, x, note in found]
    both = min(n, len(rows.get("open", ())))
    if both >= 3:
        live = target_change(rows["open"][:both])
        figures.append(
            Figure.of(
                "links",
                "attention held and attention live",
                estimate(spearman, real[:both], live),
                "both measured in the real model",
            )
        )
    return figures


def pair_figures(pairs: Pairs, held: Sequence[Row], live: Sequence[Row], group: str = "") -> list[Figure]:
    """Predicted against measured changes of later features; intervals by resampling the removed features."""
    n = min(len(held), len(live))
    if n < 3:
        return []
    real_held, real = (torch.tensor(rows[:n], dtype=torch.float64).flatten() for rows in (held, live))
    direct, total = pairs.direct[:n].flatten(), pairs.total[:n].flatten()
    source = torch.arange(n)[:, None].expand_as(pairs.direct[:n]).flatten()
    certain = (
        "gates held in the graph, live in the model" if group.startswith("neurons") else "all but true by construction"
    )
    found = (
        ("edge and change, MLPs between held", direct, real_held, certain),
        ("all paths and change, MLPs live", total, real, ""),
        ("edge and change, MLPs live", direct, real, ""),
        (
            "paths over other features and what the MLPs between add",
            total - direct,
            real - real_held,
            "knock-on: two steps or more",
        ),
    )
    figures = []
    for name, x, y, note in found:
        figures.append(Figure.of(f"{group}pairs", name, estimate(spearman, x, y, cluster=source), note))
        figures.append(
            Figure.of(f"{group}pairs", f"{name}: right sign", estimate(same_sign, x, y, cluster=source), note)
        )
    return figures


def travel_figures(travelled: Sequence[Travelled], group: str = "") -> list[Figure]:
    """How alike a disturbance is in the two models, by the number of layers it has travelled, and by the layer where
    it begins."""
    figures = []
    for kind, name in FOLLOWED.items():
        for distance in DISTANCES:
            there = [one for one in travelled if one.kind == kind and len(one.cosine) > distance]
            if len(there) < 3:
                continue
            cosine, error = (
                torch.tensor(values)
                for values in ([one.cosine[distance] for one in there], [one.error[distance] for one in there])
            )
            figures.append(Figure.of(f"{group}faithfulness", f"{name}, {distance} layers on: cosine", mean(cosine)))
            spread = error.quantile(torch.tensor([0.25, 0.5, 0.75]))
            note = "median; the bounds are its quartiles"
            figures.append(
                Figure(
                    f"{group}faithfulness",
                    f"{name}, {distance} layers on: squared error",
                    float(spread[1]),
                    float(spread[0]),
                    float(spread[2]),
                    len(there),
                    note,
                )
            )
        for start in sorted({one.start for one in travelled}):
            begun = [one for one in travelled if (one.kind, one.start) == (kind, start)]
            if len(begun) < 3:
                continue
            one_on, at_end = (torch.tensor([one.cosine[place] for one in begun]) for place in (1, -1))
            figures.append(
                Figure.of(f"{group}faithfulness", f"{name} at layer {start}, 1 layer on: cosine", mean(one_on))
            )
            figures.append(
                Figure.of(f"{group}faithfulness", f"{name} at layer {start}, at the end: cosine", mean(at_end))
            )
    return figures


def pooled(reports: Sequence[TrustReport]) -> list[Figure]:
    """Every figure's mean over several graphs, with its interval over graphs."""
    places = dict.fromkeys((figure.group, figure.name) for report in reports for figure in report.figures)
    found = []
    for group, name in places:
        figures = [figure for report in reports if (figure := report.figure(group, name)) is not None]
        found.append(
            Figure.of(
                group, name, mean(torch.tensor([figure.value for figure in figures])), figures[0].note.split(";")[0]
            )
        )
    return found
