"""Files that are whole or absent: a kill while writing leaves the old file, never a half of the new one."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from surrogate.errors import DataError

PARTIAL = ".partial"
"""How the name of a file ends while it is being written; the name begins with a dot."""


def write_atomic(path: Path, data: bytes | memoryview) -> None:
    """Writes a whole file: temporary file beside it, fsync, rename over it, fsync of the folder.

    After a return the data survives a power cut. A kill at any instant leaves `path` with what it held before
    or with all of `data`, and may leave a temporary file, which `sweep` removes.

    A missing folder is made.

    Raises:
        DataError: the folder cannot be made or written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, data)
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path}: cannot be written ({reason}); expected a writable folder with free space") from error


def sweep(folder: Path) -> list[Path]:
    """Removes what killed writers left in `folder`, and returns it, sorted.

    Only for a folder that nobody is writing to: the temporary file of a living writer looks the same.
    """
    leftovers = sorted(path for path in folder.glob(f".*{PARTIAL}") if path.is_file())
    for path in leftovers:
        path.unlink(missing_ok=True)
    return leftovers


def sweep_below(folder: Path) -> None:
    """The same in the folder and in all the folders below it, under the same condition."""
    for each in (folder, *folder.rglob("*/")):
        sweep(each)


def _replace(path: Path, data: bytes | memoryview) -> None:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # Windows cannot open a folder, and keeps its own journal of names
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
