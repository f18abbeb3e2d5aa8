"""The library that draws the figures, plotly.js: one compressed file beside the pages of a folder.

A page is then as large as its own data, and works wherever its folder is copied or moved to. The file holds the library
as gzip in base64, because a page that is opened from disk may load a script but may not read other files.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib.metadata import version
from pathlib import Path

from callbacks.files.atomic import write_text


@cache
def library_name() -> str:
    """Return the file's name, with the version of the Python package it comes from: `plotly-6.9.0.js`."""
    return f"plotly-{version('plotly')}.js"


def library_of(folder: Path) -> list[Path]:
    """Return the library files in a folder; what ships or removes a page ships or removes them too."""
    return sorted(folder.glob("plotly-*.js"))


def write_library(folder: Path) -> Path:
    """Write the library into a folder that lacks it, and return its path."""
    path = folder / library_name()
    return path if path.is_file() else write_text(path, packed())


@cache
def packed() -> str:
    """Return the script that holds the compressed library; `page.js` unpacks it for the first figure."""
    from plotly.offline import get_plotlyjs

    data = base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (
        f'/* plotly.js, MIT licence (inside): gzip in base64, for the reports in this folder */\nplotlyGzip="{data}";\n'
    )
