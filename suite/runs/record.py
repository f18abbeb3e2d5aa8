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
    """Versions of Python, torch, lightning, hydra, numpy and of this package (None: run from a bare checkout)."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


@functools.cache
def commit() -> dict[str, Any]:
    """`{"commit": sha or None, "dirty": bool or None}` of the checkout this file lies in; None outside of one."""
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
    """Time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def release_memory() -> None:
    """Frees what an earlier job of this process left in reference cycles and in the CUDA cache."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class PeakMemory:
    """Peak memory from construction on.

    `host_mb()` is the resident set in MiB. The kernel's high-water mark covers the whole life of a process; on
    Linux it is reset here, so that each job of a sweep has its own. `cuda_mb()` is the sum over devices of the
    peak of allocated memory, None when CUDA was not used.
    """

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        self._reset = self._status.exists() and self._clear()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    @staticmethod
    def _clear() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
        except OSError:  # read-only /proc in some containers
            return False
        return True

    def host_mb(self) -> float:
        if self._reset:
            for line in self._status.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
        return peak / (1024**2 if sys.platform == "darwin" else 1024)

    def cuda_mb(self) -> float | None:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return None
        return sum(torch.cuda.max_memory_allocated(d) for d in range(torch.cuda.device_count())) / 1024**2
