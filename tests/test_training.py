"""Training: sparse products are the dense ones, losses fall, runs go on bit by bit, two processes are one, bad input
is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import fresh
import pytest
import torch
from conftest import LAYERS, VOCAB, D, write_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import unweave
from unweave.base.files import locked
from unweave.cli.show_training import Display, chart
from unweave.errors import FileError, OptionError, TextError, TrainingError
from unweave.models.recorder import record
from unweave.training.checkpoint import path_of, read_checkpoint
from unweave.training.config import TrainConfig, config_from, differences, read_config, runs
from unweave.training.curves import plot, read_log
from unweave.training.dictionary import start
from unweave.training.end_to_end import divergence_step
from unweave.training.loop import train
from unweave.training.parallel import Processes, joint_kth
from unweave.training.progress import held_out_figures
from unweave.training.sparse import Activations, Pattern, encode
from unweave.training.state import export
from unweave.training.statistics import measure
from unweave.training.step import Schedule, losses
from unweave.training.tokens import Blocks
from unweave.transcoders.transcoders import JumpReLU


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    """A tiny llama with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = write_tiny_model("llama", tmp_path_factory.mktemp("model") / "m")
    words = (
        {"<s>": 0}
        | {f"w{i}": i for i in range(1, VOCAB - 5)}
        | {word: i for i, word in enumerate(("When", "Then", "Where", "Once", "Never"), VOCAB - 5)}
    )
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    """Random words in 240 documents."""
    generator = torch.Generator().manual_seed(5)
    file = tmp_path_factory.mktemp("text") / "text.jsonl"
    lines = [
        " ".join(f"w{i}" for i in torch.randint(1, VOCAB - 5, (60,), generator=generator).tolist()) for _ in range(240)
    ]
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return file


@pytest.fixture
def config(model_folder, text) -> TrainConfig:
    return TrainConfig(
        model=str(model_folder), text=(str(text),), width="64", k="8", tokens=8_000, batch=512, context=32,
        statistics=2000, dead_after=3000,
        evaluate=0, lr=3e-3, warmup=5, held_out=0.1,
    )  # fmt: skip


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self, stop_at: int | None = None):
        self.steps, self.evaluations, self.stop_at = [], [], stop_at

    def stage(self, title):
        pass

    def step(self, config, progress, measured, rate):
        self.steps.append(measured)
        if progress.step == self.stop_at:
            raise KeyboardInterrupt

    def evaluated(self, progress, figures):
        self.evaluations.append(figures)


def run(config: TrainConfig, folder: Path, **how) -> Silent:
    watcher = Silent(**how)
    train(config, folder, watcher, held_out_figures)
    return watcher


@given(st.integers(0, 2**31), st.floats(0.0, 1.0))
def test_sparse_products_and_their_gradients_are_the_dense_ones(seed, density):
    generator = torch.Generator().manual_seed(seed)
    read, goal = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    weights = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 5), (9,), (9, 5))]
    keep = torch.rand(7, 9, generator=generator) < density
    gradients = []
    for dense in (True, False):
        x, encoder, bias, decoder = (weight.clone().requires_grad_() for weight in (read, *weights))
        pre = x @ encoder.T + bias
        if dense:
            acts = Activations(pre * keep, None)
        else:
            tokens, features = keep.nonzero(as_tuple=True)
            pattern = Pattern.of(tokens, features, 7, 9)
            acts = Activations(encode(x, encoder, bias, pre.detach()[tokens, features], pattern), pattern)
        out = acts.decode(decoder)
        assert acts.active().tolist() == keep.sum(0).tolist()
        (out - goal).square().sum().backward()
        gradients.append([out.detach(), x.grad, encoder.grad, bias.grad, decoder.grad])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 5))
def test_the_joint_rank_leaves_as_many_as_wanted(values, wanted):
    candidates = torch.tensor(values).float() + torch.arange(len(values)) / 100
    kept = int((candidates > joint_kth(Processes(), candidates, wanted)).sum())
    assert kept == min(wanted, len(values))


