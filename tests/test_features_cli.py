"""`unweave features`: every command, other tools' forms, an endpoint, and bad input."""

import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import duckdb
import fresh
import numpy as np
import pytest
from conftest import write_tiny_dictionary, write_tiny_model

import unweave
from unweave.base.files import locked
from unweave.errors import FileError
from unweave.features.details import feature_page
from unweave.features.exchange import packed_records, to_neuronpedia, to_peer
from unweave.features.importing import import_pages
from unweave.features.pages import open_pages, search_features
from unweave.features.write import save
from unweave.transcoders.formats import read_transcoders


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(model with a tokenizer, dictionary, text)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("microscope")
    model = write_tiny_model("llama", root / "model")
    vocabulary = {"<s>": 0} | {f"w{i}": i for i in range(1, 50)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>").save_pretrained(model)
    rng = np.random.default_rng(0)
    (root / "text.jsonl").write_text(
        "\n".join(json.dumps({"text": " ".join(f"w{i}" for i in rng.integers(1, 50, 40))}) for _ in range(80))
    )
    return model, write_tiny_dictionary("jumprelu", "llama", root / "plt"), root / "text.jsonl"


@pytest.fixture(scope="module")
def pages(folders, tmp_path_factory):
    """A folder of pages, built by the command line in a process of its own."""
    out = tmp_path_factory.mktemp("built") / "pages"
    said = process(build_words(folders, out))
    assert said.returncode == 0, said.stderr
    return out


def build_words(folders, out):
    words = ("build", "--text", folders[2], "--out", out, "--held-out", "0.3", "--context", "16", "--tokens", "1200")
    return [*map(str, words), "--model", str(folders[0]), "--transcoders", str(folders[1])]


def process(words, before=""):
    """The command line in a process of its own."""
    code = (
        f"import sys\nsys.argv = {['unweave', 'features', *words]!r}\n{before}\nfrom unweave.cli import "
        f"entry\nentry.run()"
    )
    return fresh.run(code)


@pytest.fixture
def features(run, folders, pages):
    """Call a command with the model, the dictionary and the pages that it takes."""
    own = {
        "features": ("--features", pages), "model": ("--model", folders[0], "--transcoders", folders[1]),
    }  # fmt: skip
    takes = {
        "show": ["features"],
        "search": ["features"],
        "like": ["features", "model"],
        "score": ["features", "model"],
        "label": ["features", "model"],
    }

    def call(command, *words):
        return run("features", command, *(word for name in takes.get(command, []) for word in own[name]), *words)

    return call


def test_build_writes_pages_and_does_not_build_twice(run, folders, pages):
    facts = json.loads((pages / "pages.json").read_text())
    assert facts["tokens"] >= 1200 and facts["held_out"] == 0.3 and not (pages / "collecting.safetensors").exists()
    before = (pages / "features_0.parquet").stat().st_mtime_ns
    words = build_words(folders, pages)
    assert run("features", *words)[0] == 0
    assert (pages / "features_0.parquet").stat().st_mtime_ns == before
    code, _, err = run("features", *words, "--tokens", "999999")
    assert code == 2 and "give another --out" in err


def test_two_builds_in_one_folder_do_not_meet(run, folders, pages):
    with locked(pages, FileError("taken")):
        code, out, err = run("features", *build_words(folders, pages))
    assert (code, out) == (2, "") and "another process builds pages in" in err


def test_show_search_and_like(features):
    code, out, err = features("show", "1_3")
    assert (code, err) == (0, "") and "layer 1 feature 3" in out and "promotes" in out and "strongest" in out
    facts = json.loads(features("show", "1_3_7", "--json")[1])
    assert facts["source"] == "page" and facts["contexts"] and facts["label"]
    token = facts["tokens"][0][0]
    rows = json.loads(features("search", token, "--in", "token", "--limit", "90", "--json")[1])["features"]
    assert any((row["layer"], row["index"]) == (1, 3) for row in rows)
    assert "found in" in features("search", token)[1]
    assert "nothing found" in features("search", "'; DROP TABLE features; --")[1]
    rows = json.loads(features("like", "w3 w4 w5", "w3 w9", "--limit", "5", "--json")[1])["features"]
    assert len(rows) == 5 and rows[0]["share"] > rows[0]["density"]
    assert "in texts" in features("like", "w3 w4 w5")[1]


def test_show_when(features, folders):
    words = (
        "show",
        "1_3",
        "--when",
        folders[2],
        "--tokens",
        "300",
        "--context",
        "16",
        "--model",
        folders[0],
        "--transcoders",
        folders[1],
    )
    assert "fires elsewhere" in features(*words)[1]
    facts = json.loads(features(*words, "--json")[1])
    assert facts["tokens"] >= 300 and facts["firings"] > 0


def test_show_when_on_a_text_shorter_than_a_block(features, folders, tmp_path):
    (tmp_path / "short.txt").write_text("w3 w4")
    words = ("--when", tmp_path / "short.txt", "--context", "32", "--model", folders[0], "--transcoders", folders[1])
    assert json.loads(features("show", "1_3", *words, "--json")[1])["tokens"] == 2


def test_score_uses_only_documents_that_the_pages_left_out(features, folders, pages):
    facts = json.loads(
        features("score", "--text", folders[2], "--count", "40", "--context", "16", "--tokens", "600", "--json")[1]
    )
    assert 0 < facts["scored"] <= 40 and facts["positions"] <= 600
    for name in ("label", "baseline"):
        assert all(
            0 <= facts[name][unit][figure] <= 1
            for unit in ("contexts", "positions")
            for figure in ("precision", "recall", "f1")
        )
    assert (
        "most frequent token" in features("score", "--text", folders[2], "--count", "5", "--context", "16", "--save")[1]
    )
    saved = [
        feature_page(open_pages(pages), layer, index)["score"]
        for layer, width in enumerate((30, 26, 34))
        for index in range(width)
    ]
    assert any(score is not None and 0 <= score["f1"] <= 1 for score in saved)


@pytest.fixture
def service():
    """A local service that says that a text has the label if it holds «w7» or w7, and labels everything so."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][0]["content"]
            asked.append((self.path, self.headers.get("Authorization"), body["model"], question))
            if "Which of these" in question:
                answer = (
                    ", ".join(
                        found[1] for found in re.finditer(r"^(\d+)\. (.*)$", question, re.MULTILINE) if "w7" in found[2]
                    )
                    or "0"
                )
            else:
                answer = '"the word w7."'
            content = json.dumps(
                {"choices": [{"message": {"content": answer}}]} if body["model"] != "broken" else {"nothing": 1}
            ).encode()
            self.send_response(404 if body["model"] == "missing" else 200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_labels_by_a_service(features, folders, pages, service, monkeypatch):
    url, asked = service
    monkeypatch.setenv("UNWEAVE_API_KEY", "secret")
    before = feature_page(open_pages(pages), 2, 5)
    words = (
        "label",
        "1_3",
        "2_5",
        "--endpoint",
        url,
        "--endpoint-model",
        "m",
        "--text",
        folders[2],
        "--context",
        "16",
        "--tokens",
        "600",
    )
    facts = json.loads(features(*words, "--json")[1])
    assert [row["label"] for row in facts["features"]] == ["the word w7"] * 2
    assert all(0 <= row["detection"]["f1"] <= 1 for row in facts["features"])
    assert asked[0][:3] == ("/v1/chat/completions", "Bearer secret", "m") and "«" in asked[0][3]
    assert feature_page(open_pages(pages), 2, 5) == before
    assert features(*words, "--save")[0] == 0
    assert (
        feature_page(open_pages(pages), 2, 5)["label"] == "the word w7"
        and feature_page(open_pages(pages), 2, 6)["label"] != "the word w7"
    )
    for model, phrase in (("broken", "not a chat completion"), ("missing", "refuses: 404")):
        code, _, err = features("label", "1_3", "--endpoint", url, "--endpoint-model", model)
        assert code == 2 and phrase in err
    code, _, err = features("label", "1_3", "--endpoint", "http://127.0.0.1:9/v1")
    assert code == 2 and "does not answer" in err


def test_pages_go_to_circuit_tracer_and_back(run, folders, pages, tmp_path):
    assert run("features", "export", "peer", "--features", pages)[0] == 0
    records = {(layer, index): record for layer, index, record in packed_records(tmp_path / "peer")}
    assert len(records) == 90
    ours = feature_page(open_pages(pages), 1, 3)
    record = records[1, 3]
    assert record == json.loads(json.dumps(to_peer(ours, open_pages(pages).facts["transcoders"])))
    assert record["index"] == unweave.graphs.interchange.cantor(1, 3) and sum(record["histogram"]) == pytest.approx(
        ours["count"], rel=0.01
    )
    assert run("features", "import", "peer", "back", "--transcoders", folders[1])[0] == 0
    back = feature_page(open_pages("back"), 1, 3)
    assert back["label"] == ours["label"] and back["density"] == pytest.approx(ours["density"], rel=1e-3)
    assert [token for token, _ in back["promoted"]] == [token for token, _ in ours["promoted"]]
    assert back["contexts"][0]["tokens"] == ours["contexts"][0]["tokens"]
    np.testing.assert_allclose(
        back["contexts"][0]["activations"], ours["contexts"][0]["activations"], atol=0.02 * ours["maximum"]
    )


def test_pages_go_to_neuronpedia_and_back(run, folders, pages, tmp_path):
    assert run("features", "export", "two.json", "--feature", "2_4", "--feature", "1_3", "--features", pages)[0] == 0
    records = json.loads((tmp_path / "two.json").read_text())
    ours = feature_page(open_pages(pages), 1, 3)
    assert records[1] == json.loads(json.dumps(to_neuronpedia(ours, open_pages(pages).facts["model"], "unweave")))
    assert records[1]["layer"] == "1-unweave" and records[1]["frac_nonzero"] == ours["density"]
    assert run("features", "import", "two.json", "back", "--transcoders", folders[1])[0] == 0
    back = feature_page(open_pages("back"), 1, 3)
    assert [token for token, _ in back["suppressed"]] == [token for token, _ in ours["suppressed"]]
    assert back["suppressed"][0][1] == pytest.approx(ours["suppressed"][0][1])
    assert feature_page(open_pages("back"), 0, 0)["contexts"] == []
    assert run("features", "show", "1_3", "--features", "back")[0] == 0


def test_damaged_pages_of_other_tools(tmp_path, folders):
    dictionary = unweave.load(str(folders[0]), str(folders[1])).transcoders
    (tmp_path / "x").mkdir()
    with pytest.raises(FileError, match=r"no feature pages in"):
        import_pages(tmp_path / "x", tmp_path, dictionary)
    (tmp_path / "x" / "index.json.gz").write_bytes(b"no gzip")
    with pytest.raises(FileError, match="is not an index"):
        import_pages(tmp_path / "x", tmp_path, dictionary)
    for content, phrase in (
        ("{", "cannot read"),
        ("[1]", "record 0 is not"),
        ('[{"layer": "9-x", "index": 1}]', "layer 9"),
        ('[{"layer": "1-x", "index": 99}]', "99"),
    ):
        (tmp_path / "np.json").write_text(content)
        with pytest.raises(FileError, match=phrase):
            import_pages(tmp_path / "np.json", tmp_path, dictionary)


REFUSED = {
    "no text": (("build",), "no text; give --text"),
    "short text": (("build", "--text", "short.txt", "--out", "o", "--context", "32"), "less than one block of 32"),
    "missing text": (("build", "--text", "nowhere.txt", "--out", "o", "--context", "32"), "no text at nowhere.txt"),
    "context": (("build", "--text", "short.txt", "--out", "o", "--context", "128"), "takes blocks of 2 to 64"),
    "tokens": (("build", "--text", "short.txt", "--tokens", "0"), "--tokens is 0; it must be at least 1"),
    "not a feature": (("show", "twelve"), "'twelve' is no feature"),
    "layer": (("show", "3_1"), "layers 0 to 2"),
    "index": (("show", "1_26"), "features 0 to 25"),
    "empty search": (("search", " "), "the search text is empty"),
    "unknown field": (("search", "x", "--in", "soul"), "search in label, token"),
    "empty text": (("like", ""), "the prompt is empty"),
    "no address": (("label", "1_3", "--endpoint", "localhost"), "is no address"),
    "count": (("score", "--count", "0"), "--count is 0"),
    "export": (("export", "x.json"), "no features; give --feature"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(features, folders, tmp_path, case):
    words, phrase = REFUSED[case]
    (tmp_path / "short.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 w9")
    more = (
        ("--model", folders[0], "--transcoders", folders[1])
        if words[0] == "build"
        else ("--features", tmp_path)
        if words[0] == "export"
        else ()
    )
    if case == "export":
        more = ("--features", Path(tmp_path))
        phrase = "no feature pages in"
    code, out, err = features(*words, *more)
    assert (code, out) == (2, "") and phrase in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1


def test_pages_of_another_dictionary_are_refused(run, folders, pages, tmp_path):
    other = write_tiny_dictionary("relu", "llama", tmp_path / "other")
    code, _, err = run("features", "like", "w1 w2", "--features", pages, "--model", folders[0], "--transcoders", other)
    assert code == 2 and "are of another dictionary" in err and "sha256" in err


def test_tables_are_written_under_no_other_name_than_is_cleared(tmp_path):
    columns = {"index": np.arange(1_000_000), "value": np.random.default_rng(0).normal(size=1_000_000)}
    seen = set()
    watch = threading.Thread(target=save, args=(duckdb.connect(), tmp_path / "x.parquet", columns))
    watch.start()
    while watch.is_alive():
        seen |= {entry.name for entry in os.scandir(tmp_path)}
    watch.join()
    assert len(seen) > 1 and all(re.fullmatch(r"x\.parquet|\.x\.parquet\.[a-z0-9_]{8}", name) for name in seen)


def test_a_killed_build_goes_on(run, folders, tmp_path):
    words = build_words(folders, tmp_path / "p")
    harm = (
        "import os\nimport unweave.features.collect as c\nc.SAVE_EVERY, "
        "c.AT_ONCE = 0.0, 80\n"
        "c._say = lambda report, seen, *rest: os.kill(os.getpid(), 9) if seen > 600 else None"
    )
    assert process(words, harm).returncode == -9
    assert (tmp_path / "p" / "collecting.safetensors").is_file()
    code, _, err = run("features", "show", "0_0", "--features", tmp_path / "p")
    assert code == 2 and "run the same unweave features build again" in err
    assert run("features", *words)[0] == 0
    assert run("features", "show", "0_0", "--features", tmp_path / "p")[0] == 0


def test_the_documentation_lists_every_option(run):
    text = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    for command in ("build", "show", "search", "like", "label", "score", "export", "import"):
        assert f"## unweave features {command}" in text
        options = set(re.findall(r"--[a-z-]+", run("features", command, "--help")[1])) - {
            "--help",
            "--no-json",
            "--no-save",
            "--yes",  # of every command that fetches, described once
        }
        section = text.split(f"## unweave features {command}")[1].split("\n## ")[0]
        assert [option for option in sorted(options) if f"`{option}`" not in section] == []


def test_graphs_carry_labels(run, folders, pages, tmp_path):
    words = ("trace", "w3 w4 w5 w6", "--model", folders[0], "--transcoders", folders[1], "--features", pages, "--json")
    facts = json.loads(run(*words, "--out", "g.graph.safetensors")[1])
    assert facts["features"]
    for feature in facts["features"]:
        layer, index, _ = map(int, feature["node"].split("_"))
        assert feature["label"] == feature_page(open_pages(pages), layer, index)["label"] != ""
    graph = unweave.Graph.load("g.graph.safetensors")
    assert graph.provenance.extra["labels"][facts["features"][0]["node"]] == facts["features"][0]["label"]
    assert run("convert", "g.graph.safetensors", "g.json")[0] == 0
    nodes = {node["node_id"]: node["clerp"] for node in json.loads((tmp_path / "g.json").read_text())["nodes"]}
    assert nodes[facts["features"][0]["node"]] == facts["features"][0]["label"]
    assert facts["features"][0]["label"].split()[0] in run(*words[:-1])[1]
    (tmp_path / "empty").mkdir()
    code, _, err = run(*words[:-2], "empty")
    assert code == 2 and "no feature pages in" in err


def test_the_pages_that_ship_are_of_the_dictionary_that_ships():
    shipped = open_pages(None, read_transcoders("smollm2"))
    assert sum(path.stat().st_size for path in shipped.folder.iterdir()) <= 25e6
    assert sum((density > 0).sum() for density in shipped.densities()) > 0.5 * sum(shipped.widths)
    rng, times = np.random.default_rng(0), []
    for _ in range(10):
        layer = int(rng.integers(30))
        index = int(rng.integers(shipped.widths[layer]))
        begin = time.process_time()
        found = feature_page(shipped, layer, index)
        times.append(time.process_time() - begin)
        assert (found["layer"], found["index"], bool(found["contexts"])) == (layer, index, found["count"] > 0)
    assert sorted(times)[5] < 0.1  # five times what it takes, for the shape checks of the tests
    assert search_features(shipped, "paris")
