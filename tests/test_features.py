"""Feature pages: what is counted while text streams by, what is written, read and searched."""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_tiny_dictionary, write_tiny_model
from safetensors.numpy import load_file

import unweave
from unweave.attribution.promoted import logit_effects
from unweave.errors import FileError, InterventionError, OptionError, TextError, TranscoderMismatch
from unweave.features import collect as collecting
from unweave.features.collect import Collection, Reading, activations, add_batch, collect
from unweave.features.details import feature_page
from unweave.features.label import Background, Evidence, label
from unweave.features.like import like, when
from unweave.features.pages import already_built, open_pages, pages_of, search_features
from unweave.features.rules import CLASSES, Members, Rule, holds
from unweave.features.score import contexts, detect
from unweave.features.tally import AFTER, BEFORE, SAMPLED, STRONGEST, TOKENS, bin_edges, priority
from unweave.features.together import companions
from unweave.features.write import write_pages
from unweave.transcoders.dense import DenseTranscoders

CONTEXT = 16
WORDS = (
    "<s> the cat sat on a mat and saw two dogs running in Paris while it was raining on 12 houses . , paris's "
    'O\'Neil "quoted" ; DROP'
).split()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(model with a tokenizer, dictionary, cross-layer dictionary, text)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("microscope")
    model = write_tiny_model("llama", root / "model")
    vocabulary = {word: place for place, word in enumerate([*WORDS, *(f"w{i}" for i in range(50 - len(WORDS)))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>").save_pretrained(model)
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(list(vocabulary)[1:], 40)) for _ in range(60)]
    (root / "text.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return (
        model,
        write_tiny_dictionary("jumprelu", "llama", root / "plt"),
        write_tiny_dictionary("clt", "llama", root / "clt"),
        root / "text.jsonl",
    )


@pytest.fixture(scope="module")
def model(folders):
    return unweave.load(str(folders[0]), str(folders[1]))


def reading(model, text, **more):
    return Reading(
        model.language_model.name, model.transcoders.name, model.transcoders.sha256, (str(text),), CONTEXT, **more
    )


@pytest.fixture(scope="module")
def built(model, folders, tmp_path_factory):
    """(collection, all its blocks, activations by layer, pages)."""
    out = tmp_path_factory.mktemp("pages")
    collection = collect(model, reading(model, folders[3]), out, tokens=1500)
    blocks = torch.stack(list(collection.reading.blocks(model.language_model)))[: collection.n_blocks]
    dictionary = DenseTranscoders.load(model.transcoders, torch.float32, torch.device("cpu"))
    full = {layer: part.numpy() for layer, part in activations(model, dictionary, blocks)}
    write_pages(collection, model, out)
    return collection, blocks.numpy(), full, open_pages(out, model.transcoders)


def test_the_server_reads_our_pages(built):
    from concurrent.futures import ThreadPoolExecutor

    from unweave.features.foreign import open_pages as open_served

    *_, pages = built
    one = open_served(pages.folder)
    assert one(1, 3) == feature_page(pages, 1, 3) and one(1, 3)["source"] == "page"
    assert one(99, 0) is None and one(1, 10_000) is None
    keys = [(1, 3), (0, 5), (1, 0), (99, 0), (1, 3)]
    assert one.several(keys) == {key: feature_page(pages, *key) for key in keys[:3]}
    assert one.briefs(keys) == {key: (page["label"], page["density"]) for key, page in one.several(keys).items()}
    with ThreadPoolExecutor(8) as threads:
        assert all(list(threads.map(lambda index: one(0, index % 20)["index"] == index % 20, range(80))))


def test_many_pages_take_few_queries_and_briefs_read_no_page(built, monkeypatch):
    from unweave.features.foreign import open_pages as open_served

    *_, pages = built
    one, asked = open_served(pages.folder), []
    query = type(pages).query
    monkeypatch.setattr(type(pages), "query", lambda self, *words: asked.append(words[0]) or query(self, *words))
    keys = [(layer, index) for layer in range(len(pages.widths)) for index in range(20)]
    one.briefs(keys)
    assert not any("contexts_" in sql or "blocks" in sql for sql in asked)
    del asked[:]
    one.briefs(keys)
    assert len(asked) == 1
    del asked[:]
    one.several(keys)
    assert len(asked) <= 2 * len(pages.widths) + 2


def test_pages_are_shown_with_graphs_of_their_dictionary_alone(built):
    from dataclasses import replace

    from unweave.features.foreign import served

    *_, pages = built
    facts = unweave.Provenance("toy", 3, None, (), (), (), transcoders_sha256=pages.facts["sha256"])
    foreign, other = replace(facts, transcoders_sha256=""), replace(facts, transcoders_sha256="0" * 64)
    given, shipped = served(pages), served(pages, shipped=True)
    assert [given.fits(one) for one in (facts, other, foreign)] == [True, False, True]
    assert [shipped.fits(one) for one in (facts, other, foreign)] == [True, False, False]
    assert not given.fits(replace(facts, units="neurons"))
    weights = replace(facts, transcoders_weights_sha256=facts.transcoders_sha256, transcoders_sha256="1" * 64)
    assert shipped.fits(weights)


def test_counts_are_those_of_all_activations(built):
    collection, blocks, full, _ = built
    assert collection.seen == blocks[:, 1:].size >= 1500
    for layer, found in full.items():
        arrays = collection.layers[layer].arrays
        assert (arrays["count"] == (found != 0).sum((0, 1))).all() and (
            arrays["histogram"].sum(1) == arrays["count"]
        ).all()
        np.testing.assert_allclose(arrays["total"], found.sum((0, 1)), rtol=1e-4)
        for feature, tokens, counts in collection.layers[layer].tokens():
            where, at = np.nonzero(found[..., feature])
            true = np.bincount(blocks[where, at + 1], minlength=50)
            assert counts.sum() == true.sum() and (true[tokens] == counts).all() and len(tokens) <= TOKENS


def test_histogram_bins_hold_what_lies_between_their_edges(built):
    collection, _, full, _ = built
    edges = bin_edges(np.arange(129))
    for layer, found in full.items():
        for feature in range(0, found.shape[2], 7):
            values = found[..., feature][found[..., feature] > 0]
            assert (np.histogram(values, edges)[0] == collection.layers[layer].arrays["histogram"][feature]).all()


def test_examples_are_the_strongest_of_blocks_and_an_even_sample(built):
    collection, _, full, _ = built
    for layer, found in full.items():
        arrays = collection.layers[layer].arrays
        for feature in range(0, found.shape[2], 5):
            one = found[..., feature]
            best = np.sort(one.max(1))[::-1]
            kept = arrays["strongest_place"][feature] >= 0
            np.testing.assert_allclose(arrays["strongest_value"][feature][kept], best[best > 0][:STRONGEST], rtol=1e-5)
            block, at = np.nonzero(one)
            places = block * CONTEXT + at + 1
            sample = arrays["sampled_place"][feature]
            assert (sample[sample >= 0] == places[np.argsort(-priority(places))][:SAMPLED]).all()
            for slot, place in enumerate(sample[:6]):
                row, position = divmod(int(place), CONTEXT)
                true = [
                    max(one[row, p - 1], 0) if 1 <= p < CONTEXT else 0
                    for p in range(position - BEFORE, position + AFTER + 1)
                ]
                window = arrays["sampled_window"][feature, slot] / 255 * arrays["sampled_scale"][feature, slot]
                np.testing.assert_allclose(window, true, atol=max(true) / 400)


def test_a_stopped_collection_goes_on_as_if_it_had_not_been(model, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(collecting, "AT_ONCE", 5 * CONTEXT)
    whole = collect(model, reading(model, folders[3]), tmp_path, tokens=1500)
    cut = tmp_path / "cut"
    cut.mkdir()
    monkeypatch.setattr(collecting, "SAVE_EVERY", 0.0)

    def stop(share, title):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(model, reading(model, folders[3]), cut, tokens=1500, report=stop)
    assert 0 < json.loads(_facts(cut))["n_blocks"] < whole.n_blocks
    collect(model, reading(model, folders[3]), cut, tokens=1500)
    first, second = load_file(tmp_path / collecting.STATE), load_file(cut / collecting.STATE)
    assert first.keys() == second.keys()
    for name, array in first.items():
        if name.endswith("total"):
            np.testing.assert_allclose(array, second[name], rtol=1e-5)
        elif array.dtype == np.float32:
            np.testing.assert_allclose(array, second[name], rtol=1e-4, atol=1e-4)
        elif not name.endswith(("_window", "_key")):
            assert (array == second[name]).all(), name


def _facts(folder):
    from safetensors import safe_open

    with safe_open(folder / collecting.STATE, "np") as file:
        return file.metadata()["facts"]


def test_going_on_with_something_else_is_refused(model, folders, tmp_path):
    collect(model, reading(model, folders[3]), tmp_path, tokens=200)
    state = (tmp_path / collecting.STATE).read_bytes()
    other = tmp_path / "other.jsonl"
    other.write_text(folders[3].read_text().replace("cat", "dogs"))
    with pytest.raises(FileError, match="begun with text"):
        collect(model, reading(model, other), tmp_path, tokens=400)
    with pytest.raises(FileError, match="begun with held_out"):
        collect(model, reading(model, folders[3], held_out=0.2), tmp_path, tokens=400)
    changed = tmp_path / "text.jsonl"
    changed.write_text(folders[3].read_text())
    collect(
        model,
        reading(model, changed),
        tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path,
        tokens=200,
    )
    changed.write_text(other.read_text())
    with pytest.raises(TextError, match="not the one that was read before"):
        collect(model, reading(model, changed), tmp_path / "again", tokens=400)
    assert (tmp_path / collecting.STATE).read_bytes() == state
    (tmp_path / collecting.STATE).write_bytes(state[: len(state) // 2])
    with pytest.raises(FileError, match="remove it to begin anew"):
        collect(model, reading(model, folders[3]), tmp_path, tokens=400)


def test_memory_does_not_grow_with_the_text(model, folders):
    collection = Collection(reading(model, folders[3]), model.transcoders.widths, 50)
    dictionary = DenseTranscoders.load(model.transcoders, torch.float32, torch.device("cpu"))
    sizes = []
    for seed in range(12):
        ids = torch.randint(1, 50, (40, CONTEXT), generator=torch.Generator().manual_seed(seed))
        add_batch([collection], model.language_model, model.transcoders.write, [dictionary], ids)
        collection.compact()
        for layer in collection.layers:
            layer.count_tokens()
        sizes.append(sum(array.nbytes for layer in collection.layers for array in layer.arrays.values()))
    limit = sum(model.transcoders.widths) * (STRONGEST + SAMPLED)
    assert sizes[-1] == sizes[-4] and len(collection.kept) <= limit


def test_a_page_says_what_the_model_did(model, built):
    _, blocks, full, pages = built
    for layer, index in ((0, 3), (1, 0), (2, 33)):
        found, one = feature_page(pages, layer, index), full[layer][..., index]
        assert found["count"] == (one != 0).sum() and found["density"] == pytest.approx((one != 0).mean(), rel=1e-6)
        assert found["maximum"] == pytest.approx(one.max(), rel=1e-3)
        assert (
            sum(found["histogram"]["counts"]) == found["count"]
            and len(found["histogram"]["edges"]) == len(found["histogram"]["counts"]) + 1
        )
        true = np.quantile(one[one > 0], [0.05, 0.25, 0.5, 0.75, 0.95])
        np.testing.assert_allclose(found["quantiles"], true, rtol=0.25)
        effects = logit_effects(model, layer, torch.tensor([index]))[0]
        assert [token for token, _ in found["promoted"]] == [
            model.language_model.token_text(int(i)) for i in effects.topk(10).indices
        ]
        assert found["suppressed"][0][1] == pytest.approx(float(effects.min()), rel=1e-3)
        assert found["norms"] == [
            [
                layer,
                pytest.approx(
                    float(model.transcoders.decoder_rows(layer, torch.tensor([index]), layer, torch.float32).norm()),
                    rel=1e-3,
                ),
            ]
        ]
        for context in found["contexts"]:
            assert len(context["tokens"]) == len(context["activations"]) <= CONTEXT
            assert context["activations"][context["peak"]] > 0
        strongest = next(context for context in found["contexts"] if context["quantile"] == "strongest")
        row = int(one.max(1).argmax())
        assert "".join(strongest["tokens"]) in "".join(
            model.language_model.token_text(int(token)) for token in blocks[row]
        )
        assert json.loads(json.dumps(found)) == found
        token, count, _ = found["tokens"][0]
        where, at = np.nonzero(one)
        assert count == np.bincount(blocks[where, at + 1]).max() and token


def test_cross_layer_pages_say_where_a_feature_writes(folders, tmp_path):
    model = unweave.load(str(folders[0]), str(folders[2]))
    write_pages(collect(model, reading(model, folders[3]), tmp_path, tokens=300), model, tmp_path)
    found = feature_page(open_pages(tmp_path), 1, 4)
    assert [layer for layer, _ in found["norms"]] == [1, 2]
    assert found["norms"][1][1] == pytest.approx(
        float(model.transcoders.decoder_rows(1, torch.tensor([4]), 2, torch.float32).norm()), rel=1e-3
    )


def test_companions_are_features_that_fire_together():
    rng = np.random.default_rng(1)
    every = np.arange(1, 4000)

    def sample(places):
        kept = places[np.argsort(-priority(places))][:SAMPLED]
        return np.pad(kept, (0, SAMPLED - len(kept)), constant_values=-1)

    twin = rng.choice(every, 300, replace=False)
    half = np.concatenate([twin[:150], rng.choice(every, 150, replace=False)])
    layers = [
        np.stack([sample(twin), sample(rng.choice(every, 300, replace=False))]),
        np.stack([sample(twin), sample(half), sample(twin[:5])]),
    ]
    (first, _), _ = found = companions(layers, 2)
    assert first[0].tolist() == [2, 3]
    assert found[0][1][0, 0] == 1.0 and 0.15 < found[0][1][0, 1] < 0.6  # the true share is a third
    assert found[1][0][2, 0] in (-1, 0, 2)


def test_search_finds_by_every_field(built, model):
    pages = built[3]
    token = feature_page(pages, 1, 2)["tokens"][0][0]
    assert (1, 2) in {
        (row["layer"], row["index"]) for row in search_features(pages, token, fields=("token",), limit=90)
    }
    promoted = feature_page(pages, 2, 7)["promoted"][0][0]
    rows = search_features(pages, promoted.upper(), fields=("promoted",), limit=90)
    assert next(row for row in rows if (row["layer"], row["index"]) == (2, 7))["weight"] >= 0.09
    for text in ("paris's", "O'Neil", '"quoted"', "';drop table x;--", "100%", "_", "\\", "[", "日本"):
        assert isinstance(search_features(pages, text), list)
    assert {row["fields"][0] for row in search_features(pages, "o'neil", fields=("context",))} <= {"context"}
    for bad in ({"text": "  "}, {"text": "x", "limit": 0}, {"text": "x", "fields": ("nothing",)}):
        with pytest.raises(OptionError):
            search_features(pages, **bad)


def test_one_page_takes_milliseconds(built):
    pages = built[3]
    feature_page(pages, 0, 0)
    begin = time.process_time()
    for index in range(10):
        feature_page(pages, 1, index)
    assert (time.process_time() - begin) / 10 < 0.2  # the shape checks of the tests cost most of it


def test_pages_that_cannot_be_read(built, model, folders, tmp_path):
    pages = built[3]
    for layer, index, phrase in ((3, 0, "layers 0 to 2"), (1, 26, "features 0 to 25"), (-1, 0, "layer -1")):
        with pytest.raises(InterventionError, match=phrase):
            feature_page(pages, layer, index)
    other = unweave.load(str(folders[0]), str(folders[2])).transcoders
    with pytest.raises(TranscoderMismatch, match="are of another dictionary"):
        open_pages(pages.folder, other)
    assert pages_of(other) is None
    with pytest.raises(FileError, match="no feature pages in"):
        open_pages(tmp_path)
    (tmp_path / "collecting.safetensors").write_bytes(b"")
    with pytest.raises(FileError, match="a build there was stopped"):
        open_pages(tmp_path)
    for content, phrase in (
        ("{", "is damaged"),
        ("[]", "does not describe"),
        ('{"format": "unweave feature pages", "version": 99}', "version 99"),
    ):
        (tmp_path / "pages.json").write_text(content)
        with pytest.raises(FileError, match=phrase):
            open_pages(tmp_path)
    for path in pages.folder.glob("*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "contexts_1.parquet").write_bytes(b"PAR1 not at all")
    (tmp_path / "features_2.parquet").unlink()
    damaged = open_pages(tmp_path)
    feature_page(damaged, 0, 0)
    for layer in (1, 2):
        with pytest.raises(FileError, match="build them anew"):
            feature_page(damaged, layer, 0)


def test_built_pages_are_not_built_again_nor_lost(built, model, folders):
    pages = built[3]
    same = reading(model, folders[3])
    assert already_built(pages.folder, same, 1000)
    with pytest.raises(FileError, match="give another --out"):
        already_built(pages.folder, same, 10_000)
    with pytest.raises(FileError, match="another text"):
        already_built(pages.folder, reading(model, "else.txt"), 10)
    assert not already_built(pages.folder / "nowhere", same, 1)


def test_rules_hold_where_they_say():
    vocabulary = ["<|end|>", " running", " the", "12", "\n", " Paris", "(", "ing"]
    members = Members(vocabulary)
    ids = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]])
    assert np.flatnonzero(holds(Rule("token", (2, 3)), ids, members)[0][:8]).tolist() == [2, 3]
    assert np.flatnonzero(holds(Rule("previous", (5,)), ids, members)[0]).tolist() == [6]
    assert np.flatnonzero(holds(Rule("next", (5,)), ids, members)[0]).tolist() == [4]
    assert np.flatnonzero(holds(Rule("near", (5,)), ids, members)[0]).tolist() == list(range(5, 18))
    assert np.flatnonzero(holds(Rule("token", (), "words in -ing"), ids, members)[0]).tolist() == [1, 7, 21]
    kinds = {text: {name for name in CLASSES if members[name][place]} for place, text in enumerate(vocabulary)}
    assert (
        "digits" in kinds["12"]
        and "line breaks" in kinds["\n"]
        and "capitalised words" in kinds[" Paris"]
        and "brackets" in kinds["("]
    )
    assert np.flatnonzero(holds(Rule("start", (), "first 3"), ids, members)[0]).tolist() == [1, 2, 3]
    assert np.flatnonzero(holds(Rule("token", (), "words in -ris"), ids, members)[0]).tolist() == [5]
    assert np.flatnonzero(holds(Rule("token", (), "words beginning with th-"), ids, members)[0][:8]).tolist() == [2]
    for rule in (
        Rule("near", (3, 4)),
        Rule("start", (), "first 4"),
        Rule("token", (), "words in -burg"),
        Rule("next", (), "words beginning with ge-"),
    ):
        assert Rule.from_json(rule.to_json()) == rule
    for damaged in (
        "",
        "{}",
        '{"where": "nowhere", "tokens": [], "kind": ""}',
        '{"where": "token", "tokens": [], "kind": "x"}',
        '{"where": "start", "tokens": [], "kind": ""}',
    ):
        with pytest.raises(FileError):
            Rule.from_json(damaged)


def evidence_of(firing, ids, vocabulary):
    """Evidence as a collection gives it, for a feature that fires at some positions."""
    row, at = np.nonzero(firing)
    tokens, counts = np.unique(ids[row, at], return_counts=True)
    order = np.argsort(-counts)
    padded = np.pad(ids, ((0, 0), (BEFORE, AFTER)), constant_values=-1)
    around = np.stack([padded[r, a : a + BEFORE + 1 + AFTER] for r, a in list(zip(row, at, strict=True))[:SAMPLED]])
    return Evidence(len(row), tokens[order], counts[order], around, at[:SAMPLED], ("x",))


@pytest.mark.parametrize(
    "rule",
    [
        Rule("token", (7, 9, 11)), Rule("previous", (5,)), Rule("next", (8,)), Rule("near", (33,)),
        Rule("token", (), "digits"),
        Rule("start", (), "first 4"), Rule("token", (), "words in -burg"),
        Rule("token", (), "words beginning with ge-"),
    ],
)  # fmt: skip
def test_the_labeller_finds_the_rule_behind_a_feature(rule):
    rng = np.random.default_rng(3)
    vocabulary = [f" w{i}" for i in range(30)] + [str(i) for i in range(10)]
    vocabulary[10:22] = [f" {letter}{part}burg" for letter in "ABCD" for part in ("al", "or", "ist")]
    vocabulary[22:30] = [f" ge{letter}t" for letter in "abdfklmn"]
    ids = rng.choice(40, (200, 32), p=np.array([1.0] * 32 + [0.2] * 8) / 33.6)
    ids[:, 0] = 0
    background = Background(vocabulary, np.bincount(ids[:, 1:].ravel(), minlength=40), ids)
    firing = holds(rule, ids, background.members)
    found = label(evidence_of(firing, ids, vocabulary), background)
    assert found.confidence > 0.6
    test = rng.choice(40, (200, 32), p=np.array([1.0] * 32 + [0.2] * 8) / 33.6)
    _, positions = detect(found.rule, test, holds(rule, test, background.members), background.members)
    _, baseline = detect(
        Rule("token", (int(np.bincount(ids[firing]).argmax()),)),
        test,
        holds(rule, test, background.members),
        background.members,
    )
    assert positions.f1 > 0.9 and positions.f1 > baseline.f1
    assert (
        label(Evidence(0, np.zeros(0, int), np.zeros(0, int), np.zeros((0, 32), int), np.zeros(0, int)), background)
        is None
    )


def test_detection_counts_by_hand():
    ids, members = np.array([[0, 1, 2, 1, 3, *[3] * 28]]), Members(["a"] * 4)
    firing = np.zeros_like(ids, bool)
    firing[0, [1, 20]] = True
    both, positions = detect(Rule("token", (1,)), ids, firing, members)
    assert (both.both, both.picked, both.firing, both.of) == (1, 1, 2, 2)
    assert (positions.precision, positions.recall, positions.f1) == (0.5, 0.5, 0.5)
    assert contexts(firing).tolist() == [[True, True]]


def test_like_finds_what_texts_switch_on(model, built):
    pages = built[3]
    texts = ["the cat sat on a mat", "the cat saw two dogs"]
    found = like(model, pages, texts, limit=10)
    assert len(found) == 10 and all(a.score >= b.score for a, b in pairwise(found))
    dictionary = DenseTranscoders.load(model.transcoders, torch.float32, torch.device("cpu"))
    for one in found[:3]:
        acts = [
            dict(activations(model, dictionary, model.language_model.tokenize(text)[None]))[one.layer][0, :, one.index]
            for text in texts
        ]
        assert one.share == pytest.approx(np.mean([float((a > 0).float().mean()) for a in acts]), rel=1e-4)
        assert one.texts == sum(bool((a > 0).any()) for a in acts) and one.strongest == pytest.approx(
            float(max(a.max() for a in acts)), rel=1e-4
        )
        assert one.share > one.density
    with pytest.raises(OptionError):
        like(model, pages, [])


def test_when_says_where_a_feature_is_on_and_off(model, built, folders):
    _, blocks, full, _ = built
    found = when(model, iter(torch.from_numpy(blocks)), 1, 5, tokens=10_000)
    one = full[1][..., 5]
    assert (found["firings"], found["tokens"]) == (int((one != 0).sum()), one.size)
    assert max(found["on"][0]["activations"]) == pytest.approx(one.max(), abs=1e-3)
    assert found["off"] and all(context["activations"][context["peak"]] == 0 for context in found["off"])
    assert Path(folders[3]).is_file()
