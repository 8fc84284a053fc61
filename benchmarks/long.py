"""Cost of graphs of long prompts on SmolLM2: time against the matmul floor, memory and disk, by prompt length; with
a figure.

    python benchmarks/long.py [--lengths 125 250 500 1000 2000] [--features 256] [--max-memory 4GB] [--figure
    docs/images/long-prompts.svg] python benchmarks/long.py --lengths 1000 --features 5000 --partial long.partial
    # goes on where it was stopped

Floor: the W_O, W_V and skip transposes alone, at the layers and positions that the computed rows need, at the rate
    that large
products reach in this run. Both are CPU time, which other programs on the machine hardly change; a row's time is
everything after the model's own pass: reading decoders, rows, ranking, folding, files. Memory is the peak of the
whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a waiting thread must not count as work

import torch
from rich.console import Console
from rich.table import Table

import unweave
from unweave.attribution import attribution, budget
from unweave.graphs.graph import Graph
from unweave.transcoders.replacement import LocalReplacement

DOCS = Path(__file__).parents[1] / "docs"


def prompt_ids(model: unweave.ReplacementModel, length: int) -> list[int]:
    """The first tokens of this package's own documentation."""
    text = "\n\n".join(
        (DOCS / name).read_text() for name in ("index.md", "exactness.md", "validation.md", "interventions.md")
    )
    return model.language_model.tokenize(text[: 8 * length])[:length].tolist()  # all of it is more than the model takes


def matmul_rate(seconds: float = 1.5) -> float:
    """FLOP per CPU second of products [576 x 576] @ [576 x 6144]."""
    a, b, out = torch.randn(576, 576), torch.randn(576, 6144), torch.empty(576, 6144)
    torch.mm(a, b, out=out)
    begin, count = time.process_time(), 0
    while time.process_time() - begin < seconds:
        torch.mm(a, b, out=out)
        count += 1
    return count * 2 * 576 * 576 * 6144 / (time.process_time() - begin)


class Dense(NamedTuple):
    """Sizes of the matrices of one layer, which all layers share."""

    layers: int
    out: int
    value: int
    skip: int

    @staticmethod
    def of(local: LocalReplacement) -> "Dense":
        one = local.frozen.layers[0]
        return Dense(
            local.n_layers,
            one.attention.output.numel(),
            one.attention.value.numel(),
            0 if one.skip is None else one.skip.numel(),
        )


def graph_floor(dense: Dense, graph: Graph) -> float:
    """FLOP of the dense transposes that a graph's rows need at the layers and positions their targets see."""
    nodes = graph.nodes
    targets = torch.cat([torch.arange(nodes.features.stop), torch.arange(nodes.logits.start, nodes.logits.stop)])
    below, seen = nodes.layer[targets].clamp_max(dense.layers).double(), nodes.position[targets].double() + 1
    inner = dense.out + dense.value * seen  # a feature's own layer: W_O at its position alone
    inner[below == dense.layers] = 0
    return float(2 * (inner + below * seen * (dense.out + dense.value + dense.skip)).sum())


def measure(length: int, features: int, partial: str | None, limit: str | None) -> dict:
    torch.set_num_threads(2)
    model = unweave.load("smollm2")
    ids = prompt_ids(model, length)
    rate, seen, clock = matmul_rate(), {}, {}

    original = attribution.prepare

    def timed(*args, **kwargs):
        begin = time.process_time()
        asked = original(*args, **kwargs)
        clock["prompt"] = time.process_time() - begin
        seen["plan"], seen["dense"] = asked.plan, Dense.of(asked.local)
        return asked

    attribution.prepare = timed
    wall, begin, shown = time.perf_counter(), time.process_time(), time.perf_counter()

    def progress(share: float) -> None:
        nonlocal shown
        if time.perf_counter() - shown > 60:
            shown = time.perf_counter()
            print(
                f"{100 * share:.1f}% after {shown - wall:.0f} s, {time.process_time() - begin:.0f} s of CPU",
                file=sys.stderr,
                flush=True,
            )

    graph = unweave.attribute(model, ids, max_features=features, max_memory=limit, partial=partial, progress=progress)
    used, wall = time.process_time() - begin - clock["prompt"], time.perf_counter() - wall
    rate, flop = (rate + matmul_rate()) / 2, graph_floor(seen["dense"], graph)
    rows = graph.nodes.features.stop + graph.nodes.logits.stop - graph.nodes.logits.start
    return {
        "tokens": length, "active": graph.provenance.active_features, "rows": rows, "prompt": clock["prompt"],
        "seconds": used, "per row": used / rows,
        "floor": flop / rate / rows, "ratio": used / (flop / rate), "wall": wall, "gflops": rate / 1e9,
        "memory": budget.peak() / 1e9,
        "predicted": seen["plan"].memory / 1e9, "disk": seen["plan"].disk / 1e9, "edges": graph.n_edges,
        "residual": graph.provenance.residual,
    }  # fmt: skip


def draw(found: list[dict], path: Path) -> None:
    """Time per row beside its floor, and memory, by prompt length."""
    import matplotlib

    matplotlib.use("svg" if path.suffix == ".svg" else "agg")
    import matplotlib.pyplot as plt

    tokens = [one["tokens"] for one in found]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    left.plot(tokens, [1000 * one["per row"] for one in found], "o-", label="all work")
    left.plot(tokens, [1000 * one["floor"] for one in found], "o--", color="grey", label="matmul floor")
    left.set(xlabel="prompt (tokens)", ylabel="CPU time per row (ms)", xscale="log", yscale="log")
    left.legend(frameon=False)
    right.plot(tokens, [one["memory"] for one in found], "o-", label="memory, whole process")
    right.plot(tokens, [one["disk"] for one in found], "o--", color="grey", label="file of rows")
    right.set(xlabel="prompt (tokens)", ylabel="GB", xscale="log", ylim=(0, None))
    right.legend(frameon=False)
    for axis in (left, right):
        axis.set_xticks(tokens, [str(number) for number in tokens], minor=False)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[125, 250, 500, 1000, 2000])
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--partial")
    parser.add_argument("--max-memory")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.features, options.partial, options.max_memory)))
        return
    found = []
    for length in options.lengths:
        command = [sys.executable, __file__, "--one", str(length), "--features", str(options.features)]
        command += ["--partial", options.partial] if options.partial else []
        command += ["--max-memory", options.max_memory] if options.max_memory else []
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(found[-1]), file=sys.stderr)
    columns = [
        "tokens",
        "active",
        "rows",
        "prompt",
        "seconds",
        "per row",
        "floor",
        "ratio",
        "wall",
        "memory",
        "disk",
        "edges",
        "residual",
    ]
    table = Table(*columns)
    for one in found:
        table.add_row(*(f"{one[name]:,.3g}" if isinstance(one[name], float) else f"{one[name]:,}" for name in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.figure:
        draw(found, options.figure)


if __name__ == "__main__":
    main()
