"""What a trace takes: dictionaries larger than memory, low-precision models, estimates, devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import DICTIONARIES, FAMILIES, PROMPT
from safetensors.torch import save_file

import unweave
from unweave import budget, estimate, mapped, transcoders
from unweave.errors import ModelError
from unweave.models import usable_device


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_encoders_in_parts_find_the_same_features(tiny, monkeypatch, kind):
    model = tiny("llama", kind)
    before = model.localize(PROMPT).features
    monkeypatch.setattr(transcoders, "BYTES_AT_ONCE", 7 * 24 * 4)
    monkeypatch.setattr(transcoders, "ROWS_AT_ONCE", 3)
    after = model.localize(PROMPT).features
    for name in ("layer", "position", "index"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    assert torch.allclose(before.activation, after.activation, atol=1e-6)
    pre, activation = model.transcoders.encode(1, torch.ones(4, 24))
    part = model.transcoders.layers[1]
    assert torch.allclose(pre, torch.ones(4, 24) @ part.encoder.dense(torch.float32).T + part.encoder_bias, atol=1e-5)
    position, index, values, _ = model.transcoders.active(1, torch.ones(4, 24), 1)
    assert torch.equal(torch.stack([position, index], 1), activation.index_fill(0, torch.tensor([0]), 0.0).nonzero())
    assert torch.equal(values, activation[position, index])


def test_mapped_tensors_are_read_and_let_go(tmp_path):
    tensors = {"a": torch.randn(3, 5).bfloat16(), "b": torch.arange(7), "empty": torch.zeros(0, 3), "half": torch.randn(2).half()}
    save_file(tensors, tmp_path / "x.safetensors", {"with": "metadata"})
    found = mapped.map_safetensors(tmp_path / "x.safetensors")
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {n: (v.dtype, v.tolist()) for n, v in tensors.items()}
    assert mapped.is_mapped(found["a"].T[1:])
    mapped.release(found["a"], torch.ones(3), None)
    assert torch.equal(found["a"], tensors["a"])
    scratch = mapped.scratch(1000, torch.float32, tmp_path)
    assert not any(tmp_path.glob("tmp*"))
    scratch[10:20] = 3
    mapped.release(scratch)
    assert float(scratch.sum()) == 30


LAYERS, WIDTH, BIG = 6, 256, 131072
TRACED = """
import sys, torch
import unweave
from unweave.budget import peak
torch.set_num_threads(1)
loaded = unweave.load(sys.argv[1], sys.argv[2])
before = peak()
graph = unweave.attribute(loaded, [0, 7, 3, 41])
print(graph.nodes.features.stop, float(graph.residual().max()), peak() - before)
"""


def sparse_safetensors(path: Path, shapes: dict[str, tuple[int, ...]], rows: dict[str, dict[int, torch.Tensor]]) -> None:
    """A bfloat16 file that is all holes but for some first-axis rows."""
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
    """A cross-layer set in circuit-tracer's format of which `on` features a layer, spread over the file, hold anything."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(2)
    config = {"model_name": "big", "model_kind": "cross_layer_transcoder", "feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for layer in range(layers):
        numbers = torch.randperm(features, generator=generator)[:on].tolist()
        encoder = {number: torch.randn(d, generator=generator) for number in numbers}
        decoder = {number: torch.randn(layers - layer, d, generator=generator) * 0.05 for number in numbers}
        names = {f"W_enc_{layer}": (features, d), f"b_enc_{layer}": (features,), f"b_dec_{layer}": (d,)}
        sparse_safetensors(folder / f"W_enc_{layer}.safetensors", names, {f"W_enc_{layer}": encoder})
        sparse_safetensors(folder / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": (features, layers - layer, d)}, {f"W_dec_{layer}": decoder})
    return folder


def test_a_dictionary_is_not_loaded_but_read_by_rows(tmp_path):
    """2 GB of files, 0.4 GB of encoders, and a trace that adds less than a fifth of the encoders to what the process had."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path / "model")
    folder = sparse_cross_layer(tmp_path / "clt", LAYERS, BIG, WIDTH, 60)
    declared = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert declared > 1.8e9
    assert sum(512 * path.stat().st_blocks for path in folder.glob("*.safetensors")) < 1e8, "the files must be holes"
    done = subprocess.run([sys.executable, "-c", TRACED, str(tmp_path / "model"), str(folder)], capture_output=True, text=True, check=True)
    features, residual, added = (float(word) for word in done.stdout.split())
    assert features > 200
    assert residual <= 1e-4
    assert added < 4.2e8


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_of_low_precision_models(tiny, family, dtype):
    """Against the float32 model with the same (rounded) weights; over the edges between nodes that both have."""
    low, high = tiny(family, "skip", dtype), tiny(family, "skip")
    graph, truth = unweave.attribute(low, PROMPT, [5]), unweave.attribute(high, PROMPT, [5])
    nodes = [node for node in graph.nodes.ids if node in truth.nodes.rows]
    assert len(nodes) > 0.9 * len(truth.nodes)
    ours, theirs = ([g.nodes.rows[node] for node in nodes] for g in (graph, truth))
    one, other = graph.dense()[ours][:, ours], truth.dense()[theirs][:, theirs]
    assert graph.rows.value.dtype == torch.float32
    assert float((one - other).norm() / other.norm()) <= 2e-2


def test_devices_that_are_not_there(tiny, run, tiny_folders):
    assert usable_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:x", "meta", ""):
        with pytest.raises(ModelError, match="is unknown"):
            usable_device(name)
    absent = [name for name, there in (("cuda:7", torch.cuda.device_count() > 7), ("mps", torch.backends.mps.is_available())) if not there]
    for name in absent:
        with pytest.raises(ModelError, match="is not there"):
            unweave.attribute(tiny(), PROMPT, device=name)
        model, dictionary = tiny_folders("llama", "relu")
        code, out, err = run("trace", "0 7 3", "--ids", "-m", model, "-t", dictionary, "--device", name)
        assert (code, out) == (2, "")
        assert "is not there" in err.replace("\n", " ")
        assert "Traceback" not in err


@pytest.mark.parametrize("most", [None, 15])
def test_an_estimate_counts_what_will_be_done(tiny, most):
    model = tiny("llama", "clt")
    found = estimate.estimate(model, PROMPT, max_features=most)
    graph = unweave.attribute(model, PROMPT, max_features=most)
    assert found.rows == graph.nodes.features.stop + graph.nodes.logits.stop - graph.nodes.logits.start
    assert found.active_features == graph.provenance.active_features
    assert found.tokens == len(PROMPT)
    assert 0 < found.seconds < 60
    assert found.memory >= budget.resident() * 0.9


def test_estimate_and_limit_on_the_command_line(run, tiny_folders, tmp_path):
    model, dictionary = tiny_folders("llama", "relu")
    words = ("trace", "0 7 3 41", "--ids", "-m", model, "-t", dictionary)
    code, out, _ = run(*words, "--estimate", "--json")
    facts = json.loads(out)
    assert code == 0
    assert {"seconds", "memory", "disk", "rows"} <= set(facts)
    assert not list(Path(os.getcwd()).rglob("*.safetensors"))
    code, out, _ = run(*words, "--estimate")
    assert code == 0
    assert "memory" in out
    code, _, err = run(*words, "--max-memory", "10MB")
    assert code == 2
    assert "smallest limit that works is" in " ".join(err.split())
    code, _, err = run(*words, "--max-memory", "lots")
    assert code == 2
    assert "is not a size" in err
    assert run(*words, "--max-memory", "64GB", "--out", tmp_path / "x.graph.safetensors")[0] == 0
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*.partial"))
