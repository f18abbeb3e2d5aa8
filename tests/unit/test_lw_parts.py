"""A batch that is read in parts makes the step of the undivided one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lw_runs import config, fit, prepare, rows
from torch import Tensor

from callbacks.errors import UserError
from latentwire.train import parts as pieces

# six objectives, two readers, LoRA on one, dropout in the adapter, a codec that moves its codebooks; in a second step
# the last bits would send some latents to another entry
EVERYTHING = [
    "objective=[answer_ce,answer_kd,mismatch_hinge,embedding_reconstruction,text_reconstruction,continuation]",
    "+adaptation.tiny_llama={_target_:latentwire.lm.LoRA,rank:2}",
    "codec=rvq", "codec.size=16", "loader.steps_per_epoch=1", "trainer.max_epochs=1", "teacher.top_k=4",
    "optimizer.eps=0.001",
]  # fmt: skip


def weights(folder: Path, *more: str, **given: object) -> tuple[dict[str, Tensor], list[list[str]]]:
    cfg = config(folder, *more, runs=f"runs{more[-1][-1]}", **given)  # type: ignore[arg-type]
    module = fit(cfg).module
    return {n: p.detach() for n, p in [*module.named_parameters(), *module.named_buffers()]}, rows(cfg)


def same(a: tuple[dict[str, Tensor], list[list[str]]], b: tuple[dict[str, Tensor], list[list[str]]]) -> None:
    for name, x in a[0].items():
        torch.testing.assert_close(b[0][name], x, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    for one, other in zip(a[1][1:], b[1][1:], strict=True):
        assert one[:3] == other[:3]
        assert float(one[3]) == pytest.approx(float(other[3]), rel=1e-4, abs=1e-5), one


def test_four_parts_of_eight_are_one_batch_of_thirty_two(tmp_path: Path) -> None:
    more = ["loader.batch_size=32", "loader.steps_per_epoch=2", "trainer.max_epochs=1", "optimizer.eps=0.001"]
    same(*(weights(tmp_path, *more, f"loader.accumulate={n}") for n in (1, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("injector", ["deep_prefix", "soft_prefix", "latent_adapters", "coprocessor", "sized_prefix",
                                      "combined"])  # fmt: skip
def test_every_objective_and_uneven_parts(tmp_path: Path, injector: str) -> None:
    more = [*EVERYTHING, f"injector={injector}", "loader.batch_size=5"]
    same(*(weights(tmp_path, *more, f"loader.accumulate={n}", lms=("llama", "qwen2")) for n in (1, 2)))


def test_parts_hold_every_row_once_and_read_texts_of_the_whole_batch(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "objective=[answer_ce,mismatch_hinge,continuation]", "loader.batch_size=5"))
    batch = parts.train.dataset.__getitems__([(i, 0) for i in range(5)])  # type: ignore[attr-defined]
    for count in (1, 2, 5, 9):
        found = pieces.parts(batch, count)
        assert len(found) == min(count, 5)
        assert [pair for part in found for pair in part.asked] == batch.asked
        for kind, whole in batch.rows["tiny_llama"].items():
            assert [s for part in found for s in part.rows["tiny_llama"][kind].source] == whole.source
            assert [a for part in found for a in part.rows["tiny_llama"][kind].answer] == whole.answer


def test_weights_of_all_parts_add_up(tmp_path: Path) -> None:
    parts = prepare(config(tmp_path, "loader.batch_size=5"))
    batch = parts.train.dataset.__getitems__([(i, 0) for i in range(5)])  # type: ignore[attr-defined]
    share = pieces.Weights(batch, 5, torch.device("cpu"))
    sizes = [pieces.sizes(part.rows, batch) for part in pieces.parts(batch, 3)]
    assert sum(float(share.of("answer", "tiny_llama", s)) for s in sizes) == pytest.approx(1.0)
    assert share.of("answer", "tiny_llama", pieces.sizes(batch.rows, batch)) == 1.0
    assert share.texts == 1.0


def test_more_parts_than_contexts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"loader.accumulate.*[\s\S]*1 to 3"):
        prepare(config(tmp_path, "loader.accumulate=4"))
