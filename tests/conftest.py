"""Makes the helper modules of this folder importable from every test, and spares each process what no test looks at."""

import gc
import os
from pathlib import Path

import pytest

# before torch is imported: the last bits depend on the number of threads, and runs in other processes must agree
os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # until all is collected: nothing is garbage while modules are imported
os.fsync = lambda descriptor: None  # it matters when the power fails, and a disk takes its time for it

# The files that take longest, longest first. One of them begun last would keep a processor busy after all others.
LONGEST = (
    "methods/test_matrix.py",
    "dist/test_two_ranks.py",
    "resume/test_asgml_resume.py",
    "resume/test_lw_resume.py",
    "e2e/test_lw_ladder_faults.py",
    "e2e/test_lw_messages.py",
    "config/test_lint_and_types.py",
    "unit/test_lw_module.py",
    "config/test_launch.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files of `LONGEST` first; the others stay in the order of the folders."""
    tests = config.rootpath / "tests"
    rank = {tests / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over everything that was imported, from now on."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def feedback_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of the feedback system on a tiny CLIP, `<place>/runs/surfaces/<hash>`.

    Its surfaces are in `<place>/data`. Several files share it: what is there stays as it is.
    """
    from feedback_runs import finish

    return finish(tmp_path_factory.mktemp("feedback"))
