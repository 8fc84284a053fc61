import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import LAYERS, PROMPT, WIDTHS, D, write_tiny_dictionary, write_tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import unweave
from unweave.cli import main as cli

IDS = " ".join(map(str, PROMPT))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model folder and a dictionary for it."""
    root = tmp_path_factory.mktemp("cli")
    return write_tiny_model("llama", root / "model"), write_tiny_dictionary("skip", "llama", root / "dictionary")


@pytest.fixture
def trace(run, folders):
    model, dictionary = folders

    def call(*words, prompt=IDS, ids=True):
        return run(
            "trace", *(["--ids"] if ids else []), "--model", model, "--transcoders", dictionary, *words, "--", prompt
        )

    return call


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_trace_prints_json_and_writes_a_graph(trace, tmp_path, folders):
    code, out, err = trace("--json", "--out", "kept.graph.safetensors")
    assert (code, err.strip()) == (0, "")
    facts = json.loads(out)
    assert (
        set("prompt tokens model transcoders targets paths features scores exactness graph kept file seconds".split())
        <= facts.keys()
    )
    assert facts["tokens"] == [f"#{token}" for token in PROMPT]
    assert facts["model"] == str(folders[0])
    assert facts["exactness"]["logits"] < 1e-4
    assert files(tmp_path) == ["kept.graph.safetensors"]
    graph = unweave.Graph.load("kept.graph.safetensors")
    assert (len(graph.nodes), graph.n_edges) == (facts["kept"]["nodes"], facts["kept"]["edges"])
    assert graph.provenance.pruning == (0.8, 0.98)


def test_trace_for_people(trace, tmp_path):
    code, out, err = trace()
    assert (code, err.strip()) == (0, "")
    assert "Prompt" in out
    (name,) = files(tmp_path)
    assert re.fullmatch(r"graphs/0-7-3-41-7-12-[0-9a-f]{8}\.graph\.safetensors", name)
    assert f"unweave info {name}" in out


def test_no_trace_replaces_another_without_being_told_to(trace, tmp_path):
    assert trace("--json")[0] == 0
    (first,) = files(tmp_path)
    for options in (("--target", "#5"), ("--target", "#5", "--minus", "#9"), ("--position", "-2")):
        assert trace("--json", *options)[0] == 0
    names = files(tmp_path)
    assert len(names) == 4
    assert trace("--json")[0] == 0 and files(tmp_path) == names  # the same question again
    plain = tmp_path / first
    other = unweave.Graph.load(plain).with_provenance(transcoders_sha256="0" * 64)
    other.save(plain)
    code, _, err = trace("--json")
    assert code == 2 and "is a trace with another dictionary; give --out FILE, or --force" in " ".join(err.split())
    assert unweave.Graph.load(plain).provenance.transcoders_sha256 == "0" * 64
    assert trace("--json", "--force")[0] == 0
    assert unweave.Graph.load(plain).provenance.transcoders_sha256 != "0" * 64


def test_trace_passes_its_options_on(trace):
    code, out, _ = trace(
        "--target", "#5", "--minus", "#9", "--position", "-2", "--max-features", "9", "--node-threshold", "1",
        "--edge-threshold", "1",
        "--position-zero", "drop", "--dtype", "float64", "--json", "--out", "new/folder/x.graph.safetensors",
    )  # fmt: skip
    facts = json.loads(out)
    assert (code, facts["position"], facts["dtype"], facts["position_zero"]) == (0, 4, "float64", "drop")
    assert [target["token"] for target in facts["targets"]] == ["#5 - #9"]
    assert (facts["graph"]["features"], facts["kept"]["pruning"]) == (9, [1.0, 1.0])
    assert len(json.loads(trace("--max-logits", "2", "--json")[1])["targets"]) == 2
    assert [
        target["id"] for target in json.loads(trace("--target", "#5", "--target", "#9", "--json")[1])["targets"]
    ] == [5, 9]


def test_trace_writes_json_for_other_viewers(trace, run, tmp_path):
    assert trace("--out", "x.json")[0] == 0
    assert files(tmp_path) == ["graph-metadata.json", "x.json"]
    document = json.loads((tmp_path / "x.json").read_text())
    assert document["metadata"]["slug"] == "x"
    code, out, _ = run("info", "x.json", "--json")
    facts = json.loads(out)
    assert (code, facts["kind"], facts["origin"]) == (0, "graph", "json")
    assert (facts["nodes"], facts["edges"]) == (len(document["nodes"]), len(document["links"]))


def test_info_on_a_graph(trace, run):
    assert trace("--out", "kept.graph.safetensors")[0] == 0
    facts = json.loads(run("info", "kept.graph.safetensors", "--json")[1])
    graph = unweave.Graph.load("kept.graph.safetensors")
    assert (facts["kind"], facts["nodes"], facts["edges"]) == ("graph", len(graph.nodes), graph.n_edges)
    assert facts["pruning"] == [0.8, 0.98]
    code, out, err = run("info", "kept.graph.safetensors")
    assert (code, err) == (0, "")
    assert "kept.graph.safetensors: graph" in out


def test_info_on_a_model_and_a_dictionary(run, folders):
    facts = json.loads(run("info", folders[0], "--json")[1])
    assert (facts["kind"], facts["family"], facts["layers"], facts["d_model"], facts["exact"]) == (
        "model",
        "llama",
        LAYERS,
        D,
        True,
    )
    facts = json.loads(run("info", folders[1], "--json")[1])
    assert (facts["kind"], facts["transcoders_kind"], facts["widths"], facts["skip"]) == (
        "transcoders",
        "per-layer",
        list(WIDTHS),
        True,
    )
    for folder, kind in zip(folders, ("model", "transcoders"), strict=True):
        code, out, err = run("info", folder)
        assert (code, err) == (0, "")
        assert f": {kind}" in out


def test_info_says_why_a_model_is_not_exact(run, tmp_path, folders):
    broken = copy_model(folders, tmp_path / "clipped", attention_chunk_size=8)
    facts = json.loads(run("info", broken, "--json")[1])
    assert facts["exact"] is False
    assert "attention_chunk_size" in facts["why"]


def test_convert_a_graph_and_back(trace, run, tmp_path):
    trace("--out", "a.graph.safetensors")
    code, out, err = run("convert", "a.graph.safetensors", "b.json", "--scan", "toy", "--json")
    assert (code, err, json.loads(out)) == (0, "", {"source": "a.graph.safetensors", "out": "b.json"})
    assert json.loads((tmp_path / "b.json").read_text())["metadata"]["scan"] == "toy"
    code, out, _ = run("convert", "b.json", "c.graph.safetensors")
    assert code == 0
    assert "Written to c.graph.safetensors" in out
    before, after = unweave.Graph.load("a.graph.safetensors"), unweave.Graph.load("c.graph.safetensors")
    assert [node.id for node in before.nodes] == [node.id for node in after.nodes]
    assert torch.equal(before.dense(), after.dense())
    assert run("convert", "a.graph.safetensors", "d.graph.safetensors", "--node-threshold", "0.4")[0] == 0
    assert len(unweave.Graph.load("d.graph.safetensors").nodes) < len(before.nodes)


def test_convert_a_dictionary(run, tmp_path, folders):
    assert run("convert", folders[1], "small", "--compact")[0] == 0
    assert run("convert", folders[1], "plain")[0] == 0
    assert load_file(tmp_path / "small" / "layer_0.safetensors")["W_enc"].dtype == torch.int8
    for layer in range(LAYERS):
        assert (tmp_path / "plain" / f"layer_{layer}.safetensors").read_bytes() == (
            folders[1] / f"layer_{layer}.safetensors"
        ).read_bytes()
    assert json.loads(run("info", "small", "--json")[1])["stored_as"] == "int8"


def test_a_traced_graph_of_a_compact_dictionary(run, folders):
    assert run("convert", folders[1], "small", "--compact")[0] == 0
    code, out, _ = run("trace", "--ids", IDS, "-m", folders[0], "-t", "./small", "--json")
    assert code == 0
    assert json.loads(out)["exactness"]["residual"] < 1e-3


def test_version_and_help(run):
    assert run("--version") == (0, f"unweave {unweave.__version__}\n", "")
    for words in (["--help"], ["trace", "--help"], ["info", "--help"], ["convert", "--help"]):
        code, out, err = run(*words)
        assert (code, err) == (0, "")
        assert "Usage" in out
    assert "org/repo[/folder][@revision]" in run("trace", "--help")[1]


def copy_model(folders, target, **changes):
    target.mkdir()
    for path in folders[0].iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((target / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    return target


def truncated_model(folders, root):
    folder = copy_model(folders, root / "cut")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    return folder


def nan_model(folders, root):
    folder = copy_model(folders, root / "nan")
    tensors = {
        name: torch.full_like(value, torch.nan) if "mlp" in name else value.clone()
        for name, value in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def incomplete_model(folders, root):
    folder = copy_model(folders, root / "part")
    tensors = {
        name: value.clone()
        for name, value in load_file(folder / "model.safetensors").items()
        if "layers.1.mlp" not in name
    }
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def no_weights(folders, root):
    folder = copy_model(folders, root / "empty")
    (folder / "model.safetensors").unlink()
    return folder


def other_shape(folders, root):
    return copy_model(folders, root / "wider", intermediate_size=48)


def broken_config(folders, root):
    folder = copy_model(folders, root / "words")
    (folder / "config.json").write_text("{ not json")
    return folder


def bare(folders, root, **config):
    (root / "bare").mkdir()
    (root / "bare" / "config.json").write_text(json.dumps(config))
    return root / "bare"


def empty_folder(folders, root):
    (root / "nothing").mkdir()
    return root / "nothing"


MODELS = {
    "unknown name": (lambda folders, root: "no-such-model", "no model 'no-such-model'"),
    "no such folder": (lambda folders, root: "./no/such", "no model './no/such'"),
    "not on the hub": (
        lambda folders, root: "no-such-org/no-such-model",
        "cannot load model 'no-such-org/no-such-model'",
    ),
    "no config": (empty_folder, "has no config.json"),
    "truncated": (truncated_model, "cannot load model"),
    "no weights": (no_weights, "cannot load model"),
    "nan": (nan_model, "logits that are not finite"),
    "incomplete": (incomplete_model, "tensors, model.layers.1.mlp"),
    "other shapes": (other_shape, "cannot load model"),
    "config no json": (broken_config, "cannot load model"),
    "bloom": (
        lambda folders, root: bare(folders, root, model_type="bloom", hidden_size=8, n_layer=1, n_head=1),
        "model family 'bloom' is not supported",
    ),
    "falcon": (
        lambda folders, root: bare(folders, root, model_type="falcon"),
        "model family 'falcon' is not supported",
    ),
    "no family": (lambda folders, root: bare(folders, root, hidden_size=8), "cannot load model"),
    "unheard of": (lambda folders, root: bare(folders, root, model_type="perceptron-9"), "cannot load model"),
    "extra key": (
        lambda folders, root: copy_model(folders, root / "clipped", attention_chunk_size=8),
        "attention_chunk_size",
    ),
}


def refused(said, *phrases):
    """One line on stderr, nothing on stdout, exit code 2."""
    code, out, err = said
    lines = [line for line in err.splitlines() if line.strip()]
    assert (code, out) == (2, ""), err
    assert len(lines) == 1, err
    assert lines[0].startswith("error ")
    assert "Traceback" not in err
    for phrase in phrases:
        assert phrase in lines[0]


@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_traced(run, folders, tmp_path, tmp_path_factory, case):
    make, phrase = MODELS[case]
    name = make(folders, tmp_path_factory.mktemp("models"))
    refused(run("trace", "--ids", IDS, "-m", name, "-t", folders[1]), phrase)
    assert files(tmp_path) == []


OPTIONS = {
    "position": (["--position", "99"], "position 99 is outside the prompt of 6 tokens"),
    "negative position": (["--position", "-7"], "position -7 is outside"),
    "no features": (["--max-features", "0"], "--max-features is 0; it must be at least 1"),
    "fewer than no features": (["--max-features", "-3"], "--max-features is -3"),
    "no logits": (["--max-logits", "0"], "--max-logits is 0"),
    "node threshold": (["--node-threshold", "0"], "--node-threshold is 0"),
    "node threshold above": (["--node-threshold", "1.5"], "--node-threshold is 1.5"),
    "node threshold nan": (["--node-threshold", "nan"], "--node-threshold is nan"),
    "edge threshold": (["--edge-threshold", "-1"], "--edge-threshold is -1"),
    "position zero": (["--position-zero", "maybe"], "position_zero 'maybe' is unknown"),
    "precision": (["--precision", "quick"], "precision 'quick' is unknown"),
    "dtype": (["--dtype", "int8"], "dtype 'int8' is unknown"),
    "device": (["--device", "abacus"], "abacus"),
    "target": (["--target", "#9999"], "token id 9999 is outside the model's vocabulary of 50"),
    "empty target": (["--target", ""], "a target is empty"),
    "text target": (["--target", " Paris"], "comes without a tokenizer"),
    "minus alone": (["--minus", "#4"], "--minus needs exactly one --target"),
    "minus": (["--target", "#4", "--minus", "#9999"], "token id 9999"),
    "no dictionary there": (["--transcoders", "./nowhere"], "no dictionary at ./nowhere"),
    "target of odd digits": (["--target", "#²"], "comes without a tokenizer"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_out_of_range(trace, tmp_path, unchecked, case):
    words, phrase = OPTIONS[case]
    refused(trace(*words, "--out", "x.graph.safetensors"), phrase)
    assert files(tmp_path) == []


@pytest.mark.parametrize("words", [("--max-features", "many"), ("--colour", "red"), ("--position",)])
def test_what_typer_refuses(trace, tmp_path, words):
    refused(trace(*words), words[0])
    assert files(tmp_path) == []


PROMPTS = {
    "empty": ("", False, "the prompt is empty"),
    "text": ("The capital of France is", False, "comes without a tokenizer"),
    "no ids": ("", True, "the prompt is empty"),
    "long": ("1 " * 65, True, "the prompt has 65 tokens"),
    "outside": ("1 50", True, "token id 50 is outside the model's vocabulary of 50"),
    "negative": ("1 -5", True, "--ids takes whole numbers, not '-5'"),
    "words": ("1 two", True, "--ids takes whole numbers, not 'two'"),
    "superscript": ("1 ²", True, "--ids takes whole numbers, not '²'"),
    "brackets": ("1 [red]", True, "not '[red]'"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_that_cannot_be_run(trace, tmp_path, case):
    prompt, ids, phrase = PROMPTS[case]
    refused(trace("--out", "x.graph.safetensors", prompt=prompt, ids=ids), phrase)
    assert files(tmp_path) == []


def test_a_prompt_as_long_as_the_context(trace):
    assert trace("--max-features", "5", "--json", prompt="1 " * 64)[0] == 0


def test_dictionaries_that_cannot_be_used(run, folders, tmp_path, tmp_path_factory):
    root = tmp_path_factory.mktemp("dictionaries")
    refused(run("trace", "--ids", IDS, "-m", folders[0]), "no dictionary is known for")
    refused(run("trace", "--ids", IDS, "-m", folders[0], "-t", empty_folder(folders, root)), "has no config.yaml")
    short = write_tiny_dictionary("relu", "llama", root / "short")
    (short / f"layer_{LAYERS - 1}.safetensors").unlink()
    refused(run("trace", "--ids", IDS, "-m", folders[0], "-t", short), "has 2 layers", "has 3")
    nan = write_tiny_dictionary("relu", "llama", root / "nan")
    (nan / "layer_0.safetensors").unlink()
    tensors = {
        "W_enc": torch.full((30, D), torch.nan),
        "W_dec": torch.zeros(30, D),
        "b_enc": torch.zeros(30),
        "b_dec": torch.zeros(D),
    }
    save_file(tensors, nan / "layer_0.safetensors")
    refused(run("trace", "--ids", IDS, "-m", folders[0], "-t", nan), "not finite")
    assert files(tmp_path) == []


def newer(path):
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    path.unlink()
    save_file(tensors, path, header | {"schema_version": "99"})


def cut(path):
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) * 2 // 3])


def no_graph(path):
    path.unlink()
    save_file({"a": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("harm", "phrase"),
    [
        (newer, "has schema version 99; this unweave reads up to 1"),
        (cut, "is not a whole graph file"),
        (no_graph, "is a safetensors file but not a graph"),
        (lambda path: path.write_text(""), "is not a whole graph file"),
        (lambda path: path.write_text("words, only words"), "is not a whole graph file"),
    ],
)
def test_graph_files_that_cannot_be_read(trace, run, tmp_path, harm, phrase):
    path = tmp_path / "kept.graph.safetensors"
    assert trace("--out", path)[0] == 0
    harm(path)
    refused(run("info", path), phrase)
    refused(run("convert", path, "other.json"), phrase)
    assert files(tmp_path) == ["kept.graph.safetensors"]


def test_names_of_nothing(run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("[]")
    refused(run("info", "nothing.graph.safetensors"), "nothing at nothing.graph.safetensors")
    refused(
        run("info", "empty"), "holds neither a dictionary (config.yaml, or layers' folders) nor a model (config.json)"
    )
    refused(run("info", "no-such-org/no-such-thing"), "cannot load model 'no-such-org/no-such-thing'")
    refused(run("info", "bad.json"), "is not an attribution graph")
    refused(run("convert", "nothing.graph.safetensors", "x.json"), "nothing.graph.safetensors")
    refused(run("convert", "nothing", "folder"), "no dictionary at nothing")
    assert files(tmp_path) == ["bad.json"]


def test_places_that_cannot_be_written(trace, run, tmp_path, folders):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.json").mkdir()
    for out in ("file/x.graph.safetensors", "folder.json"):
        refused(trace("--out", out), f"cannot write {out}")
    for out in ("x.txt", "folder"):
        refused(trace("--out", out), f"cannot tell the format of {out}")
    assert trace("--out", "kept.graph.safetensors")[0] == 0
    for out in ("file/x.json", "file/x.graph.safetensors", "no/x.json", "folder/x.txt"):
        refused(run("convert", "kept.graph.safetensors", out), out)
    refused(run("convert", folders[1], "file/x"), "cannot write file/x")
    refused(run("convert", folders[1], "file"), "cannot write file")
    refused(run("convert", folders[1], "x.json"), "becomes a folder")
    (tmp_path / "graph-metadata.json").write_text("mine")
    refused(run("convert", "kept.graph.safetensors", "x.json"), "is not a list of graphs")
    assert files(tmp_path) == ["file", "graph-metadata.json", "kept.graph.safetensors"]


def test_an_older_graph_is_kept_when_a_trace_fails(trace, tmp_path):
    assert trace("--out", "kept.graph.safetensors")[0] == 0
    before = (tmp_path / "kept.graph.safetensors").read_bytes()
    refused(trace("--out", "kept.graph.safetensors", "--position", "99"), "position 99")
    assert (tmp_path / "kept.graph.safetensors").read_bytes() == before


def test_an_interrupt_is_no_traceback(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "command_of", interrupted)
    assert run("--help") == (130, "", "stopped\n")


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_help_needs_no_torch():
    code = """
