"""The asgml program stopped anywhere and resumed follows the uninterrupted run bit by bit, in every mode."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from asgml_runs import ROOT, compose, config, fit, overrides, rows, weights, write_features
from kills import Kill, Killed
from states import unequal

from asgml.run import Tree, dead, train
from callbacks.errors import UserError
from suite.runs.identity import run_dir
from suite.runs.launch import launch

ADAPTIVE = [
    "method=asgml_adaptive",
    "asgml.adaptive.tau_base=1",
    "asgml.adaptive.tau_max=3",
    "asgml.adaptive.kappa=4",
    "asgml.adaptive.update_every=2",
    "asgml.adaptive.window=3",
    "asgml.adaptive.threshold_delta=0.0",
    "asgml.adaptive.gap_full=0.2",
]
FOUND = ["data.dominant=null", "callbacks.probe.holdout_size=20", "+callbacks.probe.ema=0.5"]  # who leads is found
MODES: dict[str, list[str]] = {
    "sync": ["method=uniform"],
    **{f"frequency-{m}": ["method=asgml_frequency", "asgml.k=3", f"asgml.masking={m}"]
       for m in ("soft", "hard", "fusion_preserving", "accumulate")},
    "frequency-random": ["method=asgml_frequency", "asgml.masking=accumulate", "asgml.control=random_skip"],
    **{f"staleness-{c}": [f"asgml.compensation={c}"] for c in ("none", "inverse", "delay_compensated")},
    "staleness-bfloat16-fresh": ["asgml.buffer_dtype=bfloat16", "asgml.warmup=fresh", "asgml.delayed=all"],
    "staleness-found": [*FOUND, "method=asgml_staleness"],
    "frequency-found": [*FOUND, "method=asgml_frequency", "asgml.masking=accumulate"],
    "adaptive-staleness": ADAPTIVE,
    "adaptive-frequency": [*ADAPTIVE, "asgml.adaptive.kind=frequency", "asgml.masking=accumulate"],
    "adaptive-theory": ["method=asgml_adaptive", "asgml.adaptive.kind=frequency", "asgml.adaptive.signal=theory",
                        "asgml.adaptive.tau_max=3", "asgml.adaptive.kappa=4", "asgml.adaptive.update_every=2",
                        "asgml.adaptive.window=8", "asgml.masking=accumulate"],
    "boost": ["method=[asgml_staleness,boost]", "asgml.boost.threshold_delta=0.0", "asgml.boost.through=gradient"],
    "ogm_ge": ["method=ogm_ge", "methods.ogm_ge.kernels=all"],
    "clipped": ["callbacks.clip.max_norm=0.3", "+callbacks.clip.groups.audio=0.1", "asgml.delayed=all"],
    "probe-half": ["method=boost", "callbacks.probe.holdout=half", "+callbacks.probe.hidden=4"],
    "probe-buffer": ["method=boost", "callbacks.probe.holdout_size=6", "asgml.boost.threshold_delta=0.0"],
    "probe-validation": ["method=boost", "callbacks.probe.holdout=validation", "callbacks.probe.budget=0.2"],
    "ema": ["averaging=ema", "callbacks.averaging.decay=0.9"],
    "swa": ["averaging=swa", "callbacks.averaging.start=6", "callbacks.averaging.every=3",
            "callbacks.averaging.cycle=2.0", "callbacks.averaging.swa_lr=0.02"],
    "adamw-cosine": ["optimizer=adamw", "optimizer.lr=0.01", "lr_schedule=cosine", "lr_schedule.warmup_steps=4"],
    "fp16": ["trainer.precision=16-mixed"],
    "cross_attention": ["method=uniform", "fusion=cross_attention", "model.fusion.variant=learnable",
                        "callbacks=[default,share]", "callbacks.share.every=3"],
}  # fmt: skip

# What makes a restart hard: dropout, running statistics, missing modalities.
HARD = [
    "model.encoder.norm=batch",
    "+model.encoders.visual={_target_:asgml.model.MLP,_partial_:true,dim:8,hidden:16,dropout:0.3,norm:batch}",
]


SKIP = "+callbacks.gate.bad_loss=skip"


class Poison(L.Callback):
    """NaN in the input of two batches, so that the gate vetoes them."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) in ((0, 4), (1, 2)):
            batch["x"]["visual"][:1] = torch.nan


