"""Why a model says what it says: groups of its parts, arrows between them and sentences, all measured."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.catalogue import neuron_pages_for
from ..base.kinds import typed
from ..errors import OptionError, PromptError
from ..interventions.live import check_supported, heads_of, run
from ..interventions.parts import NeuronPlaces
from ..models.language_model import LanguageModel
from ..transcoders.replacement import ReplacementModel
from .change import smallest_change
from .choose import DRAWS, choose, nothing_chosen, single_effects
from .contrast import contrast_of
from .groups import DEFAULT, METHODS, PartGroup, Profiles, make_groups
from .maps import Contrast, leading_heads, patching_maps, stages
from .measure import measure, nothing_measured
from .names import with_names
from .result import Explanation
from .say import sentences
from .wordings import with_wordings

if TYPE_CHECKING:
    from ..features.pages import Pages

SMALL = 0.03
"""A group whose swap takes less than this share of the difference is left out."""
LITTLE = 0.5
"""Logits of lead between two prompts below which there is nothing to explain."""


@typed
def explain(
    model: ReplacementModel | LanguageModel,
    prompt: str | Sequence[int],
    target: str | int | None = None,
    instead: str | Sequence[int] | None = None,
    *,
    units: str = "neurons",
    groups: int | None = None,
    baseline: str = "auto",
    method: str = DEFAULT,
    draws: int = DRAWS,
    features: str | Path | None = None,
    progress: Callable[[float, str], object] = lambda share, what: None,
) -> Explanation:
    """Find what an answer hangs on, group it, name it and measure it; nothing in the model is frozen.

    Args:
        target: the token to explain; None: the likeliest. One that the model does not say is explained as a failure:
            what would have to change.
        instead: a prompt of equal length with another answer, whose inner values take the place of this one's. None:
            one is looked for, by exchanging a token for another of its kind; where none changes the answer, means
            over text.
        units: "neurons".
        groups: at most so many; None: up to 12.
        baseline: "auto"; "mean" or "zero" for values from no other prompt.
        method: how neurons are grouped: "segments", "link" or "band".
        draws: random groups as control for each group.
        features: folder of feature pages of the model's neurons, whose labels names then use; None: those that ship,
            if they are of this model.

    Raises:
        PromptError: a prompt that cannot be run, or an `instead` of another length or with the same answer.
        TargetError: a target that is not one token.
        OptionError: other units, baseline or method, or a number out of range.
        UnsupportedModel: a mixture of experts.
        FileError, TranscoderMismatch: no feature pages there, or not of these neurons.

    >>> import unweave                                                        # doctest: +SKIP
    >>> model = unweave.load_model("smollm2")                                 # doctest: +SKIP
    >>> print(unweave.explain(model, "The capital of France is"))             # doctest: +SKIP
    """
    language_model = model if isinstance(model, LanguageModel) else model.language_model
    check_supported(language_model)
    if units != "neurons":
        raise OptionError(f"units {units!r} cannot be explained; use 'neurons'")
    if method not in METHODS:
        raise OptionError(f"method {method!r} is none of {', '.join(METHODS)}")
    if groups is not None and groups < 1:
        raise OptionError(f"groups is {groups}; it must be at least 1")
    if draws < 1:
        raise OptionError(f"draws is {draws}; it must be at least 1")
    pages = _pages(language_model, features)
    progress(0.0, "looking for the contrast")
    contrast = contrast_of(language_model, prompt, target, instead, baseline)
    if not contrast.positions or abs(contrast.whole) < LITTLE:
        if instead is None:  # nothing is held against it that changes the answer: nothing can be found
            return Explanation(contrast, {}, (), nothing_chosen(), (), nothing_measured(contrast), ())
        raise PromptError(
            f"the prompt to contrast with (instead) changes the lead of "
            f"{language_model.token_text(contrast.question.answer)!r} by only {contrast.whole:.2f} logits; give another"
        )
    progress(0.1, "where")
    maps = patching_maps(contrast)
    heads = leading_heads(contrast, maps["heads"])
    progress(0.3, "choosing neurons")
    chosen = choose(contrast, stages(contrast, maps["neurons"]))
    progress(0.5, "grouping")
    effect, moved = single_effects(contrast, chosen.units)
    profiles = Profiles(chosen.units, effect, moved, language_model.n_layers)
    if groups is not None and groups > max(1, len(chosen.units) + len(heads)):
        raise OptionError(
            f"groups is {groups}, but only {len(chosen.units)} neurons and {len(heads)} heads were found; give fewer"
        )
    made = _worth(contrast, make_groups(chosen, heads, profiles, groups, method))
    effects = dict(zip(chosen.units.triples, effect.tolist(), strict=True))
    labels = {} if pages is None else pages.labels_at(_strongest(contrast, chosen.units))
    made = with_names(contrast, made, effects, labels)
    progress(0.6, "measuring")
    measured = measure(contrast, made, draws)
    change = smallest_change(contrast, made, measured, draws) if contrast.why_not else None
    progress(0.9, "trying other wordings")
    said = with_wordings(contrast, sentences(contrast, made, measured, change))
    progress(1.0, "done")
    return Explanation(contrast, maps, heads, chosen, made, measured, said)


def _pages(model: LanguageModel, folder: str | Path | None) -> "Pages | None":
    """The pages of a model's neurons, those that ship unless a folder is given; what reads them is loaded only where
    there are any."""
    if folder is None and not neuron_pages_for(model.name):
        return None
    from ..features.pages import pages_of
    from ..transcoders.neurons import neurons

    return pages_of(neurons(model), folder)


def _strongest(contrast: Contrast, units: NeuronPlaces) -> dict[tuple[int, int], float]:
    """Activations of neurons on the prompt, at the position where each is strongest."""
    found: dict[tuple[int, int], float] = {}
    for (layer, _, index), value in zip(units.triples, contrast.here.units(units).tolist(), strict=True):
        if abs(value) >= abs(found.get((layer, index), 0.0)):
            found[layer, index] = value
    return found


def _worth(contrast: Contrast, groups: Sequence[PartGroup]) -> tuple[PartGroup, ...]:
    """Groups that do something on their own."""
    count = heads_of(contrast.model)
    variants = [group.part.put(contrast.there, count) for group in groups]
    share = contrast.share(run(contrast.model, contrast.ids, contrast.question, variants).lead)
    return tuple(group for group, value in zip(groups, share.tolist(), strict=True) if abs(value) >= SMALL)
