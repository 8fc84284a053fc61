"""The slow way to the same edges: autograd through the Hugging Face modules themselves, dictionaries read by hand.

Shares no code with the engine. Attention patterns are cut at the query and key projections, norm denominators are
detached, each MLP's output is a constant plus its skip path, and sources are leaves added where a dictionary writes.
"""

from pathlib import Path

import hybrids
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

PRE = ("input_layernorm", None, "post_attention_layernorm", None)
"""Norms before and after attention, before and after the MLP."""
AROUND = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
NORMS = {
    "gemma2": AROUND, "gemma3_text": AROUND, "gemma3": AROUND,
    "olmo2": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "olmo3": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "exaone4": (None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
    "apertus": ("attention_layernorm", None, "feedforward_layernorm", None),
    "glm4": ("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    "vaultgemma": ("input_layernorm", None, "pre_feedforward_layernorm", None),
    "gpt2": ("ln_1", None, "ln_2", None),
    "gptj": ("ln_1", None, "ln_1", None),
    **dict.fromkeys(("lfm2", "lfm2_moe"), ("operator_norm", None, "ffn_norm", None)),
    "bamba": ("input_layernorm", None, "pre_ff_layernorm", None),
    **dict.fromkeys(("phi", "cohere", "cohere2"), ("input_layernorm", None, "input_layernorm", None)),
}  # fmt: skip
LAYER_NORM = ("gpt2", "gpt_neox", "starcoder2", "stablelm", "phi", "cohere", "cohere2", "gptj", "phimoe")
PLUS_ONE = ("gemma", "gemma2", "gemma3_text", "gemma3", "vaultgemma", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
PLACES = {
    "gpt2": ("transformer.h", "attn"),
    "gpt_neox": ("gpt_neox.layers", "attention"),
    "gemma3": ("model.language_model.layers", "self_attn"),
    "mistral3": ("model.language_model.layers", "self_attn"),
    "gptj": ("transformer.h", "attn"),
}
"""Blocks, and attention in a block."""
MLP = {
    "granitemoe": "block_sparse_moe", "lfm2": "feed_forward", "lfm2_moe": "feed_forward", "bamba": "feed_forward",
    "granitemoehybrid": "shared_mlp",
}  # fmt: skip


def _norm(part, x: Tensor, family: str, gain: bool = True) -> Tensor:
    if part is None:
        return x
    if family in LAYER_NORM:
        centred = x - x.mean(-1, keepdim=True)
        epsilon = part.eps if hasattr(part, "eps") else part.variance_epsilon
        out = centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt().detach()
        return out * part.weight + (0.0 if getattr(part, "bias", None) is None else part.bias) if gain else out
    epsilon = part.eps if family in PLUS_ONE else part.variance_epsilon
    out = x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt().detach()
    if not gain:
        return out
    return out * (1 + part.weight) if family in PLUS_ONE else out * part.weight


def _detached_queries_and_keys(part, family: str) -> list:
    def gpt2(module, args, output):
        q, k, v = output.chunk(3, -1)
        return torch.cat([q.detach(), k.detach(), v], -1)

    def gpt_neox(module, args, output):
        q, k, v = output.unflatten(-1, (4, -1)).chunk(3, -1)
        return torch.cat([q.detach(), k.detach(), v], -1).flatten(-2)

    def phi3(module, args, output):
        rest = output.shape[-1] - 12  # two key-value heads of 6
        return torch.cat([output[..., :rest].detach(), output[..., rest:]], -1)

    match family:
        case "gpt2":
            return [part.c_attn.register_forward_hook(gpt2)]
        case "gpt_neox":
            return [part.query_key_value.register_forward_hook(gpt_neox)]
        case "phi3":
            return [part.qkv_proj.register_forward_hook(phi3)]
    return [p.register_forward_hook(lambda module, args, output: output.detach()) for p in (part.q_proj, part.k_proj)]


class Dictionary:
    """The tensors of a dictionary folder, in float64."""

    def __init__(self, folder: Path, layers: int):
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.clt = self.config["model_kind"] == "cross_layer_transcoder"
        self.layers = []
        for layer in range(layers):
            if self.clt:
                raw = load_file(folder / f"W_enc_{layer}.safetensors") | load_file(
                    folder / f"W_dec_{layer}.safetensors"
                )
                raw = {name.removesuffix(f"_{layer}"): value for name, value in raw.items()}
            else:
                raw = load_file(folder / f"layer_{layer}.safetensors")
            self.layers.append(
                {name.removeprefix("activation_function."): value.double() for name, value in raw.items()}
            )

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


def attribution(
    module, family: str, folder: Path, ids: list[int], logit_tokens: list[int], drop: bool
) -> dict[str, Tensor]:
    """Edges [target, source], active features, pre-activations; node order as in a graph, rows only for features and
    logits."""
    family = family.partition("-")[0]
    place, attention = PLACES.get(family, ("model.layers", "self_attn"))
    _, _, before_mlp, after_mlp = NORMS.get(family, PRE)
    config, blocks = module.config.get_text_config(), module.get_submodule(place)
    dictionary = Dictionary(folder, len(blocks))
    reads, hook_out = dictionary.config["feature_input_hook"], dictionary.config["feature_output_hook"]
    factor = getattr(config, "residual_multiplier", 1.0) if hook_out == "hook_mlp_out" else 1.0
    leaves, inputs, outputs, handles, saved = [], [], [], [], {}
    for part in module.modules():
        name = type(part).__name__
        wide = name.endswith("Norm") and tuple(part.weight.shape) == (config.hidden_size,)
        if wide and not name.startswith("Pixtral"):
            saved[part] = part.forward
            part.forward = lambda x, part=part: _norm(part, x, family)

    def on_input(module_, args, kwargs):
        value = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_(True)
        leaves.insert(0, value)
        return ((value, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": value})

    handles.append(blocks[0].register_forward_pre_hook(on_input, with_kwargs=True))
    for number, block in enumerate(blocks):
        if mixer := hybrids.mixer(block, family):
            saved |= hybrids.hold(mixer)
        else:
            handles += _detached_queries_and_keys(block.get_submodule(attention), family)
        before = block.get_submodule(before_mlp) if before_mlp else None
        mlp = block.get_submodule(MLP.get(family, "mlp"))
        skip = dictionary.layers[number].get("W_skip")

        def on_norm(norm_, args, before=before):
            seen = {
                "hook_resid_mid": lambda x: x,
                "mlp.hook_in": lambda x: _norm(before, x, family),
                "ln2.hook_normalized": lambda x: _norm(before, x, family, False),
            }
            inputs.append(seen[reads](args[0]))

        def on_output(mlp_, args, output, skip=skip):
            several, output = isinstance(output, tuple), output[0] if isinstance(output, tuple) else output
            added = torch.zeros_like(output, requires_grad=True)
            leaves.append(added)
            through = 0.0 if skip is None else inputs[-1] @ skip.T
            outputs.append(
                (factor * output.detach(), through.detach() if skip is not None else torch.zeros_like(output))
            )
            made = output.detach() + (added + (0.0 if skip is None else through - through.detach())) / factor
            return (made, None) if several else made

        handles.append((before or mlp).register_forward_pre_hook(on_norm))
        writer = block.get_submodule(after_mlp) if after_mlp and hook_out == "hook_mlp_out" else mlp
        handles.append(writer.register_forward_hook(on_output))
    raw = {}
    handles.append(
        module.get_output_embeddings().register_forward_hook(
            lambda m, a, o: raw.update(
                logits=o / getattr(config, "logits_scaling", 1.0) * getattr(config, "logit_scale", 1.0)
            )
        )
    )
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
    layers = len(inputs)
    explained = [torch.zeros_like(outputs[0][0][0]) for _ in range(layers)]
    for (layer, position, feature), activation in zip(features, acts, strict=True):
        for at in dictionary.writes(layer):
            explained[at][position] += activation * dictionary.decoder(layer, feature, at)
    errors = [
        y[0] - through[0] - explained[at] - dictionary.layers[at]["b_dec"] for at, (y, through) in enumerate(outputs)
    ]
    if drop:
        for error in errors:
            error[0] = 0
    written_at = []
    for at in range(layers):
        here = [(number, entry) for number, entry in enumerate(features) if at in dictionary.writes(entry[0])]
        vectors = [acts[number] * dictionary.decoder(layer, feature, at) for number, (layer, _, feature) in here]
        numbers, places = (
            torch.tensor([number for number, _ in here], dtype=torch.int64),
            torch.tensor([p for _, (_, p, _) in here], dtype=torch.int64),
        )
        written_at.append(
            (
                numbers,
                places,
                torch.stack(vectors) if vectors else torch.zeros(0, leaves[0].shape[-1], dtype=torch.float64),
            )
        )
    targets = [*pres, *(logits[token] - logits.mean() for token in logit_tokens)]
    rows = []
    for target in targets:
        embedding, *written = [
            torch.zeros_like(leaf[0]) if g is None else g[0]
            for leaf, g in zip(
                leaves, torch.autograd.grad(target, leaves, retain_graph=True, allow_unused=True), strict=True
            )
        ]
        row = torch.zeros(len(features), dtype=torch.float64)
        for at, (numbers, places, vectors) in enumerate(written_at):
            row.index_add_(0, numbers, (vectors * written[at][places]).sum(-1))
        unexplained = [(errors[at] * written[at]).sum(-1) for at in range(layers)]
        rows.append(torch.cat([row, *unexplained, (leaves[0][0].detach() * embedding).sum(-1)]))
    return {
        "features": torch.tensor(features),
        "rows": torch.stack(rows).detach(),
        "preactivation": torch.stack(targets).detach(),
    }