@pytest.mark.parametrize("mode", MODES)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asgml.rhythm.schedule.Z95", 0.2)  # 20 held-out rows show no gap at 95 %
    data = write_features(tmp_path / "data.npz", missing=0.2)
    every = 5 if mode != "probe-buffer" else 2
    settings = [*MODES[mode], *HARD, f"callbacks.checkpoint.every_n_steps={every}", SKIP]
    whole = config(data, tmp_path / "whole", *settings)
    expected = fit(whole, [Poison()])
    assert expected.pipeline.vetoed == 2 or mode == "fp16"
    assert expected.pipeline.counters().get("dominant", "audio") == "audio"

    draw = random.Random(mode)
    broken = config(data, tmp_path / "broken", *settings)
    for graceful, step in ((False, draw.randrange(6, 10)), (True, draw.randrange(10, 20))):
        with pytest.raises(SystemExit if graceful else Killed):
            fit(broken, [Poison(), Kill(step, graceful)], resume=graceful)
    resumed = fit(broken, [Poison()], resume=True)

    assert not unequal(weights(expected), weights(resumed))
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in (whole, broken))
    for saved in (a, b):
        del saved["restart"]["history"]  # file sizes: step times have more or fewer digits
    assert not unequal(a, b)
    assert expected.module.metrics == resumed.module.metrics
    assert expected.pipeline.counters() == resumed.pipeline.counters()
    for table in ("history.csv", "timeline.csv", "events.csv"):
        assert rows(whole, table) == rows(broken, table), table


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_after_a_fit_with_averaging_every_evaluation_uses_the_weights_at_hand(tmp_path: Path, kind: str) -> None:
    """Also those loaded from `best.ckpt`, and also in a run that died between training and testing."""
    more = [*MODES[kind], "trainer.max_epochs=4", "model.encoder.norm=batch"]
    cfg = config(write_features(tmp_path / "data.npz"), tmp_path / "runs", *more)
    first = fit(cfg)
    final = weights(first)
    best = torch.load(run_dir(cfg) / "checkpoints" / "best.ckpt", weights_only=True)
    epoch = best["callbacks"]["StepCheckpoint"]["best_epoch"]
    losses = [float(v) for _, e, name, v in rows(cfg, "history.csv")[1:] if (e, name) == (str(epoch), "val/loss")]
    for parts in (first, fit(cfg, resume=True)):
        assert not unequal(final, weights(parts))
        parts.module.load_state_dict(best["state_dict"])
        parts.trainer.validate(parts.module, datamodule=parts.data, verbose=False)
        assert [parts.module.metrics["val"]["loss"]] == losses


# -- through the command line ------------------------------------------------------------------------------------


def command(data: Path, runs: Path) -> list[str]:
    """240 steps, so that a signal finds the run at work."""
    more = ["trainer.max_epochs=24", "trainer.check_val_every_n_epoch=12", "callbacks.checkpoint.every_n_steps=25",
            "callbacks.checkpoint.every_n_epochs=24", *HARD]  # fmt: skip
    return [*overrides(data, runs), *more]


def wait_for(checkpoint: Path, process: subprocess.Popen, newer_than: int = 0) -> None:
    """Returns when a checkpoint has been written since `newer_than` (ns)."""
    deadline = time.monotonic() + 60
    while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > newer_than):
        assert process.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_then_sigkill_then_finished_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """SIGTERM exits 143 and the ledger says so; SIGKILL after a checkpoint loses nothing that was saved."""
    data = write_features(tmp_path / "data.npz", missing=0.2)
    whole = compose(command(data, tmp_path / "whole"))
    fit(whole)
    broken = compose(command(data, tmp_path / "broken"))
    checkpoint = run_dir(broken) / "checkpoints" / "last.ckpt"

    def start() -> subprocess.Popen:
        line = [sys.executable, "-m", "asgml.run", *command(data, tmp_path / "broken")]
        return subprocess.Popen(line, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)

    def newest() -> dict[str, Any]:
        return json.loads((tmp_path / "broken" / "ledger.jsonl").read_text().splitlines()[-1])

    with (tmp_path / "log.txt").open("w") as log:
        process = start()
        wait_for(checkpoint, process)
        time.sleep(random.Random(0).random() * 0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert newest()["status"] == "stopped"

        before = checkpoint.stat().st_mtime_ns
        process = start()
        wait_for(checkpoint, process, before)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL

    launch("asgml", train, dead, schema=Tree, argv=command(data, tmp_path / "broken"))  # the same, in this process
    assert newest()["status"] == "finished"
    assert newest()["resumed"]
    a, b = (torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True) for c in (whole, broken))
    assert not unequal([a["state_dict"], a["optimizer_states"]], [b["state_dict"], b["optimizer_states"]])
    for table in ("history.csv", "timeline.csv"):
        assert rows(whole, table) == rows(broken, table), table


def test_the_program_refuses_another_configuration_with_exit_code_2(tmp_path: Path, capsys: Any) -> None:
    data = write_features(tmp_path / "data.npz")
    line = overrides(data, tmp_path / "runs")
    fit(compose(line))
    other = compose([*line, "asgml.tau=3"])
    shutil.copytree(run_dir(compose(line)), run_dir(other))
    with pytest.raises(SystemExit) as stop:
        launch("asgml", train, dead, schema=Tree, argv=[*line, "asgml.tau=3"])
    assert stop.value.code == UserError.EXIT_CODE
    assert "asgml.tau: 2 there, 3 here" in capsys.readouterr().err
    assert not (run_dir(other) / "result.json").exists(), "refused before anything is written"
