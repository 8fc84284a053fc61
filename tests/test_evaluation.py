"""Figures of a dictionary against slow straightforward loops, perfect dictionaries, and one clear line for bad
input."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LAYERS, VOCAB, D, tiny_config, write_tiny_dictionary, write_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import unweave
from unweave.corpus import blocks
from unweave.errors import FileError, OptionError, TextError, TranscoderError
from unweave.evaluation import baselines, table
from unweave.evaluation.baselines import (
    AffineMaps,
    affine_maps,
    fit_baselines,
    low_rank_maps,
    mean_outputs,
    random_dictionary,
    strongest_neurons,
    token_weights,
)
from unweave.evaluation.card import write_card
from unweave.evaluation.evaluate import evaluate
from unweave.evaluation.measures import Errors, Firing, Shift, TrueOutputs, Truth
from unweave.evaluation.response import KINDS, Responses
from unweave.evaluation.results import Evaluation, average, mean_unexplained
from unweave.evaluation.texts import outputs_on
from unweave.models.passes import counted, logits_with_output, replaced_logits, run
from unweave.transcoders.dense import DenseTranscoders
from unweave.transcoders.neurons import neurons as neurons_of
from unweave.transcoders.transcoders import JumpReLU, Matrix, ReLU, TranscoderLayer, Transcoders

COMBINATIONS = [("llama", kind) for kind in ("relu", "jumprelu", "topk", "skip", "clt")] + [
    ("gemma2", "relu"), ("gemma2", "skip"), ("gemma2", "clt"), ("qwen3", "topk"), ("gpt2", "skip"), ("gpt2", "clt"),
    ("gpt_neox", "skip"), ("granite", "clt"), ("gpt_oss", "relu"), ("olmo2", "clt"),
]  # fmt: skip
CPU = torch.device("cpu")


def text(sequences=4, context=10, seed=0):
    ids = torch.randint(1, VOCAB, (sequences, context), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = 0
    return ids


def slow_logits(model, ids, replaced):
    """One sequence at a time through hooks, features through the dictionary's own `encode` and `decoder_rows`:
    logits, MLP outputs made."""
    language_model, transcoders = model.language_model, model.transcoders
    row, dtype = language_model.architecture, language_model.engine_dtype
    writer = row.mlp_post_norm if transcoders.write == "residual" and row.mlp_post_norm else row.mlp
    factor = (
        language_model.config.residual_multiplier
        if row.family == "granite" and transcoders.write == "residual"
        else 1.0
    )
    all_logits, all_made = [], []
    for sequence in ids:
        seen, active, made, handles = {}, {}, {}, []

        def keep(name, seen=seen):
            return lambda module, args: seen.update({name: args[0][0]})

        def put_out(layer, seen=seen, active=active, made=made):
            def hook(module, args, output):
                x = seen["mid"]
                if transcoders.read == "mlp_in":
                    x = seen["in"]
                elif transcoders.read == "mlp_in_normalized":
                    x = x / (x.square().mean(-1, keepdim=True) + language_model.epsilon).sqrt()
                part = transcoders.layers[layer]
                active[layer] = transcoders.encode(layer, x.to(dtype))[1]
                total = part.decoder_bias.to(dtype).expand_as(x).clone()
                if part.skip is not None:
                    total += x @ part.skip.dense(dtype).T
                for source in range(layer + 1):
                    if layer in transcoders.writes(source):
                        everything = torch.arange(active[source].shape[1])
                        total += active[source] @ transcoders.decoder_rows(source, everything, layer, dtype)
                made[layer] = total[1:]
                if layer not in replaced:
                    return None
                several, output = isinstance(output, tuple), output[0] if isinstance(output, tuple) else output
                instead = torch.cat([output[:, :1], total[None, 1:].to(output.dtype) / factor], dim=1)
                return (instead, None) if several else instead

            return hook

        for layer, block in enumerate(language_model.blocks):
            handles += [
                block.get_submodule(row.mlp_norm or row.mlp).register_forward_pre_hook(keep("mid")),
                block.get_submodule(row.mlp).register_forward_pre_hook(keep("in")),
                block.get_submodule(writer).register_forward_hook(put_out(layer)),
            ]
        with torch.no_grad():
            all_logits.append(language_model.module(input_ids=sequence[None], use_cache=False).logits)
        for handle in handles:
            handle.remove()
        all_made.append(made)
    return torch.cat(all_logits), [
        torch.cat([made[layer] for made in all_made]) for layer in range(language_model.n_layers)
    ]


def close(a, b, tolerance=1e-9):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance * max(float(b.abs().max()), 1.0)


# -- passes


@pytest.mark.parametrize(("family", "kind"), COMBINATIONS)
def test_replacement_agrees_with_a_slow_loop(tiny, family, kind):
    model = tiny(family, kind, "float64")
    language_model, write, ids = model.language_model, model.transcoders.write, text()
    dictionary = DenseTranscoders.load(model.transcoders, torch.float64, CPU)
    clean = run(language_model, ids, write)
    close(clean.logits, language_model.module(input_ids=ids, use_cache=False).logits)
    _, made = slow_logits(model, ids, ())
    for fast, slow in zip(outputs_on(language_model, clean, dictionary), made, strict=True):
        close(fast, slow)
    everywhere = replaced_logits(language_model, ids, write, dictionary.read, dictionary.start(), torch.float64)
    close(everywhere, slow_logits(model, ids, range(LAYERS))[0])
    close(everywhere[:, 0], clean.logits[:, 0])
    for layer in range(LAYERS):
        alone = logits_with_output(language_model, clean, layer, made[layer], write)
        close(alone, slow_logits(model, ids, (layer,))[0])
        assert float((alone - clean.logits).abs().max()) > 1e-3
    close(run(language_model, ids, write).logits, clean.logits)  # nothing is left behind in the modules


def test_blocks_that_return_tuples_are_passed_over_too(tiny):
    """As GPT-2's do in transformers 4."""
    model = tiny("llama", "relu")
    clean = run(model.language_model, text(), "mlp_out")
    blocks = model.language_model.blocks
    handle = blocks[0].register_forward_hook(lambda module, args, output: (output,))
    second = blocks[1].register_forward_pre_hook(
        lambda module, args: (args[0][0], *args[1:]) if isinstance(args[0], tuple) else None
    )
    try:
        again = run(model.language_model, text(), "mlp_out")
        assert again.tuples and not clean.tuples
    finally:
        handle.remove()
        second.remove()