@pytest.mark.parametrize("kind", ["per-layer", "skip", "cross-layer", "incremental"])
@pytest.mark.parametrize("activation", ["batchtopk", "topk", "relu", "jumprelu"])
def test_every_kind_learns_and_is_read_back(config, kind, activation, tmp_path):
    if activation == "topk" and kind in ("cross-layer", "incremental"):
        with pytest.raises(OptionError, match="topk"):
            replace(config, kind=kind, activation=activation)
        return
    config = replace(config, kind=kind, activation=activation)
    watcher = run(config, tmp_path)
    assert watcher.steps[-1].fvu.mean() < (0.97 if kind == "skip" else 0.94) * watcher.steps[0].fvu.mean()
    if config.sparse_by_k:
        assert watcher.steps[-1].l0.mean() == pytest.approx(8, abs=0.3)
    elif activation == "relu":
        assert watcher.steps[-1].penalty > 0
    transcoders = unweave.read_transcoders(str(tmp_path / "dictionary"))
    assert transcoders.widths == (64,) * LAYERS and transcoders.has_skip == (kind == "skip")
    figures = watcher.evaluations[-1]
    assert figures["fvu"] < 1.0 and figures["l0"] < 64 and figures["loss_replaced"] > 0
    loaded = unweave.load(config.model, str(tmp_path / "dictionary"))
    assert float(unweave.attribute(loaded, [0, 5, 9]).residual().max()) < 1e-4


@pytest.mark.parametrize("kind", ["skip", "cross-layer"])
def test_bfloat16_products_learn_alike_and_keep_float32_state(config, kind, tmp_path):
    config = replace(config, kind=kind)
    figures = [
        run(replace(config, precision=precision), tmp_path / precision).evaluations[-1]["fvu"]
        for precision in ("float32", "bfloat16")
    ]
    assert figures[1] == pytest.approx(figures[0], rel=0.03)
    assert all(
        tensor.dtype == torch.float32
        for name, tensor in read_checkpoint(path_of(tmp_path / "bfloat16")).tensors.items()
        if "encoder" in name
    )


def test_the_dictionary_that_is_saved_is_the_one_that_was_trained(config, tmp_path):
    run(replace(config, kind="skip"), tmp_path)
    kept = read_checkpoint(path_of(tmp_path))
    from unweave.training.state import restored

    trained, saved = restored(kept, None, torch.device("cpu")), export(tmp_path, tmp_path / "again")
    x = torch.randn(20, D)
    for layer, part in enumerate(saved.layers):
        assert part.skip is not None
        activations, out = trained.predict_dense(layer, x, {})
        made = saved.encode(layer, x)[1]
        torch.testing.assert_close(activations, made)
        torch.testing.assert_close(
            out,
            made @ part.decoder.dense(torch.float32) + part.decoder_bias + x @ part.skip.stored.T,
            rtol=1e-4,
            atol=1e-5,
        )
    first, second = ((tmp_path / name / "layer_0.safetensors").read_bytes() for name in ("dictionary", "again"))
    assert first == second


def test_statistics_give_the_least_squares_map():
    generator = torch.Generator().manual_seed(0)
    x, truth = torch.randn(500, 6, generator=generator), torch.randn(6, 6, generator=generator)
    y = x @ truth.T + 3.0
    found = measure([([x[:250]], [y[:250]]), ([x[250:]], [y[250:]])], 1e9, range(1))[0]
    torch.testing.assert_close(found.affine * found.output / found.input, truth, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.affine_bias * found.output, torch.full((6,), 3.0), rtol=1e-3, atol=1e-3)
    y[0] *= 1000  # an outlier
    weights = found.weights(y / found.output, 4.0)
    assert weights[0] < 1e-3 and weights[1:].min() > 0.1


