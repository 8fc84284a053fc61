"""All figures on one kind of text: what stands in for the MLPs, and everything that is counted batch by batch."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from ..base.progress import Progress
from ..models.language_model import LanguageModel
from ..models.passes import Pass, batches, counted, logits_with_output, read_at, replaced_logits, run
from ..models.recording import WritePoint
from ..transcoders.dense import DenseTranscoders
from ..transcoders.replacement import ReplacementModel
from .baselines import (
    AffineMaps,
    BaselineFit,
    StandIn,
    affine_maps,
    fit_baselines,
    low_rank_maps,
    mean_outputs,
    random_dictionary,
    sample_blocks,
    strongest_neurons,
)
from .measures import Errors, Firing, Shift, TrueOutputs, Truth, losses
from .response import Responses
from .results import LayerFigures, StandInFigures, TextFigures

LOW_RANK = 16


@dataclass(frozen=True)
class Candidates:
    """A dictionary and the baselines beside it, ready to stand in for a model's MLPs."""

    model: LanguageModel
    write: WritePoint
    fit: BaselineFit
    dictionary: DenseTranscoders
    affine: AffineMaps
    all: tuple[StandIn, ...]

    @staticmethod
    def prepare(
        model: ReplacementModel,
        blocks: Int[Tensor, "sequence pos"],
        seed: int,
        neurons: bool,
        progress: Progress,
    ) -> "Candidates":
        """Read the dictionary and fit the baselines to some text; of mixtures of experts there are no neurons.

        Raises:
            TranscoderError: the dictionary holds weights that are not finite.
        """
        language_model, write = model.language_model, model.transcoders.write
        dtype, device = language_model.engine_dtype, language_model.device
        dictionary = DenseTranscoders.load(model.transcoders, dtype, device)
        fit = fit_baselines(language_model, blocks, write, progress)
        affine = affine_maps(fit, dtype)
        firing = [Firing() for _ in dictionary.layers]
        for ids in batches(sample_blocks(blocks), language_model):
            outputs_on(language_model, run(language_model, ids, write, logits=False), dictionary, firing)
        l0 = tuple(part.l0 for part in firing)
        ranks = sorted({min(rank, language_model.d_model) for rank in (LOW_RANK, max(1, round(sum(l0) / len(l0))))})
        random = random_dictionary(fit, model.transcoders, l0, affine, seed)
        low_rank = [low_rank_maps(fit, rank, dtype) for rank in ranks]
        own = (
            [strongest_neurons(language_model, fit, l0, write)]
            if neurons and language_model.architecture.up is not None
            else []
        )
        everything = (
            dictionary,
            mean_outputs(fit, dtype),
            affine,
            *low_rank,
            DenseTranscoders.load(random, dtype, device, "random"),
            *own,
        )
        return Candidates(language_model, write, fit, dictionary, affine, everything)


def outputs_on(
    model: LanguageModel, clean: Pass, stand_in: StandIn, firing: list[Firing] | None = None
) -> list[Float[Tensor, "token d"]]:
    """What a stand-in makes of the model's own inputs, by layer; counts a dictionary's active features."""
    dtype = model.engine_dtype
    if isinstance(stand_in, DenseTranscoders) and firing is not None:
        step = stand_in.start(lambda layer, activation: firing[layer].add(activation))
    else:
        step = stand_in.start()
    return [
        step(
            layer,
            read_at(
                model, layer, stand_in.read, counted(clean.resid_mid[layer], dtype), counted(clean.inputs[layer], dtype)
            ),
        )
        for layer in range(model.n_layers)
    ]


class TextCounts:
    """What is known of one kind of text so far."""

    def __init__(self, candidates: Candidates, seed: int):
        self.candidates, layers = candidates, range(candidates.model.n_layers)
        fit = candidates.fit
        self.targets = [TrueOutputs(fit.median[layer], fit.moments[layer].y) for layer in layers]
        self.errors = {stand_in.name: [Errors() for _ in layers] for stand_in in candidates.all}
        self.shifts = {stand_in.name: Shift() for stand_in in candidates.all}
        self.firing = [Firing() for _ in layers]
        self.responses = Responses(len(layers), seed, candidates.model.device)
        self.tokens, self.predictions, self.loss = 0, 0, 0.0
        self.alone_tokens, self.alone_predictions, self.alone = 0, 0, [0.0 for _ in layers]

    def add(self, ids: Int[Tensor, "sequence pos"], *, alone: bool) -> None:
        """Count one batch; `alone`: also with each layer replaced alone, and responses."""
        model, write = self.candidates.model, self.candidates.write
        clean = run(model, ids, write)
        assert clean.logits is not None
        truth = Truth.of(ids, clean.logits)
        self.tokens += ids.numel()
        self.predictions += truth.loss.numel()
        self.loss += float(truth.loss.double().sum())
        if alone:
            self._add_alone(clean, truth)
        clean = clean.without_logits()
        self._add_outputs(clean)
        for stand_in in self.candidates.all:
            logits = replaced_logits(model, ids, write, stand_in.read, stand_in.start(), model.engine_dtype)
            self.shifts[stand_in.name].add(truth, logits)

    def _add_outputs(self, clean: Pass) -> None:
        model = self.candidates.model
        true = [counted(output, model.engine_dtype) for output in clean.outputs]
        weights = [target.add(y) for target, y in zip(self.targets, true, strict=True)]
        for stand_in in self.candidates.all:
            firing = self.firing if stand_in is self.candidates.dictionary else None
            for layer, made in enumerate(outputs_on(model, clean, stand_in, firing)):
                self.errors[stand_in.name][layer].add(made - true[layer], *weights[layer])

    def _add_alone(self, clean: Pass, truth: Truth) -> None:
        model, dictionary, write = self.candidates.model, self.candidates.dictionary, self.candidates.write
        self.responses.add(model, clean, dictionary, self.candidates.affine, write)
        for layer, made in enumerate(outputs_on(model, clean, dictionary)):
            added = losses(truth, logits_with_output(model, clean, layer, made, write)) - truth.loss
            self.alone[layer] += float(added.double().sum())
        self.alone_tokens += clean.ids.numel()
        self.alone_predictions += truth.loss.numel()

    def figures(self, name: str) -> TextFigures:
        """Means over all tokens counted."""
        stand_ins = tuple(
            StandInFigures(
                stand_in.name,
                tuple(
                    errors.unexplained(targets)
                    for errors, targets in zip(self.errors[stand_in.name], self.targets, strict=True)
                ),
                self.shifts[stand_in.name].replaced(),
            )
            for stand_in in self.candidates.all
        )
        layers = tuple(
            LayerFigures(firing.l0, self.alone[layer] / self.alone_predictions, *self.responses.figures(layer))
            for layer, firing in enumerate(self.firing)
        )
        return TextFigures(name, self.tokens, self.loss / self.predictions, stand_ins, layers)
