"""Pages of neurons, both signs of each, built beside those of features; no example twice; what tokens are promoted."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_features import CONTEXT, folders, model  # noqa: F401

import unweave
from unweave.errors import FileError, InterventionError, OptionError, TranscoderMismatch
from unweave.explanation.explaining import explain
from unweave.features import collect as collecting
from unweave.features.building import BuildOptions, build_pages
from unweave.features.collect import STATE, Reading, Wanted, collect, collect_together
from unweave.features.details import feature_page
from unweave.features.distinct import ALIKE, NEAR, alike, chosen
from unweave.features.foreign import on_graph, served
from unweave.features.graphs import in_graph, with_labels
from unweave.features.judge import judge
from unweave.features.like import like, when
from unweave.features.pages import open_pages, search_features
from unweave.features.readout import Readout
from unweave.features.tally import WINDOW
from unweave.features.units import both_signs, hidden
from unweave.server.annotations import add_supernode, read
from unweave.transcoders.neurons import neurons


def silent(*words):
    pass


@pytest.fixture(scope="module")
def of_neurons(model):  # noqa: F811
    return replace(model, transcoders=neurons(model.language_model))


def wanted(one, folders, out):  # noqa: F811
    out.mkdir(exist_ok=True)
    names = (one.language_model.name, one.transcoders.name, one.transcoders.sha256)
    return Wanted(one, Reading(*names, (str(folders[3]),), CONTEXT), out)


@pytest.fixture(scope="module")
def built(folders, tmp_path_factory):  # noqa: F811
    """Folders of pages of features and of neurons, from one pass."""
    root = tmp_path_factory.mktemp("both")
    words = (str(folders[0]), str(folders[1]), "cpu", (str(folders[3]),), CONTEXT, 0.0, 1500, 8, 16, "causal")
    build_pages(BuildOptions(*words), [root / "features", root / "neurons"], silent)
    return root / "features", root / "neurons"


@pytest.fixture(scope="module")
def pages(built, of_neurons):
    return open_pages(built[1], of_neurons.transcoders)


@pytest.fixture(scope="module")
def graph(model):  # noqa: F811
    return unweave.attribute(model, "the cat sat on a mat", max_features=30)


def test_one_pass_counts_what_two_would(model, of_neurons, folders, tmp_path):  # noqa: F811
    both = [wanted(model, folders, tmp_path / "a"), wanted(of_neurons, folders, tmp_path / "b")]
    together = collect_together(both, tokens=900)
    alone = collect(model, both[0].reading, tmp_path, tokens=900)
    assert alone.digest == together[0].digest == together[1].digest
    for one, other in zip(alone.layers, together[0].layers, strict=True):
        assert (one.arrays["count"] == other.arrays["count"]).all()
        assert (one.arrays["sampled_place"] == other.arrays["sampled_place"]).all()
    blocks = torch.stack(list(both[1].reading.blocks(of_neurons.language_model)))[: together[1].n_blocks]
    seen = hidden(of_neurons.language_model, blocks)
    for layer, level in enumerate(together[1].levels):
        on = both_signs(seen[layer]) > torch.from_numpy(level)
        assert (on.sum(0).numpy() == together[1].layers[layer].arrays["count"]).all()
        assert 0.005 < float(on.float().mean()) < 0.02


def test_a_build_that_is_ahead_waits_for_the_other(model, of_neurons, folders, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(collecting, "AT_ONCE", 5 * CONTEXT)
    both = [wanted(model, folders, tmp_path / "a"), wanted(of_neurons, folders, tmp_path / "b")]
    collect(model, both[0].reading, both[0].folder, tokens=400)
    collect(of_neurons, both[1].reading, both[1].folder, tokens=700)
    together = collect_together(both, tokens=900)
    again = [wanted(model, folders, tmp_path / "c"), wanted(of_neurons, folders, tmp_path / "d")]
    for one, other in zip(together, collect_together(again, tokens=900), strict=True):
        assert (one.n_blocks, one.digest) == (other.n_blocks, other.digest)
        for mine, theirs in zip(one.layers, other.layers, strict=True):
            assert (mine.arrays["count"] == theirs.arrays["count"]).all()
    assert not (tmp_path / STATE).exists()


def test_each_sign_has_a_page(of_neurons, pages, built):
    width = of_neurons.transcoders.widths[1]
    assert pages.of_neurons and pages.widths == [2 * n for n in of_neurons.transcoders.widths]
    for sign, value in (("+", 2.0), ("-", -2.0)):
        found = feature_page(pages, 1, pages.unit(1, 3, value))
        assert (found["layer"], found["index"], found["sign"]) == (1, 3, sign)
        assert found["count"] and found["contexts"] and json.loads(json.dumps(found)) == found
        assert all(index < width and mark in "+-" for _, index, _, mark in found["companions"])
    plus, minus = feature_page(pages, 1, 3), feature_page(pages, 1, 3 + width)
    assert [token for token, _ in plus["promoted"]] == [token for token, _ in minus["suppressed"]]
    assert plus["promoted"][0][1] == pytest.approx(-minus["suppressed"][0][1])
    with pytest.raises(InterventionError):
        feature_page(pages, 1, 2 * width)
    assert not open_pages(built[0]).of_neurons and feature_page(open_pages(built[0]), 1, 3)["sign"] == ""
    assert {row["sign"] for row in search_features(pages, "cat", limit=50)} == {"+", "-"}
    assert pages.labels_at({(1, 3): -2.0}) == {(1, 3): minus["label"]}
    with pytest.raises(TranscoderMismatch):
        open_pages(built[0], of_neurons.transcoders)


def test_labels_of_neurons_are_scored(of_neurons, pages, model):  # noqa: F811
    blocks = torch.stack([torch.randint(1, 50, (CONTEXT,)) for _ in range(20)])
    facts, found = judge(of_neurons, pages, blocks, [(1, 3), (1, pages.unit(1, 3, -1.0)), (0, 1)])
    assert facts["features"] == 3 and len(found) == facts["scored"]
    seen = when(of_neurons, iter(blocks), 1, pages.unit(1, 3, -1.0), tokens=500, levels=pages.levels)
    width = of_neurons.transcoders.widths[1]
    on = -hidden(model.language_model, blocks)[1][:, 3] > float(pages.levels[1][3 + width])
    assert seen["firings"] == int(on.sum())
    with pytest.raises(OptionError, match="its pages say"):
        when(of_neurons, iter(blocks), 1, 3, tokens=500)


def test_graphs_of_neurons_show_the_sign_that_a_neuron_has(of_neurons, pages, model, graph):  # noqa: F811
    asked = unweave.attribute(of_neurons, "the cat sat on a mat", max_features=60)
    shown, width = served(pages), of_neurons.transcoders.widths
    assert shown.fits(asked.provenance) and not shown.fits(graph.provenance)
    assert not shown.fits(replace(asked.provenance, model="another"))
    labelled = with_labels(asked, pages).provenance.extra["labels"]
    rows = [node for node in asked.nodes if node.id in labelled]
    assert {node.activation < 0 for node in rows} == {True, False}
    for node in rows:
        unit = node.index + (node.activation < 0) * width[node.layer]
        assert labelled[node.id] == pages.labels([(node.layer, unit)])[node.layer, unit]
    keys = [(node.layer, node.index) for node in rows[:20]]
    on = on_graph(shown, asked)
    strongest = {
        key: max((n for n in rows if (n.layer, n.index) == key), key=lambda n: abs(n.activation)) for key in keys
    }
    for key, page in on.several(keys).items():
        assert (page["layer"], page["index"]) == key
        assert page["sign"] == "-+"[strongest[key].activation > 0]
        assert on.briefs([key]) == {key: (page["label"], page["density"])}


def test_explanations_use_labels_of_the_sign(of_neurons, pages, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        type(pages), "labels_at", lambda self, values: seen.update(values) or dict.fromkeys(values, "a label")
    )
    found = explain(of_neurons.language_model, "the cat sat on a mat", instead="the cat saw on a mat",
                    features=pages.folder, draws=1)  # fmt: skip
    for layer, position, index in found.chosen.units.triples:
        value = float(found.contrast.here.at["neurons", layer][position, index])
        assert abs(seen[layer, index]) >= abs(value)
    assert seen and all("a label" in group.name for group in found.groups if group.kind == "neurons")


def test_no_example_is_shown_twice(built, pages):
    for place in (open_pages(built[0]), pages):
        for layer, index in ((0, 3), (1, 5), (2, 1)):
            texts = ["".join(context["tokens"]) for context in feature_page(place, layer, index)["contexts"]]
            assert len(texts) == len(set(texts))
    shown = {row["block"] for row in pages.query(f"SELECT block FROM {pages.file('contexts_*.parquet')}")}
    assert shown == {row["block"] for row in pages.query(f"SELECT block FROM {pages.file('blocks.parquet')}")}


def test_examples_that_say_the_same_are_left_out():
    """Four blocks: the second is the first but for a word far away, the third but for half the words near."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(1, 1000, (4, 40))
    blocks[1] = blocks[0]
    blocks[1, 1] += 1
    blocks[2, 14:25] = blocks[0, 14:25]
    blocks[2, 14:25:2] += 1
    places = np.array([[20, 60, 100, 140, 27, -1]])
    lookup, sample = np.arange(4), np.array([False, False, True, True, True, True])
    found = chosen(places, sample, 40, lookup, blocks, (2, 3))
    assert found.tolist() == [[True, False, True, True, False, False]]  # the fifth lies in the first one's window
    assert chosen(places, sample, 40, lookup, blocks, (1, 1)).tolist() == [[True, False, True, False, False, False]]