# -- measures


@given(st.integers(0, 2**31 - 1))
def test_unexplained_variance_by_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(30, 5, generator=generator) * 10 ** torch.randn(30, 1, generator=generator)
    made, mean, median = (
        y + torch.randn(30, 5, generator=generator),
        torch.randn(5, generator=generator),
        y.square().sum(-1).median(),
    )
    targets, errors = TrueOutputs(median, mean), Errors()
    for part in (slice(0, 7), slice(7, 30)):
        errors.add(made[part] - y[part], *targets.add(y[part]))
    found = errors.unexplained(targets)
    y, made = y.double().numpy(), made.double().numpy()
    weight = np.minimum(1, 16 * float(median) / (y**2).sum(1))
    squares = ((made - y) ** 2).sum(1)
    middle = (weight[:, None] * y).sum(0) / weight.sum()
    ratios = squares / ((y - mean.double().numpy()) ** 2).sum(1)
    wanted = (
        squares.sum() / ((y - y.mean(0)) ** 2).sum(),
        (weight * squares).sum() / (weight * ((y - middle) ** 2).sum(1)).sum(),
        ratios.mean(), np.sort(ratios)[14],
    )  # fmt: skip
    assert (found.plain, found.weighted, found.token_mean, found.token_median) == pytest.approx(wanted, rel=1e-4)


@given(st.integers(0, 2**31 - 1))
def test_shift_of_predictions_by_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 9, (3, 7), generator=generator)
    own, other = (3 * torch.randn(3, 7, 9, generator=generator) for _ in range(2))
    truth, shift = Truth.of(ids, own), Shift()
    shift.add(truth, other)
    p, q = (z[:, 1:-1].reshape(-1, 9).double().log_softmax(-1) for z in (own, other))
    after = ids[:, 2:].reshape(-1, 1)
    found = shift.replaced()
    assert found.cross_entropy == pytest.approx(float(-q.gather(1, after).mean()), rel=1e-4)
    assert found.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=1e-5)
    assert found.top1 == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))
    assert float(truth.loss.mean()) == pytest.approx(float(-p.gather(1, after).mean()), rel=1e-4)


def test_densities_and_dead_features():
    firing = Firing()
    activation = torch.zeros(1000, 4)
    activation[:, 0], activation[:40, 1], activation[3, 2] = 1.0, -2.0, 0.1
    firing.add(activation[:300])
    firing.add(activation[300:])
    found = firing.features()
    assert (found.width, found.dead, firing.l0) == (4, 1, pytest.approx(1.041))
    assert found.histogram == (0, 0, 0, 0, 1, 0, 0, 1, 0, 1)  # 1e-3 in [-3, -2.5), 0.04 in [-1.5, -1), 1 in the last
    assert Firing.pooled([firing, firing]).features() == found


