"""Pages carried over to a dictionary with the same encoders are those that a build would have made."""

import json
from dataclasses import replace

import pytest
import torch
from test_features import CONTEXT, folders, model  # noqa: F401

import unweave
from unweave.errors import FileError, TranscoderMismatch
from unweave.features.carry import carry, check_same_features
from unweave.features.collect import Reading, collect
from unweave.features.pages import open_pages
from unweave.features.write import write_pages
from unweave.transcoders.transcoders import JumpReLU, Matrix


def silent(share, title):
    pass


def changed(transcoders, folder):
    """Other decoders, one of them gone."""
    generator = torch.Generator().manual_seed(3)
    layers = []
    for layer in transcoders.layers:
        decoder = torch.randn(layer.decoder.shape, generator=generator)
        decoder[2] = 0
        layers.append(replace(layer, decoder=Matrix(decoder)))
    return unweave.write_transcoders(replace(transcoders, layers=tuple(layers)), folder)


@pytest.fixture
def carried(model, folders, tmp_path):  # noqa: F811
    """(old pages, new model, new pages)."""
    first = pages_built(model, folders, tmp_path / "old")
    new = unweave.load(str(folders[0]), str(changed(model.transcoders, tmp_path / "dictionary")))
    carry(first, model.transcoders, new, tmp_path / "carried", silent)
    return first, new, open_pages(tmp_path / "carried", new.transcoders)


def pages_built(model, folders, out):  # noqa: F811
    out.mkdir()
    facts, dictionary = model.language_model, model.transcoders
    reading = Reading(facts.name, dictionary.name, dictionary.sha256, (str(folders[3]),), CONTEXT)
    write_pages(collect(model, reading, out, tokens=1500), model, out)
    return open_pages(out, dictionary)


def test_carried_pages_are_those_that_a_build_makes(carried, folders, tmp_path):  # noqa: F811
    old, new, pages = carried
    built = pages_built(new, folders, tmp_path / "built")
    names = sorted(path.name for path in pages.folder.iterdir())
    assert names == sorted(path.name for path in built.folder.glob("*") if "collecting" not in path.name)
    differing = 0
    for name in (name for name in names if name.endswith(".parquet")):
        rows = [each.query(f"SELECT * FROM {each.file(name)}") for each in (pages, built, old)]
        assert rows[0] == rows[1], name
        differing += rows[0] != rows[2]
    assert differing == len(pages.widths) + 1  # tables of features, and labels that say what is promoted
    facts = json.loads((pages.folder / "pages.json").read_text())
    assert facts.pop("carried_from") == old.facts["sha256"] and facts == built.facts


def test_features_that_fire_otherwise_are_refused(carried, model, tmp_path):  # noqa: F811
    old, new, pages = carried
    with pytest.raises(TranscoderMismatch, match="are not of"):
        carry(pages, model.transcoders, new, tmp_path / "out", silent)
    with pytest.raises(FileError, match="give another folder"):
        carry(old, model.transcoders, new, old.folder, silent)
    layer = model.transcoders.layers[1]
    assert isinstance(layer.activation, JumpReLU)
    nudged = layer.encoder.dense(torch.float32).clone()
    nudged[0, 0] += 1e-6
    for words, other in (
        ("encoders", replace(layer, encoder=Matrix(nudged))),
        ("encoder biases", replace(layer, encoder_bias=layer.encoder_bias + 1)),
        ("activation functions", replace(layer, activation=JumpReLU(layer.activation.threshold * 2))),
    ):
        layers = (model.transcoders.layers[0], other, *model.transcoders.layers[2:])
        with pytest.raises(TranscoderMismatch, match=f"^{words} of .* differ at layer 1"):
            check_same_features(model.transcoders, replace(model.transcoders, layers=layers))
    with pytest.raises(TranscoderMismatch, match="other widths"):
        check_same_features(model.transcoders, replace(model.transcoders, read="mid"))


def test_command(carried, folders, tmp_path):  # noqa: F811
    from typer.testing import CliRunner

    from unweave.cli.main import app

    old, _, pages = carried
    words = ["features", "carry", str(old.folder), str(tmp_path / "out"), "--from", str(folders[1])]
    found = CliRunner().invoke(app, [*words, "--model", str(folders[0]), "--transcoders", str(tmp_path / "dictionary")])
    assert found.exit_code == 0, found.output
    for path in pages.folder.glob("*.parquet"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
