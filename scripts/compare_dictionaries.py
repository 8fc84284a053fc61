"""Compare dictionaries of one model: what its predictions become with all MLPs replaced, by kind of text; what carries
contrasts; what graphs explain.

    python scripts/compare_dictionaries.py smollm2 TRAINING/dictionary [--tokens 5120] [--context 128] [--prompts 6]

Prints for each kind of bundled held-out text (short texts about the world among them) added nats, KL, top-1, FVU and
active features; for twelve contrast pairs the share f of the logit difference that is kept when only a part of each
MLP's output follows the prompt (skip; skip and features; skip and errors) and the rest comes from the other prompt, and
the difference of the fully replaced model as a share of the real one; and honest replacement of the first prompts of
`unweave eval`. Skip and features read the stream as it has become; for errors the real MLP does.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unweave.corpus.blocks import SHORT, named_sources, read_texts
from unweave.evaluation.graphs import score_prompts
from unweave.evaluation.prompts import PROMPTS
from unweave.models.language_model import LanguageModel
from unweave.models.passes import Step, counted, replaced_logits, run
from unweave.training.progress import held_out_figures
from unweave.transcoders.dense import DenseTranscoders
from unweave.transcoders.replacement import ReplacementModel, load

Parts = list[dict[str, Float[Tensor, "token d"]]]
"""By layer, what skip (with bias), features and error write."""


class Pair(NamedTuple):
    """Two prompts of equal length and what each calls for."""

    prompt: str
    other: str
    answer: str
    wrong: str


PAIRS = (
    Pair("The key to the cabinets", "The keys to the cabinets", " is", " are"),
    Pair("The books on the table", "The book on the table", " are", " is"),
    Pair("The doctor near the cars", "The doctors near the cars", " is", " are"),
    Pair("The farmers that the doctor likes", "The farmer that the doctor likes", " are", " is"),
    Pair("The boy near the trees", "The boys near the trees", " is", " are"),
    Pair("The picture of the dogs", "The pictures of the dogs", " is", " are"),
    Pair("The cats behind the door", "The cat behind the door", " are", " is"),
    Pair("The letters from my friend", "The letter from my friend", " are", " is"),
    Pair("The capital of France is", "The capital of Germany is", " Paris", " Berlin"),
    Pair("The capital of Japan is", "The capital of Italy is", " Tokyo", " Rome"),
    Pair('The opposite of "hot" is "', 'The opposite of "big" is "', "cold", "small"),
    Pair(
        "The sun rises in the east and sets in the", "The sun sets in the west and rises in the", " west", " east"
    ),
)  # fmt: skip
KEPT = {"skip": ("skip",), "features": ("skip", "features"), "errors": ("skip", "error")}


def parts_of(model: LanguageModel, dictionary: DenseTranscoders, ids: Tensor) -> Parts:
    seen, found = run(model, ids, "mlp_out"), []
    for layer in range(model.n_layers):
        x, y = counted(seen.inputs[layer], torch.float32), counted(seen.outputs[layer], torch.float32)
        found.append(split(dictionary, layer, x, y))
    return found


def split(dictionary: DenseTranscoders, layer: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """One MLP's output as what skip (with bias), features and the error write."""
    part, whole = dictionary.layers[layer], dictionary.local(layer, x)
    affine = part.bias + (0 if part.skip is None else x @ part.skip.T)
    return {"skip": affine.expand_as(whole), "features": whole - affine, "error": y - whole}


def following(model: LanguageModel, dictionary: DenseTranscoders, names: tuple[str, ...], other: Parts) -> Step:
    """MLPs of which some parts follow what is read and the rest is the other prompt's."""

    def step(layer: int, x: Tensor) -> Tensor:
        mlp = model.blocks[layer].mlp  # its parts: its own forward is what is being replaced
        true = mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x))
        own = split(dictionary, layer, x, true)
        return torch.stack([(own if name in names else other[layer])[name] for name in own]).sum(0)

    return step


def carried(model: ReplacementModel, dictionary: DenseTranscoders, pair: Pair) -> dict[str, float]:
    """f of each part, and the contrast of the fully replaced model as a share of the real one."""
    language = model.language_model
    ids, other = (torch.as_tensor(language.tokenize(text))[None] for text in pair[:2])
    if ids.shape != other.shape:
        raise SystemExit(f"error: {pair.prompt!r} and {pair.other!r} differ in length")
    assert language.tokenizer is not None
    right, wrong = (language.tokenizer.encode(text, add_special_tokens=False)[0] for text in pair[2:])

    def metric(logits: Tensor) -> float:
        return float(logits[0, -1, right] - logits[0, -1, wrong])

    def with_step(step: Step) -> float:
        return metric(replaced_logits(language, ids, "mlp_out", "mlp_in", step, torch.float32))

    theirs = parts_of(language, dictionary, other)
    truth = metric(language.module(input_ids=ids, use_cache=False).logits)
    least = with_step(following(language, dictionary, (), theirs))
    found = {
        name: (with_step(following(language, dictionary, kept, theirs)) - least) / (truth - least)
        for name, kept in KEPT.items()
    }
    return found | {"own": with_step(dictionary.start()) / truth}


def contrasts(model: ReplacementModel) -> dict[str, float]:
    dictionary = DenseTranscoders.load(model.transcoders, torch.float32, torch.device("cpu"))
    rows = [carried(model, dictionary, pair) for pair in PAIRS]
    for pair, row in zip(PAIRS, rows, strict=True):
        print("   ", pair.prompt, {name: round(value, 2) for name, value in row.items()}, flush=True)
    kinds: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "mean": statistics.fmean}
    return {
        f"{name} {kind}": round(take([row[name] for row in rows]), 3)
        for name in rows[0]
        for kind, take in kinds.items()
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dictionaries", nargs="+")
    parser.add_argument("--tokens", type=int, default=5120, help="held-out tokens, shared by all kinds")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--prompts", type=int, default=6, help="prompts to trace; 0: none")
    options = parser.parse_args()
    for name in options.dictionaries:
        begin = time.process_time()
        model = load("smollm2", None if name == "smollm2" else name)
        sources = named_sources([], "smollm2") | {"short": str(SHORT)}
        texts, _ = read_texts(model.language_model, sources, tokens=options.tokens, context=options.context)
        print(f"{name}: sha256 {model.transcoders.sha256[:12]}")
        for kind, blocks in texts.items():
            found = held_out_figures(model.language_model, model.transcoders, blocks)
            added = found["loss_replaced"] - found["loss"]
            print(
                f"  {kind:6s} {len(blocks)} blocks: added {added:.3f}, KL {found['kl']:.3f}, top-1 "
                f"{100 * found['top1']:.1f}%, FVU {found['fvu']:.3f}, L0 {found['l0']:.1f}",
                flush=True,
            )
        print("  f:", json.dumps(contrasts(model)), flush=True)
        chosen = PROMPTS[:: max(1, len(PROMPTS) // options.prompts)][: options.prompts] if options.prompts else ()
        with torch.enable_grad():
            scores = score_prompts(model, chosen, lambda share: None)
        for score in scores:
            print("   ", repr(score.prompt), f"honest replacement {score.replacement:.3f}")
        if scores:
            print(f"  honest replacement, mean {statistics.fmean(score.replacement for score in scores):.3f}")
        print(f"  {time.process_time() - begin:.0f} s of CPU", flush=True)


if __name__ == "__main__":
    main()