# -- baselines


def seen_of(model, ids, layer):
    clean = run(model, ids, "mlp_out")
    return counted(clean.inputs[layer], torch.float64).numpy(), counted(clean.outputs[layer], torch.float64)


def test_the_affine_baseline_is_numpys_least_squares(tiny, monkeypatch):
    monkeypatch.setattr(baselines, "RIDGES", (1e-13,))
    model, ids = tiny("llama", "relu", "float64").language_model, text(60, 12)
    fit = fit_baselines(model, ids, "mlp_out", lambda share: None)
    assert fit.tokens == 60 * 11
    affine = affine_maps(fit, torch.float64)
    full, low, mean = (
        low_rank_maps(fit, D, torch.float64),
        low_rank_maps(fit, 5, torch.float64),
        mean_outputs(fit, torch.float64),
    )
    for layer in range(LAYERS):
        x, target = seen_of(model, ids, layer)
        root = token_weights(target, fit.median[layer]).sqrt().numpy()[:, None]
        y, ones = target.numpy(), np.ones((len(x), 1))
        solution = np.linalg.lstsq(root * np.hstack([x, ones]), root * y, rcond=None)[0]
        close(affine.weight[layer][0], torch.from_numpy(solution[:-1].T), 1e-6)
        close(affine.bias[layer], torch.from_numpy(solution[-1]), 1e-6)
        given_x = torch.from_numpy(x)
        close(full.apply(layer, given_x), affine.apply(layer, given_x), 1e-6)
        average_y = (root**2 * y).sum(0) / (root**2).sum()
        close(mean.apply(layer, given_x), torch.from_numpy(average_y).expand(len(x), D), 1e-9)
        # Reduced-rank regression: the predictions of the full map, cut to their leading directions.
        predicted = root * (affine.apply(layer, given_x).numpy() - average_y)
        _, _, directions = np.linalg.svd(predicted, full_matrices=False)
        wanted = affine.apply(layer, given_x).numpy() - average_y
        close(low.apply(layer, given_x), torch.from_numpy(average_y + wanted @ directions[:5].T @ directions[:5]), 1e-6)


def test_a_short_text_takes_a_larger_ridge(tiny):
    """With fewer tokens than dimensions a bare solution would be far worse on other text than the mean."""
    model = tiny("llama", "relu").language_model
    fit = fit_baselines(model, text(12, 3).repeat(1, 1), "mlp_out", lambda share: None)
    assert all(part.ridge == baselines.RIDGES[0] for part in fit.moments)  # one batch: nothing to choose by
    many = fit_baselines(model, text(400, 10), "mlp_out", lambda share: None)
    assert all(part.ridge <= 1e-2 for part in many.moments)


def test_random_features_fire_as_often_as_wanted(tiny):
    model, wanted = tiny("llama", "skip"), (3.0, 5.0, 8.0)
    fit = fit_baselines(model.language_model, text(40, 12), "mlp_out", lambda share: None)
    affine = affine_maps(fit, torch.float32)
    random = random_dictionary(fit, model.transcoders, wanted, affine, seed=1)
    dictionary = DenseTranscoders.load(random, torch.float32, CPU, "random")
    assert random.widths == model.transcoders.widths and random.has_skip
    for layer, sample in enumerate(fit.sample):
        active = dictionary.encode(layer, sample.inputs) != 0
        assert float(active.sum(1).float().mean()) == pytest.approx(wanted[layer], abs=0.1)
        close(random.layers[layer].encoder.dense(torch.float32).norm(dim=1), torch.ones(random.widths[layer]), 1e-5)
        weight = token_weights(sample.outputs, fit.median[layer])[:, None]

        def missed(made, sample=sample, weight=weight):
            return float((weight * (made - sample.outputs).square()).sum())

        # The scale is fitted, so random features cannot do worse than none.
        assert missed(dictionary.local(layer, sample.inputs)) <= missed(affine.apply(layer, sample.inputs)) * (1 + 1e-5)
    plain = random_dictionary(fit, tiny("llama", "relu").transcoders, wanted, affine, seed=1)
    assert not plain.has_skip
    again = random_dictionary(fit, model.transcoders, wanted, affine, seed=1)
    assert all(
        torch.equal(a.decoder.stored, b.decoder.stored) for a, b in zip(random.layers, again.layers, strict=True)
    )


# -- responses


