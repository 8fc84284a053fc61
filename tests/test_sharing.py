"""Graphs for others: one HTML file, Neuronpedia's JSON, notebooks; and feature pages from disk."""

import gzip
import html as html_module
import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import PROMPT
from jsonschema import Draft7Validator
from serving import HOSTILE, document, page_of, write_document

import unweave
from unweave.errors import FileError
from unweave.features.foreign import open_pages
from unweave.graphs.spelling import cantor
from unweave.page import template as pages

SCHEMA = json.loads((Path(__file__).parent / "data" / "neuronpedia-graph-schema.json").read_text())
ANNOTATIONS = {
    "pins": ["0_3_1", "gone"],
    "supernodes": [
        {"id": "s1", "name": HOSTILE, "members": ["0_3_1", "1_4_1"]},
        {"id": "s2", "name": "empty", "members": ["gone"]},
    ],
    "labels": {"0_3": HOSTILE, "1_4_1": "here alone", "3_7_1": "no label for a target"},
    "notes": HOSTILE,
}


@pytest.fixture
def hostile(tmp_path):
    """A graph whose every text tries to end the script it will stand in."""
    path = write_document(tmp_path / "x.json", prompt=HOSTILE, tokens=(HOSTILE, "<!--"), label=HOSTILE)
    page = page_of(tmp_path)
    assert (
        page.put("/api/graphs/x/annotations", json={"annotations": ANNOTATIONS}, headers={"If-Match": "0"}).status_code
        == 200
    )
    return path


class Elements(HTMLParser):
    """The elements of a document, and the text in each script and style."""

    def __init__(self, text):
        super().__init__()
        self.found, self.texts, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self.inside = tag if tag in ("script", "style", "title") else None
        if self.inside:
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside][-1] += data


def data_of(text):
    """The data in an HTML file."""
    elements = Elements(text)
    place = next(
        number
        for number, (_, attrs) in enumerate(part for part in elements.found if part[0] == "script")
        if attrs.get("id") == "unweave-data"
    )
    return json.loads(elements.texts["script"][place]), elements


def test_an_html_file_holds_everything_and_runs_nothing_else(run, hostile):
    code, out, err = run("export", hostile, "--html", "x.html")
    assert (code, out.strip(), err) == (0, "Written to x.html", "")
    text = Path("x.html").read_text()
    data, elements = data_of(text)
    assert data["view"]["tokens"] == [HOSTILE, "<!--"] and data["view"]["prompt"] == HOSTILE
    assert data["annotations"] == ANNOTATIONS and data["features"] == {}
    assert (data["view"]["live"], data["view"]["shown_edges"]) == (False, 6)
    assert sorted(tag for tag, _ in elements.found if tag in ("script", "img", "link", "iframe")) == [
        "script",
        "script",
    ]
    assert not any("src" in attrs or "href" in attrs for _, attrs in elements.found)
    assert elements.texts["title"] == [f"{HOSTILE} · unweave"]
    policy = next(
        attrs["content"]
        for tag, attrs in elements.found
        if tag == "meta" and "content-security-policy" in str(attrs).lower()
    )
    for inside, kind in ((elements.texts["script"][1], "script"), (elements.texts["style"][0], "style")):
        assert f"{kind}-src {pages._allowed(inside)}" in policy
    assert "unsafe" not in policy and "default-src 'none'" in policy


def test_the_served_export_is_the_same_file(run, hostile):
    run("export", hostile, "--html", "x.html")
    answer = page_of(hostile).get("/api/graphs/x/export.html")
    assert answer.headers["content-disposition"] == 'attachment; filename="x.html"'
    assert answer.content == Path("x.html").read_bytes()


def test_fewer_edges_make_a_smaller_file(run, tmp_path, tiny):
    unweave.attribute(tiny(), PROMPT).save(tmp_path / "y.graph.safetensors")
    assert (
        run("export", "y.graph.safetensors", "--html", "all.html")[0]
        == run("export", "y.graph.safetensors", "--html", "few.html", "--edges", 100)[0]
        == 0
    )
    every, few = (data_of(Path(name).read_text())[0]["view"] for name in ("all.html", "few.html"))
    assert few["shown_edges"] < every["shown_edges"] == few["total_edges"]


