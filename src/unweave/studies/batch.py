"""Many prompts of one length at once: activations at a position, what each feature adds to the answer, and logits
with features set."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.progress import Progress
from ..errors import StudyError
from ..interventions.attribution_patching import Measure, write_gradients
from ..interventions.interventions import record
from ..interventions.patching import patched
from ..interventions.plans import EditPlan, LayerEdits
from ..interventions.smallest import one_of_each
from ..interventions.steering import activations
from ..models.passes import read_at, run
from ..transcoders.replacement import ReplacementModel
from .bench import Bench, Variant
from .groups import right as answered

AT_ONCE = 1024
"""Tokens in one pass."""
EDITS = 60_000
"""Features set in one pass, over all prompts: so many rows of decoders are in memory."""

Place = tuple[int, int, int]
"""A feature at a position: (layer, position, index)."""


class Edits(NamedTuple):
    """Features at positions, and the activation that each gets on each prompt."""

    places: tuple[Place, ...]
    values: Float[Tensor, "prompt place"]


def same_length(rows: Sequence[Sequence[int]]) -> Int[Tensor, "prompt pos"]:
    """Prompts as one tensor.

    Raises:
        StudyError: they have different numbers of tokens.
    """
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise StudyError(
            f"the prompts have {lengths[0]} to {lengths[-1]} tokens; this step needs prompts of one length, so take "
            f"words of one token"
        )
    return torch.tensor([list(row) for row in rows])


def parts(ids: Int[Tensor, "prompt pos"], most: int = AT_ONCE) -> Iterator[slice]:
    """Prompts so many tokens at a time."""
    step = max(1, most // ids.shape[1])
    for begin in range(0, len(ids), step):
        yield slice(begin, min(begin + step, len(ids)))


def activations_at(
    model: ReplacementModel,
    ids: Int[Tensor, "prompt pos"],
    places: Sequence[Place],
    progress: Progress = lambda share: None,
) -> Float[Tensor, "prompt place"]:
    """Activations of features at positions on many prompts."""
    found = torch.zeros(len(ids), len(places), dtype=model.language_model.engine_dtype)
    for part in parts(ids):
        for columns, dense in _dense(model, ids[part], places):
            found[part, columns] = dense[:, [places[column][2] for column in columns]]
        progress(part.stop / len(ids))
    return found


def all_activations(
    model: ReplacementModel, ids: Int[Tensor, "prompt pos"], layers: Iterable[int], positions: Iterable[int]
) -> dict[tuple[int, int], Float[Tensor, "prompt feature"]]:
    """Activations of all features on many prompts, by layer and position."""
    spots = [(layer, position, 0) for layer in layers for position in positions]
    found: dict[tuple[int, int], list[Tensor]] = {(layer, position): [] for layer, position, _ in spots}
    for part in parts(ids):
        for columns, dense in _dense(model, ids[part], spots):
            found[spots[columns[0]][:2]].append(dense)
    return {spot: torch.cat(rows) for spot, rows in found.items()}


def _dense(
    model: ReplacementModel, ids: Int[Tensor, "prompt pos"], places: Sequence[Place]
) -> Iterator[tuple[list[int], Float[Tensor, "prompt feature"]]]:
    """By layer and position: which of the places are there, and the activations of all features."""
    language_model, transcoders = model.language_model, model.transcoders
    clean = run(language_model, ids.to(language_model.device), transcoders.write, logits=False)
    for layer, position in sorted({place[:2] for place in places}):
        mid, mlp_in = (
            part[layer][:, position].to("cpu", language_model.engine_dtype) for part in (clean.resid_mid, clean.inputs)
        )
        x = read_at(language_model, layer, transcoders.read, mid, mlp_in)
        yield [c for c, place in enumerate(places) if place[:2] == (layer, position)], transcoders.encode(layer, x)[1]


def logits_with(
    model: ReplacementModel, ids: Int[Tensor, "prompt pos"], edits: Edits | None, positions: Sequence[int] = (-1,)
) -> Float[Tensor, "prompt position vocab"]:
    """Logits of many prompts with features set to activations; all else is live, as in mode `open` of `intervene`.

    Args:
        edits: None: nothing is changed.
        positions: whose predictions are wanted.

    Raises:
        StudyError: logits that are not finite.
    """
    language_model, found = model.language_model, []
    most = AT_ONCE if edits is None or not edits.places else min(AT_ONCE, EDITS // len(edits.places) * ids.shape[1])
    for part in parts(ids, most):
        plan = EditPlan({}, ()) if edits is None else _plan(edits, part)
        with patched(model, plan) as seen, torch.no_grad():
            language_model.module(input_ids=ids[part].to(language_model.device), use_cache=False)
        found.append(language_model.capped(seen.logits[:, list(positions)].to("cpu", language_model.engine_dtype)))
    logits = torch.cat(found)
    if not bool(logits.isfinite().all()):
        raise StudyError("the model's logits are not finite with these features changed; use smaller doses")
    return logits


def _plan(edits: Edits, part: slice) -> EditPlan:
    layers, values = {}, edits.values[part]
    rows = len(values)
    for layer in sorted({place[0] for place in edits.places}):
        here = [column for column, place in enumerate(edits.places) if place[0] == layer]
        position, index = (torch.tensor([edits.places[column][at] for column in here]).repeat(rows) for at in (1, 2))
        offset = values[:, here].flatten()
        row = torch.arange(rows).repeat_interleave(len(here))
        layers[layer] = LayerEdits(row, position, index, torch.zeros_like(offset), offset, torch.zeros_like(offset))
    return EditPlan(layers, ())


def right(bench: Bench, variants: Sequence[Variant]) -> list[Variant]:
    """The variants that the model answers rightly, asked many at a time.

    Raises:
        StudyError: there are none.
    """
    found = answered(bench, variants)
    if not found:
        raise StudyError(f"the model answers none of {len(variants)} variants rightly, so there is nothing to explain")
    return found


def tokens(bench: Bench, variants: Sequence[Variant]) -> Int[Tensor, "prompt pos"]:
    """Prompts as one tensor.

    Raises:
        StudyError: they have different numbers of tokens.
    """
    return same_length([bench.model.language_model.tokenize(bench.text(one)).tolist() for one in variants])


class Strengths(NamedTuple):
    """What features at positions add to the answers of some prompts, to first order."""

    places: tuple[Place, ...]
    """All that are active on some of the prompts."""
    activation: Float[Tensor, "prompt place"]
    effect: Float[Tensor, "prompt place"]
    """Activation times what a unit of it adds to the measure."""
    written: Float[Tensor, " place"]
    """Norm of what a unit of activation writes, over all layers."""


def strengths(
    model: ReplacementModel,
    ids: Int[Tensor, "prompt pos"],
    measures: Sequence[Measure],
    positions: Sequence[int],
    *,
    steps: Iterator[object] | None = None,
) -> Strengths:
    """Attribution of each prompt's measure to the features active at some positions: gradient times what they write,
    everything live.

    Args:
        positions: counted from the start.
        steps: advanced once a prompt, for progress.
    """
    transcoders, dtype = model.transcoders, model.language_model.engine_dtype
    n_layers = model.language_model.n_layers
    gradients, active = [], [[] for _ in range(n_layers)]
    for prompt, measure in zip(ids, measures, strict=True):
        recording = record(model, prompt)
        gradients.append(write_gradients(model, recording, measure, "open")[:, list(positions)])
        for layer, found in enumerate(active):
            found.append(activations(model, recording, layer)[list(positions)])
        if steps is not None:
            next(steps, None)
    gradient = torch.stack(gradients)
    places: list[Place] = []
    activation, effect, written = [], [], []
    for layer in range(n_layers):
        dense = torch.stack(active[layer])
        index = (dense != 0).flatten(0, 1).any(0).nonzero().flatten()
        if not len(index):
            continue
        dense = dense[:, :, index]
        unit, norm = torch.zeros_like(dense), torch.zeros(len(index), dtype=dtype)
        for at in transcoders.writes(layer):
            rows = transcoders.decoder_rows(layer, index, at, dtype)
            unit += gradient[:, at] @ rows.T
            norm += rows.square().sum(-1)
        position, column = (dense != 0).any(0).nonzero(as_tuple=True)
        places += [
            (layer, positions[at], one) for at, one in zip(position.tolist(), index[column].tolist(), strict=True)
        ]
        activation.append(dense[:, position, column])
        effect.append((unit * dense)[:, position, column])
        written.append(norm.sqrt()[column])
    if not places:
        raise StudyError("no feature is active at the positions that this step looks at")
    return Strengths(tuple(places), torch.cat(activation, 1), torch.cat(effect, 1), torch.cat(written))


def matched(
    sizes: Float[Tensor, " place"],
    places: Sequence[Place],
    chosen: Sequence[int],
    barred: Sequence[int],
    draws: int,
    seed: int,
    nearest: int = 20,
) -> list[list[int]]:
    """Random sets beside a chosen one: each member replaced by one of the `nearest` in size at its position that are
    not barred, none twice.

    Where a position has too few, the nearest at any position take part.

    Returns:
        Of each draw, the numbers of the places drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    taken = set(chosen) | set(barred)
    free = [one for one in range(len(places)) if one not in taken]
    position = torch.tensor([places[one][1] for one in free])
    size = sizes[free]
    close: list[list[int]] = []
    needed = {at: sum(places[one][1] == at for one in chosen) for at in {places[one][1] for one in chosen}}
    for one in chosen:
        at = places[one][1]
        away = (size - sizes[one]).abs()
        if int((position == at).sum()) >= needed[at]:
            away = away.masked_fill(position != at, math.inf)
        close.append(
            [free[place] for place in away.argsort()[: max(nearest, needed[at])].tolist() if away[place] < math.inf]
        )
    return [sorted(one_of_each(close, generator, free)) for _ in range(draws)]


class Share(NamedTuple):
    """A share with its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def share(hits: Sequence[bool] | Tensor) -> Share:
    """The share of hits, with Wilson's interval.

    >>> str(share([True] * 9 + [False]))
    '0.90 (0.60 to 0.98)'
    """
    n, z = len(hits), 1.959964
    if not n:
        return Share(math.nan, math.nan, math.nan)
    p = float(sum(bool(hit) for hit in hits)) / n
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return Share(p, max(0.0, middle - half), min(1.0, middle + half))