def by_hand(kind, language_model):
    """One feature of layer 0 that is always on, one feature of each other layer that never is."""
    generator = torch.Generator().manual_seed(5)
    layers = []
    for layer in range(LAYERS):
        slots = (LAYERS - layer,) if kind == "cross-layer" else ()
        bias = torch.tensor([50.0 if layer == 0 else -1e6], dtype=torch.float64)
        rows = [torch.randn(1, *shape, D, generator=generator, dtype=torch.float64) / 10 for shape in ((), slots)]
        skip = Matrix(torch.randn(D, D, generator=generator, dtype=torch.float64) / 10)
        layers.append(
            TranscoderLayer(Matrix(rows[0]), bias, Matrix(rows[1]), torch.zeros(D, dtype=torch.float64), ReLU(), skip)
        )
    return Transcoders(kind, tuple(layers), "mlp_in", "mlp_out", name="by hand")


@pytest.mark.parametrize("kind", ["per-layer", "cross-layer"])
def test_response_to_a_removed_feature_by_hand(tiny, kind):
    model = tiny("llama", "relu", "float64").language_model
    transcoders = by_hand(kind, model)
    dictionary = DenseTranscoders.load(transcoders, torch.float64, CPU)
    affine = AffineMaps(
        "affine",
        tuple((torch.eye(D, dtype=torch.float64),) for _ in range(LAYERS)),
        tuple(torch.zeros(3, D, dtype=torch.float64)),
    )
    clean = run(model, text(), "mlp_out")
    responses = Responses(LAYERS, 0, CPU)
    responses.add(model, clean, dictionary, affine, "mlp_out")
    resid_mid, inputs, outputs = (
        [counted(series[layer], torch.float64) for layer in range(LAYERS)]
        for series in (clean.resid_mid, clean.inputs, clean.outputs)
    )
    first = transcoders.layers[0]
    activation = inputs[0] @ first.encoder.stored.T + 50
    writes = first.decoder.stored.reshape(1, -1, D)
    layer = 2
    before = activation * (writes[0, 0] + (writes[0, 1] if kind == "cross-layer" else 0))
    gain = model.blocks[layer].post_attention_layernorm.weight
    mid = resid_mid[layer] - before
    changed = mid / (mid.square().mean(-1, keepdim=True) + model.epsilon).sqrt() * gain
    with torch.no_grad():
        true = model.blocks[layer].mlp(changed[None])[0] - outputs[layer]
    skip = (changed - inputs[layer]) @ transcoders.layers[layer].skip.stored.T
    predicted = skip - (activation * writes[0, 2] if kind == "cross-layer" else 0)
    size = true.square().sum()
    live, held, linear = (getattr(one, "feature") for one in responses.figures(layer))  # noqa: B009
    assert live == pytest.approx(float((predicted - true).square().sum() / size), rel=1e-6)
    frozen = -before / (resid_mid[layer].square().mean(-1, keepdim=True) + model.epsilon).sqrt() * gain
    graph = frozen @ transcoders.layers[layer].skip.stored.T + predicted - skip
    assert held == pytest.approx(float((graph - true).square().sum() / size), rel=1e-6) and held != pytest.approx(
        live, rel=1e-3
    )
    assert linear == pytest.approx(float((changed - inputs[layer] - true).square().sum() / size), rel=1e-6)
    assert responses.figures(0)[0].feature is None


def test_moved_inputs_are_as_far_away_as_said(tiny):
    model = tiny("gemma2", "skip", "float64")
    language_model = model.language_model
    clean = run(language_model, text(), model.transcoders.write)
    dictionary = DenseTranscoders.load(model.transcoders, torch.float64, CPU)
    mid, mlp_in = counted(clean.resid_mid[1], torch.float64), counted(clean.inputs[1], torch.float64)
    towards, noise = Responses(LAYERS, 0, CPU)._moved(language_model, 1, dictionary, mid)
    gain = 1 + language_model.blocks[1].pre_feedforward_layernorm.weight.detach()
    moved, random = ((one.mlp_in - mlp_in) / gain for one in (towards, noise))
    close(moved.norm(dim=1), random.norm(dim=1))
    others = (mlp_in / gain)[None] - (mlp_in / gain)[:, None]  # towards one of the other tokens, 10 to 30% of the way
    share = (moved[:, None] * others).sum(-1) / others.square().sum(-1).clamp_min(1e-30)
    rest = (moved[:, None] - share[..., None] * others).norm(dim=-1)
    best = rest.argmin(1)
    found = share[torch.arange(len(mid)), best][moved.norm(dim=1) > 1e-9]
    assert float(rest.min(1).values.max()) < 1e-9 and float(found.min()) >= 0.1 and float(found.max()) <= 0.3
    close((towards.read - mlp_in / gain), moved)  # this dictionary reads before the gain


# -- perfect dictionaries


