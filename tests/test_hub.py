"""The hub as users meet it, on one of our own: what is fetched, in which order, what is refused and what is said."""

import json
import shutil

import huggingface_hub.constants as constants
import pytest
import torch
from conftest import PROMPT, WIDTHS, write_tiny_dictionary
from hub import FakeHub
from safetensors.torch import save_file

import unweave
from unweave.base import fetching
from unweave.errors import ModelError, TranscoderError, UnsupportedModel

MODEL, DICTIONARY = "meta-llama/Llama-3.2-1B", "mntss/transcoder-Llama-3.2-1B"


@pytest.fixture
def hub(tmp_path, monkeypatch, tiny_folders):
    """A hub with a tiny Llama and its dictionary at their published names, and an empty cache."""
    made = FakeHub(tmp_path / "hub")
    shutil.copytree(tiny_folders("llama", "relu")[0], made.root / MODEL)
    shutil.copytree(tiny_folders("llama", "relu")[1], made.root / DICTIONARY)
    (made.root / DICTIONARY / "features").mkdir()
    (made.root / DICTIONARY / "features" / "layer_0.bin").write_bytes(bytes(1000))
    address = made.start()
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(fetching, "SECONDS", 0.001)
    fetching.listing.cache_clear()
    yield made
    fetching.listing.cache_clear()
    made.server.shutdown()
    made.server.server_close()


def test_the_models_config_comes_first_and_only_what_is_needed(hub):
    model = unweave.load("llama")
    assert model.language_model.name == "llama" and model.transcoders.widths == WIDTHS
    asked = hub.files_asked()
    assert asked[0] == "config.json" and hub.repositories_asked()[0] == MODEL
    assert "features/layer_0.bin" not in asked and len(asked) == len(set(asked))
    assert unweave.attribute(model, PROMPT).provenance.logits_error < 1e-4
    hub.asked.clear()
    fetching.listing.cache_clear()
    unweave.load("llama")
    assert hub.files_asked() == []


def test_nothing_of_a_dictionary_is_fetched_for_a_model_that_cannot_be_had(hub):
    hub.gated.add(MODEL)
    with pytest.raises(ModelError, match=f"'llama': {MODEL} is gated: accept its terms"):
        unweave.load("llama")
    assert DICTIONARY not in hub.repositories_asked()
    hub.gated.clear()
    config = hub.root / MODEL / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "bloom"'))
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    with pytest.raises(UnsupportedModel, match="family 'bloom' is not supported"):
        unweave.load("llama")
    assert DICTIONARY not in hub.repositories_asked()


def test_where_hub_and_machine_are_apart_the_cache_serves(hub):
    unweave.load("llama")
    for change in ({"down": True}, {"down": False}):
        hub.down = change["down"]
        fetching.listing.cache_clear()
        hub.asked.clear()
        assert unweave.load("llama").transcoders.widths == WIDTHS
        assert hub.files_asked() == []
    hub.server.shutdown()
    hub.server.server_close()
    fetching.listing.cache_clear()
    assert unweave.load("llama").transcoders.widths == WIDTHS
    with pytest.raises(TranscoderError, match="org/other is not in the local cache and the hub cannot be reached"):
        unweave.read_transcoders("org/other")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("org/nothing", "no repository org/nothing on the hub"),
        (f"{DICTIONARY}@v9", f"{DICTIONARY} has no revision 'v9'"),
        (f"{DICTIONARY}/sub", f"{DICTIONARY} has no sub"),
    ],
)
def test_what_is_not_there(hub, name, words):
    with pytest.raises(TranscoderError, match=words):
        unweave.read_transcoders(name)
    assert hub.files_asked() == []


def test_moved_repositories_and_busy_hubs(hub):
    hub.moved["mntss/old-name"] = DICTIONARY
    hub.busy = 1
    assert unweave.read_transcoders("mntss/old-name").widths == WIDTHS


def test_a_cut_connection_says_that_the_same_command_goes_on(hub, monkeypatch):
    hub.cut = {"layer_1.safetensors"}
    monkeypatch.setattr("huggingface_hub.file_download._http_backoff_base", None, raising=False)
    try:
        found = unweave.read_transcoders(DICTIONARY)
    except TranscoderError as error:
        assert "the same command goes on from there" in str(error)
        found = unweave.read_transcoders(DICTIONARY)
    assert found.widths == WIDTHS
    assert hub.files_asked().count("layer_0.safetensors") == 1


