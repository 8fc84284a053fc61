import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from conftest import DICTIONARIES, LAYERS, PROMPT, WIDTHS, D, write_tiny_dictionary
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

import unweave
from unweave.base import fetching
from unweave.base.hub import Reference
from unweave.errors import FileError, TranscoderError, TranscoderMismatch
from unweave.transcoders import identity
from unweave.transcoders.transcoders import JumpReLU, ReLU, TopK

ACTIVATIONS = {"relu": ReLU, "jumprelu": JumpReLU, "topk": TopK, "skip": JumpReLU, "clt": JumpReLU}


@pytest.fixture
def folder(tmp_path):
    """A fresh dictionary that a test may damage."""
    return write_tiny_dictionary("skip", "llama", tmp_path / "dictionary")


def edit_config(folder, **changes):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(
        yaml.safe_dump({key: value for key, value in (config | changes).items() if value is not ...})
    )


def edit_layer(folder, layer=1, **changes):
    path = folder / f"layer_{layer}.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()} | changes
    path.unlink()  # never write into a file that may be mapped
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_the_peers_folders_are_read(tiny_folders, kind):
    _, folder = tiny_folders("llama", kind)
    found = unweave.read_transcoders(str(folder))
    assert found.kind == ("cross-layer" if kind == "clt" else "per-layer")
    assert (found.widths, found.d_model, found.model_name, found.name) == (WIDTHS, D, "llama-tiny", str(folder))
    assert all(type(layer.activation) is ACTIVATIONS[kind] for layer in found.layers)
    assert found.has_skip == (kind == "skip")
    assert (found.read, found.write) == (("mid", "residual") if kind == "clt" else ("mlp_in", "mlp_out"))
    assert len(found.sha256) == 64
    if kind == "topk":
        assert [layer.activation for layer in found.layers] == [TopK(5)] * LAYERS
    if kind == "clt":
        assert [layer.decoder.shape for layer in found.layers] == [
            (width, LAYERS - layer, D) for layer, width in enumerate(WIDTHS)
        ]


@pytest.mark.parametrize(
    ("write", "read", "expected"), [("hook_mlp_out", "ln2.hook_normalized", ("mlp_in_normalized", "residual"))]
)
def test_hooks_have_one_meaning(folder, write, read, expected):
    edit_config(folder, feature_input_hook=read, feature_output_hook=write)
    found = unweave.read_transcoders(str(folder))
    assert (found.read, found.write) == expected


def test_rows_are_left_out_of_compact_per_layer_sets_only(tiny_folders, tmp_path):
    transcoders = unweave.read_transcoders(str(tiny_folders("llama", "relu")[1]))
    with pytest.raises(unweave.UnweaveError, match="compact per-layer sets only"):
        unweave.write_transcoders(transcoders, tmp_path / "plain", rows=[torch.arange(3)] * 3)
    assert not (tmp_path / "plain").exists()


def test_scalar_k_alone_makes_a_topk(tmp_path):
    folder = write_tiny_dictionary("topk", "llama", tmp_path / "topk")
    edit_config(folder, activation=..., k=...)
    assert {layer.activation for layer in unweave.read_transcoders(str(folder)).layers} == {TopK(5)}


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_plain_writing_gives_back_the_same_tensors(tiny_folders, tmp_path, kind):
    _, folder = tiny_folders("gemma2", kind)
    found = unweave.read_transcoders(str(folder))
    written = unweave.write_transcoders(found, tmp_path / "again")
    assert {path.name for path in written.iterdir()} == {path.name for path in folder.iterdir()}
    assert yaml.safe_load((written / "config.yaml").read_text()) == yaml.safe_load((folder / "config.yaml").read_text())
    for path in folder.glob("*.safetensors"):
        before, after = load_file(path), load_file(written / path.name)
        stated = {"k"} if kind == "topk" else set()  # in the config; the peer's own loader refuses it as a tensor
        assert before.keys() - stated == after.keys()
        assert all(
            before[name].dtype == value.dtype and torch.equal(before[name], value) for name, value in after.items()
        )
        assert stated or path.read_bytes() == (written / path.name).read_bytes()
    assert kind == "topk" or unweave.read_transcoders(str(written)).sha256 == found.sha256