def test_recording_with_layers_replaced(tiny):
    model = tiny("llama").language_model
    blocks = torch.randint(VOCAB, (3, 7))
    inputs, outputs = record(model, blocks, range(LAYERS))
    reference = model.record(blocks[1])
    torch.testing.assert_close(inputs[2].view(3, 6, D)[1], reference.mlp_inputs[2][1:])
    torch.testing.assert_close(outputs[2].view(3, 6, D)[1], reference.mlp_outputs[2][1:])
    where = torch.zeros(3, LAYERS, dtype=torch.bool)
    where[1, 0] = True
    changed, true = record(model, blocks, range(LAYERS), lambda layer, x: torch.zeros_like(x), where)
    same = lambda a, b, row: torch.allclose(a.view(3, 6, D)[row], b.view(3, 6, D)[row])  # noqa: E731
    assert same(changed[0], inputs[0], 1) and not same(changed[1], inputs[1], 1) and same(changed[1], inputs[1], 2)
    mlp = model.blocks[1].mlp
    torch.testing.assert_close(mlp(changed[1]), true[1])
    assert not any(block.mlp._forward_hooks for block in model.blocks)


@pytest.mark.parametrize("extra", [{}, {"on_policy": 0.5, "reuse": 2}, {"kind": "cross-layer"}])
def test_a_stopped_training_goes_on_bit_by_bit(config, tmp_path, extra):
    config = replace(config, checkpoint=1e-9, tokens=6000, **extra)
    run(config, tmp_path / "whole")
    with pytest.raises(TrainingError, match="stopped at"):
        run(config, tmp_path / "parts", stop_at=5)
    assert 0 < read_checkpoint(path_of(tmp_path / "parts")).progress.step < 5
    run(config, tmp_path / "parts")
    one, other = (read_checkpoint(path_of(tmp_path / name)) for name in ("whole", "parts"))
    assert asdict(one.progress) | {"seconds": 0} == asdict(other.progress) | {"seconds": 0}
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


@pytest.fixture
def end_to_end(config, tmp_path_factory) -> TrainConfig:
    """A training that goes on from a dictionary trained layer by layer."""
    folder = tmp_path_factory.mktemp("local")
    run(replace(config, tokens=3000), folder)
    return replace(
        config, objective="end-to-end", init=str(folder / "dictionary"), lr=0.02, batch=248, tokens=8_000, warmup=3
    )


def test_end_to_end_predictions_come_nearer_to_the_models(end_to_end, tmp_path):
    watcher = run(end_to_end, tmp_path)
    divergences = [step.divergence for step in watcher.steps]
    assert sum(divergences[-5:]) < 0.8 * sum(divergences[:5])
    assert all(float(step.l0.mean()) == pytest.approx(8, abs=0.5) for step in watcher.steps)
    model = unweave.load(end_to_end.model, end_to_end.init).language_model
    before = held_out_figures(
        model, unweave.read_transcoders(end_to_end.init), read_blocks(tmp_path / "tokens.safetensors")
    )
    assert watcher.evaluations[-1]["kl"] < 0.9 * before["kl"]


def read_blocks(path: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    return load_file(path)["held_out"].long()


def test_end_to_end_gradients_are_those_of_plain_autograd(end_to_end, tmp_path, monkeypatch):
    run(replace(end_to_end, tokens=1, lr=1e-12), tmp_path)
    from unweave.training.state import restored

    dictionary = restored(read_checkpoint(path_of(tmp_path)), None, torch.device("cpu"))
    model = unweave.load(end_to_end.model, end_to_end.init).language_model
    model.module.set_attn_implementation("sdpa")
    ids = read_blocks(tmp_path / "tokens.safetensors")[:3]
    found = []
    for sparse in (True, False):
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda sparse=sparse: sparse)  # decides which products
        for value in dictionary.parameters.values():
            value.grad = None
        group = [{"params": [value], "scale": 1.0} for value in dictionary.parameters.values()]
        optimizer = Kept(group)
        thresholds = dictionary.thresholds.clone()
        silent = torch.zeros(LAYERS, 64, dtype=torch.int64)
        plan = Schedule((8.0,) * LAYERS, 0.0, 0.0)
        measured = divergence_step(model, dictionary, optimizer, ids, silent, plan, torch.float32)
        dictionary.thresholds.copy_(thresholds)
        found.append([measured.divergence, *optimizer.gradients])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, one, other in zip(dictionary.parameters, found[0][1:], found[1][1:], strict=True):
        assert float(one.abs().max()) > 0, name
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_training_decoders_alone_keeps_features_bit_by_bit(end_to_end, tmp_path):
    watcher = run(replace(end_to_end, train="decoders", k="9"), tmp_path)  # k says nothing
    divergences = [step.divergence for step in watcher.steps]
    assert sum(divergences[-5:]) < 0.9 * sum(divergences[:5])
    old, new = (unweave.read_transcoders(str(place)) for place in (end_to_end.init, tmp_path / "dictionary"))
    x = torch.randn(20, D)
    for layer, (before, after) in enumerate(zip(old.layers, new.layers, strict=True)):
        assert isinstance(before.activation, JumpReLU) and isinstance(after.activation, JumpReLU)
        assert before.skip is not None and after.skip is not None
        for kept, same in (
            (before.encoder.dense(torch.float32), after.encoder.dense(torch.float32)),
            (before.encoder_bias, after.encoder_bias),
            (before.activation.threshold, after.activation.threshold),
            (old.encode(layer, x)[1], new.encode(layer, x)[1]),
        ):
            assert torch.equal(kept, same)
        for learned, other in (
            (before.decoder.dense(torch.float32), after.decoder.dense(torch.float32)),
            (before.skip.dense(torch.float32), after.skip.dense(torch.float32)),
            (before.decoder_bias, after.decoder_bias),
        ):
            assert not torch.allclose(learned, other)


