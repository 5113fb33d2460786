"""A comparison as a table: Markdown, CSV and LaTeX, in the shape of NeuroIoU's Table 1.

Numbers are in points (x 100), but for those of a measure whose bounds are wider than [-1, 1]. The best of a column is
marked where it is known which way is better: in what some row was chosen by, and in its parts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from surrogate.recipe import flat

Result = Mapping[str, Any]


def to_markdown(result: Result) -> str:
    """Tables: the numbers of the whole, val and test, the parts (classes), and how far to trust what was learned."""
    whole, parts = _columns(result)
    lines = [f"{result['spec']}; {result['seeds']} seeds. Best in bold.", ""]
    for columns in (whole, parts):
        if columns:
            lines += ["| " + " | ".join(["loss", *(name for _, name in columns)]) + " |"]
            lines += ["|" + "---|" * (len(columns) + 1)]
            lines += ["| " + " | ".join(cells) + " |" for cells in _cells(result, columns, bold="**{}**", sd=" ± {}")]
            lines += [""]
    return "\n".join([*lines, *_trust(result), *(f"- {line}" for line in failures(result))]).rstrip() + "\n"


def failures(result: Result) -> list[str]:
    """A line for each run that diverged or was refused."""
    return [
        f"{row['loss']}, seed {run['seed']}, lr {run['lr']:g}: {run['error']}"
        for row in result["rows"]
        for run in row["failed"]
    ]


def summary(result: Result) -> list[dict[str, str]]:
    """The numbers of the whole, a mapping for each loss; no loss is marked as the best."""
    whole, _ = _columns(result)
    names = ["loss", *(name for _, name in whole)]
    return [dict(zip(names, cells, strict=True)) for cells in _cells(result, whole, bold="{}", sd=" ± {}")]


def _trust(result: Result) -> list[str]:
    """A line for each learned loss and seed: fidelity of the fit on held-out samples, and on val after finetuning."""
    lines = []
    for row in result["rows"]:
        for run in row["runs"]:
            if fidelity := run.get("fidelity"):
                regimes = {name: found["spearman"] for name, found in fidelity["by_regime"].items()}
                worst = min(
                    (name for name in regimes if regimes[name] is not None), key=regimes.__getitem__, default=""
                )
                numbers = (
                    fidelity["spearman"],
                    regimes.get(worst),
                    fidelity["wrong_sign"],
                    (run.get("agreement") or {}).get("spearman"),
                )
                cells = ["-" if number is None else f"{number:.3f}" for number in numbers]
                lines.append(f"| {row['loss']} | {run['seed']} | {' | '.join(cells)} | {worst} |")
    if not lines:
        return []
    head = (
        "| learned | seed | Spearman, held out | of the worst regime | wrong_sign | finetuned, on val | worst regime |"
    )
    return [head, "|" + "---|" * 7, *lines, ""]


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
    best = {key: _best(result, key) for key, _ in columns}
    for row in result["rows"]:
        seeds = len(row["runs"])
        cells = [row["loss"] if seeds == result["seeds"] else f"{row['loss']} ({seeds} of {result['seeds']} seeds)"]
        for key, _ in columns:
            value, spread = row["mean"].get(key), row["sd"].get(key)
            if value is None:
                cells.append("-")
                continue
            shown = "{:.1f}" if factor(result, key) == 100 else "{:.3g}"
            text = shown.format(factor(result, key) * value)
            text += sd.format(shown.format(factor(result, key) * spread)) if spread is not None else ""
            if missing := row.get("undefined", {}).get(key):
                text += f" ({seeds - missing} of {seeds})"
            is_best = value == best[key] and not missing
            cells.append(bold.format(text) if is_best else text)
        yield cells


def _best(result: Result, key: str) -> float | None:
    """The best mean of a column, of rows that have it in all their runs; None where nobody knows what is better."""
    name = key.removeprefix("val.")
    known = result["columns"].get(name)
    if known is None and "." in name and result["higher_is_better"]:
        known = result  # the parts of what is reported, such as IoU by class beside mIoU
    if known is None:
        return None
    choose = max if known["higher_is_better"] else min
    whole = (row["mean"][key] for row in result["rows"] if key in row["mean"] and key not in row.get("undefined", {}))
    return choose(whole, default=None)


def factor(result: Result, key: str) -> int:
    """What the numbers of a column are multiplied by to be told: 100, or 1."""
    return 100 if result["columns"].get(key.removeprefix("val."), {}).get("points", True) else 1


def numbers_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """Val and test of one run by dotted name: `val.miou`, `miou`, `iou.car`."""
    return {**flat(run["val"], "val."), **flat(run["test"])}


def _escaped(text: str) -> str:
    for special in "&%_#":
        text = text.replace(special, "\\" + special)
    return text
