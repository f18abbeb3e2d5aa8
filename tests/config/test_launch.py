"""From a command line to run directories, ledger rows and an exit code that says what happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_program
import pytest
import yaml

from callbacks.run.stored import write_checkpoint
from suite.report.__main__ import main as report
from suite.runs.identity import config_hash
from suite.runs.launch import NOT_ACCEPTED, Run, plan, worse
from suite.runs.ledger import Ledger
from suite.runs.provenance import read_result
from suite.runs.stopping import sigterm_exits

Main = Callable[..., int]


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return Ledger(tmp_path / "runs" / "ledger.jsonl").rows()


def result(tmp_path: Path, row: int = -1) -> dict[str, Any]:
    return read_result(Path(rows(tmp_path)[row]["run_dir"]))


def test_a_run_leaves_config_result_and_row_and_nothing_else(main: Main, tmp_path: Path) -> None:
    assert main("experiment=large", "seed=2") == 0
    (row,) = rows(tmp_path)
    run = Path(row["run_dir"])
    assert run == tmp_path / "runs" / "large" / row["hash"]
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "result.json"]
    assert yaml.safe_load((run / "config.yaml").read_text()) == row["config"]
    assert row["config"]["source"]["root"] == "data/tiny"
    assert {k: v for k, v in row.items() if k not in ("config", "run_dir", "traceback")} == result(tmp_path)
    assert (row["program"], row["experiment"], row["seed"], row["status"]) == ("fake", "large", 2, "finished")
    assert row["val"] == {"accuracy": 0.52, "loss": None}
    assert row["peak_memory_mb"] > 1
    assert row["seconds"] >= 0
    assert set(row["versions"]) == {"torch", "lightning", "hydra", "numpy", "python", "suite"}
    assert row["started"] <= row["finished"]
    assert list((tmp_path / "cwd").iterdir()) == [], "the working directory stays clean"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cwd", "runs"]
    assert list((tmp_path / "runs" / ".hydra").iterdir()) == [], "Hydra writes no second copy of the tree"
    given = fake_program.calls[-1]
    assert (given.dir, given.hash, given.name, given.seed) == (run, row["hash"], "large", 2)
    assert given.resume_from is None
    assert given.is_main


def test_everything_is_seeded_before_the_task(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    drawn = []

    def task(cfg: Any, run: Any) -> dict[str, Any]:
        drawn.append(torch.rand(1).item())
        return {}

    monkeypatch.setattr(fake_program, "task", task)
    for _ in range(2):
        assert main("seed=5", "resume=never") == 0
    assert main("seed=6") == 0
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize(
    "wrong",
    [
        *("speed.tua=1", "experiment=tinny", "part.width=a", "speed.tau=2", "source.rows=???", "seed=[", "seed=0,1"),
        *("--epochs=5", "--config-dir"),
    ],
)
def test_wrong_input_is_one_screen_and_exit_code_2(
    main: Main, tmp_path: Path, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(wrong) == 2
    told = capsys.readouterr().err
    assert wrong.split("=")[0] in told
    assert "remedy" in told
    assert "Traceback" not in told
    assert len(told.splitlines()) < 20
    assert not (tmp_path / "runs").exists(), "nothing was started"


def test_one_wrong_job_stops_a_sweep_before_the_first(main: Main, tmp_path: Path) -> None:
    assert main("-m", "seed=0,1,-1") == 2
    assert main("-m", "part.width=1,2,many") == 2
    assert main("-m", "sead=0,1") == 2
    assert main("-m", "part=plain,wid") == 2
    assert main("-m", "speed.mode=fast,slow", "speed.tau=0,2") == 2, "tau is dead in one of the four"
    assert not (tmp_path / "runs").exists()


def test_a_sweep_ends_with_the_command_of_its_report(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "my runs"
    assert main("-m", "seed=0,1", f"paths.runs='{runs}'") == 0
    words = shlex.split(capsys.readouterr().out.partition("one page of them: python -m suite.report ")[2])
    assert report([*words[:3], "--table", "markdown"]) == 0
    assert "| tiny | 2 |" in capsys.readouterr().out


def test_a_finished_run_is_reused(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    first = result(tmp_path)
    told = capsys.readouterr().out
    assert "finished in" in told, "a single run ends with its numbers"
    assert "last epoch" in told
    assert "0.5000" in told
    assert "the same command shows this result again" in told
    assert main("loader.workers=3") == 0
    assert len(fake_program.calls) == 1
    assert len(rows(tmp_path)) == 1
    assert result(tmp_path) == first
    told = capsys.readouterr().out
    assert "finished before" in told
    assert "accuracy 0.5000" in told


def test_a_finished_run_whose_folder_is_gone_runs_again(main: Main, tmp_path: Path) -> None:
    assert main() == 0
    for file in (run := Path(rows(tmp_path)[0]["run_dir"])).iterdir():
        file.unlink()
    run.rmdir()
    assert main() == 0
    assert len(fake_program.calls) == len(rows(tmp_path)) == 2


def test_a_lost_ledger_row_is_written_again(main: Main, tmp_path: Path) -> None:
    assert main() == 0
    (before,) = rows(tmp_path)
    (tmp_path / "runs" / "ledger.jsonl").unlink()
    assert main() == 0
    assert len(fake_program.calls) == 1
    assert rows(tmp_path) == [before]


def test_auto_continues_from_the_checkpoint(main: Main, tmp_path: Path) -> None:
    assert main("speed.mode=boom") == 1
    assert main("speed.mode=boom") == 0
    first, second = fake_program.calls
    assert first.resume_from is None
    assert second.resume_from == second.dir / "checkpoints" / "last.ckpt"
    assert [r["status"] for r in rows(tmp_path)] == ["failed", "finished"]
    assert [r["resumed"] for r in rows(tmp_path)] == [False, True]


def test_never_moves_the_old_attempt_aside(main: Main, tmp_path: Path) -> None:
    for _ in range(3):
        assert main("speed.mode=boom", "resume=never") == 1
    run = Path(rows(tmp_path)[0]["run_dir"])
    assert sorted(p.name for p in run.parent.iterdir()) == [run.name, f"{run.name}.old-1", f"{run.name}.old-2"]
    assert all(c.resume_from is None for c in fake_program.calls)


def test_an_unfinished_attempt_without_checkpoint_is_moved_aside(main: Main, tmp_path: Path) -> None:
    assert main("speed.mode=boom") == 1
    run = Path(rows(tmp_path)[0]["run_dir"])
    (run / "checkpoints" / "last.ckpt").rename(run / "history.csv")
    assert main("speed.mode=boom") == 1
    assert (run.with_name(run.name + ".old-1") / "history.csv").exists(), "nothing is lost"
    assert not (run / "history.csv").exists(), "and nothing is appended to"


def test_must_needs_a_checkpoint(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("speed.mode=boom", "resume=must") == 2
    assert "last.ckpt" in capsys.readouterr().err
    assert fake_program.calls == []
    assert main("speed.mode=boom") == 1
    assert main("speed.mode=boom", "resume=must") == 0


def test_a_failed_job_gets_its_row_and_the_others_run(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("-m", "speed.mode=boom,user,fast", "method=[first,second]") == 1
    boom, user, fast = rows(tmp_path)
    assert [r["status"] for r in (boom, user, fast)] == ["failed", "failed", "finished"]
    assert boom["error"] == "ValueError: the model exploded"
    assert boom["traceback"].rstrip().endswith("ValueError: the model exploded")
    assert (boom["error_type"], user["error_type"]) == ("ValueError", "UserError")
    assert result(tmp_path, 0)["status"] == "failed"
    told = capsys.readouterr()
    assert "2 failed" in told.out
    assert "ValueError: the model exploded" in told.out
    assert "Traceback" in told.err

    assert main("-m", "speed.mode=boom,user,fast", "method=[first,second]", "--failed-only") == 2, (
        "only the user's left"
    )
    assert len(fake_program.calls) == 5
    assert main("-m", "--failed-only", "speed.mode=boom,fast", "method=[first,second]") == 0
    assert len(fake_program.calls) == 5


def test_failed_only_leaves_what_never_ran_and_takes_what_was_killed(main: Main, tmp_path: Path) -> None:
    assert main("--failed-only") == 0
    assert fake_program.calls == []
    assert main() == 0
    run = Path(rows(tmp_path)[0]["run_dir"])
    (tmp_path / "runs" / "ledger.jsonl").unlink()  # as after SIGKILL: no row, and the result still says running
    (run / "result.json").write_text(json.dumps({"status": "running"}))
    assert main("--failed-only") == 0
    assert len(fake_program.calls) == 2


def test_a_user_error_inside_a_job_has_no_traceback(main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("speed.mode=user") == 2
    told = capsys.readouterr().err
    assert "nothing there" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(("mode", "code"), [("term", 143), ("lightning", 143), ("int", 130)])
def test_a_stop_ends_the_sweep_and_is_recorded(
    main: Main, tmp_path: Path, mode: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main("-m", f"speed.mode={mode}", "seed=0,1") == code
    (row,) = rows(tmp_path)
    assert row["status"] == result(tmp_path)["status"] == "stopped"
    assert len(fake_program.calls) == 1, "the second job did not start"
    assert signal.getsignal(signal.SIGTERM) is before
    told = {"lightning": "before its first checkpoint"}.get(
        mode, "the same command continues from checkpoints/last.ckpt"
    )
    assert told in capsys.readouterr().out


def test_what_misses_its_acceptance_is_finished_and_ends_with_its_own_code(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = fake_program.task
    monkeypatch.setattr(fake_program, "task", lambda cfg, run: {**task(cfg, run), "accepted": cfg.seed != 1})
    assert main("seed=0") == 0
    assert main("seed=1") == NOT_ACCEPTED == 3
    assert result(tmp_path)["status"] == "finished"
    assert main("seed=1") == 3, "a result that is taken as it is says the same"
    assert main("-m", "seed=0,1,2") == 3
    told = capsys.readouterr().out
    assert "not accepted: job 2" in told
    assert "ETA 0:00:00" not in told, "nothing is known before a job of this process has ended"
    assert main("-m", "seed=4,5,6") == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("job ")]
    assert ["ETA" in line for line in told] == [False, True, True]
    assert [row["seed"] for row in rows(tmp_path)] == [0, 1, 2, 4, 5, 6], "the sweep goes on"
    assert main("-m", "seed=1,3", "speed.mode=boom,fast") == 1, "a failure is worse"
    assert [worse(0, 3), worse(3, 1), worse(2, 3), worse(1, 2)] == [3, 1, 2, 1]


def test_an_exit_inside_the_task_is_a_failure(main: Main, tmp_path: Path) -> None:
    assert main("-m", "speed.mode=exit,fast") == 1
    assert [r["status"] for r in rows(tmp_path)] == ["failed", "finished"]


def test_a_handler_in_charge_is_not_interrupted() -> None:
    """While Lightning or a callback handles SIGTERM and calls ours as well, the step in progress may end."""
    with sigterm_exits():
        ours = signal.getsignal(signal.SIGTERM)
        seen = []

        def theirs(signum: int, frame: Any) -> None:
            seen.append(signum)
            assert callable(ours)
            ours(signum, frame)

        signal.signal(signal.SIGTERM, theirs)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, ours)
        assert seen == [signal.SIGTERM]
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)


def test_two_processes_on_one_run(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (planned,) = plan("fake", [f"paths.runs={tmp_path / 'runs'}"], fake_program.CONF).jobs
    lock = tmp_path / "runs" / ".locks" / "tiny" / planned.hash
    hold = "fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    code = f"import fcntl, time; f = open({str(lock)!r}, 'w'); {hold}"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert main() == 2
        assert "in use by" in capsys.readouterr().err
        assert rows(tmp_path) == [], "the other process writes the row"
        assert main("-m", "seed=0,1") == 2, "the other job of the sweep runs"
        assert [r["seed"] for r in rows(tmp_path)] == [1]
        other.kill()
    assert main() == 0, "the lock died with its owner"


def test_child_ranks_write_nothing(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main("trainer.devices=2") == 0
    assert not fake_program.calls[-1].is_main
    assert rows(tmp_path) == []
    assert not (tmp_path / "runs" / "tiny").exists()
    assert main("speed.tua=1") == 2
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert main("trainer.devices=2") == 0
    assert fake_program.calls[-1].is_main


def test_what_cannot_work_in_a_sweep_is_refused(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("-m", "seed=0,1", "trainer.devices=2") == 2
    assert "launcher=slurm" in capsys.readouterr().err
    assert main("-m", "seed=0,1", "+trainer.devices=[0,1]") == 2
    assert main("-m", "loader.workers=0,1") == 2
    told = capsys.readouterr().err
    assert "jobs 1 and 2 of the sweep are the same run" in told
    assert "take loader.workers=1 out" in told
    assert main("-m", "seed=3,3") == 2
    assert "list every value once" in capsys.readouterr().err
    assert main("--config-name", "other") == 2
    assert main("trainer.devices=2") == 0, "a single run may"


def test_the_plan_is_what_hydra_runs(main: Main, tmp_path: Path) -> None:
    arguments = ["-m", "seed=range(0,1)", "method=[first,second],[second,first]", "part=glob(*)"]
    planned = plan("fake", [*arguments, f"paths.runs={tmp_path / 'runs'}"], fake_program.CONF, schema=fake_program.Tree)
    assert main(*arguments) == 0
    assert [c.hash for c in fake_program.calls] == [j.hash for j in planned.jobs]
    assert len({config_hash(j.cfg) for j in planned.jobs}) == 4


def test_showing_the_tree_runs_nothing(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--cfg", "job", "seed=3") == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 3
    assert main("--cfg", "job", "sed=3") == 2
    assert fake_program.calls == []
    assert not (tmp_path / "runs").exists()


def test_sigkill_frees_the_lock_and_the_next_start_continues(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process, killed without a word after a checkpoint; the next start of the same command continues."""

    def hang(cfg: Any, run: Run) -> dict[str, Any]:
        write_checkpoint({"state_dict": {}}, run.dir / "checkpoints" / "last.ckpt")
        time.sleep(60)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(fake_program, "task", hang)
        process = multiprocessing.get_context("fork").Process(target=main)
        process.start()
        checkpoint = None
        while checkpoint is None and process.is_alive():
            time.sleep(0.05)
            checkpoint = next((tmp_path / "runs").glob("tiny/*/checkpoints/last.ckpt"), None)
        process.kill()
        process.join()
    assert checkpoint is not None
    assert json.loads((checkpoint.parents[1] / "result.json").read_text())["status"] == "running"
    assert main("--failed-only") == 0
    assert fake_program.calls[-1].resume_from == checkpoint
    assert [r["status"] for r in rows(tmp_path)] == ["finished"]
