"""Makes the helper modules of this folder importable from every test, and gives every process one thread."""

import os

# before torch is imported: the last bits depend on the number of threads, and runs in other processes must agree
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def feedback_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run of the feedback system on a tiny CLIP, `<place>/runs/surfaces/<hash>`.

    Its surfaces are in `<place>/data`. Several files share it: what is there stays as it is.
    """
    from feedback_runs import finish

    return finish(tmp_path_factory.mktemp("feedback"))
