"""Kernels in C, compiled in half a second by the C compiler of this machine, for this machine."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from surrogate.errors import MissingExtraError

_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_HEADERS = Path(__file__).parent
"""The folder of `vectors.h`."""


@cache
def library(source: Path) -> ctypes.CDLL:
    """Compiles for this process alone: nothing is left on the disk that could be out of date or somebody else's.

    Raises:
        MissingExtraError: no compiler, or what it built can't be loaded.
    """
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    except ValueError as error:
        raise MissingExtraError(f"{source.name}: CC is no command ({error}); set it right") from None
    try:
        return built(source, compiler, "-fopenmp")
    except OSError as error:
        parallel = error
    try:
        found = built(source, compiler)
    except OSError as error:
        raise MissingExtraError(
            f"{source.name}: C compiler {shlex.join(compiler)} failed ({error}); install one or set CC"
        ) from None
    log = logging.getLogger("surrogate")
    log.warning("%s runs in one thread: %s has no OpenMP (%s)", source.name, shlex.join(compiler), parallel)
    return found


def built(source: Path, compiler: list[str], *flags: str) -> ctypes.CDLL:
    """Raises `OSError` where a step fails."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / source.with_suffix(".so").name
        command = [*compiler, *_FLAGS, *flags, f"-I{_HEADERS}", "-o", str(library), str(source), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
        return ctypes.CDLL(str(library))
