"""Every frozen map and its transpose are adjoint: <f(x), g> == <x, f*(g)>, bias terms apart."""

import pytest
import torch
from conftest import FAMILIES, PROMPT
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unweave.models.frozen import FrozenAttention, FrozenLayer, FrozenNorm
from unweave.models.weights import Linear, NormWeights
from unweave.models.workspace import Workspace

sizes = st.fixed_dictionaries({
    "n": st.integers(1, 6), "d": st.integers(2, 9), "kv": st.integers(1, 3), "groups": st.integers(1, 3),
    "channels": st.integers(1, 4),
    "centred": st.booleans(), "post": st.booleans(), "seed": st.integers(0, 10**6),
})  # fmt: skip


def norm(d: int, n: int, centred: bool, random) -> FrozenNorm:
    return FrozenNorm.freeze(NormWeights(random(d), random(d) if centred else None, centred), random(n, d), 1e-5)


def attention(
    n, d, kv, groups, channels, centred, post, seed
) -> tuple[FrozenAttention, FrozenNorm, FrozenNorm | None, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    before, after = norm(d, n, centred, random), norm(d, n, centred, random) if post else None
    raw = {
        "v": random(kv * channels, d),
        "bv": random(kv * channels),
        "o": random(d, kv * groups * channels),
        "bo": random(d),
    }
    raw["pattern"] = random(kv * groups, n, n).tril().softmax(-1).tril()
    frozen = FrozenAttention.freeze(
        before, Linear(raw["v"], raw["bv"]), raw["pattern"], Linear(raw["o"], raw["bo"]), after
    )
    return frozen, before, after, raw | {"x": random(n, d), "g": random(3, n, d)}


@given(sizes)
def test_attention_transpose_is_adjoint(size):
    frozen, _, _, raw = attention(**size)
    left = (frozen.forward(raw["x"]) * raw["g"]).sum((1, 2))
    right = (raw["x"] * frozen.transpose(raw["g"])).sum((1, 2))
    assert torch.allclose(left, right, atol=1e-9)


@given(sizes)
def test_folded_attention_is_the_attention_of_the_model(size):
    frozen, before, after, raw = attention(**size)
    n, heads = size["n"], size["kv"] * size["groups"]
    values = before.forward(raw["x"]) @ raw["v"].T + raw["bv"]
    values = values.view(n, size["kv"], 1, -1).expand(-1, -1, size["groups"], -1).reshape(n, heads, -1)
    plain = torch.einsum("hpq,qhc->phc", raw["pattern"], values).reshape(n, -1) @ raw["o"].T + raw["bo"]
    plain = plain if after is None else after.forward(plain)
    assert torch.allclose(frozen.forward(raw["x"]) + frozen.constant, plain, atol=1e-9)


@given(sizes)
def test_starting_at_one_position_equals_the_whole_transpose(size):
    frozen, _, _, raw = attention(**size)
    for position in range(size["n"]):
        g = torch.zeros_like(raw["g"])
        g[:, position] = raw["g"][:, position]
        assert torch.allclose(
            frozen.start(g[:, position], torch.full((len(g),), position)), frozen.transpose(g) + g, atol=1e-9
        )
        cut = frozen.cut(position)
        whole = frozen.transpose(g)
        assert torch.allclose(cut.transpose(g[:, : position + 1].contiguous()), whole[:, : position + 1], atol=1e-9)
        assert not whole[:, position + 1 :].any()


@given(sizes)
def test_norm_and_skip_are_adjoint(size):
    frozen, before, after, raw = attention(**size)
    rows = raw["g"][:, 0]
    for position in range(size["n"]):
        left = (before.linear(raw["x"])[position] * rows).sum(-1)
        assert torch.allclose(left, (raw["x"][position] * before.transpose(rows, position)).sum(-1), atol=1e-9)
    skip = raw["o"][:, :1] @ raw["v"][:1]
    layer = FrozenLayer.freeze(frozen, before, after, skip)
    plain = before.forward(raw["x"]) @ skip.T
    plain = plain if after is None else after.linear(plain)
    assert torch.allclose(layer.skip_forward(raw["x"]) + layer.constant(), plain, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_sweep_is_adjoint_to_the_forward_pass(tiny, family):
    """From the end of the stream down to the embeddings and to what each MLP writes."""
    local = tiny(family, "skip", "float64").localize(PROMPT)
    n, d = local.recording.final.shape
    generator = torch.Generator().manual_seed(5)
    zero = torch.zeros(n, d, dtype=torch.float64)
    still = local.frozen.run(zero, [zero] * local.n_layers)[1]
    direction = torch.randn(2, d, generator=generator, dtype=torch.float64)
    for position in range(n):
        for layer, g in local.frozen.sweep(
            torch.tensor([position, position]), {local.n_layers: direction}, Workspace()
        ):
            x = torch.randn(n, d, generator=generator, dtype=torch.float64)
            written = [x if number == layer else zero for number in range(local.n_layers)]
            out = local.frozen.run(x if layer < 0 else zero, written)[1] - still
            assert torch.allclose((out[position] * direction).sum(-1), (g * x[: position + 1]).sum((1, 2)), atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_model_rebuilds_the_model(tiny, family):
    local = tiny(family, "clt", "float64").localize(PROMPT)
    written = [local.errors[layer] + local.constants[layer] for layer in range(local.n_layers)]
    for source in range(local.n_layers):
        span = local.layer_slice(source)
        for at in local.transcoders.writes(source):
            written[at] = written[at].index_add(0, local.features.position[span], local.vectors(span, at))
    resid_mid, final = local.frozen.run(local.recording.embeddings, written)
    assert torch.allclose(final, local.recording.final, atol=1e-10)
    for mid, true in zip(resid_mid, local.recording.resid_mid, strict=True):
        assert torch.allclose(mid, true, atol=1e-10)
