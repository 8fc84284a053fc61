"""Small files of every format with bytes changed, cut, put in or taken out: read, or refused in one line."""

import json
import random
import time
from pathlib import Path

import pytest
import torch
from conftest import PROMPT, write_tiny_dictionary
from test_published import gemma_scope, gemma_scope_2, saelens, sparsify
from test_sparsify import fork

import unweave
from unweave.base.files import cache_folder
from unweave.benchmark.data import KnownCircuit, KnownInput, KnownVariable, write_circuit
from unweave.benchmark.score import read_found
from unweave.errors import UnweaveError
from unweave.explanation.stored import read_explanation
from unweave.features.details import feature_page
from unweave.features.exchange import export_peer
from unweave.features.foreign import open_pages as open_foreign
from unweave.features.importing import import_pages
from unweave.features.pages import open_pages
from unweave.graphs.interchange import write_json
from unweave.interventions.naming import read_supernodes
from unweave.many.lines import TraceOptions, read_prompts
from unweave.server import annotations
from unweave.studies.studyfile import read_study, shipped
from unweave.training.checkpoint import TrainingProgress, path_of, write_checkpoint
from unweave.training.config import TrainConfig, read_config
from unweave.training.state import export
from unweave.validation.claimfile import read_claims

SECONDS, CASES = 0.8, 150
"""For each format, whichever ends first; seconds of processor time."""
TOKENS = (
    b"\x00",
    b"\xff",
    b"{",
    b"]",
    b'"',
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"9" * 400,
    b"[" * 1500,
    b"\xef\xbb\xbf",
)


def mutated(content, draw):
    """The content with one to four small changes."""
    made = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(made) + 1)
        at = draw.randrange(min(len(made), 400) + 1) if draw.random() < 0.6 else at  # headers are at the beginning
        match draw.randrange(5):
            case 0 if at < len(made):
                made[at] ^= 1 << draw.randrange(8)
            case 1:
                made[at:at] = draw.choice(TOKENS)
            case 2:
                del made[at : at + draw.choice((1, 4, 50))]
            case 3:
                del made[at:]
            case _:
                made[at : at + 4] = draw.choice(TOKENS)
    return bytes(made)


def dictionary(path):
    found = unweave.read_transcoders(str(path))
    for number, layer in enumerate(found.layers):
        found.encode(number, torch.ones(2, layer.encoder.shape[1]))


def of(write, file):
    def make(root, graph):
        write(root)
        return root / file, lambda: dictionary(root)

    return make


def graph_file(root, graph):
    root.mkdir()
    path = graph.save(root / "g.graph.safetensors")
    return path, lambda: unweave.Graph.load(path).scores()


def graph_json(root, graph):
    root.mkdir()
    path = write_json(unweave.prune(graph, 0.3, 0.3), root / "g.json")
    return path, lambda: unweave.Graph.load(path).scores()


def supernodes(root, graph):
    root.mkdir()
    (root / "s.json").write_text(json.dumps({"Texas": ["0_1_2", "1_2_3"], "b": ["2_3_4"]}))
    return root / "s.json", lambda: read_supernodes(root / "s.json")


def text(content, read, name):
    """A format of text files: its content and its reader."""

    def make(root, graph):
        root.mkdir()
        (root / name).write_text(content, encoding="utf-8")
        return root / name, lambda: read(root / name)

    return make


def compact(root):
    write_tiny_dictionary("skip", "llama", root.parent / "plain")
    unweave.write_transcoders(unweave.read_transcoders(str(root.parent / "plain")), root, compact=True)


