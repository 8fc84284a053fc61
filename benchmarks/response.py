"""Speed of response graphs on SmolLM2: against the matmul floor, from the shell to the answer, and memory.

    python benchmarks/response.py [--lengths 6 15] [--units 300] [--long 1000 [--long-units 300]] [--no-shell]

CPU time of one thread, so that other programs disturb little. Floor: the time of the W_down, W_up, W_gate, W_O, W_V,
W_Q and W_K transposes alone, at the layers and positions each row needs, at the rate a single large product reaches in
this run.
Shell: `unweave trace --response` on a warm cache beside importing and loading the model alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import unweave
from unweave.response.response import _choose, _rows
from unweave.response.routes import setting_of

TEXT = (
    "When the old lighthouse keeper finally retired, the whole village gathered to watch the lamp being lit one last "
)
LOAD = "import unweave; unweave.load_model('smollm2')"


def matmul_rate() -> float:
    """FLOP/s of a product [512 x 576] @ [576 x 1536], the best of several."""
    a, b = torch.randn(512, 576), torch.randn(576, 1536)
    out, best = torch.empty(512, 1536), float("inf")
    for _ in range(20):
        begin = time.process_time()
        for _ in range(10):
            torch.mm(a, b, out=out)
        best = min(best, (time.process_time() - begin) / 10)
    return 2 * out.numel() * 576 / best


def floor_flop(setting: Any) -> float:
    """FLOP of the dense transposes that a graph's rows need."""
    layer = setting.asked.tangent.layers[0]
    attention = sum(
        part.numel()
        for part in (
            layer.attention.query.weight,
            layer.attention.key.weight,
            layer.attention.value,
            layer.attention.output,
        )
    )
    mlp = sum(part.writes.numel() + sum(weight.numel() for weight, _ in part.reads) for part in layer.mlp.parts)
    chosen, depth, n = setting.chosen, len(setting.rests), len(setting.tokens)
    seen = (chosen.position + 1).double()
    units = seen * (attention * (chosen.layer + 1) + mlp * chosen.layer)
    return 2.0 * (float(units.sum()) + n * depth * (attention + mlp))


def measure(model: Any, length: int, units: int) -> None:
    ids = model.tokenize(TEXT * (length // 20 + 1))[:length].tolist()
    unweave.response_graph(model, ids, most=10)
    begin = time.process_time()
    graph = unweave.response_graph(model, ids, most=units)
    whole = time.process_time() - begin
    setting = setting_of(model, graph)
    begin = time.process_time()
    _choose(setting.asked, setting.start, units, "gradient")
    chose = time.process_time() - begin
    best = float("inf")
    for _ in range(3):
        begin = time.process_time()
        _rows(setting)
        best = min(best, time.process_time() - begin)
    floor = floor_flop(setting) / matmul_rate()
    print(
        f"{length} tokens, {units} units: {whole:.2f} s in all, rows {best:.2f} s, floor {floor:.2f} s: "
        f"rows {best / floor:.2f}x, all {whole / floor:.2f}x; choosing {chose:.2f} s",
        flush=True,
    )


def shell(command: list[str], folder: str) -> float:
    """CPU seconds of a command, the best of three."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="*", type=int, default=[6, 15])
    parser.add_argument("--units", type=int, default=300)
    parser.add_argument("--long", type=int, help="tokens of a prompt whose peak memory is told")
    parser.add_argument("--long-units", type=int, default=300)
    parser.add_argument("--no-shell", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = unweave.load_model("smollm2")
    for length in options.lengths:
        measure(model, length, options.units)
    if options.long:
        begin = time.process_time()
        ids = model.tokenize(TEXT * (options.long // 20 + 1))[: options.long].tolist()
        unweave.response_graph(model, ids, most=options.long_units)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        spent = time.process_time() - begin
        print(f"{options.long} tokens, {options.long_units} units: {spent:.0f} s, peak {peak:.2f} GiB", flush=True)
    if not options.no_shell:
        os.environ |= {"OMP_NUM_THREADS": "1"}
        source = str(Path(unweave.__file__).parents[1])
        os.environ["PYTHONPATH"] = source
        with tempfile.TemporaryDirectory() as folder:
            prompt = "The capital of France is"
            answer = shell([str(Path(sys.executable).with_name("unweave")), "trace", prompt, "--response"], folder)
            alone = shell([sys.executable, "-c", LOAD], folder)
        print(f"shell to answer {answer:.1f} s, importing and loading alone {alone:.1f} s: {answer / alone:.2f}x")


if __name__ == "__main__":
    main()
