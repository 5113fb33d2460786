"""A user's CSV as numbers, without pandas."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surrogate.errors import DataError, nearest

MOST_WORDS = 20
"""Different texts that a column may hold to be taken for a category."""

MISSING = frozenset(("na", "n/a", "nan", "null", "none", "?", "inf", "-inf"))
"""Texts that stand for nothing where a column is of numbers otherwise, in small letters."""

OTHER_MARKS = (";", "\t")
"""Marks that other programs put between columns."""


@dataclass(frozen=True)
class Column:
    """A column of inputs: `(N, 1)` float64 numbers, or `(N, K)` zeros and ones of the K words of a category."""

    name: str
    values: np.ndarray
    category: bool


def read_csv(path: Path, *, target: str, positive: str) -> tuple[tuple[Column, ...], np.ndarray, str]:
    """Reads a comma-separated table with a line of names.

    A column of numbers is an input; one of up to 20 different texts becomes an input for each of them (one-hot).

    Returns:
        The columns of inputs, `(N,)` int64 classes (1 is the positive one), and the name of the positive class.

    Raises:
        DataError: the file, its target or a column is not as expected; says which line or column, and what to do.
    """
    names, rows = _rows(path)
    if not target:
        raise DataError(f"{path}: which column holds the class? name it with --target, one of: {', '.join(names)}")
    if target not in names:
        raise DataError(f"{path}: no column {target!r} for the target; {nearest(target, names)}")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    labels = columns.pop(target)
    if not columns:
        raise DataError(f"{path}: {target!r} is the only column; expected inputs beside it")
    chosen = _positive(path, target, labels, positive)
    inputs = tuple(_column(path, name, values) for name, values in columns.items())
    return inputs, np.array([label == chosen for label in labels], dtype=np.int64), f"{target} = {chosen}"


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names, and the lines, all of one length and without a gap."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read ({reason}); expected digits, cancer, or a CSV file in UTF-8") from None
    if len(lines) < 2:
        raise DataError(f"{path}: {len(lines)} lines; expected a line of column names and then the samples")
    (_, names), *rows = lines
    mark = next((mark for mark in OTHER_MARKS if len(names) == 1 and mark in names[0]), "")
    if mark:
        raise DataError(
            f"{path}: {mark!r} and no comma in the line of column names; expected commas between the columns: save it "
            "with them (and with points in numbers)"
        )
    if len(set(names)) != len(names) or not all(names):
        raise DataError(f"{path}: column names repeat or are empty in {names}; give each column its own name")
    gaps = sum("" in row for _, row in rows)
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{path}:{number}: {len(row)} cells, expected {len(names)} as in the first line, separated by commas"
            )
        if "" in row:
            raise DataError(
                f"{path}:{number}: nothing in column {names[row.index('')]!r} ({gaps} of {len(rows)} lines have gaps); "
                "fill them or delete the lines"
            )
    return names, [row for _, row in rows]


def _positive(path: Path, target: str, labels: tuple[str, ...], positive: str) -> str:
    """The named class, else the rarer one of the two, else the later one: 1 after 0, yes after no."""
    found = {label: labels.count(label) for label in sorted(set(labels))}
    if len(found) != 2:
        shown = ", ".join(list(found)[:5]) + (", ..." if len(found) > 5 else "")
        raise DataError(
            f"{path}: target {target!r} has {len(found)} different values ({shown}); "
            f"expected 2: {_spelt_apart(found) or 'join or drop the others'}"
        )
    if positive and positive not in found:
        raise DataError(f"{path}: data.positive is {positive!r}, target {target!r} holds {' and '.join(found)}")
    return positive or min(reversed(found), key=lambda label: found[label])


def _spelt_apart(labels: Iterable[str]) -> str:
    """What to do with labels that are two but for case and the spelling of numbers; empty where they are not."""
    spellings: dict[float | str, list[str]] = {}
    for label in labels:
        spellings.setdefault(float(label) if _is_number(label) else label.lower(), []).append(label)
    if len(spellings) != 2:
        return ""
    apart = [" and ".join(group) for group in spellings.values() if len(group) > 1]
    return f"write {', '.join(apart)} in one way"


def _column(path: Path, name: str, values: tuple[str, ...]) -> Column:
    """The numbers of a column of them, else a category."""
    words = [value for value in values if not _is_number(value)]
    if len(words) < len(values) and all(word.lower() in MISSING for word in words):
        if words:
            raise DataError(
                f"{path}: column {name!r} holds {words[0]!r} at sample {values.index(words[0]) + 1} ({len(words)} of "
                f"{len(values)} samples are no numbers); fill them or delete the lines"
            )
        return Column(name, np.array([float(value) for value in values])[:, None], category=False)
    return Column(name, _one_hot(path, name, values), category=True)


def _one_hot(path: Path, name: str, values: tuple[str, ...]) -> np.ndarray:
    words = sorted(set(values))
    if len(words) > MOST_WORDS:
        odd = next(value for value in values if not _is_number(value))
        raise DataError(
            f"{path}: column {name!r} is not numeric (first: {odd!r}) and has {len(words)} different values, too many "
            f"for a category (up to {MOST_WORDS}); delete the column or turn it into numbers"
        )
    return np.array([[value == word for word in words] for value in values], dtype=np.float64)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False
