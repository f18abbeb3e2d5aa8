"""Reading .npz archives without pickle: headers first, so that errors are named before anything is loaded."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from callbacks.errors import UserError

_DAMAGED = (zipfile.BadZipFile, EOFError, ValueError, OSError, zlib.error)


class Npz:
    """An .npz archive whose headers are read and whose arrays are not yet.

    Args:
        path: the file.
        key: the configuration key that named it, for errors.

    Attributes:
        path: the file, with `~` expanded.
        headers: (shape, dtype) by array name, in file order.

    Raises:
        UserError: a file that is absent, damaged or no archive, and pickled (object) or structured arrays.
    """

    def __init__(self, path: str, key: str):
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            found = "a folder" if self.path.is_dir() else "no such file"
            raise UserError(f"{key}={path}", found, "an .npz file", f"set {key} to the path of an .npz file")
        self.headers: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.namelist()
                for member in members:
                    if member.endswith(".npy"):
                        with archive.open(member) as file:
                            self.headers[member.removesuffix(".npy")] = read_header(file)
        except _DAMAGED as error:
            raise self._damaged(error) from error
        foreign = [m for m in members if not m.endswith(".npy")]
        if foreign:
            raise UserError(str(self.path), f"members {foreign[:5]}", "arrays only", "write it again with numpy.savez")
        for name, (_, dtype) in self.headers.items():
            if dtype.hasobject or dtype.names is not None:
                raise UserError(
                    f"{self.path}, array {name}",
                    f"dtype {dtype}: " + ("pickled objects" if dtype.hasobject else "a structured array"),
                    "a plain array of numbers (or of strings for `group`)",
                    "pad rows of different length to one array, then save again without object arrays",
                )

    def read(self, name: str) -> np.ndarray:
        """Read one array into memory.

        Raises:
            UserError: a damaged member.
        """
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return archive[name]
        except _DAMAGED as error:
            raise self._damaged(error, f", array {name}") from error

    def error(self, array: str, found: str, expected: str, remedy: str) -> UserError:
        """Return the error that points at an array of this file, or at the file where `array` is empty."""
        return UserError(f"{self.path}, array {array}" if array else str(self.path), found, expected, remedy)

    def _damaged(self, error: Exception, where: str = "") -> UserError:
        return UserError(
            f"{self.path}{where}",
            f"unreadable: {type(error).__name__}: {error}",
            "an undamaged .npz archive (a zip of .npy arrays)",
            "write it again with numpy.savez or numpy.savez_compressed",
        )


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of the array in an .npy file, from its first bytes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"array format {version}")
    return shape, dtype
