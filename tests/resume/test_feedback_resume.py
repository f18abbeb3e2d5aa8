"""The feedback program stopped anywhere and resumed follows the uninterrupted run bit by bit, in both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from asgml_runs import rows
from feedback_runs import config, fit, weights
from kills import Kill, Killed
from states import unequal

from suite.runs.identity import run_dir

EVERY = "callbacks.checkpoint.every_n_steps=1"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    place = tmp_path_factory.mktemp("whole")
    cfg = config(place / "data", place / "runs", EVERY)
    return place, cfg, fit(cfg)


# stage text: steps 1-2 and 3-4; stage image: steps 5-7 and 8-10
# within a stage, and where one stage has just ended; the others take long
OFTEN = [(2, False), (4, True), (6, False), (9, True)]
RARE = [(s, g) for s in (2, 3, 5, 6, 8, 9) for g in (False, True) if (s, g) not in OFTEN]


@pytest.mark.parametrize(("step", "graceful"), [*OFTEN, *(pytest.param(*c, marks=pytest.mark.slow) for c in RARE)])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Any, step: int, graceful: bool) -> None:
    place, cfg, expected = whole
    broken = config(place / "data", tmp_path / "runs", EVERY)
    with pytest.raises(SystemExit if graceful else Killed):
        fit(broken, [Kill(step, graceful)])
    stopped = torch.load(run_dir(broken) / "checkpoints" / "last.ckpt", weights_only=True)
    done = step - 1 + graceful
    assert stopped["global_step"] == done
    assert stopped["feedback"]["stage"] == ("text" if done <= 4 else "image")
    resumed = fit(broken, resume=True)
    assert not unequal(weights(expected), weights(resumed))
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in (cfg, broken))
    for saved in (a, b):
        del saved["restart"]["history"]  # file sizes: step times have more or fewer digits
    assert not unequal(a, b)
    assert expected.module.metrics == resumed.module.metrics
    assert expected.pipeline.counters() == resumed.pipeline.counters()
    for table in ("history.csv", "events.csv"):
        assert rows(cfg, table) == rows(broken, table), table


def test_each_stage_moves_its_own_groups_at_its_own_rate(whole: Any) -> None:
    _, cfg, expected = whole
    assert expected.pipeline.counters()["steps"] == {"text": 4, "image": 6}
    rates = {}
    for step, _, name, value in rows(cfg, "history.csv")[1:]:
        if name in ("train/loss/text", "train/loss/image"):
            rates.setdefault(name, []).append(int(step))
        assert value != "nan", name
    assert rates == {"train/loss/text": [1, 2, 3, 4], "train/loss/image": [5, 6, 7, 8, 9, 10]}
    groups = {g["name"]: g["lr"] for g in expected.trainer.optimizers[0].param_groups}
    stages = cfg.stages
    assert groups["text_adapter"] == stages.text.lr
    stage_2 = {groups[g] for g in ("image_adapter", "image_projection", "image_reads", "text_reads")}
    assert stage_2 == {stages.image.lr / 2}


def test_no_weight_of_the_clip_is_in_a_checkpoint_and_its_fingerprint_is(whole: Any) -> None:
    _, cfg, expected = whole
    clip = expected.module.model.clip
    for name in ("last", "best"):
        saved = torch.load(run_dir(cfg) / "checkpoints" / f"{name}.ckpt", weights_only=True)
        trained = {f"model.{n}" for n, _ in expected.module.model.named_parameters()}
        assert set(saved["state_dict"]) == trained
        assert saved["feedback"]["clip"] == clip.fingerprint() == expected.module.fingerprint
    sizes = {p.shape for p in clip.model.parameters() if p.dim() > 1}
    assert clip.model.text_model.embeddings.token_embedding.weight.shape in sizes
    assert not any(p.requires_grad for p in clip.model.parameters())
