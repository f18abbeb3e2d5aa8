"""Jobs of a sweep in other processes: their order, how they end, what the sweep says. The workers are stand-ins."""

from __future__ import annotations

import os
import pickletools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_program
import pytest

from callbacks.errors import UserError
from suite.launchers import Processes, processes
from suite.launchers.devices import refuse_missing_peers
from suite.launchers.submitted import run_jobs
from suite.launchers.sweep import Sweep, finished_before, program_of
from suite.launchers.work import read_outcome, read_work, write_outcome
from suite.runs.launch import plan
from suite.runs.lock import held, holder
from suite.runs.outcome import Outcome

Main = Callable[..., int]

# What a worker says without doing anything: the seed of a job says how it ends.
STAND_IN = """
import json, os, signal, sys, time
replies = int(sys.argv[-1])
def stop(*_):
    say("stopped", exit_code=143)
    sys.exit(143)
def say(status, **more):
    with open(place.replace(".job.", ".ended."), "w") as file:
        json.dump({"hash": "", "dir": job["dir"], "status": status, "result": {}, **more}, file)
signal.signal(signal.SIGTERM, stop)
for line in sys.stdin:
    place = line.strip()
    job = json.load(open(place))
    seed = int(job["tree"].partition("seed: ")[2].split()[0])
    with open(sys.argv[1], "a") as log:
        print(os.getpid(), seed, file=log)
    if seed == 66:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed in (10, 20):
        time.sleep(0.2 if seed == 10 else 60)
    if seed == 7 and not os.path.exists(sys.argv[1] + ".10"):
        say("failed", error="no teacher", user_error=True)
    else:
        say("finished")
    if seed == 10:
        open(sys.argv[1] + ".10", "w").close()
    os.write(replies, b"done\\n")
"""


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Sweep, int, list[str]]]]:
    """Runs a sweep over seeds with stand-ins, and returns it with its code and what each worker was given."""
    log = tmp_path / "done"
    monkeypatch.setattr(processes, "WORKER", [sys.executable, "-S", "-c", STAND_IN, str(log)])

    def run(seeds: str, jobs: int = 2) -> tuple[Sweep, int, list[str]]:
        line = ["-m", f"seed={seeds}", f"paths.runs={tmp_path / 'runs'}", "launcher=processes"]
        planned = plan("fake", line, fake_program.CONF, schema=fake_program.Tree)
        sweep = Sweep("fake_program", planned.jobs, list(range(len(planned.jobs))))
        code = Processes(jobs).run(sweep)
        return sweep, code, log.read_text().splitlines()

    return run


def test_every_job_is_done_once_and_a_worker_takes_the_next(swept: Callable[..., tuple[Sweep, int, list[str]]]) -> None:
    sweep, code, done = swept("0,1,2,3,4,5")
    assert code == 0
    assert [sweep.outcomes[n].status for n in range(6)] == ["finished"] * 6
    assert sorted(int(line.split()[1]) for line in done) == list(range(6))
    assert len({line.split()[0] for line in done}) == 2, "two processes for six jobs"
    assert not sweep.folder.exists(), "nothing is left of jobs that went well"