@pytest.fixture(scope="module")
def neurons(tmp_path_factory):
    """A GPT-2 with ReLU, and the dictionary whose features are its neurons."""
    torch.manual_seed(3)
    config = tiny_config("gpt2")
    config.activation_function = "relu"
    folder = tmp_path_factory.mktemp("neurons")
    module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in module.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(".ln_" in name and "weight" in name), std=0.3)
    module.save_pretrained(folder)
    model = unweave.load_model(str(folder), dtype="float64")
    layers = [
        TranscoderLayer(
            Matrix(mlp.c_fc.weight.T.contiguous()), mlp.c_fc.bias, Matrix(mlp.c_proj.weight), mlp.c_proj.bias, ReLU()
        )
        for mlp in (block.mlp for block in model.blocks)
    ]
    return unweave.ReplacementModel(model, Transcoders("per-layer", tuple(layers), "mlp_in", "mlp_out", name="neurons"))


def test_neurons_as_features_are_perfect(neurons):
    found = evaluate(neurons, {"text": text(6)}, text(40, seed=1), prompts=[[0, 4, 9]])
    dictionary, affine = (found.mean.stand_in(name) for name in ("dictionary", "affine"))
    for layer, figures in enumerate(found.mean.layers):
        assert max(vars(dictionary.unexplained[layer]).values()) < 1e-12
        assert abs(figures.alone) < 1e-6
        assert 5 < figures.l0 < 35
        live, held, linear = figures.response, figures.held_response, figures.affine_response
        assert live.towards < 1e-12 and live.noise < 1e-12 and 1e-4 < held.noise < linear.noise
        assert live.feature is None if layer == 0 else live.feature < 1e-12
        assert affine.unexplained[layer].plain > 0.02
    assert dictionary.replaced.cross_entropy == pytest.approx(found.mean.cross_entropy, abs=1e-6)
    assert dictionary.replaced.kl < 1e-6 and dictionary.replaced.top1 == 1
    assert affine.replaced.kl > 1e-3
    (prompt,) = found.prompts
    graph = unweave.attribute(neurons, [0, 4, 9])
    assert (prompt.replacement, prompt.completeness) == pytest.approx(graph.scores())
    assert (prompt.replacement_dropped, prompt.completeness_dropped) == pytest.approx(
        (1, 1), abs=1e-6
    )  # but for position 0 all is explained
    assert prompt.replacement < 1 and prompt.features == len(graph.nodes.activation[graph.nodes.features])


@pytest.mark.parametrize("write", ["mlp_out", "residual"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "gpt2", "phi3"])
def test_the_strongest_neurons_stand_in_for_the_mlps(tiny, family, write):
    """All of them are the MLP; some of them are as good as it on average; what they keep is what writes most."""
    model = tiny(family, "relu", "float64").language_model
    fit = fit_baselines(model, text(20, seed=5), write, lambda share: None)
    whole = strongest_neurons(model, fit, (1000.0,) * LAYERS, write)
    clean = run(model, text(3), write)
    for made, true in zip(outputs_on(model, clean, whole), clean.outputs, strict=True):
        assert torch.allclose(made, counted(true, torch.float64), atol=1e-9)
    logits = replaced_logits(model, clean.ids, write, whole.read, whole.start(), torch.float64)
    assert torch.allclose(logits, clean.logits, atol=1e-8)
    some = strongest_neurons(model, fit, (4.4, 7.0, 0.2), write)
    assert some.count == (4, 7, 1)
    for layer, part in enumerate(fit.sample):
        kept, others = some.split(layer, part.inputs)
        assert bool(((kept != 0).sum(1) == some.count[layer]).all()) and not bool((kept * others).any())
        norms = some.neurons.layers[layer].decoder.dense(torch.float64).norm(dim=1)
        assert bool(
            ((others.abs() * norms).amax(1) <= torch.where(kept == 0, torch.inf, kept.abs() * norms).amin(1)).all()
        )
        if write == "mlp_out":
            weight = token_weights(part.outputs, fit.median[layer])[:, None]
            assert torch.allclose(
                (weight * (some.apply(layer, part.inputs) - part.outputs)).sum(0),
                torch.zeros(D, dtype=torch.float64),
                atol=1e-9,
            )


