"""What is recorded beside the numbers: versions, commit, time and peak memory."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

DISTRIBUTION = "asgml-latentwire"
_PACKAGES = {
    "torch": "torch",
    "lightning": "lightning",
    "hydra": "hydra-core",
    "numpy": "numpy",
    "suite": DISTRIBUTION,
}


@functools.cache
def versions() -> dict[str, str | None]:
    """Return the versions of Python, torch, lightning, hydra, numpy and this package (None in a bare checkout)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def commit() -> dict[str, Any]:
    """Return `{"commit": sha, "dirty": bool}` of the checkout that this file lies in; both None outside of one."""
    root = Path(__file__).resolve().parents[2]
    nothing: dict[str, Any] = {"commit": None, "dirty": None}
    if not (root / ".git").exists() or shutil.which("git") is None:
        return nothing

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)

    head, status = git("rev-parse", "HEAD"), git("status", "--porcelain")
    if head.returncode or status.returncode:  # a repository without a commit, or one that git refuses to read
        return nothing
    return {"commit": head.stdout.strip(), "dirty": bool(status.stdout.strip())}


def now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _cuda() -> Any:
    """Return `torch.cuda` if this process has used it, else None; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


@contextmanager
def uncollected() -> Iterator[None]:
    """Have the garbage collector wait: it takes an eighth of the time in which modules are imported, and finds nothing.

    Nothing changes inside of another such block, or where the collector is off anyway.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def release_memory() -> None:
    """Free what an earlier job of this process left in reference cycles and in the CUDA cache."""
    gc.collect()
    if (cuda := _cuda()) is not None:
        cuda.empty_cache()


def device() -> str:
    """Return the name of the accelerator that this process has used, `cpu` where it has used none."""
    return "cpu" if (cuda := _cuda()) is None else str(cuda.get_device_name())


class PeakMemory:
    """Measures peak memory from construction on.

    The kernel's high-water mark covers the whole life of a process; on Linux it is reset here, so that each job of a
    sweep has its own.
    """

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        self._reset = self._status.exists() and self._clear()
        if (cuda := _cuda()) is not None:
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)

    @staticmethod
    def _clear() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        except OSError:  # read-only /proc in some containers
            return False
        return True

    def host_mb(self) -> float:
        """Return the peak of the resident set in MiB."""
        if self._reset:
            for line in self._status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
        return peak / (1024**2 if sys.platform == "darwin" else 1024)

    def cuda_mb(self) -> float | None:
        """Return the peak of allocated memory in MiB, summed over devices; None where CUDA was not used."""
        if (cuda := _cuda()) is None:
            return None
        return sum(cuda.max_memory_allocated(d) for d in range(cuda.device_count())) / 1024**2
