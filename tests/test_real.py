"""The default model and the dictionary that ships with it."""

import pytest
import torch

import unweave

pytestmark = pytest.mark.real
PROMPTS = (
    "The capital of France is", "The capital of Japan is", "The opposite of \"hot\" is \"",
    "The Golden Gate Bridge is in the city of San",
    "When Mary and John went to the store, John gave a drink to", "2+2=4, 3+3=6, 4+4=",
    "The nurse went to her car because",
    "import numpy as", "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n", "Once upon a time",
)  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ten_prompts_are_exact(smollm2, prompt):
    graph = unweave.attribute(smollm2, prompt, max_features=300)
    assert graph.provenance.logits_error <= 1e-4
    assert float(graph.residual().max()) <= 1e-4
    assert 0 < graph.scores().replacement < graph.scores("drop").replacement < 1


def test_paris(smollm2):
    graph = unweave.attribute(smollm2, "The capital of France is")
    assert graph.provenance.logit_labels[0] == " Paris"
    assert graph.nodes.activation[graph.nodes.logits.start] == pytest.approx(0.749, abs=0.01)
    assert float(graph.residual().max()) <= 1e-4
    assert graph.scores().replacement == pytest.approx(0.39, abs=0.02)
    assert graph.scores("drop").replacement == pytest.approx(0.48, abs=0.02)
    limited = unweave.attribute(smollm2, "The capital of France is", max_features=600)
    assert limited.scores().replacement < graph.scores().replacement
    shared = torch.isin(
        torch.tensor([graph.nodes.rows[node.id] for node in limited.nodes][:600]), graph.influence().topk(1200).indices
    )
    assert shared.float().mean() > 0.9


def test_tokens_by_name(smollm2):
    graph = unweave.attribute(
        smollm2, "The capital of France is", unweave.Difference(" Paris", " Berlin"), max_features=200
    )
    assert graph.preactivation[-1] > 1
    with pytest.raises(unweave.UnweaveError, match="is 2 tokens"):
        unweave.attribute(smollm2, "The capital of France is", " Paris Berlin")
