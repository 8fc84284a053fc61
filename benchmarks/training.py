"""Training speed: tokens a second, and the share of the time that the matrix products alone would take.

    python benchmarks/training.py [--width 2048] [--k 64] [--batch 4096] [--steps 4] [--model smollm2]

The floor is one forward pass of the model's blocks, and for every layer the five dense products of a transcoder
(encode; decode; gradients of decoder, activations and encoder) and the two of a skip matrix, each timed in this run
at the real sizes. Products with sparse activations can be under it. Nothing is written.
"""

import argparse
import time
from collections.abc import Callable

import torch

from unweave.models.loading import load_model
from unweave.models.recorder import batches, record
from unweave.training.config import TrainConfig
from unweave.training.dictionary import start
from unweave.training.statistics import measure
from unweave.training.step import Schedule, optimizer_of, precision_of, take_step


def seconds(work: Callable[[], object], times: int = 3) -> float:
    """The fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 2048), ("k", 64), ("batch", 4096), ("steps", 4), ("context", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    model = load_model(options.model, device=options.device)
    model.module.set_attn_implementation("sdpa")
    config = TrainConfig(
        model=options.model,
        text=("none",),
        kind="skip",
        width=str(options.width),
        k=str(options.k),
        k_start=1.0,
        batch=options.batch,
        context=options.context,
    )
    precision, layers, d = precision_of(config, model.device), range(model.n_layers), model.d_model
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(
        model.unembedding.shape[0], (options.batch // (options.context - 1), options.context), generator=generator
    )

    def recorded() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        parts = [record(model, part, layers, precision=precision) for part in batches(blocks, 32)]
        xs, ys = zip(*parts, strict=True)
        return [torch.cat(x) for x in zip(*xs, strict=True)], [torch.cat(y) for y in zip(*ys, strict=True)]

    inputs, targets = recorded()
    statistics = measure([(inputs, targets)], config.outlier, layers)
    dictionary = start(config, tuple(statistics[layer] for layer in layers), None, model.device, layers)
    optimizer = optimizer_of(dictionary)
    silent = torch.zeros(model.n_layers, options.width, dtype=torch.int64, device=model.device)
    plan = Schedule(tuple(float(options.k) for _ in layers), 0.0, config.lr)
    tokens = len(inputs[0])

    def step() -> None:
        take_step(dictionary, optimizer, *recorded(), silent, plan, precision)

    step()
    whole = seconds(step, options.steps)
    x, wide, narrow = (
        torch.randn(*shape, device=model.device, dtype=precision)
        for shape in ((tokens, d), (tokens, options.width), (options.width, d))
    )
    square = torch.randn(d, d, device=model.device, dtype=precision)
    parts = {
        "encode, gradient of activations": 2 * seconds(lambda: x @ narrow.T),
        "decode": seconds(lambda: wide @ narrow),
        "gradients of encoder and decoder": 2 * seconds(lambda: wide.T @ x),
        "skip and its gradient": seconds(lambda: x @ square.T) + seconds(lambda: x.T @ x),
    }
    forward = seconds(lambda: [record(model, part, range(0), precision=precision) for part in batches(blocks, 32)])
    floor = forward + model.n_layers * sum(parts.values())
    print(
        f"{options.model}, {model.n_layers} x {options.width} features with skip, k {options.k}, {tokens} tokens a "
        f"step, {precision} on {options.device}"
    )
    shown = {"the model's forward pass": forward} | {
        f"{model.n_layers} x {name}": model.n_layers * value for name, value in parts.items()
    }
    for name, value in shown.items():
        print(f"  floor: {name:45s} {value:7.3f} s")
    print(f"  floor in all {floor:.3f} s, {tokens / floor:,.0f} tokens/s")
    print(f"  measured     {whole:.3f} s, {tokens / whole:,.0f} tokens/s: {floor / whole:.2f} of the floor's speed")


if __name__ == "__main__":
    main()
