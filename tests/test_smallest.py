"""First-order effects against measured ones; the smallest sets: enough, nothing to spare, reproducible; their
controls."""

from dataclasses import replace

import pytest
import torch
from conftest import DICTIONARIES, PROMPT

import unweave
from unweave import ablate, add, scale, set_to, shift
from unweave.errors import InterventionError, OptionError, TargetError
from unweave.interventions.attribution_patching import difference, lead, predicted_effects, write_gradients
from unweave.interventions.edits import dosed
from unweave.interventions.interventions import intervene_each, record
from unweave.interventions.smallest import active_features, matched_controls, smallest_ablation, smallest_swap
from unweave.interventions.steering import activations, swap

OTHER = [0, 7, 3, 20, 7, 12]
MODES = ("frozen_attention", "open")


def top(outcome):
    return int(outcome.logits[-1].argmax())


@pytest.mark.parametrize(
    ("family", "kind"), [*(("llama", kind) for kind in DICTIONARIES), ("qwen3", "skip"), ("gpt2", "clt")]
)
def test_with_everything_held_the_first_order_is_all(tiny, family, kind):
    model = tiny(family, kind)
    recording = record(model, PROMPT)
    pool = active_features(model, recording)[::7]
    variants = [[change] for change in pool] + [
        [scale("1_3_*", -2.0), set_to("0_2_2", 1.5), add("2_1_5", 0.5)],
        [shift("1_1_3", -0.7)],
    ]
    gradients = write_gradients(model, recording, difference(4, 9), "frozen")
    effects = predicted_effects(model, recording, variants, gradients)
    outcomes = intervene_each(model, recording, variants, "frozen")
    measured = [
        float(outcome.logits[-1, 4] - outcome.logits[-1, 9] - outcome.baseline[-1, 4] + outcome.baseline[-1, 9])
        for outcome in outcomes
    ]
    assert max(map(abs, measured)) > 1e-2
    assert effects.tolist() == pytest.approx(measured, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "skip"), ("gemma2", "clt"), ("gpt2", "relu"), ("gemma2", "jumprelu")]
)
def test_gradients_are_those_of_small_steps(tiny, family, kind, mode):
    model, step = tiny(family, kind, "float64"), 2e-3  # no smaller: eager attention rounds its patterns to float32
    recording = record(model, PROMPT)
    places = [(layer, position, index) for layer in range(3) for position in (0, 2, 5) for index in (1, 17)]
    for before in ([], [set_to("0_4_2", 2.0), scale("0_9_1", -3.0)]):
        measure = lead(int(record(model, OTHER).logits[-1].argmax()))
        gradients = write_gradients(model, recording, measure, mode, changes=before)
        assert gradients.shape == (3, len(PROMPT), 24)
        outcomes = iter(
            list(
                intervene_each(
                    model,
                    recording,
                    [[*before, add(place, sign * step)] for place in places for sign in (1.0, -1.0)],
                    mode,
                )
            )
        )
        measured = [
            float(measure(up.logits[-1]) - measure(down.logits[-1])) / (2 * step)
            for up, down in zip(outcomes, outcomes, strict=True)
        ]
        predicted = predicted_effects(model, recording, [[add(place, 1.0)] for place in places], gradients).tolist()
        assert max(map(abs, measured)) > 0.05
        assert predicted == pytest.approx(measured, rel=1e-2, abs=1e-3)


def test_no_hook_or_gradient_is_left(tiny):
    model = tiny(kind="skip")
    before = model.language_model.record(torch.tensor(PROMPT)).logits
    assert not write_gradients(model, PROMPT, lead(3)).requires_grad
    with pytest.raises(ZeroDivisionError):
        write_gradients(model, PROMPT, lambda logits: 1 / 0)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.language_model.module.modules())
    assert torch.equal(model.language_model.record(torch.tensor(PROMPT)).logits, before)
    assert not any(
        parameter.requires_grad or parameter.grad is not None for parameter in model.language_model.module.parameters()
    )