def test_a_repository_named_whole_is_refused_by_its_tree(hub, tmp_path):
    whole = hub.root / "google" / "gemma-scope"
    for layer in range(2):
        for width in ("16k", "65k"):
            place = whole / f"layer_{layer}" / f"width_{width}"
            place.mkdir(parents=True)
            save_file({"W_enc": torch.full((2, 2), float(layer))}, place / "params.safetensors")
    (whole / "resid_post").mkdir()
    (whole / "resid_post" / "big.safetensors").write_bytes(bytes(5000))
    with pytest.raises(
        TranscoderError, match=r"google/gemma-scope has several dictionaries for layer 0: .*choose with \*"
    ):
        unweave.read_transcoders("google/gemma-scope")
    assert hub.files_asked() == []
    with pytest.raises(TranscoderError, match=r"has no config\.json"):  # not whole, but no more than these are fetched
        unweave.read_transcoders("google/gemma-scope/layer_*/width_16k")
    assert sorted(hub.files_asked()) == [f"layer_{layer}/width_16k/params.safetensors" for layer in range(2)]


def test_lists_of_another_repository_come_in_one_go(hub, tmp_path):
    folder = write_tiny_dictionary("relu", "llama", tmp_path / "listed")
    for path in folder.glob("layer_*"):
        path.unlink()
    text = (folder / "config.yaml").read_text()
    lines = [f"- hf://{DICTIONARY}/layer_{layer}.safetensors" for layer in range(len(WIDTHS))]
    (folder / "config.yaml").write_text(text + "\n".join(["transcoders:", *lines]))
    assert unweave.read_transcoders(str(folder)).widths == WIDTHS
    api = [path for _, path in hub.asked if path.startswith("/api/")]
    assert len(api) <= 3  # ours, and the hub library's own two
    (folder / "config.yaml").write_text(
        text + "\n".join(["transcoders:", *lines[:2], f"- hf://{DICTIONARY}/layer_9.safetensors"])
    )
    with pytest.raises(TranscoderError, match=r"lists layer_9\.safetensors, which its repository"):
        unweave.read_transcoders(str(folder))


def test_sizes_and_disk_are_looked_at_first(hub, monkeypatch):
    fetching.ask_above(1000)
    try:
        with pytest.raises(
            TranscoderError, match=r"\d files of \d+\.\d kB are to be fetched into .*free; .*with --yes"
        ):
            unweave.read_transcoders(DICTIONARY)
    finally:
        fetching.ask_above(None)
    full = shutil._ntuple_diskusage(10, 9, 1)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda path: full)
    with pytest.raises(TranscoderError, match="which has 1 bytes free; make room, or set HF_HOME"):
        unweave.read_transcoders(DICTIONARY)
    assert hub.files_asked() == ["config.yaml"]  # which says what the other files are


def test_fetches_are_heard(hub):
    heard = []
    with fetching.heard(lambda share, said: heard.append((share, said))):
        unweave.read_transcoders(DICTIONARY)
    assert heard[0][0] == 0.0 and heard[0][1].startswith(f"fetching {DICTIONARY}: ")
    assert heard[-1] == (None, None)


def test_commands_ask_for_yes_above_what_is_small(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("unweave.cli.commands.ASK_ABOVE", 1000.0)
    try:
        code, _, err = run("trace", "--ids", "0,7,3", "--model", "llama")
        assert code == 2 and "--yes" in err and DICTIONARY in err, err
        code, _, err = run("trace", "--ids", "0,7,3", "--model", "llama", "--yes")
        assert code == 0, err
    finally:
        fetching.ask_above(None)


def test_the_list_of_models_checked_against_the_hub(hub, run, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.gated.add(MODEL)
    code, out, _ = run("models", "--check", "--json")
    hub_says = {one["name"]: one.get("hub") for one in json.loads(out)["models"]}
    assert code == 0 and hub_says["organism"] is None
    model, dictionary = hub_says["llama"]
    size = sum(path.stat().st_size for path in (hub.root / MODEL).glob("*.safetensors"))
    assert model == {"gigabytes": size / 1e9, "gated": True, "licence": "llama3.2"}
    assert dictionary["gated"] is False
    assert "google/gemma-2-2b" in hub_says["gemma"][0]["error"]
    code, out, _ = run("models", "--check")
    line = next(line for line in out.splitlines() if line.startswith("llama "))
    assert code == 0 and "llama3.2, gated" in line and "llama3.2, open" in line
    assert hub.files_asked() == []
    hub.down = True
    fetching.listing.cache_clear()
    assert "the hub is not reached" in run("models", "--check")[1]
