"""Reconstruction: complete targets for every reader, gradients where objectives say they go, slots that add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lw_runs import config, prepare
from torch import Tensor

from callbacks.errors import UserError
from latentwire.encoders.slots import LatentLayout
from latentwire.injectors.fitting import pooled_kv
from latentwire.objectives.base import ReaderShape
from latentwire.objectives.reconstruction import EmbeddingReconstruction
from latentwire.train.curriculum import Constant, slots_for

WIDTH = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lw")


def carried(tokens: Tensor, slots: int, chunk: int) -> Tensor:
    """Slots that hold the embeddings of their chunk's tokens, one after the other; (T, d) -> (slots, chunk * d)."""
    T, rows = len(tokens), []
    for j in range(slots):
        mine = tokens[j * T // slots : max((j + 1) * T // slots, j * T // slots + 1)]
        rows.append(torch.cat([mine.flatten(), torch.zeros((chunk - len(mine)) * tokens.shape[1])]))
    return torch.stack(rows)


@pytest.mark.parametrize("reader", ["a", "b", "shared_only"])
@pytest.mark.parametrize("T", [105, 98, 7])
def test_targets_are_complete_for_every_reader_whatever_slots_are_its_own(reader: str, T: int) -> None:
    layout = LatentLayout(21, {"a": 5, "b": 2, "shared_only": 0})
    counts = layout.counts(reader)
    chunks = tuple(-(-T // n) if n else 0 for n in counts)
    width = max(chunks) * WIDTH
    objective = EmbeddingReconstruction(Constant())
    objective.prepare({reader: ReaderShape(WIDTH, width, False, chunks)}, d_z=width)
    tokens = torch.randn(T, WIDTH)
    heads: Any = objective.heads[reader]
    for told, (n, chunk) in enumerate(zip(counts, chunks, strict=True)):
        if n == 0:
            continue
        z = torch.randn(1, layout.slots, width)  # the other slices say something else, which their maps do not pass on
        start = layout.indices(reader)[0 if told == 0 else counts[0]]
        z[0, start : start + n, : chunk * WIDTH] = carried(tokens, n, chunk)
        with torch.no_grad():
            for p in objective.parameters():
                p.zero_()
            heads[told][0].weight.copy_(torch.eye(width))
            heads[told][1].weight.copy_(torch.eye(chunk * WIDTH, width))
        predicted = objective.predict(layout.read(z, reader), counts, torch.tensor([T]), reader)
        assert torch.equal(predicted[0], tokens), f"slice {told}"


def test_what_is_read_as_embeddings_is_itself_the_prediction_at_the_start() -> None:
    objective = EmbeddingReconstruction(Constant())
    objective.prepare({"lm": ReaderShape(16, 16, True, (2, 3))}, d_z=8)
    y = torch.randn(1, 5, 16)
    predicted = objective.predict(y, [3, 2], torch.tensor([6]), "lm")[0]
    assert torch.nn.functional.cosine_similarity(predicted, y[0, :3].repeat_interleave(2, 0)).min() > 0.97


def test_slots_of_every_stage_count_private_ones_and_chunks_hold_the_longest_text(folder: Path) -> None:
    cfg = config(folder, "objective=[embedding_reconstruction,answer_ce]", "curriculum=ratio_16", "wire.slots=null",
                 "wire.ratio=32", "wire.private={tiny_llama:2,tiny_qwen2:0}", lms=("llama", "qwen2"))  # fmt: skip
    parts = prepare(cfg)
    module, tokens = parts.module, parts.inputs.tokens
    for number, ratio in enumerate((4, 8, 32)):
        module.curriculum.number = number
        assert module.layout().slots == slots_for(tokens, ratio)
        assert module.layout().private == {"tiny_llama": 2, "tiny_qwen2": 0}
    objective: Any = module.objectives["embedding_reconstruction"]
    for name, lm in parts.inputs.lms.items():
        longest = max(len(lm.style.encode(text)) for text in parts.inputs.texts)
        fewest = slots_for(tokens, 32) - 2
        assert objective.shapes[name].chunks == (-(-longest // fewest), -(-longest // 2) if name == "tiny_llama" else 0)


def test_a_refit_brings_keys_and_values_back_to_those_of_the_text(folder: Path) -> None:
    module = prepare(config(folder, "wire.slots=8", "wire.private={tiny_llama:3}", "wire.measured_texts=12")).module
    wire, texts = module.wire, module.texts
    injector: Any = wire.injectors["tiny_llama"]

    def miss() -> float:
        values = wire.eval().encode(texts)
        kv = wire.prefix(values, "tiny_llama").kv
        assert kv is not None
        said = torch.stack([v for _, v in kv]).transpose(2, 3).flatten(3)  # (layers, texts, slots, heads * head_dim)
        wanted = [pooled_kv(injector.lm, injector.placement, t, (5, 3))[..., said.shape[-1] :] for t in texts]
        return float((said.transpose(0, 1) - torch.stack(wanted)).pow(2).mean().detach())

    start = miss()
    with torch.no_grad():
        for p in [*wire.encoder.parameters(), *injector.adapter.parameters()]:
            p.add_(0.3 * torch.randn_like(p))
    moved = miss()
    wire.refit(texts, wire.layout)
    assert miss() < 0.7 * moved
    assert start < 0.7 * moved


def test_private_slots_leave_room_for_whom_they_are_not() -> None:
    with pytest.raises(UserError, match=r"4 private slots of 3 in all"):
        LatentLayout(6, {"a": 4}).with_slots(3)
    with pytest.raises(UserError, match="at least 5"):
        LatentLayout(6, {"a": 4, "b": 0}).with_slots(4)  # nothing would be left for b