def test_neurons_beside_the_dictionary(tiny):
    model = tiny("llama", "skip")
    found = evaluate(model, {"a": text(4)}, text(30, seed=9), prompts=[[0, 3, number] for number in range(7)])
    assert (
        0
        < mean_unexplained(found.mean.stand_in("neurons")).plain
        < mean_unexplained(found.mean.stand_in("mean output")).plain
    )
    assert [one.prompt for one in found.neurons] == ["0 3 0", "0 3 2", "0 3 4", "0 3 6"]
    own = unweave.ReplacementModel(model.language_model, neurons_of(model.language_model))
    for one, ids in zip(found.neurons, ([0, 3, 0], [0, 3, 2], [0, 3, 4], [0, 3, 6]), strict=True):
        graph = unweave.attribute(model, ids)
        assert one.nodes == graph.nodes.features.stop
        assert (one.replacement, one.completeness) == pytest.approx(graph.scores())
        assert (one.neurons_replacement, one.neurons_completeness) == pytest.approx(
            unweave.attribute(own, ids, max_features=one.nodes).scores()
        )
    assert [len(row) for row in table.neurons(found.neurons)] == [len(table.NEURONS)] * 5
    without = evaluate(model, {"a": text(4)}, text(30, seed=9), prompts=[[0, 3]], neurons=False)
    assert not without.neurons and {one.name for one in found.mean.stand_ins} - {
        one.name for one in without.mean.stand_ins
    } == {"neurons"}
    experts = evaluate(tiny("gpt_oss", "relu"), {"a": text(2)}, text(30, seed=9), prompts=[[0, 3]])
    assert not experts.neurons and "neurons" not in {one.name for one in experts.mean.stand_ins}


def test_an_affine_mlp_is_perfectly_replaced_by_the_affine_baseline_and_by_skip_matrices(tmp_path):
    model = unweave.load_model(str(write_tiny_model("llama", tmp_path / "model")), dtype="float64")
    generator = torch.Generator().manual_seed(2)
    layers = []
    for block in model.blocks:
        weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) / 5 for shape in ((D, D), (D,)))
        block.mlp.forward = lambda x, weight=weight, bias=bias: x @ weight.T + bias
        nothing = torch.zeros(4, D, dtype=torch.float64)
        layers.append(
            TranscoderLayer(
                Matrix(nothing), nothing[:, 0], Matrix(nothing), bias, JumpReLU(nothing[:, 0] + 1), Matrix(weight)
            )
        )
    transcoders = Transcoders("per-layer", tuple(layers), "mlp_in", "mlp_out", name="affine")
    found = evaluate(
        unweave.ReplacementModel(model, transcoders), {"text": text()}, text(60, seed=1), prompts=[], neurons=False
    )
    for name, tolerance in (("dictionary", 1e-12), ("affine", 1e-4)):
        one = found.mean.stand_in(name)
        assert max(layer.plain for layer in one.unexplained) < tolerance
        assert abs(one.replaced.cross_entropy - found.mean.cross_entropy) < 1e-2
    assert all(layer.held_response.towards < 1e-12 and layer.held_response.noise < 1e-12 for layer in found.mean.layers)
    assert found.dead == 1 and found.l0 == 0
    assert found.mean.stand_in("mean output").unexplained[1].token_mean == pytest.approx(1)


# -- the whole


@pytest.mark.parametrize(("family", "kind"), [("llama", "skip"), ("gemma2", "clt")])
def test_every_kind_of_text_apart_and_their_mean(tiny, family, kind, tmp_path):
    model, shares = tiny(family, kind), []
    texts = {"a": text(5), "b": text(3, seed=7)}
    found = evaluate(
        model,
        texts,
        text(30, seed=9),
        prompts=[[0, 3, 4], [0, 8]],
        seed=4,
        progress=lambda share, title: shares.append((share, title)),
    )
    assert [one.name for one in found.texts] == ["a", "b"] and found.mean.name == "mean"
    names = ["dictionary", "mean output", "affine", "rank 16", "random"]
    rank = max(1, round(found.l0))
    assert {one.name for one in found.mean.stand_ins} >= set(names)
    assert any(one.name == f"rank {min(D, rank + delta)}" for one in found.mean.stand_ins for delta in (-1, 0, 1))
    for name in names:
        parts = [one.stand_in(name).replaced.kl for one in found.texts]
        assert found.mean.stand_in(name).replaced.kl == pytest.approx(sum(parts) / 2)
    alone = evaluate(model, {"b": texts["b"]}, text(30, seed=9), prompts=[], seed=4)
    assert alone.texts[0] == found.texts[1]  # one kind does not touch another
    assert found.setting.tokens == 80 and found.setting.fit_tokens == 270 and found.setting.skip == (kind == "skip")
    assert [part.width for part in found.features] == list(model.transcoders.widths)
    assert all(sum(part.histogram) + part.dead == part.width for part in found.features)
    values = [share for share, _ in shares]
    assert values == sorted(values) and values[-1] == pytest.approx(1)
    assert Evaluation.read(json.dumps(found.facts())) == found
    card = write_card(found, tmp_path / "card")
    said = card.read_text()
    assert (
        all(f"]({path.name})" in said for path in card.parent.glob("*.svg")) and len(list(card.parent.iterdir())) == 6
    )
    assert Evaluation.read((card.parent / "evaluation.json").read_text()) == found
    assert all(len(row) == len(head) for head, rows in (
        (table.TOTALS, table.totals(found.mean)), (table.LAYERS, table.layers(found)),
        (table.RESPONSES, table.responses(found.mean.layers)), (table.PROMPTS, table.prompts(found.prompts)),
    ) for row in rows)  # fmt: skip
    first = {path.name: path.read_bytes() for path in card.parent.iterdir()}
    write_card(found, tmp_path / "card")
    assert first == {path.name: path.read_bytes() for path in card.parent.iterdir()}