def test_a_script_that_would_end_itself_is_defused(tmp_path, monkeypatch, hostile):
    folder = tmp_path / "static"
    folder.mkdir()
    (folder / "index.html").write_text((pages.STATIC / "index.html").read_text())
    (folder / "app.css").write_text("body { color: red }")
    (folder / "app.js").write_text('const a = "</script><!--", b = "</SCRIPT>";')
    monkeypatch.setattr(pages, "STATIC", folder)
    elements = Elements(page_of(hostile).get("/api/graphs/x/export.html").text)
    assert elements.texts["script"][1] == 'const a = "<\\/script><\\!--", b = "<\\/SCRIPT>";'
    assert page_of(hostile).get("/static/app.js").headers["content-type"].startswith("text/javascript")
    (folder / "app.js").unlink()
    answer = page_of(hostile).get("/api/graphs/x/export.html")
    assert answer.status_code == 422 and "the page is not built: app.js is missing" in answer.json()["error"]


def test_neuronpedia_accepts_what_it_is_given(run, hostile):
    code, out, _ = run("export", hostile, "--neuronpedia", "np.json", "--scan", "gemma-2-2b", "--json")
    assert (code, json.loads(out)) == (0, {"graph": str(hostile), "written": ["np.json"]})
    given = json.loads(Path("np.json").read_text())
    Draft7Validator(SCHEMA).validate(given)
    assert (given["metadata"]["slug"], given["metadata"]["scan"]) == ("np", "gemma-2-2b")
    assert given["qParams"]["pinnedIds"] == ["0_3_1", "1_4_1"]
    assert given["qParams"]["supernodes"] == [[HOSTILE, "0_3_1", "1_4_1"]]
    labels = {node["node_id"]: node["clerp"] for node in given["nodes"]}
    assert (labels["0_3_1"], labels["1_4_1"]) == (HOSTILE, "here alone")
    assert "(p=0.800)" in labels["3_7_1"]
    served = page_of(hostile).get("/api/graphs/x/neuronpedia.json").json()
    assert served["qParams"] == given["qParams"]
    (hostile.parent / "back.json").write_text(json.dumps(given))
    back = page_of(hostile.parent).get("/api/graphs/back/annotations").json()["annotations"]
    assert back["supernodes"] == [{"id": "s1", "name": HOSTILE, "members": ["0_3_1", "1_4_1"], "collapsed": True}]
    assert back["labels"] == {"0_3_1": HOSTILE, "1_4_1": "here alone"}


def test_a_graph_too_large_for_neuronpedia_is_refused(run, hostile, monkeypatch):
    monkeypatch.setattr("unweave.server.sharing.MOST_NEURONPEDIA", 1000)
    code, _, err = run("export", hostile, "--neuronpedia", "np.json")
    assert code == 2 and "Neuronpedia takes 100; prune it" in " ".join(err.split())
    assert not Path("np.json").exists()


def test_export_refuses_in_one_line(run, hostile):
    for words, said in (
        ((hostile,), "nothing to write; give --html FILE or --neuronpedia FILE"),
        (("no.json", "--html", "x.html"), "nothing at no.json"),
        ((hostile, "--html", "."), "it is a folder"),
        ((hostile, "--html", "x.html", "--edges", "-1"), "--edges is -1"),
        ((hostile, "--html", "x.html", "--features", "nowhere"), "no feature pages in nowhere"),
    ):
        code, out, err = run("export", *words)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split())


def test_a_graph_in_a_notebook(tiny):
    graph = unweave.attribute(tiny(), PROMPT)
    shown = unweave.show(graph, height=500, edges=50)
    frame = next(attrs for tag, attrs in Elements(shown._repr_html_()).found if tag == "iframe")
    assert "height: 500px" in frame["style"] and frame["sandbox"] == "allow-scripts allow-downloads"
    data, _ = data_of(frame["srcdoc"])
    assert data["view"]["nodes"]["id"] == graph.nodes.ids
    assert html_module.escape(frame["srcdoc"]) in shown._repr_html_()
    assert re.fullmatch(r"Shown\([\d,]+ characters.*", repr(shown))


