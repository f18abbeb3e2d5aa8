"""A frozen causal language model that reads latents: exact answer log-probabilities and exact greedy generation.

How a batch lies in memory is `latentwire.lm.layout`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from callbacks.errors import UserError
from latentwire.lm import anatomy, generation, loading, probe, prompts, recompute, switching
from latentwire.lm.beside import beside
from latentwire.lm.decoding import Decoding, Run
from latentwire.lm.identity import Identified
from latentwire.lm.kept import kept
from latentwire.lm.layout import Ids, KeysValues, Prefix, check_kv, lay_out_text, right_padded
from latentwire.lm.placement import Placed
from latentwire.lm.results import AnswerLogprobs, Generation
from suite.runs.reads import files_in, reads


class FrozenLM(Placed, Identified):
    """Wraps any full-attention causal LM of transformers; it stays in eval mode and its weights never move.

    It is no `nn.Module`: held as an attribute of a module it is in no `parameters()`, no `state_dict()` and no
    checkpoint, and a deep copy of the holder shares it. Devices are the caller's matter: see `to`.

    Args:
        model: the model; all its parameters are set to `requires_grad=False`.
        tokenizer: its tokenizer.
        name: name in tables and errors.
        is_chat: prompts in the tokenizer's chat template; None: where it has one.
        template: keyword arguments of the chat template; see `prompts.chat`.
        date: the day that a chat template takes it to be.
        instruction: how answers are to be given, see `prompts.Style`.

    Raises UserError for a model that does not read embeddings, or keys and values, as it reads the text (`probe`).

    Limits: sliding-window models are read up to their window. Adapters (LoRA) go through `adapt`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        name: str,
        is_chat: bool | None = None,
        template: Mapping[str, Any] | None = None,
        date: str = prompts.DATE,
        instruction: str | None = None,
    ):
        anatomy.check_interface(model, name)
        frozen: Any = model.eval().requires_grad_(False)
        self.model = frozen
        self.tokenizer, self.name = tokenizer, name
        self._base = list(model.named_parameters())  # the same tensors under the same names after `adapt`
        embedding = self.model.get_input_embeddings().weight
        loading.check_vocabulary(tokenizer, int(embedding.shape[0]), name)
        self.d_model, self.dtype = int(embedding.shape[1]), embedding.dtype  # projected embeddings: not d_hidden
        self.vocab_size: int = self.model.get_output_embeddings().weight.shape[0]
        config = self.model.config.get_text_config(decoder=True)
        self.d_hidden: int = config.hidden_size
        self.max_tokens, self.window = loading.positions(config, name), loading.window(config)
        self.adapted = False  # has it a PEFT adapter, on or off?
        self.checkpointing = False  # are its layers computed again in a backward pass?
        self.anatomy = anatomy.examine(self.model, name, self.input_device)
        self.n_layers: int = len(self.anatomy.layers)
        wants_chat = tokenizer.chat_template is not None if is_chat is None else is_chat
        if wants_chat:
            self.style = prompts.chat(tokenizer, self.max_tokens, template, date, name, instruction)
        else:
            self.style = prompts.plain(tokenizer, self.max_tokens, instruction)
        stop = getattr(self.model.generation_config, "eos_token_id", None)
        self.stop_ids = {self.style.eos, *([stop] if isinstance(stop, int) else stop or [])}
        self._embedding_rms: Tensor | None = None
        self._head_kv: list[KeysValues] | None = None
        probe.check(self)

    @classmethod
    @reads(given=lambda arguments: files_in(arguments["source"], "source", loading.FILES))
    def load(
        cls,
        source: str,
        dtype: str = "float32",
        device: str = "cpu",
        device_map: str | dict[str, Any] | None = None,
        is_chat: bool | None = None,
        name: str | None = None,
        attn: str | None = None,
        template: dict[str, Any] | None = None,
        date: str = prompts.DATE,
        instruction: str | None = None,
        quantize: str | None = None,
        max_memory: dict[str, str] | None = None,
    ) -> FrozenLM:
        """Load a folder (or a hub id) with weights and tokenizer.

        A folder without `tokenizer_config.json` is read by its `tokenizer.json`, special tokens as in `config.json`.

        Args:
            source: the folder or hub id.
            dtype: `float32`, `bfloat16` or `float16`.
            device: one device for all weights; without effect where there is a `device_map`.
            device_map: accelerate's placement: `auto`, or a device by the name of a module.
            is_chat: prompts in the tokenizer's chat template; None: where it has one.
            name: the model's name in tables and errors; None: the last part of `source`.
            attn: implementation of the attention, `eager`, `sdpa` or `flash_attention_2`; None: transformers' choice.
            template: keyword arguments of the chat template, e.g. `{enable_thinking: false}`.
            date: the day that a chat template takes it to be, whatever the day.
            instruction: how answers are to be given, see `prompts.Style`.
            quantize: `nf4` or `fp4`, weights in 4 bits by bitsandbytes, computed in `dtype`; None: as they are.
            max_memory: the most that `device_map` may put on a device, e.g. `{0: 40GiB, cpu: 100GiB}`.

        Raises:
            UserError: nothing to load, weights that do not fill the model exactly, or a device that is not there.
        """
        moves = device_map is None and quantize is None
        if moves:
            loading.checked_device(device, f"lms.{name or '<model>'}.device")
        model, tokenizer = loading.load(source, dtype, device_map, attn, name or "<model>", quantize, max_memory)
        if moves:
            model = model.to(device)
        return cls(model, tokenizer, name or Path(source).name, is_chat, template, date, instruction)

    # -- adapters -------------------------------------------------------------------------------------------------
    def adapt(self, config: Any) -> list[tuple[str, nn.Parameter]]:
        """Put a PEFT adapter (e.g. `peft.LoraConfig`) on the model; return its parameters by name.

        They are in no module's `state_dict()`: the caller trains and saves them.

        Raises:
            UserError: the model has an adapter already; a second one would hide the first from every checkpoint.
        """
        if self.adapted:
            raise UserError(
                f"adapter of {self.name}",
                "a second adapter",
                "one adapter per model",
                "add +lm@lms.<name>=… with the same source, and adapt that",
            )
        from peft import get_peft_model

        self.model = get_peft_model(self.model, config).eval()
        self.adapted, self._head_kv = True, None
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @contextmanager
    def adapters_off(self) -> Iterator[FrozenLM]:
        """Make the model its own teacher within the block: the base weights alone; errors bring the adapter back."""
        with switching.without_adapter(self.model) if self.adapted else nullcontext():
            yield self

    # -- embeddings -----------------------------------------------------------------------------------------------
    def embed(self, ids: Tensor) -> Tensor:
        """Return the input embeddings (…, d_model) of ids (…), in the model's dtype."""
        return self.model.get_input_embeddings()(ids.to(self.input_device))

    @torch.no_grad()
    def measure(self, texts: Sequence[str]) -> Tensor:
        """Measure and keep `embedding_rms` on real text (special tokens are not text).

        Raises:
            UserError: fewer than two tokens.
        """
        ids = [torch.tensor(self.style.encode(text), dtype=torch.long) for text in texts]
        if (tokens := sum(map(len, ids))) < 2:
            raise UserError(
                "texts to measure embeddings on", f"{tokens} tokens", "2 at least", "set wire.measured_texts=256"
            )
        self._embedding_rms = torch.cat([self.embed(x).float().cpu().pow(2).mean(-1).sqrt() for x in ids])
        return self._embedding_rms

    @property
    def embedding_rms(self) -> Tensor:
        """Root mean square over d_model of each token's embedding on real text, (n,) float32 on the CPU.

        Raises:
            RuntimeError: `measure` has not run; the vocabulary's own RMS is no substitute.
        """
        if self._embedding_rms is None:
            raise RuntimeError(f"{self.name}: call measure(texts) first")
        return self._embedding_rms

    # -- keys and values ------------------------------------------------------------------------------------------
    @property
    def decoder(self) -> Any:
        """The stack of layers, below a PEFT adapter if there is one."""
        return (self.model.get_base_model() if self.adapted else self.model).get_decoder()

    @property
    def kv_shape(self) -> anatomy.Shape:
        """Heads and width of keys and values, a UserError where layers differ."""
        return self.anatomy.kv_shape(self.name)

    @torch.no_grad()
    def keys_and_values(self, *rows: Sequence[int]) -> list[KeysValues]:
        """Read rows of ids at positions 0 … T - 1; return keys (after RoPE) and values, (rows, kv_heads, T, head_dim).

        One pair per layer. Adapters are off. What stands behind a shorter row means nothing. A windowed layer's cache
        holds one token less than its window.
        """
        self._check_length(max(map(len, rows)) + (self.window is not None))
        with self.adapters_off():
            return self._keys_and_values(*rows)

    def _keys_and_values(self, *rows: Sequence[int]) -> list[KeysValues]:
        cache = DynamicCache(config=self.model.config)
        ids, _ = right_padded(rows)  # what is on the right has no influence on what is on its left
        self.decoder(input_ids=ids.to(self.input_device), past_key_values=cache, use_cache=True)
        return [(keys, values) for keys, values, _ in cache]

    def cached(self, prefix: Prefix) -> Prefix:
        """Return the same prefix as keys and values, its embeddings read once; differentiable.

        This pays where several questions follow one prefix (`Prefix.select` then repeats a cache). What layers read
        of latents stays beside it. A prefix without embeddings, or with text behind them, is returned as it is.
        """
        if prefix.embeds is None or prefix.kv is not None or prefix.text_ids is not None:
            return prefix
        batch, slots = prefix.embeds.shape[:2]
        head = len(self.style.head)
        self._check_length(head + slots)
        cache = self._head_cache(batch)
        positions = torch.arange(head, head + slots, device=self.input_device)
        decoder, names = self.decoder, self.anatomy.layers
        with beside(decoder, names, prefix, head, True), recompute.recomputed(decoder, names, self.checkpointing):
            decoder(
                inputs_embeds=prefix.embeds.to(self.input_device, self.dtype),
                attention_mask=torch.ones(batch, head + slots, dtype=torch.long, device=self.input_device),
                position_ids=positions.expand(batch, -1),
                past_key_values=cache,
                use_cache=True,
            )
        return Prefix(kv=[(keys[:, :, head:], values[:, :, head:]) for keys, values, _ in cache], reads=prefix.reads)

    # -- forward --------------------------------------------------------------------------------------------------
    def answer_logprobs(
        self,
        prefix: Prefix,
        question_ids: Ids,
        answer_ids: Ids,
        read_as: Ids | None = None,
        layers: Sequence[int] = (),
    ) -> AnswerLogprobs:
        """Score given answers, with logits at their positions only; differentiable in the prefix.

        Args:
            prefix: what stands before the questions, B examples or an empty one.
            question_ids: B questions, cue included (`Prompt.question`); all empty only where the prefix is no cache.
            answer_ids: B answers, EOS included (`Prompt.answer`), at least one token each.
            read_as: what is read in the answers' places, B rows of their lengths; None: the answers.
            layers: numbers of the states to keep where tokens of answers are predicted, see `kept`.

        Raises ValueError for sizes that do not fit, UserError for a sequence longer than the model's positions.
        """
        if not answer_ids or min(map(len, answer_ids)) == 0:
            raise ValueError("every example needs an answer of at least one token")
        # an answer's last token is only predicted: the last A input columns are those that predict answers
        given = self._inputs(prefix, question_ids, [a[:-1] for a in read_as or answer_ids])
        if self.window is not None and given["attention_mask"].shape[1] > self.window and len(answer_ids) > 1:
            # padding between a short text and its answer fills a window as text does; a row alone has none
            rows = enumerate(zip(question_ids, answer_ids, read_as or answer_ids, strict=True))
            apart = [self.answer_logprobs(prefix.select([i]), [q], [a], [f], layers) for i, (q, a, f) in rows]
            return AnswerLogprobs.joined(apart)
        tokens, valid = right_padded(answer_ids)
        cached = given["past_key_values"] is not None
        # a bias holds within its block alone, where a layer that is computed later would miss it
        again = self.checkpointing and prefix.bias is None
        decoder, names, head = self.decoder, self.anatomy.layers, len(self.style.head)
        states = kept(decoder, names, layers, valid)
        with beside(decoder, names, prefix, head, cached), recompute.recomputed(decoder, names, again), states as found:
            out = self.model(**given, use_cache=cached, logits_to_keep=tokens.shape[1])  # an int needs no device
        valid = valid.to(device := out.logits.device)
        row, position = valid.nonzero(as_tuple=True)
        scores = out.logits[valid].float().log_softmax(-1)  # only real answer positions become float32
        kept_states = {number: x.to(device) for number, x in found.items()}
        return AnswerLogprobs(scores, tokens.to(device)[valid], row, position, len(answer_ids), kept_states)

    def generate(self, prefix: Prefix, question_ids: Ids, max_new_tokens: int) -> list[list[int]]:
        """Answer greedily: new tokens only, without the stop token. A batch gives what its rows give one by one."""
        return self.generate_scored(prefix, question_ids, max_new_tokens).tokens

    @torch.no_grad()
    def generate_scored(
        self, prefix: Prefix, question_ids: Ids, max_new_tokens: int, decoding: Decoding | None = None
    ) -> Generation:
        """Answer as `generate` does, with log-probabilities; `decoding` may choose other tokens than the likeliest.

        Raises ValueError for sizes that do not fit, UserError for prompts that leave no room for the new tokens.
        """
        chooser = None if decoding is None else Run(decoding, self, prefix, question_ids)
        prefix = prefix if chooser is None else chooser.prefix
        given = self._inputs(prefix, question_ids, None, reserve=max_new_tokens)
        layers, told = self.anatomy.layers, (given, len(question_ids), max_new_tokens, self.sharded, chooser)
        with beside(self.decoder, layers, prefix, len(self.style.head), given["past_key_values"] is not None):
            return generation.greedy(self.model, self.embed, self.stop_ids, *told)

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor, layers: Sequence[int]) -> Tensor:
        """Return hidden states (len(layers), B, T, d_model), in the model's dtype, zero where `mask` is false.

        Args:
            ids: token ids (B, T), special tokens (BOS) included; padding may stand on either side.
            mask: (B, T), true on tokens.
            layers: numbers from 0 (embeddings) to n_layers (the last state, normalised).
        """
        mask = mask.to(self.input_device, torch.long)
        self._check_length(int(mask.sum(1).max()))
        out = self.decoder(
            input_ids=ids.to(self.input_device),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            output_hidden_states=True,
        )
        states = torch.stack([out.hidden_states[i].to(self.output_device) for i in layers])
        return states.masked_fill_(~mask.bool().to(states.device)[None, :, :, None], 0)

    # -- inside ---------------------------------------------------------------------------------------------------
    def _check_length(self, length: int) -> None:
        if length > self.max_tokens:
            raise UserError(
                f"input of {self.name}",
                f"{length} tokens",
                f"at most {self.max_tokens} positions",
                "shorten the texts (corpus.*) or choose a reader with more positions (readers=…)",
            )

    def _head_cache(self, batch: int) -> DynamicCache:
        """Return a new cache that holds the head B times; its keys and values are kept where nothing adapts."""
        cache = DynamicCache(config=self.model.config)
        if self.style.head:
            kv = self._head_kv or self._keys_and_values(self.style.head)
            self._head_kv = None if self.adapted else kv
            for layer, (keys, values) in enumerate(kv):
                cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), layer)
        return cache

    def _cache(self, kv: list[KeysValues], batch: int) -> DynamicCache:
        """Return a new cache that holds the head and then the given keys and values."""
        check_kv(kv, batch, self.anatomy.kv_shapes)
        cache = self._head_cache(batch)
        for layer, (pair, device) in enumerate(zip(kv, self.layer_devices(), strict=True)):
            keys, values = (t.to(device, self.dtype) for t in pair)
            cache.update(keys, values, layer)
        return cache

    def _inputs(self, prefix: Prefix, question_ids: Ids, answer_ids: Ids | None, reserve: int = 0) -> dict[str, Any]:
        """Lay out prefix, questions and answers as the model takes them, with room for `reserve` positions behind."""
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
        positions, beyond = columns.positions, 0
        if prefix.stands_for is not None and prefix.kv is not None:
            shift = torch.tensor(prefix.stands_for) - prefix.latents
            positions, beyond = positions + shift[:, None], int(shift.max())
        self._check_length(columns.longest + reserve + beyond)
        if columns.ids.shape[1]:
            parts.append(self.embed(columns.ids))
        return {
            "inputs_embeds": torch.cat(parts, 1),
            "attention_mask": columns.mask.to(device),
            "position_ids": positions.to(device),
            "past_key_values": cache,
        }
