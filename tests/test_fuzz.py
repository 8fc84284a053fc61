"""Small files of every format with bytes changed, cut, put in or taken out: read, or refused in one line."""

import json
import random
import time
from pathlib import Path

import pytest
import torch
from conftest import PROMPT, write_tiny_dictionary
from test_published import gemma_scope, gemma_scope_2, saelens, sparsify

import unweave
from unweave.base.files import cache_folder
from unweave.errors import UnweaveError
from unweave.graphs.interchange import write_json
from unweave.interventions.naming import read_supernodes

SECONDS, CASES = 2.5, 150
"""For each format, whichever ends first."""
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
    b"[" * 3000,
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


FORMATS = {
    "graph": graph_file,
    "graph json": graph_json,
    "supernodes": supernodes,
    "native weights": of(lambda root: write_tiny_dictionary("skip", "llama", root), "layer_1.safetensors"),
    "native config": of(lambda root: write_tiny_dictionary("topk", "llama", root), "config.yaml"),
    "cross-layer weights": of(lambda root: write_tiny_dictionary("clt", "llama", root), "W_enc_1.safetensors"),
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
    content, draw, begin = path.read_bytes(), random.Random(name), time.monotonic()
    counts = {"read": 0, "refused": 0}
    while sum(counts.values()) < CASES and time.monotonic() - begin < SECONDS:
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
