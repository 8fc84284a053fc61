"""How each kind of layer that has no attention pattern (or more than one) is held fixed: its coefficients, computed
from what the layer read on the prompt.

Held are gates, decays, keys, queries, the denominators of inner norms, and the sigmoid of a SiLU on the values' way;
what is left is linear in the values.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from .mixers import Convolve, Mix, Project, Scale, Step, affine
from .row import MixerKind
from .weights import Linear, linear

L2_EPSILON = 1e-6
"""What the delta rule adds to the squared lengths of queries and keys."""


def mixer_steps(
    kind: MixerKind, module: Any, read: Float[Tensor, "pos d"], pattern: Float[Tensor, "heads p q"] | None
) -> tuple[Step, ...]:
    """A layer as a chain of linear parts, as it was when it read `read` (after the norm before it)."""
    return _KINDS[kind](module, read, pattern)


def _gated_attention(module: Any, read: Tensor, pattern: Tensor | None) -> tuple[Step, ...]:
    """Attention whose heads' outputs are gated: half of each head's query projection makes the gate (Qwen3-Next)."""
    assert pattern is not None
    queries = affine([Project.of(linear(module.q_proj), read)], read)
    gate = queries.unflatten(-1, (len(pattern), 2, -1))[:, :, 1].flatten(1).sigmoid()
    value = Project.of(linear(module.v_proj), read)
    groups = gate.shape[1] // len(value.weight)
    return value, Mix(pattern.to(read), groups), Scale(gate), Project.of(linear(module.o_proj), read)


def _latent_attention(module: Any, read: Tensor, pattern: Tensor | None) -> tuple[Step, ...]:
    """Attention whose values come from a short latent vector that passes a norm (DeepSeek-V2, section 2.1)."""
    assert pattern is not None
    latent, _ = _rows(linear(module.kv_a_proj_with_mqa), [module.kv_lora_rank, module.qk_rope_head_dim])
    down = Project.of(latent, read)
    made, norm = affine([down], read), module.kv_a_layernorm
    scale = torch.rsqrt(made.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    each = linear(module.kv_b_proj).weight.unflatten(0, (len(pattern), -1))[:, module.qk_nope_head_dim :]
    return (
        down, Scale(scale * norm.weight.detach().to(read)), Project(each.flatten(0, 1).to(read)), Mix(pattern.to(read)),
        Project.of(linear(module.o_proj), read),
    )  # fmt: skip


def _convolution(module: Any, read: Tensor, pattern: Tensor | None) -> tuple[Step, ...]:
    """LFM2's short convolution between two gates."""
    before, after, value = _rows(linear(module.in_proj), [read.shape[1]] * 3)
    gates = [affine([Project.of(part, read)], read) for part in (before, after)]
    kernel, bias = _kernel(module.conv, read)
    return (
        Project.of(value, read), Scale(gates[0]), Convolve(kernel, bias), Scale(gates[1]),
        Project.of(linear(module.out_proj), read),
    )  # fmt: skip


def _delta_rule(module: Any, read: Tensor, pattern: Tensor | None) -> tuple[Step, ...]:
    """The gated delta rule of Qwen3-Next and Qwen3.5 (Yang et al. 2024, "Gated Delta Networks")."""
    parts = _delta_projections(module)
    sizes = [module.key_dim, module.key_dim, module.value_dim]
    kernels = _kernel(module.conv1d, read)[0].split(sizes)
    convolved = [
        affine([Project.of(part, read), Convolve(kernel)], read)
        for part, kernel in zip(parts[:3], kernels, strict=True)
    ]
    gate, write, decay = (affine([Project.of(part, read)], read) for part in parts[3:])
    heads = module.num_v_heads
    query, key = (
        (x * x.sigmoid()).unflatten(-1, (module.num_k_heads, -1)).repeat_interleave(heads // module.num_k_heads, 1)
        for x in convolved[:2]
    )
    query, key = (x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_EPSILON) for x in (query, key))
    log_decay = -module.A_log.detach().to(read).exp() * softplus(decay + module.dt_bias.detach().to(read))
    carried = delta_matrix(query * query.shape[-1] ** -0.5, key, write.sigmoid(), log_decay.exp())
    steps: tuple[Step, ...] = (
        Project.of(parts[2], read), Convolve(kernels[2]), Scale(convolved[2].sigmoid()), Mix(carried),
    )  # fmt: skip
    made = affine(steps, read).unflatten(-1, (heads, -1))
    scale = torch.rsqrt(made.square().mean(-1, keepdim=True) + module.norm.variance_epsilon)
    gain = module.norm.weight.detach().to(read) * (gate * gate.sigmoid()).unflatten(-1, (heads, -1))
    return *steps, Scale((scale * gain).flatten(1)), Project.of(linear(module.out_proj), read)


