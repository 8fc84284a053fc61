"""Speed and memory of full graphs on an accelerator, by model shape, against the matmul floor; with a peer beside if
it is there.

    python benchmarks/gpu.py [--device cuda] [--shapes smollm2 llama-3.2-1b gemma-2-2b] [--lengths 15 60] [--dtype
    float32]
                             [--features N] [--precision exact fast] [--peer FOLDER [--peer-python PYTHON]] [--profile]

`smollm2` is the real model with its dictionary. The others are random weights of the published shape with a random
dictionary of the published width, at about 50 active features a position and layer, which sets the size of a graph;
values mean nothing. `tiny` is for trying the script where there is no accelerator. Floor: as in `speed.py`, at the
rate of large products on the device.
`--profile` prints the operations that took longest. `--peer` as in `speed.py`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from long import Dense, graph_floor
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

import unweave
from unweave.attribution.budget import peak

ON = 50
"""Active features a position and layer."""


class Shape(NamedTuple):
    family: str
    layers: int
    d: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    vocab: int
    features: int
    """Of the dictionary, a layer: Gemma Scope's 16k, and the 1B Llama's 131k."""


SHAPES = {
    "llama-3.2-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072),
    "gemma-2-2b": Shape("gemma2", 26, 2304, 9216, 8, 4, 256, 256000, 16384),
    "tiny": Shape("llama", 3, 32, 64, 4, 2, 8, 100, 400),
}


def random_pair(shape: Shape, dtype: str, folder: Path) -> tuple[str, str]:
    """A model and a dictionary of random weights, as folders; what a dictionary takes on disk is its published size
    in bfloat16."""
    import transformers

    common = {
        "vocab_size": shape.vocab, "hidden_size": shape.d, "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    config = (
        transformers.Gemma2Config(**common)
        if shape.family == "gemma2"
        else transformers.LlamaConfig(**common, tie_word_embeddings=True)
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder / "model")
    (folder / "dictionary").mkdir()
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (folder / "dictionary" / "config.yaml").write_text(
        f"model_name: random\nmodel_kind: transcoder_set\n{hooks}activation: topk\nk: {ON}\nrectified: true\n"
    )
    for layer in range(shape.layers):
        weights = {
            "W_enc": torch.randn(shape.features, shape.d).bfloat16(),
            "W_dec": (0.02 * torch.randn(shape.features, shape.d)).bfloat16(),
        }
        biases = {"b_enc": torch.zeros(shape.features).bfloat16(), "b_dec": torch.zeros(shape.d).bfloat16()}
        save_file(weights | biases, folder / "dictionary" / f"layer_{layer}.safetensors")
    return str(folder / "model"), str(folder / "dictionary")


def finish(device: str) -> None:
    """Wait for what the device was given to do."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def matmul_rate(device: str, d: int) -> float:
    """FLOP/s of products [d x d] @ [d x 32768] on the device, the best of several."""
    a, b, best = (
        torch.randn(d, d, device=device),
        torch.randn(d, 32768 if device != "cpu" else 4096, device=device),
        float("inf"),
    )
    for _ in range(10):
        finish(device)
        begin = time.perf_counter()
        torch.mm(a, b)
        finish(device)
        best = min(best, time.perf_counter() - begin)
    return 2 * d * d * b.shape[1] / best


def measure(model: unweave.ReplacementModel, ids: list[int], options: argparse.Namespace, precision: str) -> dict:
    """One graph after one to warm up; `seconds` of the whole, of which one pass of the prompt alone takes `prompt`.

    The pass is not subtracted: it is timed by itself, and on a busy machine it may take longer than the whole did."""
    device, how = options.device, {"max_features": options.features, "precision": precision}
    unweave.attribute(model, ids[: max(3, len(ids) // 4)], **how)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    finish(device)
    begin = time.perf_counter()
    local = model.localize(ids)
    prompt = time.perf_counter() - begin
    begin = time.perf_counter()
    graph = unweave.attribute(model, ids, **how)
    finish(device)
    seconds = time.perf_counter() - begin
    flop, rate = graph_floor(Dense.of(local), graph), matmul_rate(device, local.errors.shape[-1])
    return {
        "tokens": len(ids), "precision": graph.provenance.precision, "features": graph.nodes.features.stop,
        "edges": graph.n_edges, "prompt": prompt,
        "seconds": seconds, "floor": flop / rate, "ratio": seconds / (flop / rate), "tflops": rate / 1e12,
        "device GB": torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else None,
        "host GB": peak() / 1e9,
        "residual": graph.provenance.residual,
    }  # fmt: skip


def peer_seconds(options: argparse.Namespace, model: str, dictionary: str, ids: list[int]) -> float:
    """The peer's own time on the same ids, model and dictionary; the better of two batch sizes."""
    code = (
        f"import sys; sys.path.insert(0, {str(options.peer)!r}); from peer_bench import peer_graph; "
        f"print('seconds', min(peer_graph({model!r}, {dictionary!r}, {ids!r}, batch)[0] for batch in (64, 256)))"
    )
    done = subprocess.run([options.peer_python, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return float(next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("seconds")))


def profiled(model: unweave.ReplacementModel, ids: list[int], options: argparse.Namespace) -> str:
    """The operations that took longest."""
    from torch.profiler import ProfilerActivity, profile

    on_device = options.device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_device else [])]) as seen:
        unweave.attribute(model, ids, max_features=options.features)
    return seen.key_averages().table(
        sort_by="self_cuda_time_total" if on_device else "self_cpu_time_total", row_limit=15
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--shapes", nargs="+", default=["smollm2", "llama-3.2-1b", "gemma-2-2b"], choices=["smollm2", *SHAPES]
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[15, 60])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--features", type=int)
    parser.add_argument("--precision", nargs="+", default=["exact"])
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    found = []
    for name in options.shapes:
        with tempfile.TemporaryDirectory() as place:
            pair = (
                ("smollm2", "smollm2") if name == "smollm2" else random_pair(SHAPES[name], options.dtype, Path(place))
            )
            model = unweave.load(*pair, dtype=options.dtype, device=options.device)
            vocab = model.language_model.unembedding.shape[0]
            for length in options.lengths:
                ids = [
                    0,
                    *torch.randint(1, vocab, (length - 1,), generator=torch.Generator().manual_seed(length)).tolist(),
                ]
                for precision in options.precision:
                    found.append({"shape": name, **measure(model, ids, options, precision)})
                    if options.peer and name != "smollm2":
                        found[-1]["peer seconds"] = peer_seconds(options, *pair, ids)
                    print(json.dumps(found[-1]), flush=True)
            if options.profile:
                print(profiled(model, ids, options))
            del model
    columns = [key for key in found[-1] if any(one.get(key) is not None for one in found)]
    table = Table(*columns)
    for one in found:
        table.add_row(
            *(f"{one[key]:,.3g}" if isinstance(one.get(key), float) else str(one.get(key, "")) for key in columns)
        )
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
