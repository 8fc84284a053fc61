"""What a graph takes: memory, disk and the size of passes, from how many features are on; and how to keep under a
limit."""

import mmap
import sys
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ..errors import OptionError
from ..models.frozen import COLUMNS_IN_CACHE
from ..transcoders.replacement import LocalReplacement
from . import sources

try:
    import resource
except ImportError:  # not on Windows
    resource = None

ROWS_IN_MEMORY = 1 << 30
"""Bytes of rows beyond which they are kept in a file while a graph is computed, whatever the memory."""
ACCELERATOR_COLUMNS = 1 << 17
"""Columns in one pass on an accelerator, which has no small cache to fit into and a price for every product."""


class MemoryPlan(NamedTuple):
    """How the rows of a graph are computed, and what that takes."""

    columns: int
    """Columns in one pass."""
    least: int
    """Targets in one pass, however long the prompt."""
    vectors_kept: int
    """Bytes of sources' vectors to keep ready."""
    on_disk: bool
    """Rows go to a file as they are computed."""
    mapped: bool
    """The finished graph's rows stay in a file."""
    memory: int
    """Bytes of memory at the peak, with what the process has already."""
    disk: int
    """Bytes in files while the graph is computed."""


def resident() -> int:
    """Bytes of memory this process has now; where that is not known, its peak."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        return peak()


def peak() -> int:
    """The most bytes of memory this process has had; 0 where the system does not say, so that limits there count what
    a graph takes alone."""
    if resource is None:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class _Sizes(NamedTuple):
    """What does not depend on the plan; bytes, unless it says otherwise."""

    base: int
    tables: int
    vectors: int
    row: float
    """A whole row of all columns, as a pass makes it."""
    column: int
    """What one column of a pass (a target at a position) takes."""
    rows: int
    """All rows as they are computed."""
    graph: int
    """The finished graph."""
    ranking: int


class _Way(NamedTuple):
    """Where rows and vectors are kept."""

    on_disk: bool
    mapped: bool
    keeps_vectors: bool


WAYS = (
    _Way(on_disk=False, mapped=False, keeps_vectors=True),
    _Way(on_disk=False, mapped=False, keeps_vectors=False),
    _Way(on_disk=True, mapped=False, keeps_vectors=True),
    _Way(on_disk=True, mapped=False, keeps_vectors=False),
    _Way(on_disk=True, mapped=True, keeps_vectors=False),
)
"""From the fastest to the smallest. Smaller passes come after all of them: they cost more than a file does."""


class _Case(NamedTuple):
    """What all plans for one graph share."""

    sizes: _Sizes
    n: int
    """Positions."""
    limited: bool
    """To the most influential features."""
    to_disk: bool
    """Whether rows have to go to a file."""
    room: int | None
    """Bytes that are free on the accelerator, its tables taken off; None without one."""


def _sizes(local: LocalReplacement, n_logits: int, most: int | None) -> _Sizes:
    features, n, layers, d = local.features, local.n_positions, local.n_layers, local.errors.shape[-1]
    item = local.errors.itemsize
    on = torch.bincount(features.layer, minlength=layers).tolist()
    different = [len(features.index[local.layer_slice(layer)].unique()) for layer in range(layers)]
    times = [len(local.transcoders.writes(layer)) for layer in range(layers)]
    stored = sum(count * time for count, time in zip(different, times, strict=True)) + layers * (n + 1)
    columns = len(features) + (layers + 1) * n
    written = sum(count * time for count, time in zip(on, times, strict=True)) + n * sum(times)
    attention = local.frozen.layers[0].attention
    column = item * (2 * d + len(attention.value) * 2 + attention.output.shape[1])
    # What a feature sees: the features of lower layers at its position and before, their errors, the embeddings.
    at = torch.bincount(features.layer * n + features.position, minlength=layers * n).view(layers, n)
    below = torch.zeros(layers + 1, n, dtype=torch.int64)
    below[1:] = at.cumsum(1).cumsum(0)
    seen = below + (torch.arange(layers + 1)[:, None] + 1) * (torch.arange(n) + 1)
    edges = int((seen[:-1] * at).sum())
    every = edges + n_logits * int(seen[-1, -1])
    rows, graph, ranking = every * item, every * (4 + item), 0
    if most is not None and most < len(features):
        # Influential features lie late and see more than others: the mean is weighted by what they see.
        mean = float((seen[:-1].double().square() * at).sum()) / max(1, edges)
        rows, ranking = int(min(most * mean, edges) + n_logits * int(seen[-1, -1])) * item, columns * 48
        graph = int((most + n_logits) * (mean * most / len(features) + (layers + 1) * n / 2)) * (4 + item)
    tables = stored * d * item + written * (4 + item) + columns * 48
    return _Sizes(resident(), tables, written * d * item, columns * item, column, rows, graph, ranking)


def make_plan(
    local: LocalReplacement, n_logits: int, most: int | None, limit: int | None, resumable: bool, device: torch.device
) -> MemoryPlan:
    """The fastest way to compute a graph that keeps within a limit on this process's memory.

    Args:
        most: how many features, None: all.
        limit: bytes; None: no limit.
        resumable: whether a killed computation is to be taken up again, so that many rows go to a file in any case.

    Raises:
        OptionError: no way does; says the smallest limit that works.
    """
    sizes, limited = _sizes(local, n_logits, most), most is not None and most < len(local.features)
    columns, room = sources.COLUMNS_PER_SWEEP, None
    if device.type == "cuda":
        columns, room = ACCELERATOR_COLUMNS, torch.cuda.mem_get_info(device)[0] - sizes.tables
    to_disk = sizes.rows > ROWS_IN_MEMORY and (limited or resumable)
    case = _Case(sizes, local.n_positions, limited, to_disk, room)
    plans = [
        plan
        for size in _pass_sizes(columns, sources.LEAST_BATCH, case.n)
        for way in WAYS
        if (plan := _plan(case, way, *size)) is not None
    ]

    def fits(plan: MemoryPlan) -> bool:
        return limit is None or max(plan.memory, peak()) <= limit

    for plan in plans:
        if fits(plan):
            return plan
    if limit is None:
        raise OptionError(
            "this graph does not fit into the accelerator's memory; use --device cpu, or a smaller --max-features"
        )
    smallest = max(peak(), min((plan.memory for plan in plans), default=0))
    raise OptionError(
        f"{limit / 1e9:.2f} GB of memory is too little for this graph; the smallest limit that works is "
        f"{smallest * 1.02 / 1e9:.2f} GB"
    )


def _pass_sizes(columns: int, least: int, n: int) -> Iterator[tuple[int, int]]:
    """Columns and least targets of a pass, halved until a pass is one target."""
    yield columns, least
    while least > 1 or columns > n:
        columns, least = max(1, columns // 2), max(1, least // 2)
        yield columns, least


def _plan(case: _Case, way: _Way, columns: int, least: int) -> MemoryPlan | None:
    """What a way takes with passes of a size; None where it is no way: see the four conditions."""
    sizes, room = case.sizes, case.room
    if case.to_disk and not way.on_disk:
        return None
    if way.mapped and case.limited:  # limited graphs are folded from their rows, in memory
        return None
    if way.keeps_vectors and sizes.vectors > (sources.VECTORS_KEPT if room is None else max(0, room // 3)):
        return None
    # A pass holds gradients for all its columns, a scaled copy of as many as fit the cache, and its targets' rows.
    targets = max(least, columns // case.n)
    vectors = sizes.vectors if way.keeps_vectors else sources.VECTORS_AT_ONCE
    rows_of_pass = targets * sizes.row
    one_pass = (targets * case.n + min(COLUMNS_IN_CACHE, targets * case.n)) * sizes.column + rows_of_pass
    if room is not None and one_pass + vectors > 0.8 * room:
        return None
    # Beside an accelerator only rows come to this process. Else a pass, and copies of its rows on their way to where
    # they are kept: of all, or, where rows are packed first, of about half at a time.
    working = rows_of_pass if room is not None else one_pass + rows_of_pass * (0.5 if case.limited else 1.0)
    graph = 0 if way.mapped else sizes.graph
    if case.limited:  # first passes fill the store; then it is ranked and folded into the graph, without passes
        stored = 0 if way.on_disk else sizes.rows
        top = max(working + stored, graph + sizes.ranking + stored)
    else:  # rows go to where the graph has them
        top = max(working + graph, graph)
    memory = int(sizes.base + sizes.tables + (vectors if room is None else 0) + top)
    disk = (sizes.rows if way.on_disk else 0) + (sizes.graph if way.mapped else 0)
    kept = sizes.vectors if way.keeps_vectors else 0
    return MemoryPlan(columns, least, kept, way.on_disk, way.mapped, memory, disk)
