"""The whole evaluation: baselines fitted, every kind of text measured apart, prompts traced."""

import time
from collections.abc import Mapping, Sequence

from jaxtyping import Int
from torch import Tensor

from ..base.kinds import typed
from ..base.progress import Progress
from ..errors import OptionError
from ..models.passes import batches
from ..transcoders.replacement import ReplacementModel
from ..version import __version__
from .graphs import score_beside_neurons, score_prompts
from .measures import Firing
from .prompts import PROMPTS
from .results import Evaluation, EvaluationSetting, mean_text
from .texts import Candidates, TextCounts

SHORTEST = 4
"""Positions in a block: the first is excluded, the last has no next token."""
ALONE = 0.1
"""Share of the tokens on which every layer is replaced alone and responses are measured, which cost more."""
PARTS = {"fit": 0.1, "texts": 0.6, "prompts": 0.2, "neurons": 0.1}
"""About how the time is spent, for the progress bar."""


@typed
def evaluate(
    model: ReplacementModel,
    texts: Mapping[str, Int[Tensor, "_ pos"]],
    fit: Int[Tensor, "sequence pos"],
    *,
    prompts: Sequence[str | Sequence[int]] = PROMPTS,
    alone: float = ALONE,
    neurons: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a dictionary on text it was not trained on, beside baselines.

    Args:
        texts: by kind of text, blocks of token ids; each begins with the model's leading special token.
        fit: blocks of other text, to which the baselines are fitted.
        prompts: text or token ids; their whole graphs are scored.
        alone: share of each kind's tokens, one batch at least, on which every layer is replaced alone and responses
            are measured.
        neurons: whether the model's own neurons are among the baselines.
        seed: of random directions and perturbations.

    Raises:
        OptionError: no text, or blocks of fewer than 4 positions.
        TranscoderError: the dictionary holds weights that are not finite.
        PromptError: a prompt cannot be run.

    >>> blocks = torch.randint(0, 49152, (8, 128))                             # doctest: +SKIP
    >>> evaluate(unweave.load("smollm2"), {"noise": blocks[:4]}, blocks[4:])   # doctest: +SKIP
    """
    if model.transcoders.of_neurons:
        raise OptionError(
            "neurons stand in for the MLPs exactly, so there is nothing to measure; they are a baseline of every "
            "dictionary: give one (--transcoders)"
        )
    begin, report = time.perf_counter(), progress or (lambda share, title: None)
    if not texts or any(not len(blocks) for blocks in (*texts.values(), fit)):
        raise OptionError("there is no text to evaluate on, or none to fit the baselines to; give --text")
    if fit.shape[1] < SHORTEST:
        raise OptionError(f"blocks of {fit.shape[1]} positions are too short; give --context of at least {SHORTEST}")
    candidates = Candidates.prepare(
        model, fit, seed, neurons, lambda share: report(PARTS["fit"] * share, "fitting baselines")
    )
    counts, done, total = {}, 0, sum(map(len, texts.values()))
    for name, blocks in texts.items():
        counts[name] = TextCounts(candidates, seed)
        limit = alone * blocks.numel()
        for ids in batches(blocks, model.language_model):
            counts[name].add(ids, alone=counts[name].alone_tokens < limit or not counts[name].tokens)
            done += len(ids)
            report(PARTS["fit"] + PARTS["texts"] * done / total, f"measuring on {name}")
    last, rest = PARTS["neurons"] if neurons else 0.0, 1 - PARTS["fit"] - PARTS["texts"]
    scores = score_prompts(model, prompts, lambda share: report(1 - rest + (rest - last) * share, "tracing prompts"))
    beside = (
        score_beside_neurons(model, prompts, lambda share: report(1 - last * (1 - share), "tracing neurons"))
        if neurons
        else ()
    )
    figures = tuple(part.figures(name) for name, part in counts.items())
    firing = [Firing.pooled(layer) for layer in zip(*(part.firing for part in counts.values()), strict=True)]
    setting = EvaluationSetting(
        model=model.language_model.name,
        transcoders=model.transcoders.name,
        sha256=model.transcoders.sha256,
        kind=model.transcoders.kind,
        skip=model.transcoders.has_skip,
        context=fit.shape[1],
        tokens=sum(part.tokens for part in counts.values()),
        alone_tokens=sum(part.alone_tokens for part in counts.values()),
        fit_tokens=candidates.fit.tokens,
        seed=seed,
        version=__version__,
        seconds=round(time.perf_counter() - begin, 1),
    )
    return Evaluation(setting, mean_text(figures), figures, tuple(layer.features() for layer in firing), scores, beside)