@given(st.lists(st.lists(st.integers(-1, 2), min_size=WINDOW, max_size=WINDOW), min_size=1, max_size=5))
def test_likeness_is_mutual_and_of_each_with_itself(windows):
    found = alike(np.array([windows]))[0]
    assert (found == found.T).all()
    for row, window in enumerate(np.array(windows)[:, NEAR]):
        assert found[row, row] == ((window >= 0).sum() >= ALIKE)


def test_what_is_promoted_is_what_the_live_model_says(model):  # noqa: F811
    """A small push at the last token of other contexts, by a hook of the test's own."""
    from unweave.response.means import other_contexts

    live, prompts = model.language_model, other_contexts(model.language_model)
    readout, layer = Readout.of(live), 1
    direction = model.transcoders.decoder_rows(layer, torch.tensor([5]), layer, torch.float32)[0]
    change = []
    for size in (1e-2, -1e-2):

        def push(module, args, output, size=size):
            made = (output[0] if isinstance(output, tuple) else output).clone()
            made[:, -1] += size * direction
            return (made, *output[1:]) if isinstance(output, tuple) else made

        handle = live.module.model.layers[layer].register_forward_hook(push)
        with torch.no_grad():
            change.append(live.module(input_ids=prompts).logits[:, -1])
        handle.remove()
    slope = ((change[0] - change[1]) / 2e-2).mean(0)
    found = readout.effects(live, model.transcoders, layer, torch.tensor([5]))[0]
    torch.testing.assert_close(found, slope - slope.mean(), atol=2e-3 * float(slope.abs().max()), rtol=1e-2)


