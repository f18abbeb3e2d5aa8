"""Everything that `python -m` starts, found in the source."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("asgml", "callbacks", "latentwire", "suite")


def entries() -> list[str]:
    """Return every module that `python -m` starts."""
    found = []
    for path in (p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if path.name == "__main__.py" or '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8"):
            found.append(name.removesuffix(".__main__"))
    return found
