"""A causal language model from transformers, recorded once and frozen."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..base.parsing import checked_prompt
from ..errors import ModelError, PromptError
from .architectures import unread_keys
from .frozen import FrozenAttention, FrozenNorm, TokenMixing
from .mixers import FrozenMixer, Step
from .recording import Recording, WatchPoint, watching
from .recurrence import mixer_steps
from .row import Architecture, MixerKind
from .tokens import Kind
from .weights import NormWeights, attention_weights, norm_weights


@dataclass(frozen=True)
class LanguageModel:
    """A Hugging Face causal language model, its tokenizer (None: prompts as ids only) and its architecture row."""

    name: str
    module: Any
    """The Hugging Face module."""
    tokenizer: Any | None
    architecture: Architecture

    def __repr__(self) -> str:
        facts = self.config
        layers, width = facts.num_hidden_layers, facts.hidden_size
        return f"LanguageModel({self.name!r}: {facts.model_type}, {layers} layers, d {width}, {self.dtype})"

    @property
    def config(self) -> Any:
        """The Hugging Face config of the language model."""
        config = self.module.config
        return config if self.architecture.text is None else getattr(config, self.architecture.text, config)

    @cached_property
    def unread_keys(self) -> tuple[str, ...]:
        """Keys of its config that no code reads."""
        return tuple(sorted(unread_keys(self.module.config.to_dict())))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's weights."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.module.parameters()).device

    @property
    def engine_dtype(self) -> torch.dtype:
        """What edges are computed in: float64 for a float64 model, float32 for all others."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @cached_property
    def blocks(self) -> tuple[Any, ...]:
        """The transformer blocks."""
        return tuple(self.module.get_submodule(self.architecture.blocks))

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.unembedding.shape[1]

    @cached_property
    def unembedding(self) -> Float[Tensor, "vocab d"]:
        """The unembedding matrix, times the model's factor on its logits."""
        return self._scaled(self.module.get_output_embeddings().weight.detach().cpu())

    @cached_property
    def unembedding_bias(self) -> Float[Tensor, " vocab"] | None:
        """The unembedding's bias, if it has one."""
        bias = self.module.get_output_embeddings().bias
        return None if bias is None else self._scaled(bias.detach().cpu())

    @cached_property
    def unembedding_mean(self) -> Float[Tensor, " d"]:
        """The mean of all tokens' unembedding vectors."""
        return self.unembedding.to(self.engine_dtype).mean(0)

    def _scaled(self, logits: Tensor) -> Tensor:
        divisor, factor = self.architecture.logit_divisor, self.architecture.logit_factor
        if factor is not None:
            return logits * getattr(self.config, factor)
        return logits if divisor is None else logits / getattr(self.config, divisor)

    def raw_logits(self, output: Float[Tensor, "*rest vocab"]) -> Float[Tensor, "*rest vocab"]:
        """The output of the model's last module as logits, before a final soft cap."""
        return self._scaled(output)

    @property
    def parallel(self) -> bool:
        """Whether MLPs read what attention reads."""
        key = self.architecture.parallel
        return key is True or (key is not None and bool(getattr(self.config, key)))

    @property
    def residual_multiplier(self) -> float:
        """The factor on what attention and MLP add to the residual stream."""
        key = self.architecture.residual_multiplier
        return 1.0 if key is None else float(getattr(self.config, key))

    @property
    def softcap(self) -> float | None:
        """The soft cap on the final logits, if the model has one."""
        key = self.architecture.softcap
        return None if key is None else getattr(self.config, key)

    def capped(self, logits: Float[Tensor, "*rest vocab"]) -> Float[Tensor, "*rest vocab"]:
        """Logits as the model returns them, soft cap applied."""
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def tokenize(self, prompt: str | Sequence[int] | Tensor) -> Int[Tensor, " pos"]:
        """The token ids of a prompt; one rule for all commands.

        Text is encoded without special tokens; unless its first token is a special one already, the model's
        beginning-of-sequence token is put before it (or, where there is none, its padding or end token). Ids are
        taken as they are.

        Raises:
            PromptError: empty, longer than the model's context, a word that the tokenizer lacks, or an id outside
                the vocabulary.
        """
        given = checked_prompt(prompt)
        ids = self._encode(given) if isinstance(given, str) else list(given)
        vocab = self.unembedding.shape[0]
        wrong = next((i for i in ids if not 0 <= i < vocab), None)
        if wrong is not None:
            raise PromptError(f"token id {wrong} is outside the model's vocabulary of {vocab}")
        context = getattr(self.config, "max_position_embeddings", None)
        if context is not None and len(ids) > context:
            raise PromptError(f"the prompt has {len(ids)} tokens; {self.name} takes at most {context}")
        return torch.tensor(ids, dtype=torch.int64)

    def _encode(self, text: str) -> list[int]:
        if self.tokenizer is None:
            raise PromptError(f"{self.name} comes without a tokenizer; give the prompt as token ids")
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        strange = getattr(self.tokenizer, "unk_token_id", None)
        if strange in ids and self.tokenizer.unk_token not in text:  # a vocabulary of words, such as the organism's
            word = next(
                (
                    word
                    for word in text.split()
                    if strange in self.tokenizer(word, add_special_tokens=False)["input_ids"]
                ),
                text,
            )
            raise PromptError(
                f"{self.name} does not know the word {word!r}; use words of its vocabulary, with spaces between them"
            )
        if ids and ids[0] in self.tokenizer.all_special_ids:
            return ids
        if self.leading_token is None:
            raise PromptError(
                f"the tokenizer of {self.name} has no special token to put first; give the prompt as token ids"
            )
        return [self.leading_token, *ids]

    @cached_property
    def leading_token(self) -> int | None:
        """The special token put before a text: beginning of sequence, else padding, else end; None if there is none."""
        if self.tokenizer is None:
            return None
        candidates = (
            self.tokenizer.bos_token_id,
            self.tokenizer.pad_token_id,
            self.tokenizer.eos_token_id,
            *sorted(self.tokenizer.all_special_ids),
        )
        return next((i for i in candidates if i is not None), None)

    @cached_property
    def _tokens(self) -> Kind | None:
        return None if self.tokenizer is None else Kind(self.tokenizer)

    def token_text(self, token: int) -> str:
        """A token as text, another for every token; `#id` for a model without a tokenizer and ids that it lacks."""
        return f"#{token}" if self._tokens is None else self._tokens.text(token)

    def token_texts(self, tokens: Sequence[int] | Tensor) -> tuple[str, ...]:
        """The tokens of a prompt as texts that join to it."""
        ids = [int(token) for token in tokens]
        return tuple(map(self.token_text, ids)) if self._tokens is None else self._tokens.texts(ids)

    def tokens_called(self, text: str) -> list[int]:
        """The tokens that a text means where one is to be named: one, if there is one of that name.

        Raises:
            ModelError: there is no tokenizer.
        """
        if self._tokens is None:
            raise ModelError(f"{self.name} comes without a tokenizer; give token ids")
        return self._tokens.tokens(text)

    def record(self, ids: Int[Tensor, " pos"]) -> Recording:
        """Run the model once and keep what freezing needs.

        Raises:
            ModelError: the model's logits are not finite.
        """
        with (
            watching(self._record_points(), lambda x: x[0].detach().to("cpu", self.engine_dtype)) as saved,
            torch.no_grad(),
        ):
            self.module(input_ids=ids[None].to(self.device), use_cache=False)
        if not bool(saved["logits", 0].isfinite().all()):
            raise ModelError(
                f"{self.name} gives logits that are not finite (NaN or infinite weights?); nothing can be traced"
            )

        def series(name: str) -> tuple[Tensor, ...]:
            return tuple(saved[name, layer] for layer in range(self.n_layers))

        return Recording(
            input_ids=ids,
            embeddings=saved["input", 0],
            patterns=tuple(saved.get(("pattern", layer)) for layer in range(self.n_layers)),
            attention_inputs=series("input"),
            attention_outputs=series("attention"),
            resid_mid=series("mid"),
            mlp_inputs=series("mlp_in"),
            mlp_outputs=series("mlp_out"),
            final=saved["final", 0],
            logits=saved["logits", 0],
        )

    def _record_points(self) -> Iterator[WatchPoint]:
        row = self.architecture
        for layer, block in enumerate(self.blocks):
            attention, mlp = self.mixing(layer), block.get_submodule(row.mlp)
            yield WatchPoint(("input", layer), block, "in")
            yield WatchPoint(("attention", layer), attention, "out")
            if self.has_pattern(layer):
                yield WatchPoint(("pattern", layer), attention, "out", lambda output: output[1])
            yield WatchPoint(("mid", layer), block.get_submodule(row.mlp_norm or row.mlp), "in")
            yield WatchPoint(("mlp_in", layer), mlp, "in")
            yield WatchPoint(("mlp_out", layer), mlp, "out")
        yield WatchPoint(("final", 0), self.module.get_submodule(row.final_norm), "in")
        yield WatchPoint(("logits", 0), self.module.get_output_embeddings(), "out", self.raw_logits)

    @property
    def epsilon(self) -> float:
        """What the norms add to the variance."""
        return getattr(self.config, self.architecture.epsilon)

    def mixing(self, layer: int) -> Any:
        """The module that carries tokens to later ones in one layer."""
        return self.blocks[layer].get_submodule(self._mixer_name(layer) or self.architecture.attention)

    def mixed(self, layer: int) -> Any:
        """The last projection of that module: what enters it was carried there, head by head where there are heads."""
        return self.mixing(layer).get_submodule(self.architecture.output if self.has_pattern(layer) else "out_proj")

    def mixer_kind(self, layer: int) -> MixerKind | None:
        """What that module is; None: attention."""
        name = self._mixer_name(layer)
        return None if name is None else self.architecture.mixers[name]

    def _mixer_name(self, layer: int) -> str | None:
        block = self.blocks[layer]
        return next((name for name in self.architecture.mixers if getattr(block, name, None) is not None), None)

    def has_pattern(self, layer: int) -> bool:
        """Whether one layer mixes tokens by attention patterns."""
        return self.mixer_kind(layer) in (None, "gated attention", "latent attention")

    def frozen_attention(
        self, recording: Recording, layer: int, pattern: Float[Tensor, "heads pos pos"] | None
    ) -> TokenMixing:
        """One layer's attention (or what stands in its place), frozen as it was in the recording, with this pattern."""
        norm, post = self.frozen_attention_norms(recording, layer)
        if self.mixer_kind(layer) is not None:
            return FrozenMixer.freeze(norm, self.mixer_steps(recording, layer, pattern), post)
        assert pattern is not None
        value, output = attention_weights(self.architecture, self.blocks[layer])
        return FrozenAttention.freeze(norm, value, pattern, output, post)

    def mixer_steps(
        self, recording: Recording, layer: int, pattern: Float[Tensor, "heads pos pos"] | None
    ) -> tuple[Step, ...]:
        """A module that is not plain attention as a chain of linear parts, frozen as it was in the recording."""
        kind, (norm, _) = self.mixer_kind(layer), self.frozen_attention_norms(recording, layer)
        assert kind is not None
        return mixer_steps(kind, self.mixing(layer), norm.forward(recording.attention_inputs[layer]), pattern)

    def frozen_attention_norms(self, recording: Recording, layer: int) -> tuple[FrozenNorm, FrozenNorm | None]:
        """What stands before and (if anything does) after one layer's attention, frozen as it was in the recording."""
        row = self.architecture
        before = FrozenNorm.freeze(
            self._norm(layer, row.attention_norm), recording.attention_inputs[layer], self.epsilon
        )
        return before, self._after(layer, row.attention_post_norm, recording.attention_outputs[layer])

    def frozen_mlp_norms(self, recording: Recording, layer: int) -> tuple[FrozenNorm, FrozenNorm | None]:
        """What stands before and (if anything does) after one layer's MLP, frozen as it was in the recording."""
        return self.before_mlp(layer, recording.resid_mid[layer]), self.after_mlp(layer, recording.mlp_outputs[layer])

    def before_mlp(self, layer: int, mid: Float[Tensor, "pos d"]) -> FrozenNorm:
        """What stands between the residual stream and one layer's MLP, frozen as it is for `mid`."""
        return FrozenNorm.freeze(self._norm(layer, self.architecture.mlp_norm), mid, self.epsilon)

    def after_mlp(self, layer: int, output: Float[Tensor, "pos d"]) -> FrozenNorm | None:
        """What (if anything) stands between one layer's MLP and the residual stream, frozen as it is for `output`."""
        return self._after(layer, self.architecture.mlp_post_norm, output)

    def _norm(self, layer: int, name: str | None) -> NormWeights | None:
        return None if name is None else norm_weights(self.architecture, self.blocks[layer].get_submodule(name))

    def _after(self, layer: int, name: str | None, output: Float[Tensor, "pos d"]) -> FrozenNorm | None:
        """A norm, a factor, both or nothing."""
        factor, weights = self.residual_multiplier, self._norm(layer, name)
        if weights is None:
            return None if factor == 1 else FrozenNorm.uniform(factor, output)
        norm = FrozenNorm.freeze(weights, output, self.epsilon)
        return replace(norm, scale=norm.scale * factor)

    def reader(self, layer: int) -> Any:
        """The module that reads the residual stream for one MLP: its norm, or where there is none the MLP."""
        return self.blocks[layer].get_submodule(self.architecture.mlp_norm or self.architecture.mlp)

    def writer(self, layer: int, write: str) -> tuple[Any, float]:
        """The module whose output a dictionary makes at one layer, and the factor from that output to what it makes."""
        post = self.architecture.mlp_post_norm if write == "residual" else None
        return self.blocks[layer].get_submodule(
            post or self.architecture.mlp
        ), self.residual_multiplier if write == "residual" else 1.0

    @property
    def final_norm_weights(self) -> NormWeights:
        """Gain and bias of the final norm."""
        return norm_weights(self.architecture, self.module.get_submodule(self.architecture.final_norm))

    def frozen_final_norm(self, recording: Recording) -> FrozenNorm:
        """The final norm, frozen as it was in the recording."""
        return FrozenNorm.freeze(self.final_norm_weights, recording.final, self.epsilon)
