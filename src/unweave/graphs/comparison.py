"""Two graphs side by side: which nodes they share, at which tokens, and how much more each matters."""

from collections.abc import Sequence
from typing import Any

from ..base.kinds import typed
from ..errors import GraphError
from .graph import Graph
from .nodes import NodeKind


@typed
def compare(a: Graph, b: Graph) -> dict[str, Any]:
    """Shared nodes and those of one graph alone, as rows; plain data, fit for JSON.

    Features are paired by (layer, index), errors by layer, embeddings as such, each at aligned tokens; targets by
    token.
    `anywhere` lists the features that both graphs have, whatever the token: so the same feature shows in two languages.

    Raises:
        GraphError: the graphs are of different models or dictionaries, so equal numbers are not equal features.

    >>> import unweave
    >>> model = unweave.load("organism")
    >>> graph = unweave.attribute(model, "the capital of Texas is", max_features=50)
    >>> other = unweave.attribute(model, "the capital of Ohio is", max_features=50)
    >>> sorted(unweave.compare(graph, other))
    ['anywhere', 'delta_activation', 'delta_influence', 'only_a', 'only_b', 'shared', 'tokens']
    """
    check_comparable(a, b)
    numbers = {text: number for number, text in enumerate(dict.fromkeys([*a.tokens, *b.tokens]))}
    partner = aligned([numbers[text] for text in a.tokens], [numbers[text] for text in b.tokens])
    rows_b = {key: row for row, key in enumerate(_keys(b, {place: place for place in range(len(b.tokens))}))}
    shared, only_a = [], []
    for row, key in enumerate(_keys(a, partner)):
        if key in rows_b and key is not None:
            shared.append((row, rows_b[key]))
        else:
            only_a.append(row)
    taken = {row for _, row in shared}
    influence_a, influence_b = a.influence().tolist(), b.influence().tolist()
    strength_a, strength_b = a.nodes.activation.tolist(), b.nodes.activation.tolist()
    return {
        "tokens": sorted(partner.items()), "shared": shared, "only_a": only_a,
        "only_b": [row for row in range(len(b.nodes)) if row not in taken],
        "delta_influence": [influence_b[j] - influence_a[i] for i, j in shared],
        "delta_activation": [strength_b[j] - strength_a[i] for i, j in shared],
        "anywhere": _anywhere(a, b),
    }  # fmt: skip


def check_comparable(a: Graph, b: Graph) -> None:
    """Refuse two graphs whose feature numbers mean different things.

    Raises:
        GraphError: saying which of model and dictionary differs.
    """
    first, second = a.provenance, b.provenance
    if first.n_layers != second.n_layers or (first.model and second.model and first.model != second.model):
        raise GraphError(
            f"these graphs are of different models ({first.model}, {second.model}), so their features cannot be "
            f"compared"
        )
    earlier = first.transcoders_weights_sha256 == second.transcoders_sha256 or (
        second.transcoders_weights_sha256 == first.transcoders_sha256
    )  # one of the graphs is of a version whose hash covered the weights alone
    for one, other in ((first.transcoders_sha256, second.transcoders_sha256), (first.transcoders, second.transcoders)):
        if one and other:
            if one != other and not earlier:
                raise GraphError(
                    f"these graphs are of different dictionaries ({first.transcoders}, {second.transcoders}), so "
                    f"their features cannot be compared"
                )
            return


def _keys(graph: Graph, partner: dict[int, int]) -> list[tuple[int, ...] | None]:
    """What every node is called in both graphs, by the second one's positions; None where its token has no partner."""

    def key(kind: int, layer: int, position: int, index: int) -> tuple[int, ...] | None:
        if kind == NodeKind.LOGIT:
            return kind, index
        place = partner.get(position)
        if place is None:
            return None
        return (kind, place) if kind == NodeKind.EMBEDDING else (kind, place, layer, index)

    return list(map(key, *_columns(graph)))


def _columns(graph: Graph) -> list[list[int]]:
    nodes = graph.nodes
    return [nodes.kind.tolist(), nodes.layer.tolist(), nodes.position.tolist(), nodes.index.tolist()]


def _anywhere(a: Graph, b: Graph) -> list[list[Any]]:
    found: list[dict[tuple[int, int], list[int]]] = [{}, {}]
    for part, graph in zip(found, (a, b), strict=True):
        for row, (kind, layer, _, index) in enumerate(zip(*_columns(graph), strict=True)):
            if kind == NodeKind.FEATURE:
                part.setdefault((layer, index), []).append(row)
    return [[*key, rows, found[1][key]] for key, rows in sorted(found[0].items()) if key in found[1]]


def aligned(prompt: Sequence[int], other: Sequence[int]) -> dict[int, int]:
    """Which position of another prompt corresponds to which of this one.

    The common beginning is aligned from the start, the rest from the end as far as both reach; positions of the longer
    prompt in between correspond to nothing.

    >>> aligned([0, 5, 6, 9], [0, 5, 7, 8, 9])     # position 3 of the other, token 8, takes the place of token 6
    {0: 0, 1: 1, 2: 3, 3: 4}
    """
    common = next(
        (place for place, pair in enumerate(zip(prompt, other, strict=False)) if pair[0] != pair[1]),
        min(len(prompt), len(other)),
    )
    rest = min(len(prompt), len(other)) - common
    pairs = {place: place for place in range(common)}
    return pairs | {len(prompt) - k: len(other) - k for k in range(rest, 0, -1)}
