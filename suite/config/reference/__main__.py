"""`python -m suite.config.reference`: write `docs/config.md` and `docs/methods_index.md`; `--check` compares only.

Exit code 1: a page is out of date (`--check`), or a key has no meaning.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from callbacks.files.atomic import write_text
from suite.config.reference.catalogue import Chapter, catalogue
from suite.config.reference.classes import entries
from suite.config.reference.files import Tree, tree
from suite.config.reference.pages import CLASSES, CONFIG, class_page, config_page
from suite.runs.command import command, helped


def pages(of: Tree, chapters: Sequence[Chapter]) -> dict[str, str]:
    """Return the text of each page by its path in the repository."""
    return {CONFIG: config_page(chapters), CLASSES: class_page(entries(of))}


def unexplained(chapters: Sequence[Chapter]) -> list[str]:
    """Return the keys without a meaning, each with the file and line of whoever owes it."""
    missing = [row for chapter in chapters for row in chapter.rows if not row.meaning]
    return sorted({f"{row.missing} {row.key}" for row in missing})


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the console entry; return the exit code."""
    if helped(argv, __doc__):
        return 0
    check = "--check" in (sys.argv[1:] if argv is None else argv)
    files = tree()
    chapters = catalogue(files)
    bad = unexplained(chapters)
    for line in bad:
        print(f"no meaning: {line}", file=sys.stderr)
    stale = []
    for name, text in pages(files, chapters).items():
        path = files.root.parent / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            write_text(path, text)
            print(name)
    if check and stale:
        print(f"out of date: {', '.join(stale)}; python -m suite.config.reference writes them", file=sys.stderr)
    return int(bool(bad) or (check and bool(stale)))


if __name__ == "__main__":
    sys.exit(main())
