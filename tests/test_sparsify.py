"""Sets of sparsify's fork clt-training, against its own formulas written out: dense, source by source and target by
target. And what every reader refuses, by name."""

import json
import math
import os

import numpy as np
import pytest
import torch
import yaml
from conftest import LAYERS, PROMPT, WIDTHS, D, write_tiny_dictionary
from safetensors.torch import load_file, save_file
from test_published import gemma_scope, gemma_scope_2, gemma_scope_2_clt, saelens, sparsify, write_json

import unweave
from unweave.errors import TranscoderError
from unweave.transcoders.dense import DenseTranscoders

F, K = 26, 7


def fork(root, skip=True, mode="none", targets=LAYERS, **changes):
    """A set as `SparseCoder.save_to_disk` leaves it; returns what is in the files and the config."""
    about = {
        "activation": "topk", "k": K, "transcode": True, "skip_connection": skip, "d_in": D, "dtype": "none",
        "expansion_factor": 32, "num_latents": F, "normalize_decoder": True, "tp_output": True, "use_fp8": False,
        "normalize_io": False, "divide_cross_layer": False, "train_post_encoder": True, "post_encoder_scale": False,
        "per_source_tied": False, "secondary_target_tied": False, "coalesce_topk": mode, "topk_coalesced": False,
    } | changes  # fmt: skip
    made = []
    for layer in range(LAYERS):
        generator = torch.Generator().manual_seed(layer)

        def random(*shape, scale=0.3, generator=generator):
            return torch.randn(*shape, generator=generator) * scale

        n = min(targets, LAYERS - layer)
        live = sum(layer - source < max(1, min(targets, LAYERS - source)) for source in range(layer + 1))
        about |= {"n_targets": n, "n_sources": live if targets else 0}
        several = n > 0 and mode == "none"
        tensors = {"encoder.weight": random(F, D), "encoder.bias": random(F)}
        for j in range(n if several else 1):
            at = f"s.{j}" if several else ""
            rows = F * live if mode == "per-layer" else F
            if not (several and about["per_source_tied"]):
                tensors[f"W_dec{at}"] = random(rows, D)
            tensors[f"b_dec{at}"] = random(D)
            if skip:  # those to other layers are parameters too, and stay as they began
                tensors[f"W_skip{at}"] = random(D, D, scale=0.1) if j == 0 else torch.zeros(D, D)
        if several and about["per_source_tied"]:
            tensors["W_dec"] = random(F, D)
        for j in range(max(1, n)):
            at = f"s.{j}" if n else ""
            tensors[f"post_enc{at}"] = random(F)
            if about["post_encoder_scale"]:
                tensors[f"post_enc_scale{at}"] = 1 + random(F)
        if about["normalize_io"]:
            tensors |= {"in_norm": torch.tensor([3.0 + layer]), "out_norm": torch.tensor([2.0 + layer])}
        folder = root / f"layers.{layer}.mlp"
        folder.mkdir(parents=True)
        save_file(tensors, folder / "sae.safetensors")
        write_json(folder / "cfg.json", about)
        made.append(({name: value.double() for name, value in tensors.items()}, dict(about)))
    return made


def by_formula(made, inputs):
    """What `CrossLayerRunner` puts out at every layer."""
    outputs, root = [], math.sqrt(D)
    for t in range(LAYERS):
        target, config = made[t]
        live = [s for s in range(t + 1) if t - s < max(1, made[s][1]["n_targets"])]
        total, own = torch.zeros(len(inputs[t]), D, dtype=torch.float64), None
        for number, s in enumerate(live):
            w, about = made[s]
            j = t - s
            x = inputs[s] * root / w["in_norm"] if about["normalize_io"] else inputs[s]
            acts = (x @ w["encoder.weight"].T + w["encoder.bias"]).relu()
            kept = torch.zeros_like(acts).scatter(1, acts.topk(K, dim=1).indices, 1.0)
            acts = acts * kept
            name = f"s.{j}" if about["n_targets"] else ""
            acts = acts + w[f"post_enc{name}"] * (acts > 0)
            if about["post_encoder_scale"]:
                acts = acts * w[f"post_enc_scale{name}"]
            if about["coalesce_topk"] == "none":
                name = f"s.{j}" if about["n_targets"] else ""
                decoder = w["W_dec"] if about["per_source_tied"] and about["n_targets"] else w[f"W_dec{name}"]
                out = acts @ decoder + w[f"b_dec{name}"]
                if about["skip_connection"]:
                    out = out + x @ w[f"W_skip{name}"].T
            else:
                begin = number * F if about["coalesce_topk"] == "per-layer" else 0
                out = acts @ target["W_dec"][begin : begin + F]
                if s == t:
                    out = out + target["b_dec"] + (x @ target["W_skip"].T if about["skip_connection"] else 0)
            if s == t:
                own = out
            else:
                total = total + out
        share = max(1, len(live) - 1) if config["divide_cross_layer"] and config["coalesce_topk"] == "none" else 1
        y = own + total / share
        outputs.append(y * target["out_norm"] / root if config["normalize_io"] else y)
    return outputs


