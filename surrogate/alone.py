"""One process at a time in a folder that stages write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from surrogate.errors import DataError, UsageError
from surrogate.progress import Progress, Stage

_HAS_LOCKS = find_spec("fcntl") is not None
"""Not on Windows."""

_held: set[tuple[int, int]] = set()
"""Device and number of the folders that this process is in."""


def alone(folder: Path) -> Stage[AbstractContextManager[None]]:
    """Makes the folder and waits until no other process is in it; leaving the context lets the next one in.

    The lock is on the folder itself, so no file is left of it. A kill ends it, with the children that the process has
    forked. Where the system has no such locks there is none, and between machines there may be none.

    Raises:
        DataError: the folder cannot be made or opened.
        UsageError: a stage of this very process is still in it.
    """
    handle = _opened(folder)
    if handle is None:
        return nullcontext()
    try:
        if not _locked(handle, wait=False):
            yield Progress("wait", 0, 1, message=f"{folder}: another process is at work there; waiting for it")
            _locked(handle, wait=True)
        key = _key(os.fstat(handle))
        gone = not folder.exists() or _key(folder.stat()) != key
    except BaseException:
        os.close(handle)
        raise
    if gone:  # deleted meanwhile, and made anew: that one is locked by nobody
        os.close(handle)
        return (yield from alone(folder))
    return _inside(handle, key)


def _opened(folder: Path) -> int | None:
    """A handle of the folder, made where it is missing; None where the system has no locks on folders."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _HAS_LOCKS:
            return None
        if _key(folder.stat()) in _held:
            raise UsageError(f"{folder}: a stage of this process is still at work there; let it end, or close() it")
        return os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made or opened ({error.strerror}); name another with --run") from None


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _locked(handle: int, *, wait: bool) -> bool:
    import fcntl  # where there are locks

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


@contextmanager
def _inside(handle: int, key: tuple[int, int]) -> Iterator[None]:
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        os.close(handle)
