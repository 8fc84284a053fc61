"""Layers without attention patterns once more, the slow way: loops over positions in the dtype of what they read, with
every coefficient detached."""

from types import MethodType

import torch
from torch import Tensor

OTHER_ATTENTION = ("qwen3_next", "qwen3_5", "deepseek")


def mixer(block, family: str):
    """A block's recurrence, convolution or gated attention; None where it has plain attention."""
    names = ("conv", "linear_attn", "mamba", *(("self_attn",) if family.startswith(OTHER_ATTENTION) else ()))
    return next((getattr(block, name) for name in names if getattr(block, name, None) is not None), None)


def hold(module) -> dict:
    """Put such a module's coefficients out of autograd's sight; the forward that was there."""
    kinds = {"ShortConv": _convolution, "DeltaNet": _delta, "Attention": _attention}
    name = type(module).__name__
    forward = next((one for word, one in kinds.items() if name.endswith(word)), _state_space)
    forward = _latent if name.startswith("Deepseek") else forward
    saved = {module: module.forward}
    module.forward = MethodType(forward, module)
    return saved


def _shifted(x: Tensor, back: int) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :back]), x[:, : x.shape[1] - back]], 1)


def _convolved(layer, x: Tensor) -> Tensor:
    kernel = layer.weight[:, 0]
    made = sum(_shifted(x, back) * kernel[:, -1 - back] for back in range(kernel.shape[1]))
    return made if layer.bias is None else made + layer.bias


def _convolution(self, hidden_states, **kwargs):
    before, after, x = self.in_proj(hidden_states).chunk(3, -1)
    return self.out_proj(after.detach() * _convolved(self.conv, before.detach() * x))


def _attention(self, hidden_states, position_embeddings, attention_mask, **kwargs):
    """Gated attention, its pattern and its gate detached."""
    from transformers.models.qwen3_next.modeling_qwen3_next import apply_rotary_pos_emb

    n, d = hidden_states.shape[1], self.head_dim
    query, gate = self.q_proj(hidden_states).view(1, n, -1, 2 * d).chunk(2, -1)
    key, value = (part(hidden_states).view(1, n, -1, d) for part in (self.k_proj, self.v_proj))
    query, key = self.q_norm(query).transpose(1, 2), self.k_norm(key).transpose(1, 2)
    query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.transpose(1, 2).repeat_interleave(shared, 1)
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    pattern = (query @ key.transpose(2, 3) * d**-0.5).masked_fill(hidden, -torch.inf).softmax(-1).detach()
    mixed = (pattern @ value).transpose(1, 2).reshape(1, n, -1)
    return self.o_proj(mixed * gate.reshape(1, n, -1).sigmoid().detach()), pattern


def _latent(self, hidden_states, **kwargs):
    """Latent attention, its pattern and the denominator of its norm detached."""
    pattern = type(self).forward(self, hidden_states, **kwargs)[1].detach()
    latent = self.kv_a_proj_with_mqa(hidden_states)[..., : self.kv_lora_rank]
    scale = (latent.square().mean(-1, keepdim=True) + self.kv_a_layernorm.variance_epsilon).rsqrt().detach()
    both = self.kv_b_proj(latent * scale * self.kv_a_layernorm.weight)
    value = both.unflatten(-1, (pattern.shape[1], -1))[..., self.qk_nope_head_dim :].transpose(1, 2)
    return self.o_proj((pattern @ value).transpose(1, 2).flatten(2)), pattern


def _delta(self, hidden_states, **kwargs):
    """The gated delta rule, position by position."""
    if hasattr(self, "in_proj_qkv"):
        mixed = self.in_proj_qkv(hidden_states)
        gate, write, decay = (part(hidden_states) for part in (self.in_proj_z, self.in_proj_b, self.in_proj_a))
    else:
        *qkv, gate, write, decay = self.fix_query_key_value_ordering(
            self.in_proj_qkvz(hidden_states), self.in_proj_ba(hidden_states)
        )
        mixed = torch.cat([part.flatten(2) for part in qkv], -1)
    n, heads = mixed.shape[1], self.num_v_heads
    mixed = _convolved(self.conv1d, mixed)
    mixed = mixed * mixed.sigmoid().detach()
    query, key, value = mixed.split([self.key_dim, self.key_dim, self.value_dim], -1)
    rates = -self.A_log.exp() * torch.nn.functional.softplus(decay + self.dt_bias)
    made = delta_rule(
        query.detach().view(1, n, -1, self.head_k_dim),
        key.detach().view(1, n, -1, self.head_k_dim),
        value.view(1, n, -1, self.head_v_dim),
        rates.detach(),
        write.sigmoid().detach(),
    )
    scale = (made.square().mean(-1, keepdim=True) + self.norm.variance_epsilon).rsqrt().detach()
    gate = torch.nn.functional.silu(gate.view(1, n, heads, -1)).detach()
    return self.out_proj((made * scale * self.norm.weight * gate).flatten(2))