def test_active_features(tiny):
    model = tiny(kind="jumprelu")
    recording = record(model, PROMPT)
    found = active_features(model, recording)
    assert len(found) == sum(int((activations(model, recording, layer) != 0).sum()) for layer in range(3))
    changed = unweave.intervene(model, recording, found, "frozen").changed
    assert len(changed) == len(found)
    assert all(change.before != 0 and change.after == 0 and change.feature.position != 0 for change in changed)
    some = active_features(model, recording, [2, -1])
    assert {change.features[0].position for change in some} == {2, 5}
    assert len(some) == sum(change.features[0].position in (2, 5) for change in found)


@pytest.fixture(scope="module")
def swapped(tiny):
    """A swap that several features are needed for: (model, other prompt, wanted token, result of the search)."""
    model = tiny(kind="relu")
    for token in range(1, 50):
        other = [*OTHER[:3], token, *OTHER[4:]]
        if token == PROMPT[3]:
            continue
        whole = swap(model, PROMPT, other)
        wanted = top(unweave.intervene(model, PROMPT, dosed(whole, 2.0)))
        if all(
            top(outcome) != wanted
            for outcome in intervene_each(model, PROMPT, [[], *(dosed([change], 2.0) for change in whole)])
        ):
            break
    found = smallest_swap(model, PROMPT, other, wanted, factors=(0.01, 2.0, 9.0), max_features=40)
    assert found is not None
    return model, other, wanted, found


def test_a_found_swap_is_enough_and_nothing_can_be_left_out(swapped):
    model, other, wanted, found = swapped
    assert found.factor == 2.0
    assert found.top == found.token == wanted
    assert 1 < len(found.changes) <= 40
    again = unweave.intervene(model, PROMPT, found.changes)
    assert torch.allclose(again.logits, found.outcome.logits, atol=1e-5)
    whole = {change.features[0]: change.value for change in swap(model, PROMPT, other)}
    assert {change.features[0]: pytest.approx(change.value / 2) for change in found.changes} == {
        f: whole[f] for f in found.features
    }
    assert {change.features[0]: change.value for change in found.pool} == whole
    for place in range(len(found.changes)):
        less = [*found.changes[:place], *found.changes[place + 1 :]]
        assert top(unweave.intervene(model, PROMPT, less)) != wanted


def test_limits_of_the_search(swapped):
    model, other, wanted, found = swapped
    assert smallest_swap(model, PROMPT, other, wanted, factors=(2.0,), max_features=1, tries=10_000) is None
    assert smallest_swap(model, PROMPT, other, wanted, factors=(0.0,), max_features=5) is None
    shares = []
    assert (
        smallest_swap(model, PROMPT, other, wanted, factors=(0.0, 0.001), max_features=2, progress=shares.append)
        is None
    )
    assert shares == [0.5, 1.0]
    here = smallest_swap(model, PROMPT, other, wanted, factors=(2.0, 4.0, 8.0), positions=[-1])
    assert here is None or {feature.position for feature in here.features} == {5}
    assert all(change.features[0].position == 5 for change in (here or found).pool) == (here is not None)


@pytest.mark.parametrize(
    ("kind", "mode", "factor"), [("skip", "open", 0.0), ("clt", "frozen_attention", -2.0), ("topk", "open", -1.0)]
)
def test_ablations_against_trying_every_feature(tiny, kind, mode, factor):
    model = tiny("gpt2", kind)
    recording = record(model, PROMPT)
    before = int(recording.logits[-1].argmax())
    found = smallest_ablation(model, PROMPT, factors=(factor,), mode=mode, tries=10_000, max_features=12)
    pool = active_features(model, recording)
    alone = any(
        top(outcome) != before
        for outcome in intervene_each(model, recording, [dosed([change], factor) for change in pool], mode)
    )
    if found is None:
        assert not alone
        return
    assert (len(found.changes) == 1) == alone
    assert (found.token, found.outcome.mode, found.factor) == (before, mode, factor)
    assert found.top != before
    assert [(change.action, change.value) for change in found.changes] == [("scale", factor)] * len(found.changes)
    for place in range(len(found.changes) if len(found.changes) > 1 else 0):
        less = [*found.changes[:place], *found.changes[place + 1 :]]
        assert top(unweave.intervene(model, recording, less, mode)) == before


