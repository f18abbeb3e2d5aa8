"""Reading .npz archives without pickle: headers first, so that errors are named before anything is loaded."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from callbacks.errors import UserError

# What zipfile and numpy raise at damage: NotImplementedError and RuntimeError are of members that are compressed in an
# unknown way or encrypted, MemoryError and RecursionError of a header that is nested beyond any use.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, OSError, LookupError),
    *(NotImplementedError, RuntimeError, MemoryError, OverflowError, SyntaxError, TypeError, tokenize.TokenError),
)


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
                        size = archive.getinfo(member).file_size
                        with archive.open(member) as file:
                            self.headers[member.removesuffix(".npy")] = read_header(file, size)
        except DAMAGED as error:
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
        except MemoryError as error:
            shape, dtype = self.headers[name]
            found, expected = f"{dtype} of shape {shape}: more than the memory holds", "arrays that fit into memory"
            raise self.error(name, found, expected, f"save fewer rows, or {name} in fewer bits") from error
        except DAMAGED as error:
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


def read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of the array in an .npy file, from its first bytes.

    Args:
        file: the file, at its beginning.
        size: its length in bytes.

    Raises:
        ValueError: no array, or one of another size than the file has.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"array format {version}")
    promised = math.prod(shape) * dtype.itemsize  # Python integers: an absurd header must not overflow
    left = size - file.tell()
    if min(shape, default=0) < 0 or (promised != left and not dtype.hasobject):
        raise ValueError(f"its header promises {promised} bytes of shape {shape}, {left} are there")
    return shape, dtype
