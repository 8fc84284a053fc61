"""Speed of full attribution graphs on SmolLM2 against the matmul floor, by prompt length; with a peer beside if it
is there.

    python benchmarks/speed.py [--lengths 6 15 30 60] [--precision exact fast] [--peer FOLDER [--peer-python PYTHON]]

Floor: the time of the W_O, W_V and skip transposes alone, at the layers and positions each target needs, at the rate a
single large product of the same shape reaches in this run. Ratios are what to read; machines are noisy.
`--peer` takes a folder with a `peer_bench.py` that defines `peer_graph(model, transcoders, ids, batch_size)` returning
(seconds, peak bytes, features, adjacency); it runs in its own interpreter on the same ids and the same dictionary.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import unweave
from unweave.models.smollm2 import default_model
from unweave.transcoders.replacement import LocalReplacement

TEXT = (
    "When the old lighthouse keeper finally retired, the whole village gathered to watch the lamp being lit one last "
    "time "
    "before the new machines took over, and nobody said a word until the beam had swept across the bay and come back "
    "again "
    "to the rocks where the children used to play in summer"
)


def matmul_rate() -> float:
    """FLOP/s of a product [576 x 576] @ [576 x 6144], the best of several."""
    a, b = torch.randn(576, 576), torch.randn(576, 6144)
    out, best = torch.empty(576, 6144), float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        best = min(best, time.perf_counter() - begin)
    return 2 * 576 * 576 * 6144 / best


def floor_flop(local: LocalReplacement, n_logits: int) -> float:
    """FLOP of the dense transposes that the targets of a full graph need."""
    layer = local.frozen.layers[0]
    out, value = layer.attention.output.numel(), layer.attention.value.numel()
    skip = 0 if layer.skip is None else layer.skip.numel()
    features = local.features
    seen = features.position + 1
    # A feature's own layer: W_O at its position alone, W_V at all it sees; each layer below: all three at all it sees.
    per_feature = out + value * seen + features.layer * seen * (out + value + skip)
    logits = n_logits * local.n_positions * local.n_layers * (out + value + skip)
    return 2.0 * (float(per_feature.sum()) + logits)


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(length: int, precision: str) -> dict:
    """One fresh process a measurement, so that the peak is this prompt's own."""
    torch.set_num_threads(2)
    model = unweave.load("smollm2")
    ids = model.language_model.tokenize(TEXT)[:length].tolist()
    model.localize(ids)
    loaded, seconds, graph = peak_memory(), [], None
    for _ in range(3 if length <= 15 else 1):
        del graph
        begin = time.perf_counter()
        graph = unweave.attribute(model, ids, precision=precision)
        seconds.append(time.perf_counter() - begin)
    assert graph is not None
    peak = peak_memory() - loaded
    n_logits = graph.nodes.logits.stop - graph.nodes.logits.start
    rate = matmul_rate()
    flop = floor_flop(model.localize(ids), n_logits)
    return {
        "tokens": length, "precision": graph.provenance.precision, "seconds": min(seconds), "floor": flop / rate,
        "ratio": min(seconds) / (flop / rate),
        "tflop": flop / 1e12, "gflops": rate / 1e9, "megabytes": peak / 1e6, "features": graph.nodes.features.stop,
        "edges": graph.n_edges,
        "residual": float(graph.residual().max()), "ids": ids,
    }  # fmt: skip


def peer_seconds(folder: Path, python: str, ids: list[int]) -> float:
    """The peer's own time on the same ids, model and dictionary; the better of two batch sizes."""
    with tempfile.TemporaryDirectory() as plain:
        unweave.write_transcoders(unweave.load("smollm2").transcoders, plain)
        code = (
            f"import sys; sys.path.insert(0, {str(folder)!r}); from peer_bench import peer_graph; "
            f"print('seconds', min(peer_graph({default_model()!r}, {plain!r}, {ids!r}, batch)[0] for "
            f"batch in (32, 64)))"
        )
        done = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("seconds")))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", type=int, nargs="+", default=[6, 15, 30, 60])
    parser.add_argument("--precision", nargs="+", default=["exact"])
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--one", nargs=2, metavar=("LENGTH", "PRECISION"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(int(options.one[0]), options.one[1])))
        return
    columns = ["tokens", "precision", "seconds", "floor", "ratio", "megabytes", "features", "edges", "residual"]
    table = Table(*columns, *(["peer seconds", "peer / ours"] if options.peer else []))
    for precision in options.precision:
        for length in options.lengths:
            done = subprocess.run(
                [sys.executable, __file__, "--one", str(length), precision], capture_output=True, text=True, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{found[name]:,.3g}" if isinstance(found[name], float) else str(found[name]) for name in columns]
            if options.peer:
                seconds = peer_seconds(options.peer, options.peer_python, found["ids"])
                cells += [f"{seconds:.1f}", f"{seconds / found['seconds']:.1f}"]
            table.add_row(*cells)
            print(json.dumps({name: value for name, value in found.items() if name != "ids"}), file=sys.stderr)
    Console().print(table)


if __name__ == "__main__":
    main()
