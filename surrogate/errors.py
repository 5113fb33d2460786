"""The errors a user can cause, each one line long, each with the exit code of the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SurrogateError(Exception):
    """What was found, where, what was expected and how to fix it, in one line."""

    exit_code = 2


class UsageError(SurrogateError):
    """A wrong option, an unknown name, or a recipe that cannot be run."""

    exit_code = 2


class DataError(SurrogateError):
    """Data or an artifact that is missing, damaged, or of another kind than expected."""

    exit_code = 3


class MissingExtraError(SurrogateError):
    """An optional dependency that this command needs is not installed."""

    exit_code = 4


class QualityError(SurrogateError):
    """A quality gate was not passed."""

    exit_code = 5


class DivergedError(SurrogateError):
    """Training left the numbers: a loss or a gradient is no longer finite."""

    exit_code = 6


def nearest(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """A hint for a misspelt name: the nearest known one, after the prefix that it needs, else all of them.

    >>> nearest("segmentatoin", ["toy", "segmentation"])
    "did you mean 'segmentation'?"
    >>> nearest("zzz", ["toy", "segmentation"])
    'known: segmentation, toy'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {prefix + close[0]!r}?"
    return f"known: {', '.join(known) or 'none'}"
