"""Make the dictionary that ships for SmolLM2 out of a plain one: int8 rows, features that hardly ever fire left out.

    python scripts/convert_bootstrap.py SOURCE [TEXT_FILE ...]

Counts on the text (default: the chapters of Python's manual that come with it) how often each feature fires, leaves out the rows of
the rarest until the folder fits in 80 MB, and writes `src/unweave/data/smollm2-135m`. Feature numbers stay the same.
"""

import sys
from pathlib import Path
from pydoc_data.topics import topics

import torch

import unweave
from unweave.smollm2 import DICTIONARY

BUDGET = 79.6e6
BYTES_A_FEATURE = 2 * 576 + 2 * 4 + 4
TOKENS, CONTEXT = 60_000, 128


def text_of(files: list[str]) -> str:
    if files:
        return "\n\n".join(Path(file).read_text(errors="ignore") for file in files)
    return "\n\n".join(topics.values())


def main() -> None:
    source, *files = sys.argv[1:]
    transcoders = unweave.read_transcoders(source)
    model = unweave.load_model("smollm2")
    ids = torch.tensor(model.tokenizer(text_of(files), add_special_tokens=False)["input_ids"])
    stride = max(1, len(ids) // TOKENS)
    chunks = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)[::stride]
    print(f"{chunks.numel()} of {len(ids)} tokens")
    mass = [torch.zeros(width) for width in transcoders.widths]
    for chunk in chunks:
        recording = model.record(torch.cat([torch.tensor([1]), chunk]))
        for layer, x in enumerate(recording.mlp_inputs):
            _, activation = transcoders.encode(layer, x[1:])
            mass[layer] += (activation > 0).sum(0)
    fired = torch.cat(mass)
    fixed = sum(576 * 576 + 576 * 8 for _ in mass) + sum(4 * width for width in transcoders.widths) + 30 * 1024
    keep = min(len(fired), int((BUDGET - fixed) / BYTES_A_FEATURE))
    kept = torch.zeros(len(fired), dtype=torch.bool)
    kept[torch.argsort(fired, descending=True)[:keep]] = True
    left = fired[~kept]
    print(f"{len(left)} rows left out; {int((left == 0).sum())} of them never fired, the others at most {int(left.max()) if len(left) else 0} times")
    rows = [part.nonzero().flatten() for part in kept.split(list(transcoders.widths))]
    unweave.write_transcoders(transcoders, DICTIONARY, compact=True, rows=rows)
    print(sum(file.stat().st_size for file in DICTIONARY.iterdir()) / 1e6, "MB")


if __name__ == "__main__":
    main()
