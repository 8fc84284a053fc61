"""Speed of building feature pages against the model's forward pass and the dictionary's encoder alone, and of
reading one page.

    python benchmarks/features.py [--blocks 16] [--warm 16] [--rounds 3] [--threads N]

Blocks of the held-out text that ships are run through both, in turn; `--warm` blocks are counted before, since the
first examples of every feature are all kept and so cost more. Reported are wall time and time of the processor,
which other programs disturb less. Nothing is written.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import unweave
from unweave.corpus.blocks import named_sources
from unweave.corpus.documents import mixed
from unweave.corpus.text import token_blocks
from unweave.features.collect import AT_ONCE, Collection, Reading, activations, add_batch
from unweave.features.details import feature_page
from unweave.features.pages import open_pages
from unweave.models.passes import batches
from unweave.transcoders.dense import DenseTranscoders


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (
        ("blocks", 16),
        ("warm", 16),
        ("rounds", 3),
        ("context", 128),
        ("threads", torch.get_num_threads()),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = unweave.load("smollm2")
    sources = [(source, 1.0) for source in named_sources([]).values()]
    found = torch.stack(list(token_blocks(model.language_model, mixed(sources), options.context)))
    dictionary = DenseTranscoders.load(model.transcoders, torch.float32, model.language_model.device)
    collection = Collection(
        Reading("smollm2", "", "", (), options.context),
        model.transcoders.widths,
        model.language_model.unembedding.shape[0],
    )
    warm, blocks = found[: options.warm], found[options.warm : options.warm + options.blocks]

    def count(ids: torch.Tensor) -> None:
        add_batch([collection], model.language_model, model.transcoders.write, [dictionary], ids)

    for ids in batches(warm, model.language_model):
        count(ids)
    alone: list[tuple[float, float]] = []
    counted: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        alone.append(
            measured(
                lambda: [
                    [None for _ in activations(model, dictionary, ids)]
                    for ids in batches(blocks, model.language_model, AT_ONCE)
                ]
            )
        )
        counted.append(measured(lambda: [count(ids) for ids in batches(blocks, model.language_model, AT_ONCE)]))
    tokens = blocks[:, 1:].numel()
    for place, name in enumerate(("wall", "processor")):
        base, full = (statistics.median(times[place] for times in rows) for rows in (alone, counted))
        print(
            f"{name:<10} forward + encoder {tokens / base:7.0f} tokens/s, build {tokens / full:7.0f} tokens/s: "
            f"{base / full:.0%}"
        )
    pages = open_pages()
    rng = np.random.default_rng(0)
    times = []
    for _ in range(100):
        layer = int(rng.integers(len(pages.widths)))
        times.append(
            measured(lambda layer=layer: feature_page(pages, layer, int(rng.integers(pages.widths[layer]))))[0] * 1e3
        )
    print(f"one page: median {statistics.median(times):.1f} ms, 95% below {sorted(times)[94]:.1f} ms")


if __name__ == "__main__":
    main()
