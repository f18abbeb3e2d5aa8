"""Memory slots: a copy of the model with LoRA reads the context and then M learned tokens, which carry it over."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from peft import inject_adapter_in_model
from torch import Tensor, nn
from transformers import DynamicCache

from callbacks.errors import UserError
from callbacks.ranges import PositiveShare, Rate, Seed, Width
from latentwire.adapters.linear import LinearAdapter
from latentwire.baselines.base import contexts
from latentwire.baselines.learned import LearnedBaseline
from latentwire.baselines.pooled import FP16_BYTES
from latentwire.baselines.training import Amount, TrainingBudget, learn_answers
from latentwire.data.base import Passage, Question
from latentwire.injectors.rotary import RotaryPlacement
from latentwire.lm.frozen import FrozenLM
from latentwire.lm.layout import Ids, KeysValues, Prefix, lay_out_text
from latentwire.lm.lora import lora_config

Read = Literal["embeddings", "keys"]


class _Compressor(nn.Module):
    """Runs [head | context | M memory tokens] through a private copy of the decoder with LoRA."""

    def __init__(self, lm: FrozenLM, slots: int, read: Read, rank: int, generator: torch.Generator):
        super().__init__()
        if lm.adapted:
            remedy = f"add ~baselines.icae ~baselines.gist, or leave out adaptation.{lm.name}"
            raise UserError(f"baselines on {lm.name}", "a model with an adapter", "the bare model", remedy)
        self.lm, self.slots, self.read = lm, slots, read
        self.placement = RotaryPlacement(lm) if read == "keys" else None
        decoder: Any = copy.deepcopy(lm.decoder)
        config = lora_config(lm, rank, 2 * rank, f"baselines on {lm.name}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            self.decoder = inject_adapter_in_model(config, decoder)
            self.adapter = LinearAdapter(d_z=lm.d_model, d_out=lm.d_model, target=_embedding_rms(lm))
        self.memory = nn.Parameter(_embedding_rms(lm) * torch.randn(slots, lm.d_model, generator=generator))
        self.to(lm.input_device)

    def states(self, ids: Ids) -> tuple[Tensor, list[KeysValues], list[int]]:
        """Return last states (B, M, d_model) and keys and values of the memory, and how long each context is."""
        head, batch = list(self.lm.style.head), len(ids)
        columns = lay_out_text(ids, None, 0, len(head))
        device = self.lm.input_device
        lengths = torch.tensor([len(i) for i in ids])
        places = len(head) + lengths[:, None] + torch.arange(self.slots)
        known = self.lm.embed(torch.cat([torch.tensor(head, dtype=torch.long).expand(batch, -1), columns.ids], 1))
        embeds = torch.cat([known, self.memory.to(known).expand(batch, -1, -1)], 1)
        cache = DynamicCache(config=self.lm.model.config)
        out = self.decoder(
            inputs_embeds=embeds,
            attention_mask=torch.cat([columns.mask, torch.ones(batch, self.slots, dtype=torch.long)], 1).to(device),
            position_ids=torch.cat([columns.positions, places], 1).to(device),
            past_key_values=cache,
            use_cache=True,
        )
        kv = [(keys[:, :, -self.slots :], values[:, :, -self.slots :]) for keys, values, _ in cache]
        return out.last_hidden_state[:, -self.slots :], kv, lengths.tolist()

    def forward(self, ids: Ids) -> Prefix:
        states, kv, lengths = self.states(ids)
        if self.placement is None:
            return Prefix(embeds=self.adapter(states.float()))
        return Prefix(kv=[(self._moved(keys, lengths, i), values) for i, (keys, values) in enumerate(kv)])

    def _moved(self, keys: Tensor, lengths: list[int], layer: int) -> Tensor:
        """Turn keys from behind the context, where they were made, to behind the head, where they are read."""
        assert self.placement is not None
        start, slot = len(self.lm.style.head), torch.arange(self.slots)
        rows = [
            self.placement.place(self.placement.undo(keys[i : i + 1], start + n + slot, layer), start + slot, layer)
            for i, n in enumerate(lengths)
        ]
        return torch.cat(rows)


class MemorySlots(LearnedBaseline[_Compressor]):
    """Learns M memory slots, ICAE-style (Ge et al., 2024) or gist-style (Mu et al., 2023; 500xCompressor, 2024).

    Trained on answers alone, with the reader frozen, on what the wire was trained on; the originals also reconstruct
    text (ICAE) or train the reader (gist), and all train for far longer: a row of this table is the kind at the wire's
    budget, not a reproduction.

    Args:
        read: what is read of the memory tokens: `embeddings`, their last states, calibrated, as embeddings (ICAE);
            `keys`, their keys and values in every layer (gist, 500x).
        rank: rank of the LoRA on the compressor's attention.
        lr: learning rate of Adam, before the factor of the wire's schedule.
        seed: seed of the initial weights.
        share: share of the wire's training that it gets.
    """

    name = "memory"
    bare = True
    remark = "a copy of the model with LoRA writes M memory slots; frozen reader, answers only"

    def __init__(
        self, read: Read = "embeddings", rank: Width = 8, lr: Rate = 1e-3, seed: Seed = 0, share: PositiveShare = 1.0
    ):
        super().__init__(share)
        self.read, self.rank, self.lr, self.seed = read, rank, lr, seed

    def make(self, lm: FrozenLM, budget: TrainingBudget, slots: int) -> _Compressor:
        return _Compressor(lm, slots, self.read, self.rank, torch.Generator().manual_seed(self.seed))

    def learn(self, net: _Compressor, lm: FrozenLM, budget: TrainingBudget, amount: Amount, slots: int) -> None:
        first = [budget.train[i] for i in range(min(amount.contexts, len(budget.train)))]
        with torch.no_grad():
            net.adapter.calibrate(net.states(contexts(lm, first, [p.questions[0] for p in first]))[0].float())
        learn_answers(lm, budget, amount, lambda p, q: net(contexts(lm, p, q)), net, self.lr)

    @torch.no_grad()
    def prefix(self, lm: FrozenLM, passages: Sequence[Passage], questions: Sequence[Question], slots: int) -> Prefix:
        found: Prefix = self.learned(lm, slots)(contexts(lm, passages, questions))
        return found

    def message_bytes(self, lm: FrozenLM, slots: int) -> int | None:
        per_slot = lm.d_model if self.read == "embeddings" else lm.anatomy.kv_numbers
        return FP16_BYTES * slots * per_slot


def _embedding_rms(lm: FrozenLM) -> float:
    """Return the vocabulary's RMS: only a starting point, the gain is learned."""
    return float(lm.model.get_input_embeddings().weight.detach().float().pow(2).mean().sqrt())
