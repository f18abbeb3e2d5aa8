"""Command lines that a traceback once answered: refused on one screen, with what to type instead."""

from __future__ import annotations

from types import ModuleType

import pytest
from hydra._internal.utils import get_args_parser

from asgml import run as asgml
from callbacks.errors import UserError
from latentwire import run as latentwire
from suite.runs.launch import launch
from suite.runs.planned import PlannedJobs
from suite.runs.planning import composed, judged

FEATURES = ["experiment=features", "data.path=x.npz"]


def planned(program: str, module: ModuleType, *line: str) -> PlannedJobs:
    args = get_args_parser().parse_args(list(line))
    return judged(composed(program, args, None, module.Tree), module.dead, module.Tree, module.judge)


@pytest.mark.parametrize(
    ("line", "where", "found", "remedy"),
    [
        (["paths=5"], "paths", "5 (int)", "leave paths out"),
        (["optimizer=[1]"], "optimizer=1", "no option 1", "leave optimizer=1 out"),
        (["optimizer=null"], "optimizer=null", "null, where an option is needed", "leave optimizer=null out"),
        (["optimizer.nesterov=true", "optimizer.momentum=0"], "optimizer", "Nesterov momentum", "leave out the option"),
    ],
)
def test_it_is_refused_with_what_to_type(line, where, found, remedy):
    with pytest.raises(UserError) as error:
        planned("asgml", asgml, *FEATURES, *line)
    assert error.value.where == where
    assert found in error.value.found
    assert remedy in error.value.remedy


def test_a_run_that_is_bounded_by_its_steps_alone_is_foreseen():
    """`trainer.max_epochs=null trainer.max_steps=10 plan=true`."""
    jobs = planned("latentwire", latentwire, "trainer.max_epochs=null", "trainer.max_steps=10")
    assert latentwire.foresee(jobs.jobs[0].cfg)["steps"] == "10 at most"


@pytest.mark.parametrize(
    ("line", "where", "remedy"),
    [
        (["hydra.mode=MULTIRUN", "seed=range(0,0)"], "seed=range(0,0)", "list them: seed=1,2,3"),
        (["+trainer.max_time=soon"], "trainer.max_time", "type +trainer.max_time={hours:12}"),
        (["+trainer.max_time={years:1}"], "trainer.max_time", "type +trainer.max_time={hours:12}"),
        (["+trainer.profiler=nothing"], "trainer.profiler", "type +trainer.profiler=simple"),
    ],
)
def test_what_only_a_library_can_read_is_refused_with_an_example_that_it_reads(line, where, remedy):
    with pytest.raises(UserError) as error:
        planned("asgml", asgml, *FEATURES, *line)
    assert error.value.where == where
    assert error.value.remedy.startswith(remedy)
    typed = error.value.remedy.partition(", or")[0].split()[-1]
    planned("asgml", asgml, "experiment=cremad_mini", *line[:-1], typed)


@pytest.mark.parametrize("flags", [["--resolve"], ["--shell-completion"]])
def test_a_flag_that_does_nothing_alone_is_refused(flags, capsys):
    with pytest.raises(SystemExit) as end:
        launch("asgml", asgml.train, argv=[*FEATURES, *flags] if flags == ["--resolve"] else flags)
    assert end.value.code == UserError.EXIT_CODE
    assert flags[0] in capsys.readouterr().err
