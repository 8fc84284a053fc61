"""What a limit of features costs beside its share of the rows: SmolLM2, one prompt, CPU seconds of one thread.

    python benchmarks/limits.py [--limits 4000 1500] [--prompt TEXT]

Share: of the arithmetic that all features' rows need, what the rows of those that were chosen need. The ratio is what
the limited graph costs over that share of the cost of all rows.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

import unweave
from unweave.attribution.question import Question
from unweave.attribution.work import Work, prepare


def spent(make: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """The least CPU seconds of several, and what was made."""
    best, made = float("inf"), None
    for _ in range(times):
        begin = time.process_time()
        made = make()
        best = min(best, time.process_time() - begin)
    return best, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", nargs="+", type=int, default=[4000, 1500])
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = unweave.load("smollm2")
    asked = prepare(model, Question(options.prompt), resumable=False)
    work = Work(asked, lambda share: None)
    everything = torch.arange(len(asked.local.features))
    work.total = work.cost(everything)

    def rows() -> int:
        return sum(len(block.name) for targets in work.passes(everything) for block in work.blocks(targets))

    rows()
    rows_cost, _ = spent(rows, options.times)
    setting_up, _ = spent(lambda: prepare(model, Question(options.prompt), resumable=False), options.times)
    whole, graph = spent(lambda: unweave.answer(model, Question(options.prompt)), options.times)
    print(
        f"{len(everything):,} features: {whole:.2f} s, of which rows {rows_cost:.2f} s, setting up {setting_up:.2f} s"
    )
    places = {node.id: node.row for node in (graph.nodes[row] for row in range(graph.nodes.features.stop))}
    for most in options.limits:
        limited, small = spent(
            lambda most=most: unweave.answer(model, Question(options.prompt, max_features=most)), options.times
        )
        chosen = torch.tensor([places[small.nodes[row].id] for row in range(small.nodes.features.stop)])
        share = float(work.cost(chosen)) / float(work.cost(everything))
        print(
            f"{most:,} features: {limited:.2f} s; their rows' share {share:.2f}, {share * rows_cost:.2f} s: "
            f"{limited / (share * rows_cost):.2f} times; without setting up "
            f"{(limited - setting_up) / (share * rows_cost):.2f} times, "
            f"of the whole graph {limited / (share * whole):.2f}"
        )


if __name__ == "__main__":
    main()
