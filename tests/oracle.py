"""The slow way to the same edges: autograd through the Hugging Face modules themselves, dictionaries read by hand.

Shares no code with the engine. Attention patterns are cut at the query and key projections, norm denominators are
detached, each MLP's output is a constant plus its skip path, and sources are leaves added where a dictionary writes.
"""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

NORMS = {
    "llama": ("input_layernorm", None, "post_attention_layernorm", None),
    "qwen3": ("input_layernorm", None, "post_attention_layernorm", None),
    "gemma2": ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    "gpt2": ("ln_1", None, "ln_2", None),
}


def _norm(part, x: Tensor, family: str, gain: bool = True) -> Tensor:
    if family == "gpt2":
        centred = x - x.mean(-1, keepdim=True)
        out = centred / (centred.square().mean(-1, keepdim=True) + part.eps).sqrt().detach()
        return out * part.weight + part.bias if gain else out
    epsilon = part.eps if family == "gemma2" else part.variance_epsilon
    out = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt().detach()
    if not gain:
        return out
    return out * (1 + part.weight) if family == "gemma2" else out * part.weight


def _detached_queries_and_keys(part, family: str) -> list:
    if family == "gpt2":

        def cut(module, args, output):
            q, k, v = output.chunk(3, -1)
            return torch.cat([q.detach(), k.detach(), v], -1)

        return [part.c_attn.register_forward_hook(cut)]
    return [p.register_forward_hook(lambda module, args, output: output.detach()) for p in (part.q_proj, part.k_proj)]


class Dictionary:
    """The tensors of a dictionary folder, in float64."""

    def __init__(self, folder: Path, layers: int):
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.clt = self.config["model_kind"] == "cross_layer_transcoder"
        self.layers = []
        for layer in range(layers):
            if self.clt:
                raw = load_file(folder / f"W_enc_{layer}.safetensors") | load_file(folder / f"W_dec_{layer}.safetensors")
                raw = {name.removesuffix(f"_{layer}"): value for name, value in raw.items()}
            else:
                raw = load_file(folder / f"layer_{layer}.safetensors")
            self.layers.append({name.removeprefix("activation_function."): value.double() for name, value in raw.items()})

    def activations(self, layer: int, pre: Tensor) -> Tensor:
        raw = self.layers[layer]
        if self.config.get("activation") == "topk":
            values, index = pre.topk(self.config["k"], -1)
            return torch.zeros_like(pre).scatter(-1, index, values)
        return pre * (pre > raw["threshold"]) if "threshold" in raw else pre.relu()

    def decoder(self, layer: int, feature: int, at: int) -> Tensor:
        row = self.layers[layer]["W_dec"][feature]
        return row[at - layer] if self.clt else row

    def writes(self, layer: int) -> range:
        return range(layer, len(self.layers) if self.clt else layer + 1)


def attribution(module, family: str, folder: Path, ids: list[int], logit_tokens: list[int], drop: bool) -> dict[str, Tensor]:
    """Edges [target, source], active features, pre-activations; node order as in a graph, rows only for features and logits."""
    gpt2 = family == "gpt2"
    blocks = module.transformer.h if gpt2 else module.model.layers
    dictionary = Dictionary(folder, len(blocks))
    reads, hook_out = dictionary.config["feature_input_hook"], dictionary.config["feature_output_hook"]
    leaves, inputs, outputs, handles, saved = [], [], [], [], {}
    for part in module.modules():
        name = type(part).__name__
        if (name.endswith("RMSNorm") and part.weight.shape[0] == module.config.hidden_size) or (gpt2 and name == "LayerNorm"):
            saved[part] = part.forward
            part.forward = lambda x, part=part: _norm(part, x, family)

    def on_input(module_, args, kwargs):
        value = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_(True)
        leaves.insert(0, value)
        return ((value, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": value})

    handles.append(blocks[0].register_forward_pre_hook(on_input, with_kwargs=True))
    for number, block in enumerate(blocks):
        handles += _detached_queries_and_keys(block.attn if gpt2 else block.self_attn, family)
        before, after = block.get_submodule(NORMS[family][2]), NORMS[family][3]
        skip = dictionary.layers[number].get("W_skip")

        def on_norm(norm_, args, number=number):
            seen = {
                "hook_resid_mid": lambda x: x,
                "mlp.hook_in": lambda x: _norm(norm_, x, family),
                "ln2.hook_normalized": lambda x: _norm(norm_, x, family, False),
            }
            inputs.append(seen[reads](args[0]))

        def on_output(mlp_, args, output, skip=skip):
            added = torch.zeros_like(output, requires_grad=True)
            leaves.append(added)
            through = 0.0 if skip is None else inputs[-1] @ skip.T
            outputs.append((output.detach(), through.detach() if skip is not None else torch.zeros_like(output)))
            return output.detach() + added + (0.0 if skip is None else through - through.detach())

        handles.append(before.register_forward_pre_hook(on_norm))
        writer = block.get_submodule(after) if after and hook_out == "hook_mlp_out" else block.mlp
        handles.append(writer.register_forward_hook(on_output))
    raw = {}
    handles.append(module.get_output_embeddings().register_forward_hook(lambda m, a, o: raw.update(logits=o)))
    module.requires_grad_(False)
    with torch.enable_grad():
        module(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    for part, forward in saved.items():
        part.forward = forward
    return _edges(dictionary, leaves, inputs, outputs, raw["logits"][0, -1], logit_tokens, ids, drop)


def _edges(dictionary: Dictionary, leaves, inputs, outputs, logits, logit_tokens, ids, drop) -> dict[str, Tensor]:
    features, pres, acts = [], [], []
    for layer, x in enumerate(inputs):
        pre = x[0] @ dictionary.layers[layer]["W_enc"].T + dictionary.layers[layer]["b_enc"]
        active = dictionary.activations(layer, pre.detach())
        active[0] = 0
        for position, feature in active.nonzero().tolist():
            features.append((layer, position, feature))
            pres.append(pre[position, feature])
            acts.append(active[position, feature])
    n, layers = len(ids), len(inputs)
    explained = [torch.zeros_like(outputs[0][0][0]) for _ in range(layers)]
    for (layer, position, feature), activation in zip(features, acts, strict=True):
        for at in dictionary.writes(layer):
            explained[at][position] += activation * dictionary.decoder(layer, feature, at)
    errors = [y[0] - through[0] - explained[at] - dictionary.layers[at]["b_dec"] for at, (y, through) in enumerate(outputs)]
    if drop:
        for error in errors:
            error[0] = 0
    targets = [*pres, *(logits[token] - logits.mean() for token in logit_tokens)]
    rows = []
    for target in targets:
        embedding, *written = [
            torch.zeros_like(leaf[0]) if g is None else g[0]
            for leaf, g in zip(leaves, torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True), strict=True)
        ]
        row = [
            sum(a * dictionary.decoder(layer, f, at) @ written[at][p] for at in dictionary.writes(layer))
            for (layer, p, f), a in zip(features, acts, strict=True)
        ]
        row += [errors[at][p] @ written[at][p] for at in range(layers) for p in range(n)]
        row += [leaves[0][0, p].detach() @ embedding[p] for p in range(n)]
        rows.append(torch.stack([torch.as_tensor(entry, dtype=torch.float64) for entry in row]))
    return {"features": torch.tensor(features), "rows": torch.stack(rows).detach(), "preactivation": torch.stack(targets).detach()}
