"""Means over text as what units are put to."""

import pytest
import torch

import unweave
from unweave.response.means import _neuron_sums, _unit_sums, resampled, texts


def test_means_by_hooks_are_those_of_the_derivative_and_the_default():
    model = unweave.load("organism")
    language_model = model.language_model
    ids = texts(language_model)[0]
    for fast, slow in zip(_neuron_sums(language_model, ids), _unit_sums(language_model, None, ids), strict=True):
        for one, other in zip(fast, slow, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    for units in ("neurons", "features"):
        graph = unweave.response_graph(model, "der Plural von Laden ist", units=units, most=20, baseline="mean")
        assert graph.provenance.baseline == "mean" and graph.agreement <= 1e-5
    graph = unweave.response_graph(model, "der Plural von Laden ist", most=20)
    assert graph.provenance.baseline == "mean"


def test_a_resampled_baseline_is_a_text_of_the_same_length():
    model = unweave.load("organism").language_model
    ids = model.tokenize("der Plural von Laden ist")
    other = resampled(model, ids)
    assert len(other) == len(ids) and not torch.equal(other, ids) and torch.equal(other, resampled(model, ids))
    graph = unweave.response_graph(model, ids, most=20, baseline="resampled")
    assert graph.provenance.baseline == "resampled" and graph.agreement <= 1e-5
    contrast = unweave.response_graph(model, ids, graph.provenance.target_tokens[0], instead=other, most=20)
    same = unweave.response_graph(model, ids, most=20, baseline="resampled", ranking="gates")
    assert torch.allclose(same.effect, contrast.effect, rtol=1e-4, atol=1e-6)
    with pytest.raises(unweave.UnweaveError, match="no text at hand has the prompt's"):
        resampled(model, ids.repeat(1000))