RECORD = {
    "index": 3,
    "top_logits": [" Paris", HOSTILE],
    "bottom_logits": [" no"],
    "act_min": 0.0,
    "act_max": 4.0,
    "quantile_values": [1, 2, 3.5],
    "histogram": [5, 3],
    "activation_frequency": 0.01,
    "examples_quantiles": [
        {
            "quantile_name": "Top",
            "examples": [
                {
                    "tokens": ["a", HOSTILE],
                    "tokens_acts_list": [0, 4],
                    "train_token_ind": 1,
                    "is_repeated_datapoint": False,
                }
            ],
        },
        {"quantile_name": "Low", "examples": [{"tokens": ["b"], "tokens_acts_list": [0.1]}]},
    ],
}
PAGE = {
    "source": "page", "label": "", "density": 0.01, "promoted": [[" Paris", None], [HOSTILE, None]],
    "suppressed": [[" no", None]],
    "histogram": {"edges": [0.0, 2.0, 4.0], "counts": [5.0, 3.0]}, "quantiles": [1.0, 2.0, 3.5],
    "contexts": [
        {"quantile": "Top", "tokens": ["a", HOSTILE], "activations": [0.0, 4.0], "peak": 1},
        {"quantile": "Low", "tokens": ["b"], "activations": [0.1], "peak": None},
    ],
}  # fmt: skip


def write_packed(folder, records, pack=zlib.compress, as_object=False):
    """Feature pages of one layer in circuit-tracer's form; None for a feature without a page."""
    folder.mkdir(exist_ok=True)
    body, offsets = b"", [0]
    for record in records:
        packed = b"" if record is None else pack(json.dumps(record).encode())
        body += b"" if record is None else struct.pack("<I", len(packed)) + packed
        offsets.append(len(body))
    (folder / "layer_0.bin").write_bytes(body)
    entry = {"filename": "layer_0.bin", "offsets": offsets}
    (folder / "index.json.gz").write_bytes(gzip.compress(json.dumps({"0": entry} if as_object else [entry]).encode()))
    return folder


@pytest.mark.parametrize(("pack", "as_object"), [(zlib.compress, False), (gzip.compress, True)])
def test_feature_pages_are_read_from_circuit_tracers_folder(hostile, tmp_path, pack, as_object, run):
    folder = write_packed(tmp_path / "features", [None, RECORD | {"index": 1}, None, RECORD, {}], pack, as_object)
    for given in (folder, tmp_path):  # the folder itself, or the one it is in
        page = page_of(hostile, pages=open_pages(given))
        assert page.get("/api/graphs/x/features/0/3").json() == PAGE | {"layer": 0, "index": 3}
        nodes = page.get("/api/graphs/x").json()["nodes"]
        assert dict(zip(nodes["id"], nodes["density"], strict=True))["0_3_1"] == 0.01
        assert [density for density in nodes["density"] if density is not None] == [0.01]
    assert "density" not in page_of(hostile).get("/api/graphs/x").json()["nodes"]
    for address in ("0/0", "0/5", "0/2", "1/3"):
        found = page.get(f"/api/graphs/x/features/{address}").json()
        assert found["source"] == "none" and "do not have this feature" in found["why"]
    assert page.get("/api/graphs/x/features/0/4").json()["contexts"] == []
    assert run("export", hostile, "--html", "x.html", "--features", folder)[0] == 0
    assert data_of(Path("x.html").read_text())[0]["features"] == {"0_3": PAGE | {"layer": 0, "index": 3}}


def test_feature_pages_name_what_a_graph_does_not(tmp_path):
    bare = write_document(tmp_path / "bare.json")
    folder = write_packed(tmp_path / "features", [None, RECORD, None, RECORD | {"clerp": "Texas"}])
    page = page_of(bare, pages=open_pages(folder))
    nodes = page.get("/api/graphs/bare").json()["nodes"]
    assert dict(zip(nodes["id"], nodes["label"], strict=True))["0_3_1"] == "Texas"


