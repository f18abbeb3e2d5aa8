"""Limits of the machine that a run reaches are told with what to type; other errors stay what they are."""

from __future__ import annotations

import errno
import os
import resource

import pytest
import torch

from suite.runs.exhausted import exhausted, raise_open_files


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number), "runs/x/history.csv")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EDQUOT, "free disk space"),
        (errno.EFBIG, "ulimit -f unlimited"),
        (errno.EMFILE, "ulimit -n 4096, or set loader.workers=0"),
    ],
)
def test_a_limit_is_told_with_its_file_and_a_remedy(number: int, remedy: str) -> None:
    told = str(exhausted(refused(number)))
    for part in ("runs/x/history.csv", os.strerror(number), remedy):
        assert part in told


def test_what_torch_says_of_it_is_the_same() -> None:
    """`torch.utils.data` replaces the error of a worker's pipe by one of its own, `from None`."""
    try:
        try:
            raise refused(errno.EMFILE)
        except OSError:
            raise RuntimeError("Too many open files. Communication with the workers is no longer possible.") from None
    except RuntimeError as error:
        told = str(exhausted(error))
    assert "ulimit -n" in told


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_memory(kind: type[Exception]) -> None:
    words = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nException raised from …"
    told = str(exhausted(kind(words)))
    assert "set a smaller loader.batch_size" in told
    assert "you tried to allocate 9 bytes" in told
    assert "raised from" not in told


@pytest.mark.parametrize("error", [refused(errno.ENOENT), RuntimeError("x"), ValueError("No space left on device")])
def test_another_error_is_none_of_these(error: Exception) -> None:
    assert exhausted(error) is None


def test_a_run_may_open_as_many_files_as_the_hard_limit_allows() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(4096, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard), "never fewer"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
