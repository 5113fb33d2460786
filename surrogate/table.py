"""A comparison as a table: Markdown, CSV and LaTeX, in the shape of NeuroIoU's Table 1, in points (x 100)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surrogate.recipe import flat

Result = Mapping[str, Any]


def to_markdown(result: Result) -> str:
    """Two tables: the numbers of the whole, val and test, and the parts (classes). The best of a column is bold."""
    whole, parts = _columns(result)
    lines = [f"{result['spec']}; {result['seeds']} seeds. Best in bold.", ""]
    for columns in (whole, parts):
        if columns:
            lines += ["| " + " | ".join(["loss", *(name for _, name in columns)]) + " |"]
            lines += ["|" + "---|" * (len(columns) + 1)]
            lines += ["| " + " | ".join(cells) + " |" for cells in _cells(result, columns, bold="**{}**", sd=" ± {}")]
            lines += [""]
    failed = [f"- {row['loss']}: {row['error']}" for row in result["rows"] if row.get("error")]
    return "\n".join(lines + failed).rstrip() + "\n"


def to_csv(result: Result) -> str:
    """One row for each loss and seed, and one for each mean and standard deviation; not rounded, not in points."""
    names = [key for columns in _columns(result) for key, _ in columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["loss", "lr", "seed", *names])
    for row in result["rows"]:
        for kind in ("mean", "sd"):
            writer.writerow([row["loss"], row["lr"], kind, *(row[kind].get(name, "") for name in names)])
        for run in row["runs"]:
            found = numbers_of(run)
            writer.writerow([row["loss"], row["lr"], run["seed"], *(found.get(name, "") for name in names)])
    return out.getvalue()


def to_latex(result: Result) -> str:
    """A `tabular` with the parts, then the mean: Table 1. Needs no package."""
    whole, parts = _columns(result)
    columns = [*parts, *(column for column in whole if column[0] == result["headline"])]
    lines = [f"\\begin{{tabular}}{{l{'r' * len(columns)}}}", "\\hline"]
    lines += [" & ".join(map(_escaped, ["loss", *(name for _, name in columns)])) + r" \\", "\\hline"]
    for name, *cells in _cells(result, columns, bold=r"\textbf{{{}}}", sd=r" $\pm$ {}"):
        lines += [" & ".join([_escaped(name), *cells]) + r" \\"]
    return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])


def _columns(result: Result) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Keys and headings of the numbers of the whole (val headline first), and of the parts."""
    keys = list(dict.fromkeys(key for row in result["rows"] for key in row["mean"]))
    headline = result["headline"]
    first = [key for key in (f"val.{headline}", headline) if key in keys]
    rest = [key for key in keys if "." not in key and key != headline]
    parts = [key for key in keys if "." in key and not key.startswith("val.")]
    whole = [(key, key.replace("val.", "val ")) for key in (*first, *rest)]
    return whole, [(key, key.partition(".")[2]) for key in parts]


def _cells(result: Result, columns: Sequence[tuple[str, str]], *, bold: str, sd: str) -> Iterator[list[str]]:
    choose = max if result["higher_is_better"] else min
    best = {
        key: choose((r["mean"][key] for r in result["rows"] if key in r["mean"]), default=None) for key, _ in columns
    }
    for row in result["rows"]:
        cells = [row["loss"]]
        for key, _ in columns:
            value, spread = row["mean"].get(key), row["sd"].get(key)
            if value is None:
                cells.append("-")
                continue
            text = f"{100 * value:.1f}" + (sd.format(f"{100 * spread:.1f}") if spread is not None else "")
            cells.append(bold.format(text) if value == best[key] else text)
        yield cells


def numbers_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Val and test of one run by dotted name: `val.miou`, `miou`, `iou.car`."""
    return {**flat(run["val"], "val."), **flat(run["test"])}


def _escaped(text: str) -> str:
    for special in "&%_#":
        text = text.replace(special, "\\" + special)
    return text
