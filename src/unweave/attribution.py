"""Attribution: which rows of the graph to compute, in which order; no tensor algebra of its own."""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import OptionError
from .frozen import Workspace
from .graph import Graph, Provenance
from .influence import Rows, sweep
from .nodes import NodeTable
from .replacement import LocalReplacement, PositionZero, ReplacementModel
from .sources import Block, Sources, Targets
from .targets import LogitTarget, TargetSpec, resolve_position, resolve_targets
from .version import __version__

logger = logging.getLogger(__name__)

FEATURES_PER_ROUND = 256
"""How many features are added between two rankings when `max_features` limits them."""

NEURONS_AT_MOST = 20000
"""Without a dictionary nearly every neuron is active; a graph of more has edges beyond any machine's memory."""
DEFAULT_NEURONS = 1000
"""How many the command line takes where it is not told."""

Progress = Callable[[float], object]
"""Called with the share of the work that is done."""


def attribute(
    model: ReplacementModel,
    prompt: str | Sequence[int] | Tensor,
    targets: TargetSpec | Sequence[TargetSpec] | None = None,
    *,
    position: int = -1,
    max_logits: int = 10,
    logit_mass: float = 0.95,
    max_features: int | None = None,
    position_zero: PositionZero = "error",
    precision: str = "exact",
    progress: Progress | None = None,
) -> Graph:
    """Trace which features, errors and tokens caused a prediction: the prompt's attribution graph.

    Args:
        prompt: text, or token ids.
        targets: what to explain; None for the most likely next tokens (`max_logits`, `logit_mass`). See `targets.py`.
        position: where in the prompt the prediction is made; negative counts from the end. Later tokens are cut off.
        max_features: at most so many features become nodes, those of largest influence first; the others are folded
            into the error node of their layer and position.
        position_zero: "error" keeps the first position's MLP outputs as error nodes, "drop" makes them constants.
        precision: "exact", or "fast": operands of the large products rounded to bfloat16, sums in float32.

    Returns:
        The unpruned graph. `graph.residual()` says how exact each row is.

    Raises:
        PromptError, TargetError, OptionError: the question cannot be asked like this.
        InexactAttribution: the frozen model does not reproduce the model.

    Source: Ameisen et al. 2025, "Circuit Tracing", sections on the local replacement model and attribution graphs.

    >>> import unweave                                                        # doctest: +SKIP
    >>> graph = unweave.attribute(unweave.load("smollm2"), "The capital of France is")     # doctest: +SKIP
    """
    if max_features is not None and max_features < 1:
        raise OptionError(f"max_features is {max_features}; it must be at least 1")
    multiply = _multiply_dtype(precision)
    language_model = model.language_model
    ids = language_model.tokenize(prompt)
    seen = resolve_position(len(ids), position) + 1
    local = model.localize(ids[:seen], position_zero)
    logits = resolve_targets(
        language_model, local.recording, targets, normalized=local.frozen.final.forward(local.recording.final)[-1],
        max_logits=max_logits, logit_mass=logit_mass,
    )  # fmt: skip
    sources = Sources.gather(local)
    work = _Work(local, sources, logits, multiply, progress or (lambda share: None))
    features = len(local.features)
    if max_features is None and local.transcoders.gated and features > NEURONS_AT_MOST:
        raise OptionError(f"all {features} neurons at once are too many; limit them with max_features (--max-features), such as {DEFAULT_NEURONS}")
    limited = max_features is not None and max_features < features
    chosen, rows = _limited_rows(work, max_features) if limited and max_features else (torch.arange(features), _all_rows(work))
    nodes = _node_table(local, logits, chosen)
    bias, preactivation = _row_facts(local, logits, nodes, chosen)
    nothing = torch.zeros_like(bias)
    provenance = Provenance(
        model=language_model.name,
        n_layers=local.n_layers,
        prompt=prompt if isinstance(prompt, str) else None,
        tokens=tuple(language_model.token_text(int(i)) for i in ids),
        input_ids=tuple(ids.tolist()),
        logit_labels=tuple(target.label for target in logits),
        target_tokens=tuple(target.tokens for target in logits),
        transcoders=model.transcoders.name,
        transcoders_kind=model.transcoders.kind,
        transcoders_sha256=model.transcoders.sha256,
        dtype=str(language_model.dtype).removeprefix("torch."),
        precision="exact" if multiply is None else "fast",
        position_zero=position_zero,
        max_features=max_features,
        active_features=features,
        logits_error=local.logits_error,
        unexplained=local.unexplained,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    graph = Graph(nodes, rows, bias, preactivation, nothing, nothing, None, None, provenance)
    return graph.with_provenance(residual=float(graph.residual().max()), scores=tuple(graph.scores()))


def _multiply_dtype(precision: str) -> torch.dtype | None:
    if precision not in ("exact", "fast"):
        raise OptionError(f"precision {precision!r} is unknown; use 'exact' or 'fast'")
    if precision == "exact":
        return None
    if not has_bfloat16_units():
        logger.warning("precision='fast' needs bfloat16 units (AMX or AVX512-BF16), which this machine lacks; computing exactly instead")
        return None
    return torch.bfloat16


def has_bfloat16_units() -> bool:
    """Whether products of bfloat16 numbers are faster than those of float32 here."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class _Work:
    """The rows still to be computed and how far we are; cost of a row: its layers times the positions it sees."""

    def __init__(self, local: LocalReplacement, sources: Sources, logits: list[LogitTarget], multiply: torch.dtype | None, progress: Progress):
        self.local, self.sources, self.logits = local, sources, logits
        self.multiply, self.progress = multiply, progress
        self.work, self.done, self.total = Workspace(), 0, 1

    def _blocks(self, targets: Targets) -> Iterator[Block]:
        for block in self.sources.rows(self.local, targets, self.work, self.multiply):
            yield block
            self.done += int((targets.layer[torch.isin(targets.name, block.name)] + 1).sum()) * (targets.position + 1)
            self.progress(min(1.0, self.done / max(1, self.total)))  # no features, no total

    def logit_rows(self) -> Iterator[Block]:
        """Rows of all logits; names are their numbers."""
        directions = self.local.frozen.final.transpose(torch.stack([t.direction for t in self.logits]), self.local.n_positions - 1)
        layer = torch.full((len(self.logits),), self.local.n_layers)
        return self._blocks(Targets(self.local.n_positions - 1, layer, torch.arange(len(self.logits)), directions))

    def feature_rows(self, features: Int[Tensor, " feature"]) -> Iterator[Block]:
        """Rows of some features, given by their numbers in ascending order."""
        active = self.local.features
        for position in active.position[features].unique().tolist():
            here = features[active.position[features] == position]
            directions = []
            for layer in active.layer[here].unique().tolist():
                names = here[active.layer[here] == layer]
                encoder, _ = self.local.encoders(layer, names)
                directions.append((layer, names, self.local.frozen.layers[layer].read_transpose(encoder, position)))
            directions.reverse()
            layers = torch.cat([torch.full((len(names),), layer) for layer, names, _ in directions])
            yield from self._blocks(Targets(position, layers, torch.cat([names for _, names, _ in directions]), torch.cat([rows for *_, rows in directions])))

    def cost(self, features: Tensor) -> int:
        """The cost of the rows of some features."""
        active = self.local.features
        return int(((active.layer[features] + 1) * (active.position[features] + 1)).sum())


def _all_rows(work: _Work) -> Rows:
    """The rows of all features and logits, written straight into their place."""
    features, sources, n_logits = work.local.features, work.sources, len(work.logits)
    everything = torch.arange(len(features))
    work.total = work.cost(everything)
    table = torch.zeros(work.local.n_layers + 1, work.local.n_positions, dtype=torch.int64)
    for layer in range(work.local.n_layers + 1):
        table[layer] = torch.tensor([len(sources.visible(layer, position)) for position in range(work.local.n_positions)])
    lengths = torch.zeros(len(sources.layer) + n_logits, dtype=torch.int64)
    lengths[: len(features)] = table[features.layer, features.position]
    lengths[len(sources.layer) :] = table[-1, -1]
    start = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    column = torch.empty(int(start[-1]), dtype=torch.int32)
    value = torch.empty(int(start[-1]), dtype=work.local.errors.dtype)

    def write(first: int, block: Block) -> None:
        entries = slice(int(start[first]), int(start[first + len(block.name)]))
        column[entries].view(block.weight.shape).copy_(block.column.expand(block.weight.shape))
        value[entries].view(block.weight.shape).copy_(block.weight)

    for block in work.logit_rows():
        write(len(sources.layer) + int(block.name[0]), block)
    for block in work.feature_rows(everything):
        write(int(block.name[0]), block)
    return Rows(start, column, value)


def _limited_rows(work: _Work, most: int) -> tuple[Int[Tensor, " chosen"], Rows]:
    """The `most` most influential features, found round by round, and the rows among them; the rest folded into errors."""
    features, sources, n_logits = work.local.features, work.sources, len(work.logits)
    n_columns, n_features = len(sources.layer), len(features)
    store = torch.zeros(most + n_logits, n_columns, dtype=work.local.errors.dtype)
    slot = torch.full((n_columns + n_logits,), -1)
    size = torch.zeros(most + n_logits, dtype=torch.float64)
    weight = torch.zeros(n_columns + n_logits)
    weight[n_columns:] = torch.tensor([target.weight for target in work.logits])
    depth = torch.cat([sources.layer, torch.full((n_logits,), work.local.n_layers + 1)])
    filled = 0

    def fill(names: Tensor, blocks: Iterator[Block]) -> None:
        nonlocal filled
        slot[names] = torch.arange(filled, filled + len(names))
        filled += len(names)
        offset = 0 if names[0] < n_columns else n_columns
        for block in blocks:
            slots = slot[block.name + offset]
            store[slots[:, None], block.column] = block.weight
            size[slots] = block.weight.abs().double().sum(1)

    def spread(group: Tensor, amounts: Tensor) -> Tensor:
        slots = slot[group]
        given = (amounts / size[slots].clamp_min(1e-10)).to(store.dtype) @ store[slots].abs()
        return torch.cat([given.double(), torch.zeros(n_logits, dtype=torch.float64)])

    work.total = int(work.cost(torch.arange(n_features)) * most / max(1, n_features))
    fill(torch.arange(n_columns, n_columns + n_logits), work.logit_rows())
    while filled < most + n_logits:
        ranking = sweep(depth, slot >= 0, weight, spread)[:n_features]
        ranking[slot[:n_features] >= 0] = -1
        take = min(FEATURES_PER_ROUND, most + n_logits - filled)
        chosen = torch.sort(torch.topk(ranking, take).indices).values
        fill(chosen, work.feature_rows(chosen))
    chosen = torch.nonzero(slot[:n_features] >= 0).flatten()
    return chosen, _folded(work, chosen, store[slot[torch.cat([chosen, torch.arange(n_columns, n_columns + n_logits)])]])


def _folded(work: _Work, chosen: Int[Tensor, " chosen"], rows: Float[Tensor, "row column"]) -> Rows:
    """Sparse rows in which the columns of features not chosen are added to the error of their layer and position."""
    features, n, n_features = work.local.features, work.local.n_positions, len(work.local.features)
    folded = torch.ones(n_features, dtype=torch.bool)
    folded[chosen] = False
    error = features.layer[folded] * n + features.position[folded]
    rest = rows[:, n_features:].index_add(1, error, rows[:, :n_features][:, folded])
    kept = torch.cat([rows[:, chosen], rest], dim=1)
    row, column = kept.nonzero(as_tuple=True)
    n_sources, n_chosen = kept.shape[1], len(chosen)
    number = torch.where(row < n_chosen, row, row - n_chosen + n_sources)
    counts = torch.bincount(number, minlength=n_sources + len(work.logits))
    start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Rows(start, column.to(torch.int32), kept[row, column])


def _node_table(local: LocalReplacement, logits: list[LogitTarget], chosen: Int[Tensor, " chosen"]) -> NodeTable:
    features = local.features
    return NodeTable.build(
        n_layers=local.n_layers,
        features=torch.stack([features.layer[chosen], features.position[chosen], features.index[chosen]], dim=1),
        activations=features.activation[chosen],
        errors=torch.cartesian_prod(torch.arange(local.n_layers), torch.arange(local.n_positions)),
        error_norms=local.errors.norm(dim=-1).flatten(),
        embeddings=local.recording.input_ids,
        embedding_norms=local.recording.embeddings.norm(dim=-1),
        logits=torch.tensor([[target.token, target.position] for target in logits]),
        probabilities=torch.tensor([target.weight for target in logits]),
    )


def _row_facts(local: LocalReplacement, logits: list[LogitTarget], nodes: NodeTable, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Bias and pre-activation of every row: what constants alone give it, by one forward pass of them; what the model gave."""
    mids, final = local.frozen.run(torch.zeros_like(local.recording.final), list(local.constants))
    bias = local.errors.new_zeros(len(local.features))
    for number, layer in enumerate(local.frozen.layers):
        span = local.layer_slice(number)
        encoder, offset = local.encoders(number, torch.arange(span.start, span.stop))
        bias[span] = (encoder * layer.read_forward(mids[number])[local.features.position[span]]).sum(-1) + offset
    read = local.frozen.final.forward(final)[-1]
    facts = torch.zeros(2, len(nodes), dtype=bias.dtype)
    facts[:, nodes.features] = torch.stack([bias[chosen], local.features.preactivation[chosen]])
    facts[0, nodes.logits] = torch.stack([target.direction @ read + target.bias for target in logits])
    facts[1, nodes.logits] = torch.tensor([target.value for target in logits], dtype=bias.dtype)
    return facts[0], facts[1]