def delta_rule(query, key, value, rates, write):
    """Outputs [1, pos, head, channel] of the gated delta rule."""
    shared = value.shape[2] // key.shape[2]
    query, key = (x.repeat_interleave(shared, 2) for x in (query, key))
    query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    state, rows = 0.0, []
    for t in range(value.shape[1]):
        state = state * rates[:, t].exp()[..., None, None]
        known = (state * key[:, t][..., None]).sum(-2)
        state = state + key[:, t][..., None] * ((value[:, t] - known) * write[:, t][..., None])[..., None, :]
        rows.append((state * query[:, t][..., None]).sum(-2) * query.shape[-1] ** -0.5)
    return torch.stack(rows, 1)


def _state_space(self, hidden_states, **kwargs):
    """Mamba 2, position by position."""
    inner, state, heads = self.intermediate_size, self.n_groups * self.ssm_state_size, self.num_heads
    gate, mixed, step = self.in_proj(hidden_states).split([inner, inner + 2 * state, heads], -1)
    mixed = _convolved(self.conv1d, mixed)
    value, write, look = (mixed * mixed.sigmoid().detach()).split([inner, state, state], -1)
    n, shared = value.shape[1], heads // self.n_groups
    write, look = (part.detach().view(1, n, self.n_groups, -1).repeat_interleave(shared, 2) for part in (write, look))
    step = torch.nn.functional.softplus(step + self.dt_bias).clamp(*self.time_step_limit).detach()
    value = value.view(1, n, heads, -1)
    memory, rows = 0.0, []
    for t in range(n):
        memory = memory * (step[:, t] * -self.A_log.exp()).exp()[..., None, None]
        memory = memory + (step[:, t][..., None] * write[:, t])[..., None] * value[:, t][..., None, :]
        rows.append((memory * look[:, t][..., None]).sum(-2) + self.D[:, None] * value[:, t])
    made = torch.stack(rows, 1).flatten(2) * torch.nn.functional.silu(gate).detach()
    grouped = made.view(1, n, self.n_groups, -1)
    scale = (grouped.square().mean(-1, keepdim=True) + self.norm.variance_epsilon).rsqrt().detach()
    return self.out_proj((grouped * scale).flatten(2) * self.norm.weight)


def in_float64(monkeypatch) -> None:
    """The delta rule, and the norms of recurrences, in their inputs' own dtype; transformers computes them in
    float32."""
    from transformers.models.bamba.modeling_bamba import BambaRMSNormGated
    from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridRMSNormGated
    from transformers.models.qwen3_5 import modeling_qwen3_5
    from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe
    from transformers.models.qwen3_next import modeling_qwen3_next

    def rule(query, key, value, g, beta, **kwargs):
        return delta_rule(query, key, value, g, beta), None

    def norm(self, x, gate):
        scale = (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return x * scale * self.weight * torch.nn.functional.silu(gate)

    def grouped(self, x, gate):
        x = (x * torch.nn.functional.silu(gate)).unflatten(-1, (-1, self.group_size))
        return (x * (x.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()).flatten(-2) * self.weight

    for kind in (BambaRMSNormGated, GraniteMoeHybridRMSNormGated):
        monkeypatch.setattr(kind, "forward", grouped)
    for module in (modeling_qwen3_next, modeling_qwen3_5, modeling_qwen3_5_moe):
        monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", rule)
    monkeypatch.setattr(modeling_qwen3_next.Qwen3NextRMSNormGated, "forward", norm)
    monkeypatch.setattr(modeling_qwen3_5.Qwen3_5RMSNormGated, "forward", norm)
    monkeypatch.setattr(modeling_qwen3_5_moe.Qwen3_5MoeRMSNormGated, "forward", norm)