CLAIMS = """
model: smollm2
supernodes:
  A: [0_1_2, 1_2_3]
claims:
  - name: first
    prompt: [0, 7, 3, 41]
    ablate: A
    expect:
      - kl: ">= 0.0"
"""
TRAINING = """
text = ["a.txt", "b.txt=2"]
width = "1x16"
tokens = 4000
k = 4
"""
PROMPTS = """{"prompt": "The capital of France is", "targets": [" Paris", 7], "id": "a"}
{"prompt": [1, 2, 3], "max_features": 10}
{"messages": [{"role": "user", "content": "hi"}]}
"""
WHY = {
    "headline": "a", "prompt": "a b", "tokens": ["a", " b"], "ids": [5, 6], "model": "toy", "found": True,
    "answer": {"token": "c", "id": 7, "probability": 0.8}, "rival": {"token": "d", "id": 8},
    "baseline": {"kind": "instead", "instead": "a d", "ids": [5, 8]},
    "sentences": [{"text": "t", "kind": "k", "value": 0.5, "control": 0.1, "groups": [0]}],
    "groups": [
        {"name": "n", "place": "p", "kind": "neurons", "position": 1, "layers": [0, 1], "evidence": "e",
         "against": False, "parts": ["0_3_1"], "share": 0.5, "direct": 0.2, "probability": 0.1, "random": 0.0}
    ],
    "arrows": [{"source": 0, "target": "answer", "moved": 0.5, "carried": 0.4, "random": 0.0, "passed": True}],
    "together": {"share": 0.9, "kept": 0.8},
}  # fmt: skip
RECORD = {
    "modelId": "toy", "layer": "1-unweave", "index": "3", "maxActApprox": 2.0, "frac_nonzero": 0.01,
    "pos_str": ["a", "b"], "pos_values": [1.0, 0.5], "neg_str": ["c"], "neg_values": [-1.0],
    "freq_hist_data_bar_values": [0.0, 1.0], "freq_hist_data_bar_heights": [3, 4],
    "explanations": [{"description": "a label", "typeName": "x"}],
    "activations": [{"tokens": ["a", " b"], "values": [0.0, 2.0], "maxValueTokenIndex": 1}],
}  # fmt: skip
CIRCUIT = KnownCircuit(
    "toy", 0, "a toy", ("a", "b"), 1, 8, 1, 1.0, 1.0, (KnownVariable("v", "input", ("0_1",), 0.9),),
    (KnownInput((0, 1), (1, 1), 0, 1, ("0_1_1",), (), ("0_1_1",), ("E_0_0",), (), (("0_1_1", "target"),),
                {"v": ("0_1_1",)}, {"0_1_1": 0.5}),),
)  # fmt: skip


def checkpoint(root, graph):
    root.mkdir()
    d, n = 8, 16
    numbers = ("input", "output", "variance", "median")
    tensors = {f"statistics.0.{name}": torch.ones((), dtype=torch.float64) for name in numbers}
    tensors |= {"statistics.0.mean": torch.ones(d), "statistics.0.affine": torch.eye(d)}
    tensors |= {"statistics.0.affine_bias": torch.ones(d), "thresholds": torch.zeros(1), "silent": torch.zeros(1, n)}
    tensors |= {f"parameter.{name}": torch.ones(n, d) for name in ("encoder.0", "decoder.0.0")}
    tensors |= {"parameter.encoder_bias.0": torch.zeros(n), "parameter.decoder_bias.0": torch.zeros(d)}
    tensors |= {"parameter.skip.0": torch.eye(d)}
    write_checkpoint(
        path_of(root),
        TrainConfig(text=("a.txt",), width="16", k="4"),
        TrainingProgress(3, 40),
        tensors,
    )
    return path_of(root), lambda: export(root, root / "out")


def feature_pages(name):
    """Pages of a toy dictionary, in our form."""

    def make(root, graph):
        write_tiny_dictionary("skip", "llama", root.parent / "plain")
        root.mkdir()
        (root / "one.json").write_text(json.dumps([RECORD, RECORD | {"index": "4"}]))
        import_pages(root / "one.json", root, unweave.read_transcoders(str(root.parent / "plain")))
        return root / name, lambda: read_pages(root)

    return make


def read_pages(root):
    pages = open_pages(root)
    feature_page(pages, 1, 3)
    pages.labels([(1, 3)])
    pages.densities()


def packed_pages(name):
    """The same as circuit-tracer packs them, opened and imported."""

    def make(root, graph):
        feature_pages("pages.json")(root.parent / "own", graph)
        root.mkdir()
        export_peer(open_pages(root.parent / "own"), root)
        dictionary = unweave.read_transcoders(str(root.parent / "plain"))

        def read():
            open_foreign(root)(1, 3)
            import_pages(root, root.parent / "imported", dictionary)

        (root.parent / "imported").mkdir()
        return root / name, read

    return make