def test_compact_weights_are_written_again_as_they_are(end_to_end, tmp_path):
    once = unweave.write_transcoders(unweave.read_transcoders(end_to_end.init), tmp_path / "once", compact=True)
    again = unweave.write_transcoders(unweave.read_transcoders(str(once)), tmp_path / "again", compact=True)
    for file in once.glob("*.safetensors"):
        assert file.read_bytes() == (again / file.name).read_bytes()


@pytest.mark.parametrize("sparse", [True, False])
def test_decoders_alone_have_the_gradients_they_have_among_all(end_to_end, tmp_path, monkeypatch, sparse):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: sparse)
    run(replace(end_to_end, tokens=1, lr=1e-12, train="decoders"), tmp_path)
    from unweave.training.state import restored

    kept, found = read_checkpoint(path_of(tmp_path)), []
    model = unweave.load(end_to_end.model, end_to_end.init).language_model
    ids = read_blocks(tmp_path / "tokens.safetensors")[:3]
    for learning in (True, False):
        dictionary = restored(kept, None, torch.device("cpu"))
        for name, value in dictionary.parameters.items():
            assert value.requires_grad != name.startswith("encoder")
            value.requires_grad_(learning or value.requires_grad)
        decoders = {name: value for name, value in dictionary.parameters.items() if not name.startswith("encoder")}
        optimizer = Kept([{"params": [value], "scale": 1.0} for value in decoders.values()])
        silent = torch.zeros(LAYERS, 64, dtype=torch.int64)
        divergence_step(model, dictionary, optimizer, ids, silent, Schedule((8.0,) * LAYERS, 0.0, 0.0), torch.float32)
        found.append(dict(zip(decoders, optimizer.gradients, strict=True)))
    for name, one in found[0].items():
        torch.testing.assert_close(one, found[1][name], rtol=1e-5, atol=1e-8)


def test_training_decoders_alone_refuses_features_it_cannot_keep(end_to_end, tmp_path):
    for number, (wrong, words) in enumerate(
        [({"width": "80"}, "would need 80 features"), ({"activation": "topk"}, "top 8")]
    ):
        with pytest.raises(OptionError, match=words):
            run(replace(end_to_end, train="decoders", **wrong), tmp_path / str(number))
    with pytest.raises(OptionError, match="only objective 'end-to-end' knows"):
        TrainConfig(text=("a",), train="decoders")


class Kept(torch.optim.Adam):
    """Keeps gradients and changes nothing."""

    def step(self, closure=None):
        self.gradients = [group["params"][0].grad.clone() for group in self.param_groups]


