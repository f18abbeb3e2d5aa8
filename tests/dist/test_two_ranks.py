"""Two gloo ranks that share each batch follow one rank to float64 accuracy (specification A2.11)."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from asgml_runs import ROOT, compose, fit, overrides, rows, write_features
from states import unequal
from two_ranks import AGREE_ONLY, EVALUATED, FEEDBACK, MODES, feedback_results, results, write_data

from suite.runs.identity import run_dir

Results = dict[str, dict[str, Any]]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results, Results]:
    """Return the results of one rank, of rank 0 of two, and of rank 1 of two."""
    folder = tmp_path_factory.mktemp("ranks")
    write_data(folder)
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
           "NODE_RANK": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}  # fmt: skip
    script = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder)]
    with (folder / "log.txt").open("w+") as log:
        processes = [
            subprocess.Popen(script, cwd=ROOT, env={**env, "LOCAL_RANK": str(r)}, stdout=log, stderr=log)
            for r in range(2)
        ]
        one = {mode: results(mode, folder, 1) for mode in MODES if mode not in AGREE_ONLY}
        one[FEEDBACK] = feedback_results(folder, 1)
        codes = [p.wait(300) for p in processes]
        log.seek(0)
        assert codes == [0, 0], log.read()[-4000:]
    zero, other = (torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2))
    return one, zero, other


def close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("mode", [FEEDBACK, *(m for m in MODES if m not in AGREE_ONLY)])
def test_two_ranks_follow_one(runs: tuple[Results, Results, Results], mode: str) -> None:
    """Weights to float64 accuracy; what was done to whom at every step, and every count, exactly."""
    one, two = (r[mode] for r in runs[:2])
    close(one["weights"], two["weights"])
    assert one["timeline"] == two["timeline"]
    assert one["counters"] == two["counters"]
    names = [row[:3] for row in one["history"]]
    assert names == [row[:3] for row in two["history"]]
    for a, b in zip(one["history"][1:], two["history"][1:], strict=True):
        if not a[2].startswith("cosine/"):  # of rank 0's rows
            assert float(a[3]) == pytest.approx(float(b[3]), rel=1e-5, abs=1e-7), a


@pytest.mark.parametrize("mode", [FEEDBACK, *MODES])
def test_both_ranks_hold_the_same_weights(runs: tuple[Results, Results, Results], mode: str) -> None:
    zero, other = (r[mode] for r in runs[1:])
    assert not unequal(zero["weights"], other["weights"])
    assert not unequal(zero["counters"], other["counters"])


def test_both_stages_of_the_feedback_system_end_with_the_metrics_of_one_rank(runs: tuple[Results, ...]) -> None:
    """Its batches of three are two pictures and one; every loop, every split."""
    one, *ranks = (r[FEEDBACK] for r in runs)
    assert one["counters"]["steps"] == {"text": 4, "image": 6}
    for rank in ranks:
        assert rank["clip"] == one["clip"] == {"fingerprint": one["clip"]["fingerprint"], "moved": False}
        for split in ("val", "test"):
            assert "aupro/loop2" in rank["metrics"][split]
            assert rank["metrics"][split] == pytest.approx(one["metrics"][split], abs=1e-6)


def test_the_state_of_a_rank_has_the_buffered_features_of_all(runs: tuple[Results, Results, Results]) -> None:
    one, zero, other = (r["probe-buffer"]["buffer"] for r in runs)
    assert not unequal(zero, other)
    for m in one:
        torch.testing.assert_close(one[m], zero[m], rtol=1e-5, atol=1e-5)
    assert one["audio"].abs().sum() > 0


@pytest.mark.parametrize("mode", EVALUATED)
def test_evaluation_sees_every_sample_once(runs: tuple[Results, Results, Results], mode: str) -> None:
    one, zero, other = (r[mode] for r in runs)
    for split, size in (("val", 21), ("test", 19)):
        assert one[split]["index"].tolist() == list(range(size))
        for rank in (zero, other):
            assert not unequal(one[split], rank[split])
            close(one[f"{split}/prob"], rank[f"{split}/prob"])
            assert rank["metrics"][split] == pytest.approx(one["metrics"][split])
    for rank in (zero, other):
        assert rank["metrics"]["reliance"] == pytest.approx(one["metrics"]["reliance"])
        assert rank["metrics"]["reliance"]["rows/audio"] == one["metrics"]["reliance"]["rows/visual"] > 0


def test_the_test_sees_what_it_is_about(runs: tuple[Results, Results, Results]) -> None:
    """A batch without a modality, decisions that change, and skipped updates occur in these runs."""
    one = runs[0]
    assert any(row[2] == "missing" for row in one["sync"]["timeline"])
    assert any(one["adaptive-hybrid"]["counters"]["schedule_changes"].values())
    assert any(row[2] == "hold" for row in one["frequency-hard"]["timeline"])


@pytest.mark.slow
def test_two_devices_by_the_command_line(tmp_path: Path) -> None:
    """`trainer.devices=2`: one result, one ledger row, each table row once, and the weights of one device."""
    line = [*overrides(write_features(tmp_path / "data.npz"), tmp_path / "two"), "trainer.precision=64-true"]
    single = compose([*line, f"paths.runs={tmp_path / 'one'}"])
    command = [sys.executable, "-m", "asgml.run", *line, "trainer.devices=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    fit(single)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output[-4000:]
    cfg = compose([*line, "trainer.devices=2"])
    assert run_dir(cfg).name == run_dir(single).name
    ledger = [json.loads(row) for row in (tmp_path / "two" / "ledger.jsonl").read_text().splitlines()]
    assert [row["status"] for row in ledger] == ["finished"]
    assert (run_dir(cfg) / "report.html").exists()
    assert rows(cfg, "timeline.csv") == rows(single, "timeline.csv")
    with (run_dir(cfg) / "history.csv").open(newline="") as file:
        keys = [tuple(row[:3]) for row in csv.reader(file)]
    assert len(keys) == len(set(keys))
    a, b = (
        torch.load(run_dir(c) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for c in (cfg, single)
    )
    close(a, b)
