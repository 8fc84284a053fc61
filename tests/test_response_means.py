"""Means over text as what units are put to."""

import torch

import unweave
from unweave.response.means import _neuron_sums, _texts, _unit_sums


def test_means_by_hooks_are_those_of_the_derivative_and_the_default():
    model = unweave.load("organism")
    language_model = model.language_model
    ids = _texts(language_model)[0]
    for fast, slow in zip(_neuron_sums(language_model, ids), _unit_sums(language_model, None, ids), strict=True):
        for one, other in zip(fast, slow, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    for units in ("neurons", "features"):
        graph = unweave.response_graph(model, "der Plural von Laden ist", units=units, most=20, baseline="mean")
        assert graph.provenance.baseline == "mean" and graph.agreement <= 1e-5
    graph = unweave.response_graph(model, "der Plural von Laden ist", most=20)
    assert graph.provenance.baseline == "mean"
