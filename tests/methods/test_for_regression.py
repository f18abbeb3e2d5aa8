"""Methods that know nothing of classes train a regression; all others are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from alternatives import OWN, RUN, target
from asgml_runs import compose, fit, prepare
from omegaconf import DictConfig

from asgml.train.method_support import check_methods
from callbacks.errors import UserError
from suite.runs.identity import run_dir

N, WIDTHS = 64, {"audio": 6, "visual": 10}
WORKS = [n for n in OWN if target(n).for_regression] + ["asgml_staleness", "asgml_frequency"]
REFUSED = [n for n in OWN if not target(n).for_regression]


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two vectors with the value of y in a direction of their own, some rows missing."""
    rng = np.random.default_rng(0)
    y = rng.uniform(-2, 2, N)
    arrays: dict[str, np.ndarray] = {"y": y, "split": np.repeat([0, 1, 2], [N - 32, 16, 16])}
    for i, m in enumerate(WIDTHS):
        arrays[f"x_{m}"] = y[:, None] * rng.normal(size=WIDTHS[m]) + rng.normal(size=(N, WIDTHS[m]))
        arrays[f"present_{m}"] = np.arange(N) % 7 != i
    path = tmp_path_factory.mktemp("regression") / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="session")
def teacher(npz: Path) -> Path:
    path = npz.with_suffix(".ckpt")
    torch.save({"state_dict": prepare(line(npz, npz.parent, "joint")).module.state_dict()}, path)
    return path


def line(npz: Path, runs: Path, name: str, *more: str) -> DictConfig:
    return compose(
        [
            "experiment=features", f"method={name}", f"data.path={npz}", "data.dominant=audio", f"paths.runs={runs}",
            "loader.batch_size=8", "trainer.max_epochs=2", "optimizer.lr=0.01", "trainer.accelerator=cpu",
            "trainer.enable_progress_bar=false", "callbacks.progress=null", "callbacks.diagnostics=null",
            "model.encoder.dim=8", *more,
        ]
    )  # fmt: skip


@pytest.mark.parametrize("name", WORKS)
def test_it_trains_a_regression(name: str, npz: Path, teacher: Path, tmp_path: Path) -> None:
    own = [o.format(teacher=f"'{teacher}'", second="") for o in RUN.get(name, [])]
    parts = fit(cfg := line(npz, tmp_path, name, *own))
    assert all(np.isfinite(v) for v in parts.module.metrics["val"].values())
    assert {"mae", "pearson", "acc7"} <= set(parts.module.metrics["val"])
    assert parts.module.metrics["train"]["train/mae"] > 0
    assert parts.module.predictions["val"].prob.shape == (16, 1)
    assert (run_dir(cfg) / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="method=uniform") as error:
        check_methods({name: target(name)()}, timed=False, regression=True)
    assert error.value.where == "method"
    assert error.value.found.startswith(f"{name} in a regression")


def test_a_run_is_refused_before_it_trains(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ogm_ge in a regression"):
        prepare(line(npz, tmp_path, "ogm_ge"))


def test_a_rhythm_that_reads_probes_is_refused_with_a_remedy_that_works(npz: Path, tmp_path: Path) -> None:
    for name, key in (("asgml_adaptive", "asgml.adaptive.signal"), ("boost", "asgml.boost")):
        with pytest.raises(UserError) as error:
            prepare(line(npz, tmp_path, name))
        assert error.value.where == key
        remedy = error.value.remedy.removeprefix("set ").split()
        prepare(line(npz, tmp_path, name, *remedy))


def test_a_survey_computes_in_the_precision_of_the_run(npz: Path, tmp_path: Path) -> None:
    more = ["trainer.precision=bf16-mixed", "methods.gblending.super_epoch=1"]
    parts = fit(line(npz, tmp_path, "gblending", *more))
    assert np.isfinite(parts.module.metrics["val"]["mae"])


def test_there_is_a_method_on_each_side() -> None:
    assert {"joint", "uniform", "unimodal", "mmpareto", "mgda", "pcgrad", "cagrad", "gradnorm", "gblending"} <= set(
        WORKS
    )
    assert {"ogm_ge", "opm", "agm", "cml", "pmr", "lfm", "mla", "mslr", "miles", "reconboost"} <= set(REFUSED)