def test_average_keeps_words_and_gaps():
    assert average([("a", 1.0, None, (2, 4.0)), ("a", 3.0, None, (4, 0.0))]) == ("a", 2.0, None, (3, 2.0))


@pytest.mark.parametrize("said", ["{", "[]", '{"setting": 3}'])
def test_json_that_is_no_evaluation(said):
    with pytest.raises(FileError, match="not the JSON of an evaluation"):
        Evaluation.read(said)


def test_what_cannot_be_evaluated(tiny):
    model = tiny()
    for texts, fit in (({}, text()), ({"a": text()[:0]}, text()), ({"a": text()}, text()[:0])):
        with pytest.raises(OptionError, match="no text to evaluate on"):
            evaluate(model, texts, fit)
    with pytest.raises(OptionError, match="blocks of 3 positions are too short"):
        evaluate(model, {"a": text(2, 3)}, text(2, 3))
    broken = model.transcoders.layers[1]
    weights = broken.decoder.stored.clone()
    weights[2, 3] = float("nan")
    layers = (model.transcoders.layers[0], replace(broken, decoder=Matrix(weights)), model.transcoders.layers[2])
    with pytest.raises(TranscoderError, match="layer 1 holds NaN or infinite weights"):
        evaluate(replace(model, transcoders=replace(model.transcoders, layers=layers)), {"a": text()}, text())