CASES = {
    "post_enc": {"targets": 0},
    "normalised": {"targets": 0, "normalize_io": True, "post_encoder_scale": True},
    "one target": {"targets": 1, "normalize_io": True},
    "cross-layer": {},
    "two layers on": {"targets": 2, "divide_cross_layer": True},
    "all of it": {"normalize_io": True, "post_encoder_scale": True, "divide_cross_layer": True},
    "tied": {"per_source_tied": True, "normalize_io": True},
    "concat": {"mode": "concat", "normalize_io": True},
    "concat two": {"mode": "concat", "targets": 2, "skip": False, "post_encoder_scale": True},
    "per-layer": {"mode": "per-layer", "normalize_io": True},
    "per-layer two": {"mode": "per-layer", "targets": 2},
}


@pytest.mark.parametrize("name", CASES)
def test_the_forks_sets_compute_what_it_computes(tiny_folders, tmp_path, name):
    made = fork(tmp_path / "set", **CASES[name])
    found = unweave.read_transcoders(str(tmp_path / "set"))
    assert found.kind == ("per-layer" if CASES[name].get("targets", LAYERS) < 2 else "cross-layer")
    inputs = [torch.randn(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(t)) for t in range(LAYERS)]
    wanted = by_formula(made, inputs)
    step = DenseTranscoders.load(found, torch.float64, torch.device("cpu")).start()
    for layer in range(LAYERS):
        assert torch.allclose(step(layer, inputs[layer]), wanted[layer], atol=1e-6)
    model = unweave.load(str(tiny_folders("llama", "relu")[0]), str(tmp_path / "set"), dtype="float64")
    local = model.localize(PROMPT)
    reads = [part.read_forward(mid) for part, mid in zip(local.frozen.layers, local.recording.resid_mid, strict=True)]
    right = by_formula(made, reads)  # no features at position 0
    for layer, output in enumerate(local.recording.mlp_outputs):
        assert torch.allclose((output - right[layer])[1:], local.errors[layer][1:], atol=1e-6)
    assert float(unweave.attribute(model, PROMPT).residual().max()) <= 1e-9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": True}, "k is True; it must be a whole number"),
        ({"k": 0}, "k is 0; it must be"),
        ({"mode": "group"}, "coalesce_topk='group'"),
        ({"mode": "concat", "topk_coalesced": True}, "topk_coalesced=True; features that compete anew"),
        ({"secondary_target_tied": True}, "secondary_target_tied=True"),
        ({"activation": "batchtopk"}, "activation='batchtopk'"),
        ({"whitening": True}, "keys that this format does not know: whitening"),
        ({"targets": 0, "normalize_io": 3}, "normalize_io=3"),
    ],
)
def test_configs_of_the_fork_that_are_not_covered(tmp_path, changes, message):
    fork(tmp_path / "set", **changes)
    with pytest.raises(TranscoderError, match=message):
        unweave.read_transcoders(str(tmp_path / "set"))


def change(path, **changes):
    tensors = {name: value.clone() for name, value in load_file(path).items()} | changes
    path.unlink()
    save_file({name: value for name, value in tensors.items() if value is not None}, path)


@pytest.mark.parametrize(
    ("options", "layer", "changes", "message"),
    [
        ({"normalize_io": True}, 1, {"in_norm": None}, "no single number 'in_norm'"),
        ({}, 1, {"in_norm": torch.ones(1)}, "does not know: in_norm"),
        ({}, 0, {"W_decs.2": None}, "no tensor 'W_decs.2'"),
        ({}, 0, {"W_skips.1": torch.ones(D, D)}, "'W_skips.1' is a skip path from layer 0 to layer 1"),
        ({}, 0, {"W_dec": torch.ones(F, D)}, "'W_dec' and 'W_decs.0' differ"),
        ({"skip": False}, 0, {"W_skips.0": torch.ones(D, D)}, "does not know: W_skips.0"),
        ({"targets": 0}, 0, {"post_enc_scale": torch.ones(F)}, "does not know: post_enc_scale"),
        ({"mode": "per-layer"}, 2, {"W_dec": torch.ones(F, D)}, "too few for 3 layers"),
    ],
)
def test_tensors_of_the_fork_that_do_not_fit(tmp_path, options, layer, changes, message):
    fork(tmp_path / "set", **options)
    change(tmp_path / "set" / f"layers.{layer}.mlp" / "sae.safetensors", **changes)
    with pytest.raises(TranscoderError, match=message):
        unweave.read_transcoders(str(tmp_path / "set"))