@pytest.mark.parametrize("kind", DICTIONARIES)
def test_compact_form_stays_within_half_a_step(tiny_folders, tmp_path, kind):
    found = unweave.read_transcoders(str(tiny_folders("llama", kind)[1]))
    again = unweave.read_transcoders(str(unweave.write_transcoders(found, tmp_path / "compact", compact=True)))
    assert (again.kind, again.widths, again.read, again.write, again.has_skip) == (
        found.kind,
        found.widths,
        found.read,
        found.write,
        found.has_skip,
    )
    for old, new in zip(found.layers, again.layers, strict=True):
        assert torch.equal(old.encoder_bias, new.encoder_bias)
        assert torch.equal(old.decoder_bias, new.decoder_bias)
        assert type(old.activation) is type(new.activation)
        for before, after in ((old.encoder, new.encoder), (old.decoder, new.decoder), (old.skip, new.skip)):
            if before is None or after is None:
                assert before is after
                continue
            assert after.stored.dtype == torch.int8
            values = before.dense(torch.float32)
            step = values.abs().amax(-1, keepdim=True) / 127
            assert ((values - after.dense(torch.float32)).abs() <= step * 0.5001).all()
            assert torch.equal(after.select(torch.tensor([0, 3]), torch.float32), after.dense(torch.float32)[[0, 3]])


def test_compact_form_is_a_quarter_of_the_size_and_converts_back(tmp_path):
    wide = write_tiny_dictionary("skip", "llama", tmp_path / "wide")
    weights = torch.randn(4000, D)
    for layer in range(LAYERS):
        wide_ones = {
            "W_enc": weights,
            "W_dec": weights.flip(0),
            "b_enc": torch.zeros(4000),
            "activation_function.threshold": torch.full((4000,), 0.5),
        }
        edit_layer(wide, layer, **wide_ones)
    found = unweave.read_transcoders(str(wide))
    compact = unweave.write_transcoders(found, tmp_path / "compact", compact=True)
    assert size(compact) < 0.36 * size(wide)  # a quarter, one scale a row of only 24, and the bias
    stored = load_file(compact / "layer_0.safetensors")
    assert stored["activation_function.threshold"].tolist() == [0.5]
    again = unweave.read_transcoders(str(compact))
    assert torch.equal(again.layers[0].activation.threshold, found.layers[0].activation.threshold)
    plain = unweave.write_transcoders(again, tmp_path / "plain")
    assert size(plain) == pytest.approx(size(wide), rel=0.01)
    assert torch.equal(load_file(plain / "layer_0.safetensors")["W_enc"], again.layers[0].encoder.dense(torch.float32))


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def test_rows_that_never_fire_are_left_out(folder, tmp_path):
    for layer, width in enumerate(WIDTHS):
        edit_layer(folder, layer, b_enc=torch.linspace(1, 2, width))
    found = unweave.read_transcoders(str(folder))
    rows = [torch.arange(layer, width, 3) for layer, width in enumerate(WIDTHS)]
    whole = unweave.read_transcoders(str(unweave.write_transcoders(found, tmp_path / "whole", compact=True)))
    part = unweave.read_transcoders(str(unweave.write_transcoders(found, tmp_path / "part", compact=True, rows=rows)))
    assert part.widths == WIDTHS
    for layer, kept in enumerate(rows):
        gone = torch.ones(WIDTHS[layer], dtype=torch.bool).index_fill_(0, kept, False)
        before, after = whole.layers[layer], part.layers[layer]
        assert after.encoder.stored.shape[0] == len(kept)
        for old, new in ((before.encoder, after.encoder), (before.decoder, after.decoder)):
            assert torch.equal(new.dense(torch.float32)[kept], old.dense(torch.float32)[kept])
            assert not new.dense(torch.float32)[gone].any()
            assert torch.equal(new.select(kept[1:4], torch.float32), old.dense(torch.float32)[kept[1:4]])
        assert not after.encoder_bias[gone].any()
        assert torch.equal(after.encoder_bias[kept], before.encoder_bias[kept])