def test_controls(swapped):
    model, _, _, found = swapped
    controls = matched_controls(model, found, draws=12, nearest=3, seed=1)
    assert (controls, controls.draws, len(controls.kl)) == (
        matched_controls(model, found, draws=12, nearest=3, seed=1),
        12,
        12,
    )
    assert controls != matched_controls(model, found, draws=12, nearest=3, seed=2)
    assert 0 <= controls.reached <= controls.changed <= 1
    one = replace(found, changes=found.changes[:1])
    amounts = {change.features[0]: abs(change.value) for change in found.pool}
    member = one.features[0]
    others = [feature for feature in amounts if feature.position == member.position and feature != member]
    closest = min(others, key=lambda feature: abs(amounts[feature] - amounts[member]))
    control = matched_controls(model, one, draws=2, nearest=1)
    outcome = unweave.intervene(
        model, PROMPT, [shift(closest, 2.0 * next(c.value for c in found.pool if c.features[0] == closest))]
    )
    assert control.kl == pytest.approx((outcome.kl(),) * 2, rel=1e-4)
    assert control.changed == float(top(outcome) != int(outcome.baseline[-1].argmax()))
    assert control.reached == float(top(outcome) == found.top)
    assert control.size == pytest.approx(amounts[closest] / amounts[member])
    rows = {
        feature: amounts[feature]
        * float(
            model.transcoders.decoder_rows(
                feature.layer, torch.tensor([feature.index]), feature.layer, torch.float32
            ).norm()
        )
        for feature in amounts
    }
    closest = min(others, key=lambda feature: abs(rows[feature] - rows[member]))
    assert matched_controls(model, one, draws=1, nearest=1, by="written").size == pytest.approx(
        rows[closest] / rows[member]
    )


def test_what_cannot_be_searched_is_refused(tiny, swapped, unchecked):
    model, _, wanted, found = swapped
    now = int(record(model, PROMPT).logits[-1].argmax())
    with pytest.raises(InterventionError, match=f"'#{now}' is the likeliest token already"):
        smallest_swap(model, PROMPT, OTHER, now)
    with pytest.raises(TargetError, match="outside the model's vocabulary"):
        smallest_swap(model, PROMPT, OTHER, 5000)
    with pytest.raises(InterventionError, match="nothing to swap"):
        smallest_swap(model, PROMPT, PROMPT, wanted)
    with pytest.raises(OptionError, match="mode 'closed' is unknown"):
        smallest_ablation(model, PROMPT, mode="closed")
    for options in ({"factors": ()}, {"max_features": 0}, {"tries": 0}):
        with pytest.raises(OptionError, match="give at least one factor"):
            smallest_ablation(model, PROMPT, **options)
    with pytest.raises(InterventionError, match="position 9 is outside the prompt"):
        smallest_ablation(model, PROMPT, positions=[9])
    with pytest.raises(InterventionError, match="no feature is active"):
        smallest_ablation(model, PROMPT, positions=[0])
    for options in ({"draws": 0}, {"nearest": 0}):
        with pytest.raises(OptionError, match="at least one draw"):
            matched_controls(model, found, **options)
    everything = tuple(change for change in found.pool if change.features[0].position == 5)
    with pytest.raises(OptionError, match="only 0 other features at position 5"):
        matched_controls(model, replace(found, changes=everything))


def test_ablated_features_are_named_once(tiny):
    model = tiny(kind="skip")
    assert len({change.features for change in active_features(model, record(model, PROMPT))}) == len(
        active_features(model, record(model, PROMPT))
    )
    assert active_features(model, record(model, PROMPT))[0].action == ablate("0_1_1").action
