"""UMT against a slow transcription (Du et al., ICML 2023), and where its teachers come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from asgml_runs import config, fit, overrides
from methods_toys import mean, observe
from toys import SGD, ToyEncoder

from asgml.methods.umt import UMT
from asgml.run import Tree, dead, train
from callbacks.errors import UserError
from suite.runs.identity import run_dir
from suite.runs.launch import launch


def teachers(names: list[str]) -> dict[str, torch.nn.Module]:
    out = {}
    for i, m in enumerate(names):
        torch.manual_seed(i)
        out[m] = ToyEncoder((5,)).double().eval().requires_grad_(False)
    return out


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_loss_is_the_transcribed_one_and_reaches_the_encoders_only(modalities):
    taught = teachers(["audio", "visual", "text"][:modalities])

    def more(module):
        step = module.step
        return float(method.loss(step)["teacher"].detach()), {m: step.teacher(m).tolist() for m in step.modalities}

    method = UMT(weight=7.0)
    run, capture = observe(
        {"umt": method}, modalities, steps=5, more=more, optimizer=SGD, module_options={"teachers": taught}
    )
    for seen in capture.seen:
        found, goals = seen.more
        expected = 0.0
        for m, f in seen.features.items():
            if seen.rows[m]:
                gaps = [mean([(a - b) ** 2 for a, b in zip(f[i], goals[m][i], strict=True)]) for i in seen.rows[m]]
                expected += 7.0 * mean(gaps)
        assert found == pytest.approx(expected, rel=1e-6)
    assert run.final.keys() == run.module.state_dict().keys()
    assert not any("teacher" in k for k in run.final)
    for m, again in teachers(list(taught)).items():
        for k, v in again.state_dict().items():
            assert torch.equal(v, taught[m].state_dict()[k])


def test_auto_finds_the_unimodal_runs_of_the_same_configuration(features: dict[int, Path], tmp_path: Path) -> None:
    """Without them it says which command is missing."""
    umt = config(features[2], tmp_path, "method=umt", "callbacks.probe=null")
    with pytest.raises(UserError, match=r"method=unimodal methods\.unimodal\.modality=audio"):
        fit(umt)
    for m in ("audio", "visual"):
        argv = [*overrides(features[2], tmp_path), "callbacks.probe=null", f"method=unimodal_{m}"]
        launch("asgml", train, dead, schema=Tree, argv=argv)
    parts = fit(umt)
    for m, teacher in parts.module.forward_pass.teachers.items():
        run = run_dir(config(features[2], tmp_path, "callbacks.probe=null", f"method=unimodal_{m}"))
        saved = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for k, v in teacher.encoder.state_dict().items():
            assert torch.equal(v, saved[f"net.encoders.{m}.{k}"])
        assert not teacher.training


def test_another_architecture_is_refused(features: dict[int, Path], tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"net.encoders.audio.weight": torch.zeros(3)}}, path)
    with pytest.raises(UserError, match="another encoder"):
        fit(config(features[2], tmp_path, "method=umt", f"methods.umt.checkpoints={{audio:'{path}'}}"))
    with pytest.raises(UserError, match="existing checkpoint"):
        fit(config(features[2], tmp_path, "method=umt", f"methods.umt.checkpoints={{audio:'{path}.not'}}"))
