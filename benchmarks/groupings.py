"""Ways to group neurons compared, on the pairs of `response-pairs-choose.jsonl`, which were fixed before any of this.

    python benchmarks/groupings.py [--out FILE] [--summary]

Beside the three that ship (runs of layers, complete link, token and band) stands an integer program, where SciPy is
installed: each group has one neuron as its middle, and the sum of the members' distances from it (of signed profiles,
weighed by effect) is smallest, with hard bounds on what is hidden inside groups and on the layers that one spans.

By method: groups; `hidden`, the share of what neurons do to one another that lies inside groups; `alike`, the members'
cosine with their group; `substitution`, whether the halves of a group do the same, live; `rephrased`, agreement with
the groups found on a rephrasing, and `seeds`, with those found when a random tenth of the neurons is left out (adjusted
Rand); `arrows`, predicted beside measured.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import unweave
from unweave.errors import UnweaveError
from unweave.explanation.arrows import agreement_of_arrows
from unweave.explanation.choose import choose, single_effects
from unweave.explanation.contrast import contrast_of
from unweave.explanation.groups import METHODS, PRICE, SPAN, Partition, Profiles, agreement, hidden, make_groups
from unweave.explanation.maps import Contrast, leading_heads, patching_maps, stages
from unweave.explanation.measure import measure
from unweave.graphs.comparison import aligned
from unweave.interventions.live import heads_of, run
from unweave.interventions.parts import Part

HERE = Path(__file__).parent
REPHRASED = "Remember this: {}"
GROUPS = 8
HIDDEN = 0.05
"""The integer program's bound on what is hidden inside groups; doubled until there is a solution."""
SECONDS = 60.0
SEEDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("groupings-benchmark.jsonl"))
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if options.summary:
        return summary(rows)
    done = {row["prompt"] for row in rows}
    model = unweave.load_model("smollm2")
    for line in (HERE / "response-pairs-choose.jsonl").read_text().splitlines():
        pair = json.loads(line)
        if pair["prompt"] not in done:
            try:
                found = {"methods": compared(model, pair)}
            except UnweaveError as error:
                found = {"error": str(error)}
            with options.out.open("a") as file:
                file.write(json.dumps(pair | found) + "\n")
            print(pair["prompt"], flush=True)


def compared(model: Any, pair: dict[str, str]) -> dict[str, Any]:
    contrast, chosen, heads, profiles = profiled(contrast_of(model, pair["prompt"], None, pair["instead"]))
    try:
        frames = [REPHRASED.format(pair[name]) for name in ("prompt", "instead")]
        there, _, _, other = profiled(contrast_of(model, frames[0], None, frames[1]))
    except UnweaveError:
        there = other = None
    found = {}
    for name, method in methods().items():
        begin = time.process_time()
        partition = method(profiles, GROUPS)
        seconds = time.process_time() - begin
        METHODS[name] = method
        arrows = agreement_of_arrows(measure(contrast, make_groups(chosen, heads, profiles, None, name), 1).arrows)
        again = None
        if there is not None and other is not None:
            back = {new: old for old, new in aligned(contrast.ids.tolist(), there.ids.tolist()).items()}
            again = rand(numbered(profiles, partition), numbered(other, method(other, GROUPS), back))
        found[name] = {
            "seconds": seconds, "groups": len(partition), "hidden": hidden(profiles, partition),
            "alike": agreement(profiles, partition), "substitution": substitution(contrast, profiles, partition),
            "rephrased": again, "seeds": shaken(profiles, partition, method),
            "arrows": None if arrows is None else arrows._asdict(),
        }  # fmt: skip
    return found


def profiled(contrast: Contrast) -> tuple:
    maps = patching_maps(contrast)
    heads = leading_heads(contrast, maps["heads"])
    chosen = choose(contrast, stages(contrast, maps["neurons"]))
    effect, moved = single_effects(contrast, chosen.units)
    return contrast, chosen, heads, Profiles(chosen.units, effect, moved, contrast.model.n_layers)


