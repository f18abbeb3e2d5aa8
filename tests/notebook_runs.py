"""The notebooks: what they hold, and their cells run in this process or in a kernel of Jupyter.

`python tests/notebook_runs.py [01 05 …]` (`make notebooks-run`) runs them anew in place, without times and machine, and
writes the picture of each that the README shows.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PNG = "image/png"
MAIN = "main"  # the tag of the cell whose picture the README shows


def read(path: Path) -> dict[str, Any]:
    """Return a notebook as its JSON has it."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    """Return the cells of a kind, `code` or `markdown`."""
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == kind]


def picture(path: Path) -> Path:
    """Return where the README's picture of a notebook lies."""
    return ROOT / "docs" / "pictures" / f"notebook_{path.stem[:2]}.png"


def main_picture(path: Path) -> bytes:
    """Return the picture of the cell with the tag `main`, as PNG."""
    (cell,) = (cell for cell in cells(path) if MAIN in cell["metadata"].get("tags", []))
    (output,) = cell["outputs"]
    return base64.b64decode(output["data"][PNG])


def run_here(path: Path) -> int:
    """Run the cells of code one after the other in this process; return how many figures they have drawn.

    They go where the variable RUNS says. Nothing of matplotlib's settings stays.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    scope: dict[str, Any] = {"__name__": "__main__"}
    drawn = 0
    with matplotlib.rc_context():
        for cell in cells(path):
            exec(compile("".join(cell["source"]), f"{path.name}, cell {cell['id']}", "exec"), scope)
            drawn += len(plt.get_fignums())
            plt.close("all")
    return drawn


def run_in_kernel(path: Path, folder: Path) -> Any:
    """Run a notebook in a kernel of its own whose current folder is `folder`; return it with what came out."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", record_timing=False, resources=resources).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this machine's
    return notebook


def renew(numbers: Sequence[str] = ()) -> None:
    """Run notebooks anew in place, all of them unless their numbers are given, and write the README's pictures."""
    import nbformat

    os.environ.pop("RUNS", None)
    for path in (p for p in NOTEBOOKS if not numbers or p.stem[:2] in numbers):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run_in_kernel(path, Path(folder)), path)
        picture(path).parent.mkdir(exist_ok=True)
        picture(path).write_bytes(main_picture(path))
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    renew(sys.argv[1:])