def test_like_looks_among_the_features_of_a_graph(model, built, graph):  # noqa: F811
    pages = open_pages(built[0])
    nodes = in_graph(graph, pages)
    found = like(model, pages, ["the cat sat on a mat"], limit=200, among=list(nodes))
    assert found and all((one.layer, one.index) in nodes for one in found)
    everywhere = like(model, pages, ["the cat sat on a mat"], limit=200)
    assert [one for one in everywhere if (one.layer, one.index) in nodes] == found[: len(everywhere)]
    other = graph.with_provenance(transcoders_sha256="0" * 64, transcoders_weights_sha256="")
    with pytest.raises(TranscoderMismatch, match="give --features"):
        in_graph(other, pages)
    with pytest.raises(OptionError, match="no features"):
        like(model, pages, ["the cat"], among=[])


def test_like_writes_supernodes(run, folders, built, graph, tmp_path):  # noqa: F811
    graph.save(tmp_path / "cat.graph")
    words = ("features", "like", "the cat sat on a mat", "--features", built[0], "--model", folders[0],
             "--transcoders", folders[1], "--graph", tmp_path / "cat.graph", "--limit", "3", "--json")  # fmt: skip
    code, out, err = run(*words, "--supernode", "cats")
    assert (code, err) == (0, "")
    members = [name for row in json.loads(out)["features"] for name in row["nodes"]]
    saved = read(tmp_path / "cat.graph", graph)
    assert saved.annotations["supernodes"] == [{"id": "s1", "name": "cats", "members": members, "collapsed": True}]
    run(*words, "--supernode", "mats")  # a node is in one supernode: the first is empty, and gone
    run(*words, "--supernode", "mats")
    assert [group["name"] for group in read(tmp_path / "cat.graph", graph).annotations["supernodes"]] == ["mats"]
    add_supernode(tmp_path / "cat.graph", graph, "one", members[:1])
    groups = read(tmp_path / "cat.graph", graph).annotations["supernodes"]
    assert [(group["name"], group["members"]) for group in groups] == [("mats", members[1:]), ("one", members[:1])]
    code, _, err = run("features", "like", "the cat", "--supernode", "cats")
    assert code == 2 and "give --graph" in err


def test_commands_show_both_signs(run, built, folders):  # noqa: F811
    code, out, err = run("features", "show", "1_3", "--features", built[1])
    assert (code, err) == (0, "") and "neuron 3, positive" in out and "neuron 3, negative" in out
    both = json.loads(run("features", "show", "1_3", "--features", built[1], "--json")[1])["pages"]
    assert [page["sign"] for page in both] == ["+", "-"]
    text = folders[3].parent / "short.txt"
    text.write_text("the cat sat on a mat")
    code, out, err = run("features", "show", "1_3", "--features", built[1], "--neurons", "--when", text,
                         "--model", folders[0], "--context", "16")  # fmt: skip
    assert (code, err) == (0, ""), err
    assert "of 6 tokens" in out
    code, _, err = run("features", "build", "--text", text, "--out", "x", "--neurons", "x")
    assert code == 2 and "same folder" in err
    assert run("features", "build", "--text", text, "--promoted", "guess")[0] == 2


def test_pages_of_neurons_that_are_not_there(of_neurons, monkeypatch):
    monkeypatch.setattr("unweave.base.catalogue._installed", lambda *words: None)
    with pytest.raises(FileError, match="build them"):
        open_pages(None, of_neurons.transcoders)