def test_links_to_nowhere_and_graphs_without_outputs_are_said(tmp_path):
    given = document()
    given["links"].append({"source": "0_3_1", "target": "nobody", "weight": 1.0})
    (tmp_path / "bad.json").write_text(json.dumps(given))
    given = document()
    given["nodes"] = [node for node in given["nodes"] if node["feature_type"] != "logit"]
    (tmp_path / "blind.json").write_text(json.dumps(given))
    page = page_of(tmp_path)
    (said,) = page.get("/api/graphs/bad").json()["warnings"]
    assert said.startswith("1 of the file's links name nodes")
    said = page.get("/api/graphs/blind").json()["warnings"]
    assert "no outputs" in said[0] and "3 of the file's links" in said[1]


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://neuronpedia.org/gemma-2-2b/clt-hp", "https://www.neuronpedia.org/gemma-2-2b/{layer}-clt-hp/{index}"),
        ("https://neuronpedia.org.evil.example/a/b", None),
        ("javascript:alert(1)//neuronpedia.org/a/b", None),
    ],
)
def test_features_of_neuronpedias_graphs_have_an_address_there(tmp_path, url, address):
    write_document(tmp_path / "np.json", info={"source_urls": [url]})
    assert page_of(tmp_path).get("/api/graphs/np").json()["feature_address"] == address


def test_feature_pages_are_read_one_file_a_feature(tmp_path):
    (tmp_path / f"{cantor(12, 345)}.json").write_text(json.dumps(RECORD))
    page = open_pages(tmp_path)
    assert page(12, 345) == {key: value for key, value in PAGE.items() if key != "source"}
    assert page(12, 346) is None
    (tmp_path / f"{cantor(0, 1)}.json").write_text("[")
    with pytest.raises(FileError, match="is not a feature page"):
        page(0, 1)


@pytest.mark.parametrize("damage", ["index", "offsets", "large", "record", "cut", "traversal", "bomb"])
def test_damaged_feature_pages_are_an_error_in_one_line(hostile, tmp_path, damage, monkeypatch):
    folder = write_packed(tmp_path / "features", [RECORD] * 5)
    entry = {"filename": "layer_0.bin", "offsets": [0, 10, 20, 30, 40, 50]}
    match damage:
        case "index":
            (folder / "index.json.gz").write_bytes(b"not gzip")
        case "offsets":
            (folder / "index.json.gz").write_bytes(gzip.compress(b'[{"filename": "layer_0.bin", "offsets": ["x"]}]'))
        case "large":
            monkeypatch.setattr("unweave.features.packed.MOST_INDEX", 100)
            (folder / "index.json.gz").write_bytes(gzip.compress(b" " * 101))
        case "record":
            (folder / "layer_0.bin").write_bytes(b"\xff" * 2000)
        case "cut":
            (folder / "layer_0.bin").write_bytes(b"\x01")
        case "traversal":
            (tmp_path / "layer_0.bin").write_bytes((folder / "layer_0.bin").read_bytes())
            (folder / "layer_0.bin").unlink()
            (folder / "index.json.gz").write_bytes(
                gzip.compress(json.dumps([entry | {"filename": "../layer_0.bin"}]).encode())
            )
        case "bomb":
            monkeypatch.setattr("unweave.features.packed.MOST_RECORD", 100)
    if damage in ("index", "offsets", "large"):
        with pytest.raises(FileError, match="not an index of feature pages"):
            open_pages(folder)
        return
    page = page_of(hostile, pages=open_pages(folder))
    assert set(page.get("/api/graphs/x").json()["nodes"]["density"]) == {None}
    answer = page.get("/api/graphs/x/features/0/3")
    assert (answer.status_code, list(answer.json())) == (422, ["error"])
    assert "is damaged" in answer.json()["error"]


def test_documents_without_annotations_stay_as_they_were():
    from unweave.graphs.interchange import with_annotations

    given = document()
    assert with_annotations(given, {})["nodes"] == given["nodes"]
    assert with_annotations(given, {})["qParams"]["pinnedIds"] == []


@pytest.mark.parametrize("command", ["serve", "export", "trace"])
def test_all_options_are_documented(command, run):
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    section = page.split(f"## unweave {command}")[1].split("\n## ")[0]
    options = set(re.findall(r"--[a-z][a-z-]+", run(command, "--help")[1])) - {"--help"}
    assert len(options) > 4
    assert {option for option in options if f"`{option}`" not in section and f"`{option} " not in section} <= {
        "--model",
        "--yes",
    }