def records(root, graph):
    write_tiny_dictionary("skip", "llama", root.parent / "plain")
    root.mkdir()
    (root / "one.json").write_text(json.dumps([RECORD]))
    dictionary = unweave.read_transcoders(str(root.parent / "plain"))
    return root / "one.json", lambda: import_pages(root / "one.json", root, dictionary)


def notes(root, graph):
    root.mkdir()
    path = graph.save(root / "g.graph.safetensors")
    saved = {"pins": ["0_3_1"], "supernodes": [{"id": "s", "name": "n", "members": ["0_3_1"]}], "labels": {"0_3": "x"}}
    annotations.save(path, 0, saved, graph)
    return root / "g.annotations.json", lambda: annotations.read(path, graph)


def circuit(root, graph):
    root.mkdir()
    return write_circuit(CIRCUIT, root / "c.json"), lambda: unweave.read_circuit(root / "c.json").name


def explanation(path):
    read_explanation(path.read_bytes(), path)


FOUND = '{"toy-0": [{"nodes": {"0_1_1": 0.5}, "edges": [["E_0_0", "0_1_1", 0.5]]}]}'
STORED = {"format": "unweave explanation", "version": 1, "explanation": WHY}
FORMATS = {
    "graph": graph_file,
    "graph json": graph_json,
    "supernodes": supernodes,
    "native weights": of(lambda root: write_tiny_dictionary("skip", "llama", root), "layer_1.safetensors"),
    "native config": of(lambda root: write_tiny_dictionary("topk", "llama", root), "config.yaml"),
    "cross-layer weights": of(lambda root: write_tiny_dictionary("clt", "llama", root), "W_enc_1.safetensors"),
    "compact weights": of(compact, "layer_1.safetensors"),
    "sparsify weights": of(sparsify, "layers.1.mlp/sae.safetensors"),
    "clt-training config": of(fork, "layers.1.mlp/cfg.json"),
    "clt-training weights": of(fork, "layers.1.mlp/sae.safetensors"),
    "saelens weights": of(saelens, "blocks.1.mlp/sae_weights.safetensors"),
    "claims": text(CLAIMS, read_claims, "c.yaml"),
    "study": text(shipped()["capitals"].read_text(), read_study, "s.yaml"),
    "prompts": text(PROMPTS, lambda path: read_prompts(path, TraceOptions()), "p.jsonl"),
    "training config": text(TRAINING, lambda path: read_config(path, {}), "t.toml"),
    "training checkpoint": checkpoint,
    "pages": feature_pages("features_1.parquet"),
    "labels of pages": feature_pages("labels.parquet"),
    "about pages": feature_pages("pages.json"),
    "packed index": packed_pages("index.json.gz"),
    "packed pages": packed_pages("layer_1.bin"),
    "neuronpedia records": records,
    "annotations": notes,
    "known circuit": circuit,
    "found circuit": text(FOUND, lambda path: read_found(path, [CIRCUIT]), "f.json"),
    "explanation": text(json.dumps(STORED), explanation, "e.json"),
    "gemma scope": of(gemma_scope, "layer_1/width_16k/average_l0_7/params.npz"),
    "gemma scope 2 config": of(gemma_scope_2, "layer_1_width_16k_l0_small_affine/config.json"),
    "sparsify config": of(sparsify, "layers.1.mlp/cfg.json"),
    "saelens config": of(saelens, "blocks.1.mlp/cfg.json"),
}


@pytest.fixture(scope="module")
def small(tiny_folders):
    return unweave.attribute(unweave.load(*map(str, tiny_folders("llama", "relu"))), PROMPT, [5])


@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_read_or_refused_in_one_line(small, tmp_path, monkeypatch, record_property, name):
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    path, read = FORMATS[name](tmp_path / "x", small)
    read()
    content, draw, begin = path.read_bytes(), random.Random(name), time.process_time()
    counts = {"read": 0, "refused": 0}
    while sum(counts.values()) < CASES and (sum(counts.values()) < 10 or time.process_time() - begin < SECONDS):
        path.unlink()  # it may be mapped
        path.write_bytes(mutated(content, draw))
        try:
            read()
            counts["read"] += 1
        except UnweaveError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            counts["refused"] += 1
    print(name, counts)
    record_property("counts", str(counts))
    assert counts["refused"] > 0 and cache_folder() == Path(tmp_path / "cache")