def test_where_the_forks_trainer_took_its_inputs(tmp_path):
    fork(tmp_path / "set", targets=0)
    about = tmp_path / "set" / "config.json"
    write_json(about, {"model": "meta-llama/Llama-3.2-1B", "hookpoints_in": []})
    assert unweave.read_transcoders(str(tmp_path / "set")).read == "mlp_in"
    inputs = [f"layers.{layer}.post_attention_layernorm" for layer in range(LAYERS)]
    write_json(about, {"model": "meta-llama/Llama-3.2-1B", "hookpoints_in": inputs})
    assert unweave.read_transcoders(str(tmp_path / "set")).read == "mid"
    write_json(about, {"model": "google/gemma-2-2b", "hookpoints_in": inputs})  # there it follows attention
    with pytest.raises(TranscoderError, match=r"hookpoints_in is 'layers\.0\.post_attention_layernorm'"):
        unweave.read_transcoders(str(tmp_path / "set"))


# -- circuit-tracer's


@pytest.mark.parametrize("bundles", [False, True])
@pytest.mark.parametrize("topk", [False, True])
def test_cross_layer_sets_with_topk_and_in_bundles(tiny_folders, tmp_path, bundles, topk):
    folder = write_tiny_dictionary("clt", "llama", tmp_path / "clt")
    config = yaml.safe_load((folder / "config.yaml").read_text()) | ({"activation": "topk", "k": 4} if topk else {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    made = []
    for layer in range(LAYERS):
        files = [folder / f"W_{part}_{layer}.safetensors" for part in ("enc", "dec")]
        tensors = {name: value.clone() for path in files for name, value in load_file(path).items()}
        plain = {name.removesuffix(f"_{layer}"): value for name, value in tensors.items()}
        if topk:
            del plain["threshold"]
        made.append(plain)
        for path in files:
            path.unlink()
        if bundles:
            save_file(plain, folder / f"layer_{layer}.safetensors")
        else:
            save_file({f"{n}_{layer}": value for n, value in plain.items() if n != "W_dec"}, files[0])
            save_file({f"W_dec_{layer}": plain["W_dec"]}, files[1])
    found = unweave.read_transcoders(str(folder))
    step, pending = DenseTranscoders.load(found, torch.float64, torch.device("cpu")).start(), {}
    for layer, w in enumerate(made):
        w = {name: value.double() for name, value in w.items()}
        x = torch.randn(9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(layer))
        pre = x @ w["W_enc"].T + w["b_enc"]
        on = torch.zeros_like(pre).scatter(1, pre.topk(4).indices, 1.0) if topk else (pre > w["threshold"]).double()
        for slot in range(LAYERS - layer):
            at = layer + slot
            pending[at] = pending.get(at, 0) + (pre * on) @ w["W_dec"][:, slot]
        assert torch.allclose(step(layer, x), pending[layer] + w["b_dec"], atol=1e-6)
    if topk:
        written = unweave.read_transcoders(str(unweave.write_transcoders(found, tmp_path / "again")))
        assert [layer.activation for layer in written.layers] == [layer.activation for layer in found.layers]
    model = unweave.load(str(tiny_folders("llama", "relu")[0]), str(folder), dtype="float64")
    assert float(unweave.attribute(model, PROMPT).residual().max()) <= 1e-9


def extra_tensor(path):
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            kept = dict(arrays)
        np.savez(path, **kept, in_scale=np.ones(1))
    else:
        change(path, in_scale=torch.ones(1))


def extra_key(path, text):
    path.write_text(text(path.read_text()))


WRITERS = {
    "native": (lambda root: write_tiny_dictionary("skip", "llama", root), "layer_1.safetensors", "config.yaml"),
    "cross-layer": (lambda root: write_tiny_dictionary("clt", "llama", root), "W_dec_1.safetensors", "config.yaml"),
    "gemma scope": (gemma_scope, "layer_1/width_16k/average_l0_7/params.npz", None),
    "gemma scope 2": (gemma_scope_2, "layer_1_width_16k_l0_small_affine/params.safetensors",
                      "layer_1_width_16k_l0_small_affine/config.json"),
    "gemma scope 2 cross-layer": (gemma_scope_2_clt, "params_layer_1.safetensors", None),
    "sparsify": (sparsify, "layers.1.mlp/sae.safetensors", "layers.1.mlp/cfg.json"),
    "saelens": (saelens, "blocks.1.mlp/sae_weights.safetensors", "blocks.1.mlp/cfg.json"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_refuses_what_it_does_not_know(tmp_path, name):
    write, weights, config = WRITERS[name]
    write(tmp_path / "set")
    unweave.read_transcoders(str(tmp_path / "set"))
    extra_tensor(tmp_path / "set" / weights)
    with pytest.raises(TranscoderError, match="holds tensors that this format does not know: in_scale"):
        unweave.read_transcoders(str(tmp_path / "set"))
    if config is None:
        return
    write(tmp_path / "other")
    path = tmp_path / "other" / config
    if path.suffix == ".json":
        write_json(path, json.loads(path.read_text()) | {"act_scale": 3})
    else:
        path.write_text(path.read_text() + "act_scale: 3\n")
    with pytest.raises(TranscoderError, match="keys that this format does not know: act_scale"):
        unweave.read_transcoders(str(tmp_path / "other"))


def test_weights_in_files_that_a_format_has_no_place_for(tmp_path):
    folder = write_tiny_dictionary("clt", "llama", tmp_path / "clt")
    save_file({"W_skip": torch.ones(LAYERS, D, D)}, folder / "W_skip.safetensors")
    with pytest.raises(TranscoderError, match=r"holds W_skip.safetensors, which this format does not know"):
        unweave.read_transcoders(str(folder))


def test_arrays_of_an_npz_are_unpacked_one_by_one(tmp_path):
    """A bomb beside the weights is refused by its name; one in their place, by its header."""
    gemma_scope(tmp_path / "set")
    path = tmp_path / "set" / "layer_1" / "width_16k" / "average_l0_7" / "params.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez_compressed(path, **kept | {"b_enc": np.zeros((WIDTHS[1], 1 << 16), dtype=np.float32)})
    with pytest.raises(TranscoderError, match="'b_enc' has shape"):
        unweave.read_transcoders(str(tmp_path / "set"))


# -- which dictionary it is


def test_the_hash_covers_the_configuration(tmp_path):
    folder = write_tiny_dictionary("topk", "llama", tmp_path / "d")
    for layer in range(LAYERS):
        change(folder / f"layer_{layer}.safetensors", k=None)
    first, text = unweave.read_transcoders(str(folder)), (folder / "config.yaml").read_text()
    assert first.is_of(first.sha256) and first.is_of(first.weights_sha256) and not first.is_of("")
    seen = {first.sha256}
    for changed in (
        text.replace("k: 5", "k: 6"),
        text.replace("mlp.hook_in", "hook_resid_mid"),
        text.replace("mlp.hook_out", "hook_mlp_out"),
        text + "rectified: true\n",
        text + "ignored_prefix: [1, 2]\n",
    ):
        (folder / "config.yaml").write_text(changed)
        found = unweave.read_transcoders(str(folder))
        assert found.weights_sha256 == first.weights_sha256 and not found.is_of(first.sha256)
        seen.add(found.sha256)
    assert len(seen) == 6
    (folder / "config.yaml").write_text(text.replace("llama-tiny", "renamed") + "# a comment\n")
    assert unweave.read_transcoders(str(folder)).sha256 == first.sha256


def test_the_hash_covers_sparsifys_configuration(tmp_path):
    hashes = set()
    for number, changes in enumerate(({}, {"k": 9}, {"normalize_io": True}, {"divide_cross_layer": True})):
        made = fork(tmp_path / str(number), **changes)
        del made
        for layer in range(LAYERS):
            change(tmp_path / str(number) / f"layers.{layer}.mlp" / "sae.safetensors")
        hashes.add(unweave.read_transcoders(str(tmp_path / str(number))).sha256)
    assert len(hashes) == 4


def test_a_file_changed_in_place_with_its_time_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("UNWEAVE_CACHE", str(tmp_path / "cache"))
    folder = write_tiny_dictionary("relu", "llama", tmp_path / "d")
    first, path = unweave.read_transcoders(str(folder)).sha256, folder / "layer_1.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert unweave.read_transcoders(str(folder)).sha256 != first