@pytest.mark.parametrize("absolute", [False, True])
def test_gemma_scope_files_listed_in_a_config(folder, tmp_path, absolute):
    found = unweave.read_transcoders(str(folder))
    scope = tmp_path / "scope"
    listed = []
    for number, layer in enumerate(found.layers):
        path = scope / f"layer_{number}" / "params.npz"
        path.parent.mkdir(parents=True)
        np.savez(
            path, W_enc=layer.encoder.stored.numpy().T, W_dec=layer.decoder.stored.numpy(),
            b_enc=layer.encoder_bias.numpy(),
            b_dec=layer.decoder_bias.numpy(), threshold=layer.activation.threshold.numpy(),
        )  # fmt: skip
        listed.append(str(path if absolute else path.relative_to(scope)))
    shutil.copy(folder / "config.yaml", scope)
    edit_config(scope, transcoders=listed)
    read = unweave.read_transcoders(str(scope))
    assert read.widths == WIDTHS
    for old, new in zip(found.layers, read.layers, strict=True):
        assert torch.equal(old.encoder.dense(torch.float32), new.encoder.dense(torch.float32))
        assert torch.equal(old.decoder.dense(torch.float32), new.decoder.dense(torch.float32))
        assert torch.equal(old.activation.threshold, new.activation.threshold)
    assert not read.has_skip
    assert unweave.read_transcoders(str(unweave.write_transcoders(read, tmp_path / "plain"))).widths == WIDTHS
    (scope / "layer_2" / "params.npz").unlink()
    with pytest.raises(TranscoderError, match=r"lists .*layer_2.params\.npz, but there is no such file"):
        unweave.read_transcoders(str(scope))
    (scope / "layer_2" / "params.npz").write_bytes(b"PK no zip at all")
    with pytest.raises(TranscoderError, match="cannot read"):
        unweave.read_transcoders(str(scope))


@pytest.mark.parametrize("name", ["dictionary", "./dictionary", "../{here}/dictionary"])
def test_relative_folders(folder, monkeypatch, name):
    monkeypatch.chdir(folder.parent)
    assert unweave.read_transcoders(name.format(here=folder.parent.name)).widths == WIDTHS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/repo", ("org/repo", "", None)),
        ("org/repo@v1.2", ("org/repo", "", "v1.2")),
        ("org/repo/a/b@refs/pr/3", ("org/repo", "a/b", "refs/pr/3")),
        ("hf://org/repo-1.5/layer_0/params.npz", ("org/repo-1.5", "layer_0/params.npz", None)),
        ("hf://org/repo/x.npz?revision=abc", ("org/repo", "x.npz", "abc")),
    ],
)
def test_references(text, expected):
    assert Reference.parse(text) == Reference(*expected)


@pytest.mark.parametrize("text", ["org", "org//repo", "org/repo@", "https://example.com/x", "a b/c"])
def test_what_is_no_reference(text):
    with pytest.raises(TranscoderError, match="neither a local folder nor a reference"):
        Reference.parse(text)


