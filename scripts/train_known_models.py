"""Train what the benchmark ships: models whose variables sit where they are said to, and dictionaries of some.

    python scripts/train_known_models.py FOLDER [TASK...] [--seeds 2]
    python scripts/train_known_models.py FOLDER --dictionaries two-hop-0 induction-trained-0

The first writes TASK-trained-SEED.safetensors and prints what the check says, the second FOLDER/dictionaries. What is
there is left as it is.
"""

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from unweave.base.files import write_atomically
from unweave.benchmark.dictionaries import KINDS, trained_dictionary
from unweave.benchmark.interchange_training import train
from unweave.benchmark.known import TRAINED, known_circuit, known_model, trained_model
from unweave.benchmark.run import SURE
from unweave.benchmark.tasks import TASKS
from unweave.transcoders.formats import write_transcoders


def main() -> None:
    """Train, check and write."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    asked.add_argument("tasks", nargs="*", default=list(TASKS))
    asked.add_argument("--seeds", type=int, default=2)
    asked.add_argument("--dictionaries", nargs="+", default=[], metavar="MODEL")
    given = asked.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.dictionaries:
        write_dictionaries(name, given.folder / "dictionaries")
    for name in () if given.dictionaries else given.tasks:
        for seed in range(given.seeds):
            write_model(name, seed, given.folder)


def write_model(name: str, seed: int, folder: Path) -> None:
    """Train a model and say what its check says."""
    path = folder / f"{name}{TRAINED}-{seed}.safetensors"
    if path.exists():
        return
    begin, task = time.process_time(), TASKS[name]()
    tensors = train(task, seed)
    circuit = known_circuit(trained_model(task, seed, tensors), 4)
    least = min(one.interchange for one in circuit.variables)
    sizes = [(len(one.nodes), len(one.scored_nodes()), len(one.edges)) for one in circuit.inputs]
    print(
        f"{path.name}: accuracy {circuit.accuracy:.3f}, interchange at least {least:.3f}, all else taken over "
        f"{circuit.rest:.3f}, {time.process_time() - begin:.0f} s; neurons {sizes}",
        flush=True,
    )
    if least < SURE:
        print(f"{path.name} is not written: interchange accuracy is below {SURE}", flush=True)
        return
    write_atomically(path, lambda file: save_file(tensors, file, {"format": "pt"}))


def write_dictionaries(name: str, folder: Path) -> None:
    """Train every kind of dictionary of a model; compiled models, whose norms are loud, keep every bit."""
    task, _, seed = name.rpartition("-")
    known = known_model(task, int(seed))
    for kind in KINDS:
        if not (folder / f"{name}-{kind}" / "config.yaml").exists():
            begin = time.process_time()
            write_transcoders(trained_dictionary(known, kind), folder / f"{name}-{kind}", compact=known.trained)
            print(f"{name}-{kind}: {time.process_time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
