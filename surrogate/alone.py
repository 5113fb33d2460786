"""One process at a time in a folder that stages write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from surrogate.errors import DataError
from surrogate.progress import Progress, Stage

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def alone(folder: Path) -> Stage[AbstractContextManager[None]]:
    """Makes the folder and waits until no other process is in it; leaving the context lets the next one in.

    The lock is on the folder itself, so nothing is left of it, also by a kill. Where the file system has no locks there
    is none.

    Raises:
        DataError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror}); name another folder with --run") from None
    try:
        if fcntl is not None and not _locked(handle, wait=False):
            yield Progress("wait", 0, 1, message=f"{folder}: another process is at work there; waiting for it")
            _locked(handle, wait=True)
    except BaseException:
        os.close(handle)
        raise
    return _closing(handle)


def _locked(handle: int, *, wait: bool) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def _closing(handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(handle)