@pytest.mark.parametrize("trained", ["all", "decoders"])
def test_a_stopped_end_to_end_training_goes_on_bit_by_bit(end_to_end, tmp_path, trained):
    test_a_stopped_training_goes_on_bit_by_bit(replace(end_to_end, batch=496, train=trained), tmp_path, {})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"init": ""}, "starts from a dictionary"),
        ({"kind": "cross-layer"}, "per-layer and skip"),
        ({"activation": "relu"}, "per-layer and skip"),
        ({"parallel": "layers"}, "parallel is 'layers'"),
        ({"on_policy": 0.5}, "on_policy is 0.5"),
        ({"reuse": 2}, "reuse is 2"),
    ],
)
def test_end_to_end_refuses_what_it_has_no_use_for(wrong, words):
    with pytest.raises(OptionError, match=words):
        replace(TrainConfig(text=("a",), objective="end-to-end", init="somewhere"), **wrong)


def options(config: TrainConfig) -> list[str]:
    words = []
    for name, value in asdict(config).items():
        if name != "text" and value != getattr(TrainConfig, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return [*words, "--text", *config.text]


MAIN = "from unweave.cli.main import main; main()"


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", MAIN, "train", *words]


def test_kill_9_loses_at_most_the_last_checkpoint(config, tmp_path):
    config = replace(config, checkpoint=1e-9, tokens=10**8)
    process = subprocess.Popen(
        command(*options(config), "--out", str(tmp_path)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if path_of(tmp_path).is_file():
            break
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = read_checkpoint(path_of(tmp_path)).progress
    assert kept.tokens > 0
    watcher = run(replace(config, tokens=kept.tokens + 1000), tmp_path)
    assert 1 <= len(watcher.steps) <= 4 and (tmp_path / "dictionary" / "config.yaml").is_file()


def test_two_processes_follow_one_with_the_joined_batch(config, tmp_path):
    config = replace(config, tokens=6000, buffer=1)
    torchrun = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = command(*options(replace(config, parallel="data")), "--out", str(tmp_path / "data"))
    alone_each = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, "--no-python", *words], capture_output=True, text=True, env=alone_each, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    words = ["train", *options(replace(config, parallel="layers")), "--out", tmp_path / "layers"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    both = [fresh.start(MAIN, words, meeting | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    for one in both:
        done = one.done()
        assert done.returncode == 0, done.stderr[-2000:]
    with Display(tmp_path / "one", Console(quiet=True)) as display:
        train(config, tmp_path / "one", display, held_out_figures)
    alone = read_log(tmp_path / "one")
    assert [event["event"] for event in alone] == ["step", "step", "evaluation"]
    joined = read_log(tmp_path / "data")
    for one, other in zip(alone, joined, strict=True):
        for name in ("tokens", "fvu", "l0", "loss_replaced"):
            if name in one:
                assert other[name] == pytest.approx(one[name], rel=2e-3, abs=2e-3), name
    by_layer = read_log(tmp_path / "layers")  # the first process trains layer 0 alone, and judges the whole
    assert by_layer[1]["fvu"][0] == pytest.approx(alone[1]["fvu"][0], abs=2e-3) and len(by_layer[1]["fvu"]) == 1
    assert by_layer[-1]["by_layer"] == pytest.approx(alone[-1]["by_layer"], abs=5e-3)


def test_going_on_from_a_dictionary_widens_it_and_changes_nothing_at_first(config, tmp_path):
    run(config, tmp_path / "a")
    before = unweave.read_transcoders(str(tmp_path / "a" / "dictionary"))
    wider = replace(config, init=str(tmp_path / "a" / "dictionary"), width="64x2,80", tokens=1, lr=1e-12)
    run(wider, tmp_path / "b")
    after = unweave.read_transcoders(str(tmp_path / "b" / "dictionary"))
    assert after.widths == (64, 64, 80)
    torch.testing.assert_close(
        after.layers[2].encoder.stored[:64], before.layers[2].encoder.stored, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        after.layers[2].decoder.dense(torch.float32)[:64],
        before.layers[2].decoder.dense(torch.float32),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(unweave.UnweaveError, match="cannot go on from it"):
        run(replace(config, init=str(tmp_path / "a" / "dictionary"), kind="cross-layer"), tmp_path / "c")
    with pytest.raises(unweave.UnweaveError, match="the new one has 32"):
        run(replace(config, init=str(tmp_path / "a" / "dictionary"), width="32"), tmp_path / "d")


@pytest.mark.parametrize("weight", [0.0, 1 / 32])
def test_dead_features_are_revived(config, weight):
    generator = torch.Generator().manual_seed(7)
    x, truth = torch.randn(256, D, generator=generator), torch.randn(D, D, generator=generator)
    y = (x @ truth).relu()
    config = replace(config, auxiliary=weight, kind="per-layer", k="4")
    facts = measure([([x], [y])], 1e9, range(1))
    dictionary = start(replace(config, width="64"), (facts[0],), None, torch.device("cpu"), range(1))
    with torch.no_grad():
        dictionary.parameters["encoder_bias.0"][32:] = -6.0  # these never fire
    silent = torch.zeros(1, 64, dtype=torch.int64)
    silent[0, 32:] = 10_000
    optimizer = torch.optim.Adam(list(dictionary.parameters.values()), lr=0.03)
    for _ in range(150):
        losses(
            dictionary,
            [x],
            [y],
            silent,
            (4.0,),
            0.0,
            False,
            lambda candidates, wanted: joint_kth(Processes(), candidates, wanted),
        )
        optimizer.step()
        optimizer.zero_grad()
    alive = int((silent[0, 32:] < 10_000).sum())
    assert (alive == 0) if weight == 0 else (alive > 8)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(config, tmp_path):
    config = replace(config, lr=1e30, checkpoint=1e-9, warmup=0, tokens=10**6)
    with pytest.raises(TrainingError, match=r"not finite .*last good state is in .*checkpoint\.safetensors"):
        run(config, tmp_path)
    if path_of(tmp_path).is_file():
        assert all(
            bool(tensor.isfinite().all())
            for name, tensor in read_checkpoint(path_of(tmp_path)).tensors.items()
            if name.startswith("parameter")
        )


def test_a_full_disk_stops_and_keeps_the_checkpoint_before(config, tmp_path, monkeypatch):
    run(config, tmp_path)
    before = path_of(tmp_path).read_bytes()
    import unweave.training.checkpoint as module

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(FileError, match=r"No space left.*the checkpoint before this one is whole"):
        run(replace(config, tokens=20_000), tmp_path)
    assert path_of(tmp_path).read_bytes() == before


def test_bad_input_is_refused_in_one_line(config, tmp_path, model_folder):
    run(config, tmp_path / "run")
    with pytest.raises(TrainingError, match=r"lr 0\.003 \(asked: 0\.5\); seed 0 \(asked: 4\)"):
        run(replace(config, lr=0.5, seed=4), tmp_path / "run")
    with (
        locked(tmp_path / "run", TrainingError("held by the test")),
        pytest.raises(TrainingError, match="another training is running"),
    ):
        run(config, tmp_path / "run")
    with pytest.raises(OptionError, match="k is 100 at layer 0, over its width of 64"):
        run(replace(config, k="100"), tmp_path / "new")
    with pytest.raises(OptionError, match="names 2 layers; the model has 3"):
        run(replace(config, width="64x2"), tmp_path / "new")
    with pytest.raises(OptionError, match="names 400000000 layers; at most 10000"):  # and takes no gigabytes to say so
        run(replace(config, width="1x400000000"), tmp_path / "new")
    with pytest.raises(OptionError, match="a number of more than 9 digits"):
        run(replace(config, width="1x" + "9" * 5000), tmp_path / "new")
    with pytest.raises(TextError):
        run(replace(config, text=("/nowhere/at/all",)), tmp_path / "new")
    short = tmp_path / "short.txt"
    short.write_text("w1 w2")
    with pytest.raises(TextError):
        run(replace(config, text=(str(short),)), tmp_path / "new")
    path_of(tmp_path / "run").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="cannot read the checkpoint"):
        run(config, tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        run(config, tmp_path / "file" / "inside")
    with pytest.raises(TrainingError, match="holds no checkpoint"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": []}, "no text"),
        ({"text": ["a"], "activation": "gelu"}, "must be one of batchtopk"),
        ({"text": ["a"], "tokens": 0}, "must be above 0"),
        ({"text": ["a"], "tokens": 1.5}, "tokens is 1.5"),
        ({"text": ["a"], "colour": 1}, "unknown keys"),
        ({"text": ["a"], "width": "0"}, "whole number above 0"),
        ({"text": ["a"], "checkpoint": 6}, "at most 5"),
        ({"text": ["a"], "kind": "cross-layer", "parallel": "layers"}, "use data"),
        ({"text": ["a"], "on_policy": 0.5, "parallel": "layers"}, "needs the whole dictionary"),
        ({"text": 3}, "list of texts"),
        ({"text": ["a"], "on_policy": 2}, "between 0 and 1"),
    ],
)
def test_configs_are_checked(values, message):
    with pytest.raises(OptionError, match=message):
        config_from(values, "here")


def test_the_config_is_the_toml_file_and_the_options(tmp_path):
    file = tmp_path / "train.toml"
    file.write_text('text = ["a.txt"]\nk = 32\nlr = 1\n')
    config = read_config(file, {"lr": 0.5})
    assert (config.text, config.k, config.lr) == (("a.txt",), "32", 0.5)
    assert differences(config, replace(config, tokens=5)) == [] and differences(config, replace(config, seed=5)) == [
        "seed 0 (asked: 5)"
    ]
    file.write_text("text = [")
    with pytest.raises(OptionError, match="cannot read"):
        read_config(file, {})
    assert runs("2x3", None, "k") == (2, 2, 2)


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 120))
def test_every_epoch_takes_every_block_once(n, begin, count):
    blocks = Blocks(torch.zeros(n, 4, dtype=torch.int64), torch.zeros(0, 4, dtype=torch.int64))
    whole = blocks.order(3, 0, begin + count) if begin + count else torch.zeros(0, dtype=torch.int64)
    if count:
        assert torch.equal(blocks.order(3, begin, count), whole[begin:])
    for epoch in whole.split(n):
        assert len(epoch.unique()) == len(epoch)


def test_log_curves_and_display(config, tmp_path, capsys):
    with Display(tmp_path, Console(width=120)) as display:
        train(replace(config, tokens=10_000), tmp_path, display, held_out_figures)
    assert "held-out" in capsys.readouterr().out
    log = tmp_path / "log.jsonl"
    events = read_log(tmp_path)
    assert {event["event"] for event in events} == {"step", "evaluation"} and events[0]["step"] == 1
    for name in ("a.png", "a.svg"):
        assert plot(log, tmp_path / name).stat().st_size > 5000
    with pytest.raises(OptionError, match=r"must end in \.png or \.svg"):
        plot(log, tmp_path / "a.pdf")
    log.write_text(log.read_text() + '{"event": "st')
    assert len(read_log(log)) == len(events)
    log.write_text("nonsense\n{}\n")
    with pytest.raises(FileError, match="line 1"):
        read_log(log)
    assert chart([0.0, 1.0]) == " █"


def test_own_text_is_kept_and_gone_on_with(config, tmp_path, monkeypatch):
    import unweave.training.tokens as module

    monkeypatch.setattr(module, "SAMPLED_AT_ONCE", 4)
    config = replace(config, text=(), self_sample=1.0, tokens=2000)
    run(config, tmp_path)
    lines = (tmp_path / "own-text.jsonl").read_text().splitlines()
    assert len(lines) >= 8 and {json.loads(line)["kind"] for line in lines} == {"self"}
    (tmp_path / "tokens.safetensors").rename(tmp_path / "kept")
    (tmp_path / "own-text.jsonl").write_text("\n".join(lines[:6]))
    run(replace(config, tokens=2001), tmp_path)
    assert (tmp_path / "own-text.jsonl").read_text().splitlines() == lines


def test_the_documentation_lists_every_option():
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    assert [name for name in TrainConfig.__dataclass_fields__ if f"| `--{name.replace('_', '-')}` |" not in page] == []
