"""`python -m asgml.feedback.run`: both stages and the evaluation by one command, its control, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from feedback_runs import command, config, fit, overrides, prepare, weights
from states import unequal

from asgml.feedback.metrics.loops import NAMES
from callbacks.errors import UserError


@pytest.fixture(scope="module")
def done(feedback_run: Path) -> tuple[Path, Path, dict[str, Any]]:
    result = (feedback_run / "result.json").read_text(encoding="utf-8")
    return feedback_run.parents[2], feedback_run, json.loads(result)


def test_one_command_trains_both_stages_and_evaluates_every_loop_and_class(done: Any) -> None:
    _, folder, result = done
    assert result["status"] == "finished"
    for split in ("val", "test", "val_best", "test_best"):
        for name in NAMES:
            assert 0 <= result[split][name] <= 1
            assert result[split][name] == result[split][f"{name}/loop2"]
            assert f"{name}/loop1" in result[split]
    loops = result["per_class"]["test_best"]
    assert len(loops) == 2
    assert loops[1]["tiles"]["pixel_auroc"] == result["test_best"]["pixel_auroc"]
    assert loops[1]["wood"]["pixel_auroc"] is None  # trained on, not tested
    assert result["pictures"]["test"] == {"tiles": {"normal": 3, "damaged": 6}}
    assert set(result["pictures"]["train"]) == set(result["pictures"]["val"]) == {"wood", "weave"}
    assert result["best_score"]["val/pixel_auroc"] == pytest.approx(result["val_best"]["pixel_auroc"], abs=1e-6)
    assert result["best_epoch"] >= 2, "the projections of stage 2 have not been trained before"
    page = (folder / "report.html").read_text(encoding="utf-8")
    for told in ("Test results per loop", "Test results per class", "tiles_scratch_000", "image adapters"):
        assert told in page
    assert len(list((folder / "maps").glob("*.png"))) == 6


def test_a_second_start_takes_the_finished_run(done: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place, folder, _ = done
    before = (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    command(*overrides(place / "data", place / "runs"))
    assert (folder / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before


def test_the_control_without_feedback_is_feedback_of_weight_zero(done: Any, tmp_path: Path) -> None:
    place, *_ = done
    short = ["stages.text.epochs=1", "stages.image.epochs=1", "callbacks.audit=null"]
    zero = config(place / "data", tmp_path / "a", *short, "image_weight=0", "text_weight=0",
                  "stages.image.supervised=last")  # fmt: skip
    control = config(place / "data", tmp_path / "b", *short, "feedback=false")
    a, b = fit(zero), fit(control)
    assert a.module.trained == {"text_adapter", "image_adapter", "image_projection", "image_reads", "text_reads"}
    assert b.module.trained == {"text_adapter", "image_adapter", "image_projection"}
    adapters = [{k: v for k, v in weights(p).items() if "reads" not in k} for p in (a, b)]
    assert not unequal(*adapters)
    for name in NAMES:
        assert a.module.metrics["val"][name] == b.module.metrics["val"][name]
        assert a.module.metrics["val"][f"{name}/loop1"] == b.module.metrics["val"][f"{name}/loop1"]


def test_adapters_of_an_earlier_run_are_started_from_and_those_of_another_clip_refused(
    done: Any, tmp_path: Path
) -> None:
    place, folder, _ = done
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    both = [f"init.text_adapter={folder}", f"init.image_adapter={folder}"]
    taken = weights(prepare(config(place / "data", tmp_path, *both)))
    same = {name for name in best if torch.equal(best[name], taken[name])}
    assert {n for n in best if "reads" not in n} <= same
    with pytest.raises(UserError, match="another CLIP"):
        prepare(config(place / "data", tmp_path, both[0], "clip.seed=1"))
    layers = "layers={image_adapters:[2],text_adapters:[1],levels:[1,2],image_reads:1,text_reads:1}"
    with pytest.raises(UserError, match="is not in both"):
        prepare(config(place / "data", tmp_path, both[1], layers))
    with pytest.raises(UserError, match="finished run"):
        prepare(config(place / "data", tmp_path, "init.text_adapter=nowhere"))


def test_what_does_not_fit_the_clip_is_refused_before_training(done: Any, tmp_path: Path) -> None:
    place, *_ = done
    with pytest.raises(UserError, match="set size=16"):
        prepare(config(place / "data", tmp_path, "size=17"))
    with pytest.raises(UserError, match="set size=20"):  # below 16 nothing can be rendered
        prepare(config(place / "data", tmp_path, "clip.patch_size=5"))
    with pytest.raises(UserError, match=r"set stages\.text\.surgery=null"):
        prepare(config(place / "data", tmp_path, "stages.text.surgery=3"))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["loop=3"], "loops"),
        (["loops=0"], "1 to 100 loops"),
        (["feedback=false", "loops=5"], "feedback=false"),
        (["variant=full", "image_weight=0.1"], "variant=norm_matched"),
        (["variant=half"], "norm_matched"),
        (["optimizer.lr=0.1"], "stages.text.lr"),
        (["trainer.max_epochs=7"], "stages.image.epochs"),
        (["stages.text.epochs=0", "stages.text.lr=0.1"], "stages.text.epochs=0"),
        (["stages.text.epochs=0", "stages.image.epochs=0"], "set stages.image.epochs=20"),
        (["data.test_classes=[marble]"], "marble"),
        (["callbacks.gate=null"], "leave callbacks.gate=null out"),
        (["image_weight=-1"], "0 or more"),
        (["loops=0"], "set loops=3"),
        (["logit_scale=0"], "set logit_scale=100"),
        (["score.blur=8"], "set score.blur=7"),
        (["+layers.levels=[2]"], "list of a whole number from 1 to 1000"),
    ],
)
def test_wrong_keys_are_refused_before_anything_runs(
    line: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {override.partition("=")[0] for override in line}
    base = [o for o in overrides(tmp_path / "data", tmp_path / "runs") if o.partition("=")[0] not in keys]
    if "feedback=false" in line:
        base = [o for o in base if not o.startswith(("loops=", "heads=", "callbacks.share"))]
    for stage in ("text", "image"):
        if f"stages.{stage}.epochs=0" in line:
            base = [o for o in base if not o.startswith(f"stages.{stage}.")]
    with pytest.raises(SystemExit) as end:
        command(*base, *line)
    assert end.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "runs" / "surfaces").exists()
