"""Memory of a trace with a dictionary larger than memory: a cross-layer set whose files declare 40 GB, of which
nearly all are holes.

    python benchmarks/memory.py [--gigabytes 40] [--tokens 6] [--limit 6] [--remembered]

Files are sparse: they take a few MB of disk, but every byte of them can be read, and would be by anything that loads
    them. The
first use of a dictionary also hashes its files; `--remembered` measures later uses, by giving it hashes to remember.
Reports the peak of resident memory (VmHWM) of a process that loads model and dictionary and traces.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml

TRACED = """
import json, sys, time
import torch
import unweave
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
torch.set_num_threads(2)
begin = time.perf_counter()
loaded = unweave.load(sys.argv[1], sys.argv[2])
before, reading = peak(), time.perf_counter() - begin
graph = unweave.attribute(loaded, json.loads(sys.argv[3]))
print(json.dumps({
    "features": graph.nodes.features.stop, "edges": graph.n_edges,
    "residual": float(graph.residual().max()), "loaded": before, "peak": peak(),
    "seconds loading": reading, "seconds tracing": time.perf_counter() - begin - reading,
}))
"""


def sparse_safetensors(
    path: Path, shapes: dict[str, tuple[int, ...]], rows: dict[str, dict[int, torch.Tensor]]
) -> None:
    """A bfloat16 file that is all holes but for some rows (along the first axis)."""
    header, offsets, end = {}, {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        offsets[name], end = end, end + size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for name, found in rows.items():
            size = 2 * torch.Size(shapes[name][1:]).numel()
            for number, row in found.items():
                file.seek(8 + len(text) + offsets[name] + number * size)
                file.write(row.bfloat16().contiguous().view(torch.uint8).numpy().tobytes())


def sparse_cross_layer(folder: Path, layers: int, features: int, d: int, on: int) -> Path:
    """A cross-layer set in circuit-tracer's format of which `on` features a layer, spread over the file, hold
    anything."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(2)
    config = {
        "model_name": "big",
        "model_kind": "cross_layer_transcoder",
        "feature_input_hook": "hook_resid_mid",
        "feature_output_hook": "hook_mlp_out",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(layers):
        numbers = torch.randperm(features, generator=generator)[:on].tolist()
        encoder = {number: torch.randn(d, generator=generator) for number in numbers}
        decoder = {number: torch.randn(layers - layer, d, generator=generator) * 0.005 for number in numbers}
        names = {f"W_enc_{layer}": (features, d), f"b_enc_{layer}": (features,), f"b_dec_{layer}": (d,)}
        sparse_safetensors(folder / f"W_enc_{layer}.safetensors", names, {f"W_enc_{layer}": encoder})
        sparse_safetensors(
            folder / f"W_dec_{layer}.safetensors",
            {f"W_dec_{layer}": (features, layers - layer, d)},
            {f"W_dec_{layer}": decoder},
        )
    return folder


def random_model(folder: Path, layers: int, d: int, **changes: int) -> Path:
    """A random Llama."""
    import transformers

    shape = {
        "vocab_size": 1000,
        "hidden_size": d,
        "intermediate_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    }
    config = transformers.LlamaConfig(**shape | changes, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    torch.nn.init.normal_(
        model.get_input_embeddings().weight
    )  # that of padding is zero: its norms would let gradients outgrow float32
    model.save_pretrained(folder)
    return folder


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes that a folder's files declare, and that they take on disk."""
    found = [path.stat() for path in folder.iterdir()]
    return sum(one.st_size for one in found), sum(512 * one.st_blocks for one in found)


def remembered(dictionary: Path, cache: Path) -> Path:
    """A cache folder in which the hashes of a dictionary's files are remembered (they are made up)."""
    cache.mkdir()
    files = [(path.resolve(), path.stat()) for path in dictionary.glob("*.safetensors")]
    hashes = {
        f"{path}:{stat.st_size}:{stat.st_mtime_ns}": f"{number:064x}" for number, (path, stat) in enumerate(files)
    }
    (cache / "sha256.json").write_text(json.dumps(hashes))
    return cache


def traced(model: Path, dictionary: Path, ids: list[int], cache: Path | None = None) -> dict:
    """What a fresh process says that traces."""
    environment = os.environ | ({} if cache is None else {"UNWEAVE_CACHE": str(cache)})
    command = [sys.executable, "-c", TRACED, str(model), str(dictionary), json.dumps(ids)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=40)
    parser.add_argument("--tokens", type=int, default=6)
    parser.add_argument("--limit", type=float, default=6, help="GB that the process may have at its peak")
    parser.add_argument("--remembered", action="store_true")
    options = parser.parse_args()
    layers, d = 24, 1024
    features = int(options.gigabytes * 1e9 / (2 * d * layers * (layers + 1) / 2)) + 1
    with tempfile.TemporaryDirectory() as place:
        folder = sparse_cross_layer(Path(place) / "clt", layers, features, d, 60)
        declared, taken = sizes(folder)
        print(
            f"{layers} layers of {features:,} features: {declared / 1e9:.1f} GB declared, {taken / 1e6:.0f} MB on disk"
        )
        found = traced(
            random_model(Path(place) / "model", layers, d),
            folder,
            list(range(options.tokens)),
            remembered(folder, Path(place) / "cache") if options.remembered else None,
        )
    print(json.dumps(found))
    print(
        f"peak {found['peak'] / 1e9:.2f} GB, of which {found['loaded'] / 1e9:.2f} GB once model and dictionary are "
        f"loaded"
    )
    if not found["residual"] < 1e-3:
        sys.exit(f"rows are off by {found['residual']:.1e}")
    if found["peak"] > options.limit * 1e9:
        sys.exit(f"more than {options.limit:g} GB")


if __name__ == "__main__":
    main()
