"""Two gloo ranks that share each batch train the wire that one rank trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from asgml_runs import ROOT
from test_two_ranks import free_port
from two_ranks_of_a_wire import MODES, results, write_models

Results = dict[str, dict[str, Any]]

pytestmark = pytest.mark.slow


def of_two_ranks(script: str, folder: Path) -> tuple[Any, Any]:
    """Run a script of this folder on two ranks, and return what each has saved."""
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2",
           "NODE_RANK": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}  # fmt: skip
    command = [sys.executable, str(Path(__file__).with_name(script)), str(folder)]
    with (folder / "log.txt").open("w+") as log:
        processes = [
            subprocess.Popen(command, cwd=ROOT, env={**env, "LOCAL_RANK": str(r), "RANK": str(r)}, stdout=log, stderr=log)
            for r in range(2)
        ]
        try:
            codes = [p.wait(560) for p in processes]
        finally:
            for p in processes:
                p.kill()
        log.seek(0)
        assert codes == [0, 0], log.read()[-4000:]
    zero, other = (torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2))
    return zero, other


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results, Results]:
    """The results of one rank, of rank 0 of two, and of rank 1 of two."""
    folder = tmp_path_factory.mktemp("ranks")
    write_models(folder)
    zero, other = of_two_ranks("two_ranks_of_a_wire.py", folder)
    return {mode: results(mode, folder, 1) for mode in MODES}, zero, other


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_follow_one(runs: tuple[Results, Results, Results], mode: str) -> None:
    one, two, other = (r[mode] for r in runs)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(two["weights"][name], weight, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(two["weights"][name], other["weights"][name]), name
    assert [row[:3] for row in one["history"]] == [row[:3] for row in two["history"]]
    for a, b in zip(one["history"][1:], two["history"][1:], strict=True):
        assert float(a[3]) == pytest.approx(float(b[3]), rel=1e-3, abs=1e-5), a


@pytest.mark.parametrize("mode", MODES)
def test_validation_is_of_all_passages_on_every_rank(runs: tuple[Results, Results, Results], mode: str) -> None:
    one, two, other = (r[mode] for r in runs)
    assert len(one["outputs"]) == 14, "seven passages, two questions each"
    assert one["outputs"] == two["outputs"] == other["outputs"]
    assert two["val"] == other["val"]
    assert two["val"] == pytest.approx(one["val"], rel=1e-5)


def test_a_sharded_reader_gives_the_same_bits(tmp_path: Path) -> None:
    """Scores, gradients of latents, answers and fingerprint, with and without gradient checkpointing."""
    for rank in of_two_ranks("two_ranks_of_a_shard.py", tmp_path):
        for family, found in rank.items():
            assert found["held"] == pytest.approx(0.5), family
            assert found["fingerprints"][0] == found["fingerprints"][1], family
            assert found["placed"] == "cpu", family
            for a, b in zip(found["whole"], found["sharded"], strict=True):
                assert a["answers"] == b["answers"], family
                for x, y in zip(a["tensors"], b["tensors"], strict=True):
                    assert torch.equal(x, y), family