import sys
sys.argv = ["unweave", "trace", "--help"]
from unweave.cli.main import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print(sorted({"torch", "transformers", "huggingface_hub", "safetensors", "numpy"} & set(sys.modules)))
"""
    assert python(code).splitlines()[-1] == "[]"


def test_import_is_light():
    code = (
        "import sys, unweave; print('torch' in sys.modules); unweave.attribute, unweave.load, unweave.Graph; "
        "print('transformers' in sys.modules)"
    )
    assert python(code).split() == ["False", "False"]


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("linear", [False, True])
def test_square_tensors_the_wrong_way_round_are_noticed(run, tmp_path, linear, wrong):
    """An exact dictionary, of features as many as dimensions, or of a skip path for MLPs whose neurons are always
    on: shapes say nothing."""
    import transformers

    torch.manual_seed(1)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=64, n_embd=D, n_layer=2, n_head=4, n_inner=D, activation_function="relu",
        bos_token_id=0, eos_token_id=0
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(
            parameter, mean=20.0 * (linear and "c_fc.bias" in name) + (".ln_" in name and "weight" in name), std=0.3
        )
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "dictionary").mkdir()
    for layer, block in enumerate(model.transformer.h):
        encoder, bias, out, rest = (
            block.mlp.c_fc.weight.T,
            block.mlp.c_fc.bias,
            block.mlp.c_proj.weight,
            block.mlp.c_proj.bias,
        )
        tensors = {"W_enc": encoder, "b_enc": bias, "W_dec": out, "b_dec": rest}
        if linear:
            tensors = {
                "W_enc": torch.zeros(4, D),
                "b_enc": torch.zeros(4),
                "W_dec": torch.zeros(4, D),
                "b_dec": bias @ out + rest,
                "W_skip": out.T @ encoder,
            }
        if wrong:
            tensors["W_skip" if linear else "W_enc"] = tensors["W_skip" if linear else "W_enc"].T
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in tensors.items()},
            tmp_path / "dictionary" / f"layer_{layer}.safetensors",
        )
    (tmp_path / "dictionary" / "config.yaml").write_text(
        "model_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"
    )
    code, out, _ = run("trace", "--ids", IDS, "-m", "./model", "-t", "./dictionary")
    assert code == 0 and ("careful" in out) == wrong
    unexplained = json.loads(run("trace", "--ids", IDS, "-m", "./model", "-t", "./dictionary", "--json")[1])[
        "unexplained"
    ]
    assert unexplained > 1 if wrong else unexplained < 1e-9


def test_the_package_is_a_command_too():
    found = subprocess.run([sys.executable, "-m", "unweave", "--version"], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0 and found.stdout.startswith("unweave ")