def web(kind):
    return kind("404 Client Error.\n\nSecond line", response=SimpleNamespace(headers={}, request=None, status_code=404))


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (web(GatedRepoError), "org/repo@v1 is gated"),
        (web(RepositoryNotFoundError), "no repository org/repo on the hub"),
        (web(RevisionNotFoundError), "org/repo has no revision 'v1'"),
        (LocalEntryNotFoundError("cannot find\nit"), "org/repo@v1 is not in the local cache"),
        (web(HfHubHTTPError), "cannot fetch org/repo@v1: 404 Client Error"),
        (OSError("disk\nfull"), "cannot fetch org/repo@v1: disk"),
        (ValueError(), "cannot fetch org/repo@v1: ValueError"),
    ],
)
def test_download_errors_are_one_line(monkeypatch, raised, message):
    def fail(*args, **options):
        raise raised

    monkeypatch.setattr(
        fetching, "listing", lambda repository, revision: fetching.Listing({"sub/config.yaml": 9}, "c0")
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(TranscoderError) as caught:
        unweave.read_transcoders("org/repo/sub@v1")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_sha256_changes_with_any_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    first = unweave.read_transcoders(str(folder)).sha256
    assert (tmp_path / "cache" / "sha256.json").is_file()
    assert unweave.read_transcoders(str(folder)).sha256 == first
    shutil.copytree(folder, tmp_path / "copy")
    assert unweave.read_transcoders(str(tmp_path / "copy")).sha256 == first
    content = bytearray((folder / "layer_2.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "layer_2.safetensors").unlink()
    (folder / "layer_2.safetensors").write_bytes(content)
    assert unweave.read_transcoders(str(folder)).sha256 != first
    (tmp_path / "cache" / "sha256.json").write_text("[]")  # a damaged cache costs only time
    assert unweave.read_transcoders(str(tmp_path / "copy")).sha256 == first


def truncate(folder):
    path = folder / "layer_1.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def garbage(folder):
    (folder / "layer_1.safetensors").unlink()
    (folder / "layer_1.safetensors").write_bytes(b"not tensors at all, only words")


DAMAGE = {
    "no config": (lambda folder: (folder / "config.yaml").unlink(), "has no config.yaml"),
    "not yaml": (lambda folder: (folder / "config.yaml").write_text("a: [1,\nb: }"), "cannot read .*config.yaml"),
    "not text": (lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe\xfa"), "cannot read .*config.yaml"),
    "no mapping": (lambda folder: (folder / "config.yaml").write_text("- a\n- b\n"), "not a list of keys and values"),
    "empty config": (lambda folder: (folder / "config.yaml").write_text(""), "not a list of keys and values"),
    "unknown kind": (
        lambda folder: edit_config(folder, model_kind="lorsa"),
        "model_kind is 'lorsa'; it must be one of transcoder_set",
    ),
    "no kind": (lambda folder: edit_config(folder, model_kind=...), "model_kind is None"),
    "kind is a list": (
        lambda folder: edit_config(folder, model_kind=["transcoder_set"]),
        "model_kind is a list",
    ),
    "unknown input": (
        lambda folder: edit_config(folder, feature_input_hook="hook_z"),
        "feature_input_hook is 'hook_z'",
    ),
    "unknown output": (
        lambda folder: edit_config(folder, feature_output_hook="hook_q"),
        "feature_output_hook is 'hook_q'",
    ),
    "unknown activation": (lambda folder: edit_config(folder, activation="gelu"), "activation is 'gelu'"),
    "k no number": (lambda folder: edit_config(folder, activation="topk", k="many"), "k is 'many'"),
    "k a list": (lambda folder: edit_layer(folder, 0, k=torch.tensor([3, 4])), r"'k' has shape \[2\]"),
    "k too large": (
        lambda folder: (
            edit_config(folder, activation="topk", k=31),
            *(edit_layer(folder, layer, **{"activation_function.threshold": None}) for layer in range(LAYERS)),
        ),
        "layer 0 keeps the top 31 of 30 features",
    ),
    "k zero": (
        lambda folder: edit_config(folder, activation="topk", k=0),
        "k is 0; it must be a whole number of at least 1",
    ),
    "no thresholds": (
        lambda folder: (
            edit_config(folder, activation="jump_relu"),
            edit_layer(folder, **{"activation_function.threshold": None}),
        ),
        "no thresholds",
    ),
    "files no list": (
        lambda folder: edit_config(folder, transcoders="layer_0.safetensors"),
        "transcoders must be a list of files",
    ),
    "no files": (lambda folder: edit_config(folder, transcoders=[]), "holds no layers"),
    "listed missing": (
        lambda folder: edit_config(folder, transcoders=["gone.safetensors"]),
        "lists gone.safetensors, but there is no such file",
    ),
    "duplicated layer": (
        lambda folder: edit_config(
            folder, transcoders=["layer_0.safetensors", "layer_1.safetensors", "layer_0.safetensors"]
        ),
        "lists layer_0.safetensors for two layers",
    ),
    "mixed widths": (
        lambda folder: edit_layer(folder, W_enc=torch.zeros(26, 16), W_dec=torch.zeros(26, 16), b_dec=torch.zeros(16)),
        r"layer 1 has a encoder of shape \[26, 16\], expected \[26, 24\]",
    ),
    "mixed width of a decoder": (
        lambda folder: edit_layer(folder, W_dec=torch.zeros(25, D)),
        r"layer 1 has a decoder of shape \[25, 24\]",
    ),
    "missing layer": (
        lambda folder: (folder / "layer_1.safetensors").rename(folder / "layer_7.safetensors"),
        "no layer_1.safetensors",
    ),
    "renamed layer": (
        lambda folder: (folder / "layer_1.safetensors").rename(folder / "x.safetensors"),
        "no layer_1.safetensors",
    ),
    "no layers": (
        lambda folder: [path.unlink() for path in folder.glob("*.safetensors")],
        "holds no layer_0.safetensors",
    ),
    "truncated": (truncate, "cannot read .*layer_1.safetensors.*damaged or half-written"),
    "garbage": (garbage, "cannot read .*layer_1.safetensors.*damaged or half-written"),
    "missing tensor": (lambda folder: edit_layer(folder, W_dec=None), "layer_1.safetensors has no tensor 'W_dec'"),
    "transposed": (
        lambda folder: edit_layer(folder, W_enc=torch.zeros(D, 26)),
        r"layer 1 has a encoder of shape \[24, 26\]|layer 1 has",
    ),
    "flat": (
        lambda folder: edit_layer(folder, W_enc=torch.zeros(D * 26)),
        "'W_enc' has shape .*, expected 2 dimensions",
    ),
    "short threshold": (
        lambda folder: edit_layer(folder, **{"activation_function.threshold": torch.zeros(7)}),
        r"threshold of shape \[7\], expected \[26\]",
    ),
    "short bias": (
        lambda folder: edit_layer(folder, b_dec=torch.zeros(7)),
        r"decoder bias of shape \[7\], expected \[24\]",
    ),
    "odd skip": (lambda folder: edit_layer(folder, W_skip=torch.zeros(7, D)), r"skip of shape \[7, 24\]"),
    "no scale": (
        lambda folder: edit_layer(folder, W_enc=torch.zeros(26, D, dtype=torch.int8)),
        "no tensor 'W_enc.scale'",
    ),
    "short scale": (
        lambda folder: edit_layer(folder, W_enc=torch.zeros(26, D, dtype=torch.int8), **{"W_enc.scale": torch.ones(7)}),
        r"'W_enc.scale' has shape \[7\], expected \[26\]",
    ),
    "rows outside": (
        lambda folder: edit_layer(
            folder,
            W_enc=torch.zeros(2, D, dtype=torch.int8),
            rows=torch.tensor([3, 26]),
            **{"W_enc.scale": torch.ones(2)},
        ),
        "'rows' must be 2 ascending numbers below 26",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_are_refused(folder, damage):
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(unweave.UnweaveError, match=message) as caught:
        unweave.read_transcoders(str(folder))
    assert isinstance(caught.value, TranscoderError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("harm", ["fewer decoders", "short decoder"])
def test_damaged_cross_layer_folders_are_refused(tmp_path, harm):
    folder = write_tiny_dictionary("clt", "llama", tmp_path / "clt")
    last = folder / f"W_dec_{LAYERS - 1}.safetensors"
    last.unlink()
    if harm == "short decoder":
        save_file({f"W_dec_{LAYERS - 1}": torch.zeros(WIDTHS[-1], 2, D)}, last)
    with pytest.raises(
        TranscoderError,
        match="3 encoder files but 2 decoder files" if harm == "fewer decoders" else "layer 2 has a decoder of shape",
    ):
        unweave.read_transcoders(str(folder))


@pytest.mark.parametrize("name", ["nothing-here", "./nothing/here", "/nothing/here", "~/nothing-here"])
def test_names_that_are_nowhere(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TranscoderError, match="no dictionary at"):
        unweave.read_transcoders(name)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("W_enc", "layer 1 gives activations that are not finite; its encoder holds NaN"),
        ("b_enc", "layer 1 gives activations that are not finite"),
        ("W_dec", "the decoder of layer 1 holds NaN"),
        ("W_skip", "its biases or skip matrix hold NaN"),
        ("b_dec", "layer 1 gives outputs that are not finite; its biases or skip matrix hold NaN"),
    ],
)
def test_nan_is_refused_when_it_would_enter_the_graph(tiny_folders, folder, tensor, message):
    shape = {"W_enc": (26, D), "b_enc": (26,), "W_dec": (26, D), "W_skip": (D, D), "b_dec": (D,)}[tensor]
    edit_layer(folder, 1, **{tensor: torch.full(shape, torch.nan)})
    model = unweave.load(str(tiny_folders("llama", "skip")[0]), str(folder))
    with pytest.raises(TranscoderError, match=message):
        unweave.attribute(model, PROMPT)


def test_dictionaries_of_other_models_are_refused(tiny_folders, folder):
    model, _ = tiny_folders("llama", "skip")
    (folder / "layer_2.safetensors").unlink()
    with pytest.raises(TranscoderMismatch, match=r"has 2 layers, model .* has 3"):
        unweave.load(str(model), str(folder))
    for layer, width in enumerate(WIDTHS):
        save_file(
            {
                "W_enc": torch.zeros(width, 8),
                "W_dec": torch.zeros(width, 8),
                "b_enc": torch.zeros(width),
                "b_dec": torch.zeros(8),
            },
            folder / f"layer_{layer}.safetensors",
        )
    with pytest.raises(TranscoderMismatch, match=r"has d_model 8, model .* has 24"):
        unweave.load(str(model), str(folder))


def test_what_no_format_holds_is_not_written(folder, tmp_path):
    edit_layer(folder, 1, **{"activation_function.threshold": None})
    with pytest.raises(TranscoderError, match="fit no format"):
        unweave.write_transcoders(unweave.read_transcoders(str(folder)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tiny_folders, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot write"):
        unweave.write_transcoders(
            unweave.read_transcoders(str(tiny_folders("llama", "relu")[1])), tmp_path / "file" / "out"
        )


def test_hashes_are_had_without_a_writable_cache(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(identity.sha256_of(sorted(folder.glob("*.safetensors")))) == 64