def methods() -> dict[str, Callable[[Profiles, int], Partition]]:
    try:
        import scipy  # noqa: F401
    except ImportError:
        return dict(METHODS)
    return {**METHODS, "program": by_program}


def by_program(profiles: Profiles, count: int) -> Partition:
    """The integer program, with `scipy.optimize.milp`.

    Source: the bounds on hidden edges and on span are those of "Faithful Summarization" (draft of August 2026).
    """
    if not len(profiles.units):
        return []
    bound, solution = HIDDEN, None
    while solution is None:
        solution = _solved(profiles, count, bound)
        bound *= 2
    return solution


def _solved(profiles: Profiles, count: int, bound: float) -> Partition | None:
    import numpy
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    n, layer, position = len(profiles.units), profiles.units.layer, profiles.units.position
    sign = profiles.effect < 0
    line = (position[:, None] == position) & (sign[:, None] == sign)
    near = (layer[:, None] - layer).abs() < max(1.0, SPAN * profiles.depth)
    able = (line & near).tolist()
    count = max(count, len({(int(p), bool(s)) for p, s in zip(position, sign, strict=True)}))
    rows = torch.nn.functional.normalize(profiles.rows, dim=1)
    weight = profiles.effect.abs() / profiles.effect.abs().sum().clamp_min(1e-12)
    cost = (weight[:, None] * (1 - rows @ rows.T)).tolist()
    through = profiles.through.abs()
    mass = ((through + through.T) / through.sum().clamp_min(1e-12)).tolist()
    x = {pair: place for place, pair in enumerate((u, m) for u in range(n) for m in range(n) if able[u][m])}
    pairs = [(u, v) for u in range(n) for v in range(u) if able[u][v] and mass[u][v] > 1e-4]
    y = {pair: len(x) + place for place, pair in enumerate(pairs)}
    table: list[tuple[dict[int, float], float, float]] = []  # coefficients, least, most
    for u in range(n):
        table.append(({x[u, m]: 1.0 for m in range(n) if able[u][m]}, 1, 1))
        table += [({x[u, m]: 1.0, x[m, m]: -1.0}, -numpy.inf, 0) for m in range(n) if able[u][m] and u != m]
    table.append(({x[m, m]: 1.0 for m in range(n)}, 0, count))
    for m in range(n):
        mine = [u for u in range(n) if able[u][m]]
        for u in mine:
            for v in mine:
                if v < u and not able[u][v]:  # too many layers apart for one group
                    table.append(({x[u, m]: 1.0, x[v, m]: 1.0, **({x[m, m]: -1.0} if m not in (u, v) else {})},
                                  -numpy.inf, 0 if m not in (u, v) else 1))  # fmt: skip
                elif v < u and (u, v) in y and m not in (u, v):
                    table.append(({x[u, m]: 1.0, x[v, m]: 1.0, x[m, m]: -1.0, y[u, v]: -1.0}, -numpy.inf, 0))
                elif v < u and (u, v) in y:
                    other = v if m == u else u
                    table.append(({x[other, m]: 1.0, y[u, v]: -1.0}, -numpy.inf, 0))
    table.append(({y[pair]: mass[pair[0]][pair[1]] for pair in pairs}, 0, bound))
    entries = [(row, column, value) for row, (one, *_) in enumerate(table) for column, value in one.items()]
    at_row, at_column, values = (list(column) for column in zip(*entries, strict=True))
    matrix = coo_array((values, (at_row, at_column)), (len(table), len(x) + len(y))).tocsr()
    objective = numpy.zeros(len(x) + len(y))
    for (u, m), place in x.items():
        objective[place] = cost[u][m] + PRICE * (u == m)
    whole = numpy.zeros(len(objective))
    whole[: len(x)] = 1
    limits = LinearConstraint(matrix, [one[1] for one in table], [one[2] for one in table])
    options = {"time_limit": SECONDS, "mip_rel_gap": 0.01}
    result = milp(objective, integrality=whole, bounds=Bounds(0, 1), constraints=limits, options=options)
    if result.x is None:
        return None
    middle = {u: max((m for m in range(n) if able[u][m]), key=lambda m: result.x[x[u, m]]) for u in range(n)}
    return [[u for u in range(n) if middle[u] == m] for m in sorted(set(middle.values()))]