def test_what_needs_another_job_is_tried_again_after_those_before_it(
    swept: Callable[..., tuple[Sweep, int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Seed 7 finds what seed 10 leaves, which stands before it and takes longer: as a pupil and its teacher."""
    sweep, _, done = swept("10,7,3")
    assert [sweep.outcomes[n].status for n in range(3)] == ["finished"] * 3
    assert [int(line.split()[1]) for line in done].count(7) == 2
    assert "job 2/3 seed=7 waits for the jobs before it" in capsys.readouterr().out


def test_a_worker_that_dies_takes_one_job_with_it(swept: Callable[..., tuple[Sweep, int, list[str]]]) -> None:
    sweep, code, _ = swept("66,1,2,3", jobs=1)
    assert code == 0
    assert [sweep.outcomes[n].status for n in range(4)] == ["failed", "finished", "finished", "finished"]
    assert "ended by SIGKILL" in sweep.outcomes[0].error
    assert sweep.files[0].is_file(), "what failed can be looked at"
    assert not sweep.files[1].exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_jobs_under_way_and_begins_no_other(
    swept: Callable[..., tuple[Sweep, int, list[str]]], number: signal.Signals, code: int, tmp_path: Path
) -> None:
    def send() -> None:
        while not (tmp_path / "done").exists() or "20" not in (tmp_path / "done").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    sweep, found, done = swept("20,1,2", jobs=1)
    assert found == code
    assert {n: o.status for n, o in sweep.outcomes.items()} == {0: "stopped"}
    assert len(done) == 1


def test_jobs_of_one_run_go_to_one_worker(tmp_path: Path) -> None:
    planned = plan("fake", ["-m", "seed=0,1", f"paths.runs={tmp_path}"], fake_program.CONF)
    twins = [*planned.jobs, planned.jobs[0]]
    assert Sweep("fake_program", twins, [0, 1, 2]).groups() == [[0, 2], [1]]


def test_a_job_reaches_a_worker_as_it_was_planned(tmp_path: Path) -> None:
    (job,) = plan("fake", ["source.rows=3", "+group_lr.a=1e-05", f"paths.runs={tmp_path}"], fake_program.CONF).jobs
    path = Sweep("fake_program", [job], [0]).files[0]
    work = read_work(path)
    assert work.cfg == job.cfg
    assert read_outcome(path) is None
    ended = Outcome(job.hash, job.dir, "held", {"val": {"accuracy": 0.5}}, "who", user_error=True, remarks=["who"])
    write_outcome(path, ended)
    assert read_outcome(path) == ended
    path.write_text(path.read_text().replace("rows: 3", "rows: 4"))
    with pytest.raises(UserError, match="damaged"):
        read_work(path)


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path: Path) -> None:
    """As data-loader workers do for some seconds after SIGKILL has ended their process."""
    run = tmp_path / "name" / "0123"
    with held(run):
        assert holder(run).startswith(f"process {os.getpid()} on ")
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writes, b"1")
            time.sleep(60)
            os._exit(0)
        os.read(reads, 1)
    try:
        with held(run), pytest.raises(UserError, match="in use by process"), held(run):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert holder(run) == ""


FORKED = """
import os, sys, time
from pathlib import Path
from suite.runs.lock import held
with held(Path(sys.argv[1])):
    if os.fork() == 0:
        print(1, flush=True)
    time.sleep(60)
"""


def test_after_sigkill_with_workers_a_run_is_free_at_once(tmp_path: Path) -> None:
    run = tmp_path / "name" / "0123"
    line = [sys.executable, "-c", FORKED, str(run)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert holder(run)
        process.kill()
        process.wait()
        try:
            assert holder(run) == ""
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_job_of_another_sweep_is_held_and_not_failed(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (job,) = plan("fake", [f"paths.runs={tmp_path / 'runs'}"], fake_program.CONF).jobs
    with held(job.dir):
        assert main("-m", "seed=0,1") == 2
        told = capsys.readouterr().out
        assert f"held: in use by process {os.getpid()}" in " ".join(told.replace("│", " ").split())
        assert "failed" not in told
        assert main("seed=0", "plan=true") == 0
        assert "held: process" in capsys.readouterr().out


def test_what_is_finished_takes_no_worker(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORKER", ["/nowhere"])
    assert main("-m", "seed=0,1") == 0
    assert main("-m", "seed=0,1", "launcher=processes") == 0
    assert main("-m", "seed=0,1", "launcher=processes", "--failed-only") == 0
    assert not (tmp_path / "runs" / ".sweeps").exists()
    (job,) = plan("fake", [f"paths.runs={tmp_path / 'runs'}"], fake_program.CONF).jobs
    assert finished_before(job, None, None)
    (job.dir / "result.json").unlink()
    assert not finished_before(job, None, None)


@pytest.mark.parametrize(
    ("words", "said", "remedy"),
    [
        (["launcher=processes"], "a command line of one job", "-m"),
        (["-m", "seed=0,1", "launcher=processes", "trainer.devices=2"], "several devices", "launcher=slurm"),
        (["-m", "seed=0,1", "launcher=processes", "launcher.jobs=0"], "launcher.jobs", "launcher.jobs=2"),
        (["-m", "seed=0,1", "launcher=slurm"], "no sbatch", "launcher.cluster=local"),
        (["launcher=slurm", "launcher.cluster=local", "launcher.minutes=1", "launcher.grace_seconds=90"], "90 s", "61"),
        (["launcher=slurm", "launcher.cluster=local", "trainer.devices=4", "launcher.gpus=2"], "=2", "launcher.gpus=4"),
        (["-m", "seed=0,1", "hydra/launcher=nowhere"], "hydra/launcher", "basic"),
    ],
)
def test_what_a_launcher_cannot_do_is_refused_with_a_remedy(
    main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str, remedy: str
) -> None:
    if any("slurm" in word for word in words):
        pytest.importorskip("submitit")
    assert main(*words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert remedy in told.rpartition("found:")[2]
    assert not (tmp_path / "runs").exists()


def test_what_submitit_pickles_names_one_function_and_holds_strings(tmp_path: Path) -> None:
    helpers = pytest.importorskip("submitit.helpers")
    helpers.DelayedSubmission(run_jobs, "asgml.run", "a/0001.job.json").dump(tmp_path / "call.pkl")
    content = (tmp_path / "call.pkl").read_bytes()
    words = [arg for code, arg, _ in pickletools.genops(content) if isinstance(arg, str)]
    assert b"cloudpickle" not in content, "nothing is stored by value"
    assert {w for w in words if "." in w} == {
        *("submitit.core.utils", "suite.launchers.submitted", "asgml.run", "a/0001.job.json")
    }


def test_a_program_that_no_process_can_import_has_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def task() -> None: ...

    task.__module__ = "asgml.run"
    assert program_of(task) == "asgml.run"  # type: ignore[arg-type]
    task.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(UserError, match="python -m"):
        program_of(task)  # type: ignore[arg-type]


def test_other_nodes_that_nobody_starts_are_not_waited_for(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    (job,) = plan("fake", ["+trainer.num_nodes=2"], fake_program.CONF).jobs
    with pytest.raises(UserError, match="MASTER_ADDR, MASTER_PORT, NODE_RANK are not set"):
        refuse_missing_peers(job.cfg)
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.setenv(name, "1")
    refuse_missing_peers(job.cfg)