def _state_space(module: Any, read: Tensor, pattern: Tensor | None) -> tuple[Step, ...]:
    """The state-space recurrence of Mamba 2 (Dao and Gu 2024), its gate and grouped norm after it."""
    inner, state = module.intermediate_size, module.n_groups * module.ssm_state_size
    joint, sizes = linear(module.in_proj), [inner, inner, state, state, module.num_heads]
    kernel, bias = _kernel(module.conv1d, read)
    kernels, biases = kernel.split(sizes[1:4]), [None] * 3 if bias is None else bias.split(sizes[1:4])
    gate, *carried, step = _rows(joint, sizes)
    parts = [
        (Project.of(part, read), Convolve(kernel, bias))
        for part, kernel, bias in zip(carried, kernels, biases, strict=True)
    ]
    value, write, look = (affine(part, read) for part in parts)
    write, look = (
        (x * x.sigmoid()).unflatten(-1, (module.n_groups, -1)).repeat_interleave(module.num_heads // module.n_groups, 1)
        for x in (write, look)
    )
    width = softplus(affine([Project.of(step, read)], read) + module.dt_bias.detach().to(read))
    width = width.clamp(*module.time_step_limit)
    matrix = state_matrix(look, write, width, -module.A_log.detach().to(read).exp())
    matrix = matrix + torch.eye(len(read)).to(read) * module.D.detach().to(read)[:, None, None]
    steps: tuple[Step, ...] = (*parts[0], Scale(value.sigmoid()), Mix(matrix))
    opening = affine([Project.of(gate, read)], read)
    opening = opening * opening.sigmoid()
    made = (affine(steps, read) * opening).unflatten(-1, (-1, module.norm.group_size))
    scale = torch.rsqrt(made.square().mean(-1, keepdim=True) + module.norm.variance_epsilon).expand_as(made)
    gain = opening * scale.flatten(1) * module.norm.weight.detach().to(read)
    return *steps, Scale(gain), Project.of(linear(module.out_proj), read)


def state_matrix(
    look: Float[Tensor, "pos heads k"],
    write: Float[Tensor, "pos heads k"],
    width: Float[Tensor, "pos heads"],
    rate: Float[Tensor, " heads"],
) -> Float[Tensor, "heads p q"]:
    """What each position's output takes of each earlier value: the state decays by `exp(rate width)` at every step, and
    takes `width write` times the value."""
    passed = (width * rate).cumsum(0).T
    decay = (passed[:, :, None] - passed[:, None, :]).tril().exp().tril()
    return torch.einsum("phk,qhk->hpq", look, write) * decay * width.T[:, None, :]


def delta_matrix(
    query: Float[Tensor, "pos heads k"],
    key: Float[Tensor, "pos heads k"],
    write: Float[Tensor, "pos heads"],
    decay: Float[Tensor, "pos heads"],
) -> Float[Tensor, "heads p q"]:
    """What each position's output takes of each earlier value: the gated delta rule, run on the identity.

    The state S (key by value) goes `S <- decay S`, then `S <- S + write k (v - k^T S)`, and puts out `q^T S`.
    """
    n, heads, width = key.shape
    state, rows = key.new_zeros(heads, width, n), []
    for t in range(n):
        state = state * decay[t, :, None, None]
        new = -torch.einsum("hk,hkq->hq", key[t], state)
        new[:, t] += 1
        state = state + torch.einsum("hk,hq->hkq", key[t], new * write[t, :, None])
        rows.append(torch.einsum("hk,hkq->hq", query[t], state))
    return torch.stack(rows, 1)


def _delta_projections(module: Any) -> list[Linear]:
    """Queries, keys, values, output gates, write strengths and decays, of one projection each or of two in all."""
    if hasattr(module, "in_proj_qkv"):  # Qwen3.5
        sizes = [module.key_dim, module.key_dim, module.value_dim]
        joint = linear(module.in_proj_qkv)
        return [
            *(Linear(weight, None) for weight in joint.weight.split(sizes)),
            *(linear(part) for part in (module.in_proj_z, module.in_proj_b, module.in_proj_a)),
        ]
    joint, small = linear(module.in_proj_qkvz).weight, linear(module.in_proj_ba).weight
    # The module's own sorting of outputs, applied to their numbers, says which row belongs to which part.
    numbers = [torch.arange(len(part), dtype=torch.float64)[None, None] for part in (joint, small)]
    query, key, value, gate, write, decay = (
        part.flatten().long() for part in module.fix_query_key_value_ordering(*numbers)
    )
    return [Linear(joint[rows], None) for rows in (query, key, value, gate)] + [
        Linear(small[rows], None) for rows in (write, decay)
    ]


def _kernel(convolution: Any, like: Tensor) -> tuple[Float[Tensor, "c width"], Float[Tensor, " c"] | None]:
    bias = convolution.bias
    return convolution.weight.detach()[:, 0].cpu().to(like), None if bias is None else bias.detach().cpu().to(like)


def _rows(map_: Linear, sizes: list[int]) -> list[Linear]:
    biases = [None] * len(sizes) if map_.bias is None else map_.bias.split(sizes)
    return [Linear(weight, bias) for weight, bias in zip(map_.weight.split(sizes), biases, strict=True)]


_KINDS: Mapping[MixerKind, Callable[[Any, Tensor, Tensor | None], tuple[Step, ...]]] = {
    "gated attention": _gated_attention,
    "latent attention": _latent_attention,
    "convolution": _convolution,
    "delta rule": _delta_rule,
    "state space": _state_space,
}
