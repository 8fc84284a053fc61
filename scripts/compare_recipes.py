"""Compare recipes at equal tokens: several dictionaries trained side by side on the same recorded text, for some
layers.

    python scripts/compare_recipes.py BLOCKS "lr=1e-3" "lr=3e-4" "k=48 lr=1e-3" --layers 0,8,16,24,29 --tokens 100000
    [--init DICTIONARY]

    python scripts/compare_recipes.py BLOCKS "kind=per-layer" "kind=incremental" "kind=cross-layer" --layers all
    --graphs 5

BLOCKS is the tokens.safetensors of a training folder. Each recipe is a list of `unweave train` options. Prints held-out
FVU (outliers weighted down; and plain) by layer and active features; with --graphs, which needs all layers, the scores
and the average path length of attribution graphs of the first prompts of `unweave eval`. The model runs once for all.
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file

from unweave import attribute
from unweave.evaluation.prompts import PROMPTS
from unweave.graphs.paths import average_path_length
from unweave.models.language_model import LanguageModel
from unweave.models.loading import load_model
from unweave.models.recorder import batches, record
from unweave.training.config import TrainConfig, config_from
from unweave.training.dictionary import sparse, start, to_transcoders
from unweave.training.loop import RECORDED_AT_ONCE
from unweave.training.statistics import measure
from unweave.training.step import optimizer_of, schedule, take_step
from unweave.transcoders.formats import read_transcoders
from unweave.transcoders.replacement import ReplacementModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blocks")
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--layers", default="0,8,16,24,29")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--init", default="")
    parser.add_argument("--graphs", type=int, default=0)
    options = parser.parse_args()
    tensors, model = load_file(options.blocks), load_model()
    layers = (
        list(range(model.n_layers)) if options.layers == "all" else [int(part) for part in options.layers.split(",")]
    )
    model.module.set_attn_implementation("sdpa")
    context = tensors["train"].shape[1]
    recipes = {text: recipe(text, options.tokens, context) for text in options.recipes}
    recorded = record(model, tensors["held_out"].long(), range(model.n_layers))
    first = measure([record(model, tensors["train"][:64].long(), range(model.n_layers))], 16.0, range(model.n_layers))
    statistics = tuple(first[layer] for layer in range(model.n_layers))
    trained = {}
    for text, config in recipes.items():
        init = read_transcoders(options.init) if options.init else None
        config = replace(config, init=options.init)
        dictionary = start(config, statistics, init, model.device, layers)  # type: ignore[arg-type]
        optimizer = optimizer_of(dictionary)
        trained[text] = (
            dictionary,
            optimizer,
            torch.zeros(model.n_layers, max(dictionary.widths), dtype=torch.int64),
            [0, 0, 0.0],
        )
    train(trained, model, tensors["train"][64:].long(), layers, options.tokens)
    seconds = {text: round(at[2]) for text, (*_, at) in trained.items()}
    for text, (dictionary, *_rest) in trained.items():
        report(text, dictionary, recorded, layers, seconds[text])
        if options.graphs:
            report_graphs(text, dictionary, model, options.graphs)


def recipe(text: str, tokens: int, context: int) -> TrainConfig:
    """A recipe as it was typed, `name=value` by `name=value`."""
    given = dict(part.split("=", 1) for part in text.split())
    typed = {
        name: json.loads(value) if value.replace(".", "").replace("e-", "").isdigit() else value
        for name, value in given.items()
    }
    typed |= {name: str(typed[name]) for name in ("k", "width") if name in typed}
    return config_from({"text": ["corpus"], "tokens": tokens, "context": context, **typed}, text)


def train(
    trained: dict[str, tuple], model: LanguageModel, blocks: torch.Tensor, layers: list[int], tokens: int
) -> None:
    """Train all recipes on the same recorded tokens."""
    for part in batches(blocks, RECORDED_AT_ONCE):
        xs, ys = record(model, part, range(model.n_layers))
        order = torch.randperm(len(xs[0]), generator=torch.Generator().manual_seed(0))
        for dictionary, optimizer, silent, at in trained.values():
            config, begun = dictionary.config, time.perf_counter()
            for _ in range(config.reuse):
                for begin in range(0, len(order), config.batch):
                    rows = order[begin : begin + config.batch]
                    share = min(1.0, at[0] / tokens)
                    plan = schedule(config, dictionary.widths, at[1], share)
                    take_step(
                        dictionary,
                        optimizer,
                        [xs[i][rows] for i in layers],
                        [ys[i][rows] for i in layers],
                        silent,
                        plan,
                        torch.float32,
                    )
                    at[1] += 1
                    at[0] += len(rows) // config.reuse
            at[2] += time.perf_counter() - begun
        if all(at[0] >= tokens for *_, at in trained.values()):
            break
        print({text: at[0] for text, (*_, at) in trained.items()}, flush=True)


def report(text: str, dictionary: Any, recorded: Any, layers: list[int], seconds: int) -> None:
    """What is unexplained of held-out text, by layer."""
    weighted, plain, active, earlier = [], [], [], {}
    for layer in layers:
        x, y = recorded[0][layer], recorded[1][layer]
        with torch.no_grad():
            activations, made = dictionary.predict_dense(layer, x, earlier)
        earlier[layer] = activations
        facts = dictionary.statistics[layer]
        error, around = (y - made).square().sum(-1), (y - y.mean(0)).square().sum(-1)
        weight = facts.weights(y / facts.output, dictionary.config.outlier)
        weighted.append(float((weight * error).sum() / (weight * around).sum()))
        plain.append(float(error.sum() / around.sum()))
        active.append(len(sparse(activations).values) / len(x))
    rounded = [" ".join(f"{value:.3f}" for value in values) for values in (weighted, plain)]
    l0 = sum(active) / len(layers)
    print(
        f"{text:40s} weighted {sum(weighted) / len(layers):.4f} [{rounded[0]}]  plain [{rounded[1]}]  L0 {l0:.1f} "
        f" {seconds} s"
    )


def report_graphs(text: str, dictionary: Any, model: LanguageModel, count: int) -> None:
    """Scores of graphs of the first prompts."""
    model.module.set_attn_implementation("eager")
    replacement = ReplacementModel(model, to_transcoders(dictionary, text))
    graphs = [attribute(replacement, prompt) for prompt in PROMPTS[:count]]
    means = [
        sum(values) / len(graphs)
        for values in zip(*((*graph.scores(), average_path_length(graph)) for graph in graphs), strict=True)
    ]
    print(
        f"    graphs: replacement {means[0]:.3f}, completeness {means[1]:.3f}, average path length {means[2]:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