# -- text and the command line


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model that reads words, a dictionary for it, one of another width, and some text."""
    root = tmp_path_factory.mktemp("eval")
    model = write_tiny_model("llama", root / "model")
    words = Tokenizer(WordLevel({"<s>": 0, **{f"w{i}": i for i in range(1, VOCAB)}}, unk_token="w1"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(model)
    generator = np.random.default_rng(0)
    for name, count in (("prose", 900), ("chat", 1200), ("short", 9)):
        said = [" ".join(f"w{i}" for i in generator.integers(1, VOCAB, 30)) for _ in range(count // 30)] or [
            "w3 w4 w5 w6 w7 w8 w9 w10"
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in said))
    (root / "empty.txt").write_text("")
    return root, model, write_tiny_dictionary("skip", "llama", root / "dictionary")


@pytest.fixture
def run_eval(run, folders, monkeypatch):
    """`unweave eval` on the tiny model, in an empty folder: (exit code, stdout, stderr)."""
    root, model, dictionary = folders
    monkeypatch.setattr(blocks, "BUNDLED", root / "nothing")

    def call(*words, transcoders=dictionary):
        return run("eval", "--model", model, "--transcoders", transcoders, *words)

    return call


def test_eval_prints_json_and_writes_a_card(run_eval, folders, tmp_path):
    root = folders[0]
    options = (
        "--tokens",
        160,
        "--context",
        16,
        "--prompts",
        2,
        "--text",
        f"talk={root / 'chat.jsonl'}",
        "--text",
        root / "prose.jsonl",
    )
    code, out, err = run_eval("--json", "--card", "card", *options)
    assert (code, err.strip()) == (0, "")
    found = Evaluation.read(out)
    assert [(one.name, one.tokens) for one in found.texts] == [("talk", 80), ("prose", 80)]
    assert len(found.prompts) == 2
    assert found.setting.fit_tokens >= 20 * D * 15 // 16 - 60
    assert (tmp_path / "card" / "evaluation.md").read_text().startswith("# Evaluation of ")
    code, out, err = run_eval(*options)
    assert (code, err.strip()) == (0, "")
    assert all(
        word in out
        for word in (
            "All MLPs replaced, talk",
            "All MLPs replaced, mean",
            "affine",
            "random",
            "By layer",
            "Whole graphs",
            "neurons",
        )
    )


def test_short_texts_are_a_kind_of_their_own(run_eval, folders):
    root = folders[0]
    options = ("--tokens", 160, "--context", 16, "--prompts", 0, "--short", "--json")
    code, out, err = run_eval(*options, "--text", root / "prose.jsonl")
    assert (code, err.strip()) == (0, "")
    assert [(one.name, one.tokens) for one in Evaluation.read(out).texts] == [("prose", 80), ("short", 80)]
    code, out, err = run_eval(*options, "--text", f"short={root / 'prose.jsonl'}")
    assert code == 2 and "name yours apart" in err


def test_bundled_text_is_found(run_eval, folders, monkeypatch):
    monkeypatch.setattr(blocks, "BUNDLED", folders[0])
    assert list(blocks.named_sources([])) == ["chat", "prose", "short"]


BAD = {
    "no text": ([], "no held-out text is bundled"),
    "no such file": (["--text", "nowhere.jsonl", "--context", 16], "no text at nowhere.jsonl"),
    "empty": (["--text", "ROOT/empty.txt", "--context", 16], "holds no text"),
    "too short": (["--text", "ROOT/short.jsonl", "--context", 16, "--tokens", 16], "less than one block of 16"),
    "too short for two blocks": (
        ["--text", "ROOT/short.jsonl", "--context", 8, "--tokens", 16],
        "has 1 blocks of 8 tokens; at least 2 are needed",
    ),
    "one name twice": (["--text", "ROOT/chat.jsonl", "--text", "ROOT/chat.jsonl"], "two texts are called 'chat'"),
    "no name": (["--text", "=x.txt"], "is not NAME=SOURCE"),
    "few tokens": (["--text", "ROOT/chat.jsonl", "--tokens", 10], "gives none of 1 kinds of text a block of 64"),
    "long context": (["--text", "ROOT/chat.jsonl", "--context", 100], "takes blocks of 2 to 64 tokens"),
    "short context": (["--text", "ROOT/chat.jsonl", "--context", 3], "blocks of 3 positions are too short"),
    "no context": (["--text", "ROOT/chat.jsonl", "--context", 0], "context is 0"),
    "many prompts": (["--prompts", 21], "--prompts is 21"),
    "card is a file": (["--text", "ROOT/chat.jsonl", "--card", "ROOT/empty.txt"], "cannot write"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run_eval, folders, case, tmp_path):
    words, message = BAD[case]
    code, out, err = run_eval(*(str(word).replace("ROOT", str(folders[0])) for word in words))
    assert (code, out) == (2, "")
    assert "\n" not in err.strip() and message in err and err.strip().startswith("error ")
    assert not list(tmp_path.iterdir())


def test_a_dictionary_of_another_width(run_eval, folders, tmp_path_factory, monkeypatch):
    monkeypatch.setattr("conftest.D", D + 2)
    other = write_tiny_dictionary("skip", "llama", tmp_path_factory.mktemp("other") / "dictionary")
    code, out, err = run_eval("--text", folders[0] / "chat.jsonl", transcoders=other)
    assert (code, out) == (2, "") and "\n" not in err.strip() and f"d_model {D + 2}" in err


def test_blocks_for_fitting_are_others(folders):
    root, model, _ = folders
    language_model = unweave.load_model(str(model))
    sources = {"chat": str(root / "chat.jsonl"), "prose": str(root / "prose.jsonl")}
    texts, fit = blocks.read_texts(language_model, sources, tokens=200, context=10)
    assert {name: part.shape for name, part in texts.items()} == {"chat": (10, 10), "prose": (10, 10)}
    assert len(fit) == 2 * (20 * D // 2 // 10) and bool((fit[:, 0] == 0).all())
    rows = [tuple(row.tolist()) for part in (*texts.values(), fit) for row in part]
    assert len(set(rows)) == len(rows)
    again, _ = blocks.read_texts(language_model, sources, tokens=200, context=10)
    other, _ = blocks.read_texts(language_model, sources, tokens=200, context=10, seed=1)
    assert torch.equal(texts["chat"], again["chat"]) and not torch.equal(texts["chat"], other["chat"])
    part, _ = blocks.read_texts(language_model, {"chat": sources["chat"]}, tokens=200, context=10, held_out=0.5)
    assert len(part["chat"]) == 20
    with pytest.raises(TextError, match="at least 2 are needed"):
        blocks.read_texts(language_model, {"chat": sources["chat"]}, tokens=200, context=10, held_out=1e-9)


def test_all_kinds_of_changed_inputs_have_a_figure():
    from dataclasses import fields

    from unweave.evaluation.results import Response

    assert tuple(field.name for field in fields(Response)) == KINDS
