"""A frozen causal language model that reads latents: exact answer log-probabilities and exact greedy generation.

How a batch lies in memory is `latentwire.lm.layout`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from callbacks.errors import UserError
from latentwire.lm import loading, prompts
from latentwire.lm.layout import Ids, Prefix, lay_out_text, right_padded
from latentwire.lm.results import AnswerLogprobs, EmbeddingStats, Generation

__all__ = ["AnswerLogprobs", "EmbeddingStats", "FrozenLM", "Generation", "Prefix"]


@dataclass
class _Inputs:
    """One batch as the model takes it: `embeds` (B, Q, d), `mask` (B, cached + Q), `positions` (B, Q)."""

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    cache: DynamicCache | None


class FrozenLM:
    """Wraps any full-attention causal LM of transformers; it stays in eval mode and its weights never move.

    It is no `nn.Module`: held as an attribute of a module it is in no `parameters()`, no `state_dict()` and no
    checkpoint, and a deep copy of the holder shares it. Devices are the caller's matter: see `to`.

    Args:
        model: the model; all its parameters are set to `requires_grad=False`.
        tokenizer: its tokenizer.
        name: name in tables and errors.
        is_chat: prompts in the tokenizer's chat template; None: where it has one.

    Limits: sliding-window models are read up to their window. Adapters (LoRA) go through `adapt`.
    """

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str, is_chat: bool | None = None):
        frozen: Any = model.eval().requires_grad_(False)
        self.model = frozen
        self.tokenizer, self.name = tokenizer, name
        self._base = list(model.named_parameters())  # the same tensors under the same names after `adapt`
        config = self.model.config.get_text_config(decoder=True)
        self.d_model: int = config.hidden_size
        self.n_layers: int = config.num_hidden_layers
        heads: int = config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.kv_shape: tuple[int, int] = (getattr(config, "num_key_value_heads", None) or heads, head_dim)
        self.max_tokens: int = loading.positions(config, name)
        self.dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        self.vocab_size: int = self.model.get_output_embeddings().weight.shape[0]
        wants_chat = tokenizer.chat_template is not None if is_chat is None else is_chat
        self.style = (prompts.chat if wants_chat else prompts.plain)(tokenizer, self.max_tokens)
        stop = getattr(self.model.generation_config, "eos_token_id", None)
        self.stop_ids = {self.style.eos, *([stop] if isinstance(stop, int) else stop or [])}
        self.embedding_stats: EmbeddingStats | None = None
        self._head_kv: list[tuple[Tensor, Tensor]] | None = None
        self.adapted = False  # has it a PEFT adapter, on or off?

    @classmethod
    def load(
        cls,
        source: str,
        dtype: str = "float32",
        device: str = "cpu",
        device_map: str | None = None,
        is_chat: bool | None = None,
        name: str | None = None,
    ) -> FrozenLM:
        """Loads a folder (or a hub id) with weights and tokenizer.

        A folder without `tokenizer_config.json` is read by its `tokenizer.json`, special tokens as in
        `config.json`.

        Args:
            dtype: `float32`, `bfloat16` or `float16`.
            device: one device for all weights, or
            device_map: accelerate's placement, e.g. `auto`; then `device` is not used.

        Raises:
            UserError: nothing to load, or weights that do not fill the model exactly.
        """
        model, tokenizer = loading.load(source, dtype, device_map)
        if device_map is None:
            model = model.to(device)
        return cls(model, tokenizer, name or Path(source).name, is_chat)

    # -- identity -------------------------------------------------------------------------------------------------
    def fingerprint(self) -> str:
        """SHA-256 over names, types, shapes and values of the base weights, read anew; adapters do not count."""
        digest = hashlib.sha256()
        for name, p in self._base:
            digest.update(f"{name} {p.dtype} {tuple(p.shape)}\n".encode())
            digest.update(p.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def verify(self, fingerprint: str) -> None:
        """Raises UserError where the weights are not those of the fingerprint."""
        if (now := self.fingerprint()) != fingerprint:
            raise UserError(
                f"weights of {self.name}", now[:16], fingerprint[:16], "load the model that the run was made with"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenLM:
        return self

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.name} is frozen and belongs in no file: keep its source and fingerprint, load it again")

    # -- devices --------------------------------------------------------------------------------------------------
    def to(self, device: str | torch.device) -> FrozenLM:
        """Moves all weights; a model that was placed by `device_map` stays where it is."""
        if getattr(self.model, "hf_device_map", None) is None:
            self.model.to(device)
            self._head_kv = None
        return self

    @property
    def input_device(self) -> torch.device:
        """Where ids, masks, positions and embeddings are read."""
        return _device(self.model.get_input_embeddings())

    @property
    def output_device(self) -> torch.device:
        """Where log-probabilities appear and labels are read."""
        return _device(self.model.get_output_embeddings())

    def layer_devices(self) -> list[torch.device]:
        """Where each layer reads its keys and values."""
        decoder = self._decoder()
        return [_device(layer) for layer in decoder.layers]

    # -- adapters -------------------------------------------------------------------------------------------------
    def adapt(self, config: Any) -> list[tuple[str, nn.Parameter]]:
        """Puts a PEFT adapter (e.g. `peft.LoraConfig`) on the model; returns its parameters by name.

        They are in no module's `state_dict()`: the caller trains and saves them.

        Raises:
            UserError: the model has an adapter already; a second one would hide the first from every checkpoint.
        """
        if self.adapted:
            raise UserError(
                f"adapter of {self.name}",
                "a second adapter",
                "one adapter per model",
                "load the model again first",
            )
        from peft import get_peft_model

        self.model = get_peft_model(self.model, config).eval()
        self.adapted, self._head_kv = True, None
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @contextmanager
    def adapters_off(self) -> Iterator[FrozenLM]:
        """Within the block the model is the teacher: its own weights alone; errors bring the adapter back."""
        with self.model.disable_adapter() if self.adapted else nullcontext():
            yield self

    # -- embeddings -----------------------------------------------------------------------------------------------
    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings (…, d_model) of ids (…) in the model's dtype."""
        return self.model.get_input_embeddings()(ids.to(self.input_device))

    @torch.no_grad()
    def measure(self, texts: Sequence[str]) -> EmbeddingStats:
        """Measures the embeddings of real text (special tokens are not text) and keeps the result.

        Raises:
            UserError: fewer than two tokens.
        """
        ids = [i for text in texts for i in self.style.encode(text)]
        if len(ids) < 2:
            raise UserError("texts to measure embeddings on", f"{len(ids)} tokens", "2 at least", "give training texts")
        e = self.embed(torch.tensor(ids)).float().cpu()
        self.embedding_stats = EmbeddingStats(e.pow(2).mean(-1).sqrt(), e.mean(0), e.std(0))
        return self.embedding_stats

    @property
    def embedding_rms(self) -> Tensor:
        """(n,) per-token RMS on real text; see `measure`, which must have run.

        Raises:
            RuntimeError: nothing was measured yet; the vocabulary's own RMS is no substitute.
        """
        if self.embedding_stats is None:
            raise RuntimeError(f"{self.name}: call measure(texts) first")
        return self.embedding_stats.rms

    def cached(self, prefix: Prefix) -> Prefix:
        """The same prefix as keys and values, its embeddings read once; differentiable.

        Worth it where several questions follow one prefix (`batches.select` then repeats a cache). A prefix without
        embeddings, or with text behind them, is returned as it is.
        """
        if prefix.embeds is None or prefix.kv is not None or prefix.text_ids is not None:
            return prefix
        batch, slots = prefix.embeds.shape[:2]
        head = len(self.style.head)
        self._check_length(head + slots)
        cache = DynamicCache(config=self.model.config)
        if head:
            for layer, (keys, values) in enumerate(self._head_cache(batch)):
                cache.update(keys, values, layer)
        positions = torch.arange(head, head + slots, device=self.input_device)
        self._decoder()(
            inputs_embeds=prefix.embeds.to(self.input_device, self.dtype),
            attention_mask=torch.ones(batch, head + slots, dtype=torch.long, device=self.input_device),
            position_ids=positions.expand(batch, -1),
            past_key_values=cache,
            use_cache=True,
        )
        return Prefix(kv=[(keys[:, :, head:], values[:, :, head:]) for keys, values, _ in cache])

    # -- forward --------------------------------------------------------------------------------------------------
    def answer_logprobs(
        self, prefix: Prefix, question_ids: Ids, answer_ids: Ids, layers: Sequence[int] = ()
    ) -> AnswerLogprobs:
        """Teacher-forced log-probabilities, logits at answer positions only; differentiable in the prefix.

        Args:
            question_ids: B questions, cue included (`Prompt.question`); may all be empty where the prefix is no
                cache.
            answer_ids: B answers, EOS included (`Prompt.answer`), at least one token each.
            layers: also return the hidden states of these layers (0: embeddings, n_layers: last, normalised).

        Raises:
            ValueError: sizes that do not fit.
            UserError: a sequence longer than the model's positions.
        """
        if not answer_ids or min(map(len, answer_ids)) == 0:
            raise ValueError("every example needs an answer of at least one token")
        # an answer's last token is only predicted: the last A input columns are those that predict answers
        at = self._inputs(prefix, question_ids, [a[:-1] for a in answer_ids])
        tokens, valid = right_padded(answer_ids)
        out = self.model(
            inputs_embeds=at.embeds,
            attention_mask=at.mask,
            position_ids=at.positions,
            past_key_values=at.cache,
            use_cache=at.cache is not None,
            logits_to_keep=tokens.shape[1],  # an int needs no device
            output_hidden_states=bool(layers),
        )
        device = out.logits.device
        valid = valid.to(device)
        row, position = valid.nonzero(as_tuple=True)
        # only real answer positions become float32
        scores = out.logits[valid].float().log_softmax(-1)
        hidden = {}
        for layer in layers:
            states = out.hidden_states[layer][:, -tokens.shape[1] :]
            hidden[layer] = states[valid.to(states.device)]
        return AnswerLogprobs(scores, tokens.to(device)[valid], row, position, len(answer_ids), hidden)

    def generate(self, prefix: Prefix, question_ids: Ids, max_new_tokens: int) -> list[list[int]]:
        """Greedy answers: new tokens only, without the stop token. A batch gives what its rows give one by one."""
        return self.generate_scored(prefix, question_ids, max_new_tokens).tokens

    @torch.no_grad()
    def generate_scored(self, prefix: Prefix, question_ids: Ids, max_new_tokens: int) -> Generation:
        """`generate` with log-probabilities; transformers' own loses embeddings that are given beside a cache.

        Raises:
            ValueError: sizes that do not fit.
            UserError: prompt and new tokens are longer than the model's positions.
        """
        if max_new_tokens < 1:
            raise ValueError("max_new_tokens must be at least 1")
        at = self._inputs(prefix, question_ids, None, reserve=max_new_tokens)
        batch = len(question_ids)
        tokens: list[list[int]] = [[] for _ in range(batch)]
        logprobs: list[list[float]] = [[] for _ in range(batch)]
        running = [True] * batch
        cache = at.cache if at.cache is not None else DynamicCache(config=self.model.config)
        embeds, mask, positions = at.embeds, at.mask, at.positions
        for step in range(max_new_tokens):
            out = self.model(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            best, chosen = out.logits[:, -1].float().log_softmax(-1).max(-1)
            for i, (token, score) in enumerate(zip(chosen.tolist(), best.tolist(), strict=True)):
                if running[i]:
                    logprobs[i].append(score)
                    running[i] = token not in self.stop_ids
                    if running[i]:
                        tokens[i].append(token)
            if not any(running) or step + 1 == max_new_tokens:
                break
            embeds = self.embed(chosen[:, None])
            mask = torch.cat([mask, mask.new_ones(batch, 1)], 1)
            positions = positions[:, -1:] + 1
        return Generation(tokens, logprobs)

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """Hidden states (len(layers), B, T, d_model) of ids (B, T), in the model's dtype, zero where `mask` is.

        Args:
            ids: special tokens (BOS) are the caller's; padding may stand on either side.
            mask: (B, T), true on tokens.
            layers: 0 for embeddings … n_layers for the last, normalised state.
        """
        mask = mask.to(self.input_device, torch.long)
        self._check_length(int(mask.sum(1).max()))
        out = self._decoder()(
            input_ids=ids.to(self.input_device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            output_hidden_states=True,
        )
        states = torch.stack([out.hidden_states[i].to(self.output_device) for i in layers])
        return states.masked_fill(~mask.bool().to(states.device)[None, :, :, None], 0)

    # -- inside ---------------------------------------------------------------------------------------------------
    def _decoder(self) -> Any:
        base = self.model.get_base_model() if self.adapted else self.model
        return base.get_decoder()

    def _check_length(self, length: int) -> None:
        if length > self.max_tokens:
            raise UserError(
                f"input of {self.name}",
                f"{length} tokens",
                f"at most {self.max_tokens} positions",
                "use shorter contexts, or a model with more positions",
            )

    def _head_cache(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """The head's keys and values per layer, (B, kv_heads, |head|, head_dim); kept where nothing adapts."""
        kv = self._head_kv
        if kv is None:
            cache = DynamicCache(config=self.model.config)
            ids = torch.tensor([self.style.head], device=self.input_device)
            self._decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
            kv = [(keys, values) for keys, values, _ in cache]
            if not self.adapted:
                self._head_kv = kv
        return [(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in kv]

    def _cache(self, kv: list[tuple[Tensor, Tensor]], batch: int) -> DynamicCache:
        shape = (batch, self.kv_shape[0], kv[0][0].shape[2], self.kv_shape[1])
        if len(kv) != self.n_layers or any(tuple(t.shape) != shape for pair in kv for t in pair):
            found = sorted({tuple(t.shape) for pair in kv for t in pair})
            raise ValueError(f"kv of {len(kv)} layers {found}, the model wants {self.n_layers} of {shape}")
        head = self._head_cache(batch) if self.style.head else [()] * self.n_layers
        cache = DynamicCache(config=self.model.config)
        for layer, (pair, first, device) in enumerate(zip(kv, head, self.layer_devices(), strict=True)):
            k, v = (t.to(device, self.dtype) for t in pair)
            if first:
                k, v = torch.cat([first[0], k], 2), torch.cat([first[1], v], 2)
            cache.update(k, v, layer)
        return cache

    def _inputs(self, prefix: Prefix, question_ids: Ids, answer_ids: Ids | None, reserve: int = 0) -> _Inputs:
        if self.model.training:  # dropout, and gradient checkpointing would drop the cache
            raise RuntimeError(f"{self.name} was put into training mode; it is frozen")
        batch = len(question_ids)
        given = [len(x) for x in (prefix.embeds, prefix.text_ids, answer_ids) if x is not None]
        if batch == 0 or any(n != batch for n in given):
            raise ValueError(f"{batch} questions with prefixes and answers of {given}")
        contexts = prefix.text_ids if prefix.text_ids is not None else [()] * batch
        text = [[*context, *question] for context, question in zip(contexts, question_ids, strict=True)]
        width = max(map(len, text))
        if width and min(map(len, text)) == 0:
            raise ValueError("some examples have neither context nor question as text, others have")
        cache = None if prefix.kv is None else self._cache(prefix.kv, batch)
        cached = 0 if cache is None else cache.get_seq_length()
        device, parts = self.input_device, []
        if cache is None and self.style.head:
            parts.append(self.embed(torch.tensor([self.style.head])).expand(batch, -1, -1))
        if prefix.embeds is not None:
            if prefix.embeds.shape[2:] != (self.d_model,):
                raise ValueError(f"embeds {tuple(prefix.embeds.shape)}, the model is {self.d_model} wide")
            parts.append(prefix.embeds.to(device, self.dtype))
        fixed = cached + sum(p.shape[1] for p in parts)
        columns = lay_out_text(text, answer_ids, cached, fixed)
        if fixed == cached and width == 0:
            raise ValueError("a kv prefix needs a question (or a cue) as text: its cache alone predicts nothing")
        self._check_length(columns.longest + reserve)
        if columns.ids.shape[1]:
            parts.append(self.embed(columns.ids))
        return _Inputs(torch.cat(parts, 1), columns.mask.to(device), columns.positions.to(device), cache)


def _device(module: nn.Module) -> torch.device:
    """Where a module computes; with accelerate's offloading its weights lie elsewhere until then."""
    execution = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if execution is None else torch.device(execution)
