"""The links of a graph's JSON, millions of them: a hundred bytes each while they are read."""

from array import array
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from .influence import Rows

KEYS = ("source", "target", "weight")


def links_as_tuples() -> Callable[[dict[str, Any]], Any]:
    """What makes a tuple (source, target, weight) of every link as it is read: an object takes five times as much.

    >>> links_as_tuples()({"source": "a", "target": "b", "weight": 0.5})
    ('a', 'b', 0.5)
    """
    known: dict[str, str] = {}

    def named(end: Any) -> Any:
        return known.setdefault(end, end) if isinstance(end, str) else end

    def made(content: dict[str, Any]) -> Any:
        if len(content) != len(KEYS) or any(isinstance(content.get(key, []), (list, dict)) for key in KEYS):
            return content
        source, target, weight = map(content.__getitem__, KEYS)
        return named(source), named(target), weight

    return made


def objects_again(content: Any) -> Any:
    """Content with every tuple as the object that it was; JSON itself has no tuples.

    >>> objects_again([("a", "b", 0.5)])
    [{'source': 'a', 'target': 'b', 'weight': 0.5}]
    """
    if isinstance(content, tuple):
        return dict(zip(KEYS, content, strict=True))
    if isinstance(content, list):
        return [objects_again(part) for part in content]
    if isinstance(content, dict):
        return {key: objects_again(part) for key, part in content.items()}
    return content


def rows_of(
    links: Any, n: int, targets: Mapping[str, int], sources: Mapping[str, int], twice: Collection[str]
) -> tuple[Rows, int]:
    """The links of n nodes by target and source, and the number of those left out because a tool left out their node.

    Links of no weight are dropped, of equal ones one is kept, and those of an id that names two nodes are added up.

    Raises:
        TypeError, KeyError: they are no list of links.
        ValueError: two links with other weights join the same two nodes.
    """
    if not isinstance(links, list) or not all(isinstance(link, (tuple, dict)) for link in links):
        raise TypeError("links is not a list of objects")
    key, weight, strange = _columns(links, n, targets, sources)
    order = weight.argsort(stable=True)
    order = order[key[order].argsort(stable=True)]
    key, weight = key[order], weight[order]
    kept = weight != 0
    kept[1:] &= (key[1:] != key[:-1]) | (weight[1:] != weight[:-1])
    key, weight = key[kept], weight[kept]
    again = key[1:] == key[:-1]
    if bool(again.any()):
        two_in_one = torch.tensor([sources[name] for name in twice], dtype=torch.int64)
        if not bool(torch.isin(key[1:][again] % n, two_in_one).all()):
            raise ValueError("two links with other weights join the same two nodes")
        key, place = key.unique(return_inverse=True)
        weight = torch.zeros(len(key), dtype=weight.dtype).index_add_(0, place, weight)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(key // max(n, 1), minlength=n).cumsum(0)])
    return Rows(start, (key % max(n, 1)).int(), weight.float()), strange


def _columns(
    links: list[Any], n: int, targets: Mapping[str, int], sources: Mapping[str, int]
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Row times n plus column, and weight, of every link whose nodes are there; how many are not."""
    keys, weights, strange = array("q"), array("d"), 0
    for link in links:
        source, target, weight = link if isinstance(link, tuple) else map(link.__getitem__, KEYS)
        row, column = targets.get(str(target)), sources.get(str(source))
        if row is None or column is None:
            strange += 1
            continue
        keys.append(row * n + column)
        weights.append(float(weight))
    if not keys:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64), strange
    return torch.frombuffer(keys, dtype=torch.int64), torch.frombuffer(weights, dtype=torch.float64), strange