def substitution(contrast: Contrast, profiles: Profiles, partition: Partition) -> float | None:
    """Whether the two halves of a group do the same: the cosine of what swapping each does to the answer and to the
    other groups, live, weighed by the groups' effects; groups of one are left out."""
    count = heads_of(contrast.model)
    parts = [Part(profiles.units.select(torch.tensor(group))) for group in partition]
    gauges = [part.gauge(contrast.here, contrast.there, count) for part in parts]
    total = weight = 0.0
    for number, group in enumerate(partition):
        if len(group) < 2:
            continue
        order = sorted(group, key=lambda unit: -abs(float(profiles.effect[unit])))
        halves = [Part(profiles.units.select(torch.tensor(order[start::2]))) for start in (0, 1)]
        variants = [half.put(contrast.there, count) for half in halves]
        ran = run(contrast.model, contrast.ids, contrast.question, variants, gauges=gauges)
        ran.gauges[:, number] = 0
        rows = torch.cat([contrast.share(ran.lead)[:, None], ran.gauges], 1)
        size = float(profiles.effect[group].abs().sum())
        total, weight = total + size * float(torch.cosine_similarity(rows[0], rows[1], dim=0)), weight + size
    return total / weight if weight else None


def numbered(profiles: Profiles, partition: Partition, places: dict[int, int] | None = None) -> dict[tuple, int]:
    """The group of each neuron; `places`: where its token lies in another prompt."""
    found = {}
    for number, group in enumerate(partition):
        for unit in group:
            layer, position, index = profiles.units.triples[unit]
            place = position if places is None else places.get(position)
            if place is not None:
                found[layer, place, index] = number
    return found


def rand(a: dict[tuple, int], b: dict[tuple, int]) -> float | None:
    """Of pairs of neurons that both have, the share that both put together or both put apart, above what chance gives
    (the adjusted Rand index)."""
    shared = sorted(set(a) & set(b))
    if len(shared) < 3:
        return None
    pairs = [(a[u] == a[v], b[u] == b[v]) for n, u in enumerate(shared) for v in shared[:n]]
    both = sum(x and y for x, y in pairs)
    first, second = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    chance, most = first * second / len(pairs), (first + second) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def shaken(profiles: Profiles, partition: Partition, method: Callable) -> float | None:
    """Agreement with the groups of nine tenths of the neurons, over some seeds."""
    whole, found = numbered(profiles, partition), []
    for seed in range(SEEDS):
        order = torch.randperm(len(profiles.units), generator=torch.Generator().manual_seed(seed))
        some = profiles.select(order[: max(3, round(0.9 * len(order)))].sort().values)
        found.append(rand(whole, numbered(some, method(some, GROUPS))))
    values = [value for value in found if value is not None]
    return sum(values) / len(values) if values else None


def summary(rows: list[dict[str, Any]]) -> None:
    of = [row["methods"] for row in rows if "error" not in row]
    names = ("seconds", "groups", "hidden", "alike", "substitution", "rephrased", "seeds")
    for method in of[0] if of else ():
        print(f"{method}: {len(of)} pairs")
        columns = {name: [row[method][name] for row in of if row[method][name] is not None] for name in names}
        for name in ("signs", "spearman"):
            columns[f"arrows, {name}"] = [
                row[method]["arrows"][name] for row in of if row[method]["arrows"] and row[method]["arrows"][name]
            ]
        for name, values in columns.items():
            print(f"  {name}: mean {sum(values) / len(values):.3f}, from {min(values):.3f} to {max(values):.3f}")


if __name__ == "__main__":
    main()
