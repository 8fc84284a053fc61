"""How often a label says something that a reader of the prompt would recognise.

    python benchmarks/seen_labels.py [--features PAGES] [--neurons PAGES] [--prompts FILE] [--show]

For each of 30 everyday prompts (`everyday-prompts.txt`, fixed before any of this was run) the 20 features that count
most for the answer are taken, and the 20 neurons, by activation times gradient of the answer's logit less that of the
runner-up; each once, where that is largest. The rule: a label names something
in the prompt or the answer if one of the words that it quotes (‘…’) is a word of them. Words count in small letters,
from three letters on, without a plural's or third person's -s, and not if they are among the commonest of English
(`COMMON`). What a label says of classes of tokens (`digits`, `words in -ing`) does not count.
"""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import unweave
from unweave.features.collect import activations
from unweave.features.pages import Pages, open_pages, pages_of
from unweave.features.units import hidden, units_of
from unweave.response.backward import real_gradients
from unweave.transcoders.neurons import neurons
from unweave.transcoders.transcoders import Transcoders

STRONGEST = 20
COMMON = frozenset(
    "the and for are was were that this with from have has had not but you your his her its she they them their our "
    "which who whom what when where why how all any can could will would shall should may might must been being did "
    "does done one two into onto than then there here out over under about after before more most some such only own "
    "same too very just also because while".split()
)
_QUOTED = re.compile(r"‘([^’]*)’")


def words(text: str) -> set[str]:
    """Words that a reader would recognise.

    >>> sorted(words("The capital cities of France"))
    ['capital', 'citie', 'france']
    """
    found = {word.lower() for word in re.findall(r"[A-Za-z]{3,}", text)} - COMMON
    return {word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found}


def names(label: str, prompt: str) -> bool:
    """Whether a label names something in a text.

    >>> names("‘capital’ ‘seat’", "The capital of France"), names("after ‘of’; promotes ‘Paris’", "The capital")
    (True, False)
    """
    return bool(words(" ".join(_QUOTED.findall(label))) & words(prompt))


def strongest(
    activations: Sequence[Tensor], transcoders: Transcoders, gradients: Tensor
) -> dict[tuple[int, int], float]:
    """Units by activation times gradient, each at the position where that is largest: activations.

    Args:
        activations: by layer [pos, unit], from position 1 on.
        gradients: of the answer's lead where MLPs write, [layer, pos, d].
    """
    found: list[tuple[float, int, int, float]] = []
    for layer, activation in enumerate(activations):
        worth = activation * (gradients[layer, 1:] @ transcoders.layers[layer].decoder.dense(torch.float32).T)
        best, place = worth.abs().max(0)
        for index in best.topk(STRONGEST).indices.tolist():
            found.append((float(best[index]), layer, index, float(activation[place[index], index])))
    return {(layer, index): value for _, layer, index, value in sorted(found, reverse=True)[:STRONGEST]}


def share(what: str, hits: Iterable[bool]) -> None:
    """Print how many of the labels name something."""
    found = list(hits)
    print(f"{what}: {sum(found)} of {len(found)} labels name something in the prompt or the answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("features", "neurons"):
        parser.add_argument(f"--{name}", type=Path, help="folder of pages; default: those that ship")
    parser.add_argument("--prompts", type=Path, default=Path(__file__).with_name("everyday-prompts.txt"))
    parser.add_argument("--show", action="store_true", help="print every label")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = unweave.load("smollm2")
    live = model.language_model
    pages = open_pages(options.features, model.transcoders)
    own = neurons(live)
    of_neurons: Pages | None = pages_of(own, options.neurons)
    hits: dict[str, list[bool]] = {"features": [], "neurons": []}
    units = units_of(model)
    for prompt in options.prompts.read_text().splitlines():
        ids = live.tokenize(prompt)
        with torch.no_grad():
            answer, rival = live.module(input_ids=ids[None]).logits[0, -1].topk(2).indices.tolist()
        text = prompt + live.token_text(answer)
        gradients = real_gradients(
            live, ids, lambda _, logits, a=answer, b=rival: logits[a] - logits[b], residual=False
        )
        firing = [activation[0] for _, activation in activations(model, units, ids[None])]
        features = strongest(firing, model.transcoders, gradients[0])
        found = {"features": (pages.labels_at(features), features)}
        if of_neurons is not None:
            inside = hidden(live, ids[None])
            chosen = strongest([inside[layer] for layer in range(live.n_layers)], own, gradients[0])
            found["neurons"] = (of_neurons.labels_at(chosen), chosen)
        for kind, (labels, chosen) in found.items():
            hits[kind] += [names(labels.get(unit, ""), text) for unit in chosen]
            if options.show:
                print(f"{text!r}, {kind}")
                print("".join(f"  {layer}_{index} {labels.get((layer, index))}\n" for layer, index in chosen))
    for kind, some in hits.items():
        if some:
            share(kind, some)


if __name__ == "__main__":
    main()
