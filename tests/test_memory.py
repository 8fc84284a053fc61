"""What a trace takes: dictionaries larger than memory, low-precision models, estimates, devices."""

import json
import os
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import fresh
import pytest
import torch
from conftest import DICTIONARIES, FAMILIES, PROMPT
from elsewhere import ELSEWHERE, Elsewhere
from safetensors.torch import save_file

import unweave
from unweave.attribution import budget, estimate, work
from unweave.base import mapped
from unweave.base.devices import usable_device
from unweave.errors import ModelError
from unweave.transcoders import transcoders


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
    tensors = {
        "a": torch.randn(3, 5).bfloat16(),
        "b": torch.arange(7),
        "empty": torch.zeros(0, 3),
        "half": torch.randn(2).half(),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"with": "metadata"})
    found = mapped.map_safetensors(tmp_path / "x.safetensors")
    assert {name: (value.dtype, value.tolist()) for name, value in found.items()} == {
        n: (v.dtype, v.tolist()) for n, v in tensors.items()
    }
    assert mapped.is_mapped(found["a"].T[1:])
    mapped.release(found["a"], torch.ones(3), None)
    assert torch.equal(found["a"], tensors["a"])
    scratch = mapped.scratch(1000, torch.float32, tmp_path)
    assert not any(tmp_path.glob("tmp*"))
    scratch[10:20] = 3
    mapped.release(scratch)
    assert float(scratch.sum()) == 30


BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_dictionary_is_not_loaded_but_read_by_rows(tmp_path):
    """1.8 GB of files, 0.4 GB of them encoders; a trace that adds less than those, in a process of less than the
    files."""
    bench = benchmark("memory")
    folder = bench.sparse_cross_layer(tmp_path / "clt", 6, 131072, 256, 60)
    declared, taken = bench.sizes(folder)
    assert declared > 1.8e9
    assert taken < 1e8, "the files must be holes"
    found = bench.traced(bench.random_model(tmp_path / "model", 6, 256, vocab_size=50), folder, [0, 7, 3, 41])
    assert found["features"] > 200
    assert found["residual"] <= 1e-4
    assert found["peak"] - found["loaded"] < 2.5e8


def test_the_benchmark_of_accelerators_runs(tmp_path):
    words = ["--device", "cpu", "--shapes", "tiny", "--lengths", "6", "9", "--precision", "exact", "fast", "--profile"]
    done = fresh.run(
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n" + (BENCHMARKS / "gpu.py").read_text(), words
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(one["shape"], one["tokens"]) for one in found] == [("tiny", 6), ("tiny", 6), ("tiny", 9), ("tiny", 9)]
    assert all(one["residual"] <= 1e-4 for one in found[::2])
    assert all(one["ratio"] > 0 and one["host GB"] > 0 for one in found)
    assert "aten::" in done.stdout


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
    absent = [
        name
        for name, there in (("cuda:7", torch.cuda.device_count() > 7), ("mps", torch.backends.mps.is_available()))
        if not there
    ]
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
    found = estimate.estimate(model, unweave.Question(PROMPT, max_features=most))
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


@pytest.mark.parametrize("kind", ["skip", "clt"])
@pytest.mark.parametrize("most", [None, 20])
def test_rows_are_computed_on_the_device_and_nowhere_else(tiny, monkeypatch, kind, most):
    """With a device that only pretends to be one: no tensor there meets one here, nothing is taken for an array."""
    model = tiny("gemma2", kind)
    wanted = unweave.attribute(model, PROMPT, max_features=most)
    monkeypatch.setattr(work, "usable_device", lambda name: ELSEWHERE)
    with Elsewhere() as elsewhere:
        graph = unweave.attribute(model, PROMPT, max_features=most, device="cuda")
    assert elsewhere.done > 200
    assert graph.rows.value.device == torch.device("cpu")
    assert torch.equal(graph.rows.column, wanted.rows.column)
    assert torch.allclose(graph.rows.value, wanted.rows.value, rtol=1e-4, atol=1e-6)


def test_the_pretended_device_refuses_what_a_real_one_would():
    with Elsewhere():
        there = torch.ones(3).to(ELSEWHERE)
        assert (there + 1.0).device == ELSEWHERE
        assert (there * 2).cpu().tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
