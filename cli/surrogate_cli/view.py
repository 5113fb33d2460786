"""Draws results on stdout: lines and tables for a reader, one JSON object for a program.

A result is drawn by what its values are, so that the numbers of any application find a place: a value is a
line, a mapping is a table of names and values, a list of mappings is a table with a column for each key.
"""

import json
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

_PATHS = ("run", "store", "surrogate", "model", "checkpoint", "tables", "figures")
_NEXT = {"train": "fit", "collect": "fit", "fit": "finetune", "finetune": "evaluate"}
_MEASURE = ("@sample", "@batch", "@dataset")
"""How the name of a run's own measure ends among the numbers of a score: with its level."""
_MARK = " (the measure)"
_LONG = 12
"""Names in a line; a plain function may be explained by eighty statistics."""
_UNBOUNDED = 1000  # columns: in a file or a pipe, each row of a table stays one line


def write(text: str) -> None:
    """Prints a result; all of stdout goes through here."""
    print(text, flush=True)


def result(command: str, found: Mapping[str, Any], *, as_json: bool) -> None:
    """The result of a command, in the form that was asked for."""
    if as_json:
        show_json(found)
    else:
        show(command, found)


def show_json(result: Mapping[str, Any]) -> None:
    """The result as one JSON object; a number that is not finite becomes null, as JSON knows none."""
    write(json.dumps(_finite(result), indent=2, allow_nan=False))


def show(command: str, result: Mapping[str, Any]) -> None:
    """The result for a reader: facts, tables of numbers under their spec, files, what to type next."""
    width = None if sys.stdout.isatty() else _UNBOUNDED
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as drawn:
        for block in _blocks(command, result):
            for part in block:
                console.print(part, soft_wrap=isinstance(part, Text))
            console.print()
    write("\n".join(line.rstrip() for line in drawn.get().strip("\n").split("\n")))


def _blocks(command: str, result: Mapping[str, Any]) -> Iterator[list[RenderableType]]:
    paths = {name: result[name] for name in _PATHS if isinstance(result.get(name), str | list)}
    yield from _comparison(result) if command == "compare" else _numbers(result, paths)
    if paths:
        yield _lines(paths)
    if command in _NEXT:
        yield [Text(f"next: {_next_command(command, result)}", style="bold")]


def _comparison(result: Mapping[str, Any]) -> Iterator[list[RenderableType]]:
    """A line for each loss; the parts and the single runs are in the files."""
    from surrogate import table  # shows numbers by code of the core, which the other commands need not load

    yield [_heading("losses", result), _records(table.summary(result)), *_spec(result)]
    if failed := table.failures(result):
        yield [Text("failed", style="bold"), *map(Text, failed)]


def _numbers(result: Mapping[str, Any], paths: Mapping[str, Any]) -> Iterator[list[RenderableType]]:
    """Facts and tables of whatever a command found."""
    rest = {name: value for name, value in result.items() if name not in (*paths, "spec") and value != {}}
    before, after, losses = (rest.pop(name, None) for name in ("before", "after", "losses"))
    tables = {name: value for name, value in rest.items() if _is_table(value)}
    if facts := _lines({name: value for name, value in rest.items() if name not in tables}):
        yield facts
    if before is not None and after is not None:
        yield [
            _heading("before and after", result),
            _side_by_side({"before": before, "after": after}, change=True),
            *_spec(result),
        ]
    if losses is not None and len(losses) > 1:
        yield [
            _heading("after, by loss", result),
            _side_by_side({n: loss["after"] for n, loss in losses.items()}),
        ]
    if isinstance(tables.get("fidelity"), Mapping):
        yield from _fidelity(result, tables.pop("fidelity"))
    for name, value in tables.items():
        drawn = _values(value) if isinstance(value, Mapping) else _records(value)
        yield [_heading(name, result), drawn, *_spec(result)]


def _fidelity(result: Mapping[str, Any], learned: Mapping[str, Any]) -> Iterator[list[RenderableType]]:
    """The numbers of a fit next to those of the hand-made form of the metric, where there is one; a line a regime."""
    analytic = learned.get("analytic", {})
    sides = {"learned": learned, **({"analytic": analytic} if analytic else {})}
    whole = {
        side: {name: value for name, value in numbers.items() if name not in ("analytic", "by_regime")}
        for side, numbers in sides.items()
    }
    yield [_heading("fidelity", result), _side_by_side(whole)]
    regimes = []
    for regime, numbers in learned.get("by_regime", {}).items():
        regimes.append({"regime": regime, **{name: numbers[name] for name in ("spearman", "r2", "mae")}})
        if analytic:
            regimes[-1]["analytic spearman"] = analytic["by_regime"][regime]["spearman"]
    if regimes:
        yield [Text("by regime", style="bold"), _records(regimes)]


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(row, Mapping) for row in value))


def _heading(name: str, result: Mapping[str, Any]) -> Text:
    """The name of a table, and what its rows speak of."""
    rows = f"{result['measure']}, level {result['level']}" if {"measure", "level"} <= result.keys() else ""
    return Text.assemble((name.replace("_", " "), "bold"), f"  {rows}")


def _spec(result: Mapping[str, Any]) -> list[Text]:
    """Below a table: how its numbers are to be read."""
    return [Text(str(result["spec"]), style="dim")] if result.get("spec") else []


def _next_command(command: str, result: Mapping[str, Any]) -> str:
    if command == "fit" and _falls_short(result["fidelity"]):
        return "read docs/fidelity-report.md for what to mend; training through this surrogate may not help"
    words = ["surrogate", _NEXT[command], "--run", str(result["run"])]
    if command == "finetune":
        words += ["--loss", str(result["loss"])]
    return shlex.join(words)


def _falls_short(numbers: Mapping[str, Any]) -> bool:
    from surrogate.fidelity import shortfalls  # scipy and scikit-learn, which a fit has loaded already

    return bool(shortfalls(numbers))


def _lines(facts: Mapping[str, Any]) -> list[RenderableType]:
    """A line for each fact, and for each path of a list of paths."""
    width = max(map(len, facts), default=0)
    lines: list[RenderableType] = []
    for name, value in facts.items():
        values = value if name in _PATHS and isinstance(value, list) else [value]
        for place, one in enumerate(values):
            lines.append(Text.assemble((f"{'' if place else name:<{width}}  ", "dim"), _text(one)))
    return lines


def _values(values: Mapping[str, Any]) -> Table:
    table = _side_by_side({"": values})
    table.show_header = False
    return table


def _side_by_side(sides: Mapping[str, Mapping[str, Any]], *, change: bool = False) -> Table:
    """A column of numbers for each side, and with `change` the last side less the first."""
    table = _table("", *sides, *(["change"] if change else []), justify="right")
    rows = list(_rows(*sides.values()))
    # Beside words, which may be long, numbers keep to the left too.
    cell = _word if any(isinstance(value, str | list) for _, cells in rows for value in cells) else _cell
    for name, cells in rows:
        table.add_row(name, *map(cell, cells), *([_change(cells[0], cells[-1])] if change and cells else []))
    return table


def _records(records: Iterable[Mapping[str, Any]]) -> Table:
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    table = _table(*names)
    for record in records:
        table.add_row(*(_cell(record.get(name)) for name in names))
    return table


def _table(first: str, *others: str, justify: JustifyMethod = "left") -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column(Text(first), overflow="fold")
    for name in others:
        table.add_column(Text(name), justify=justify, overflow="fold")
    return table


def _rows(*sides: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str | Text, list[Any]]]:
    """Each name with its value on every side, the run's own measure first; then nested mappings, indented under a row
    without values."""
    names = dict.fromkeys(name for side in sides for name in side)
    nested = {name for name in names if any(isinstance(side.get(name), Mapping) for side in sides)}
    # What stands below a nested one would pass for a part of it.
    for name in sorted(names, key=lambda name: (name in nested, not name.endswith(_MEASURE))):
        values = [side.get(name) for side in sides]
        if name in nested:
            yield Text("  " * depth + name, style="dim"), []
            yield from _rows(*(value if isinstance(value, Mapping) else {} for value in values), depth=depth + 1)
        else:
            yield Text("  " * depth + name + (_MARK if name.endswith(_MEASURE) else "")), values


def _change(before: Any, after: Any) -> str:
    both = all(isinstance(value, int | float) and math.isfinite(value) for value in (before, after))
    return _number(after - before, sign="+") if both else ""


def _cell(value: Any) -> Text:
    """Numbers to the right, words to the left, what is undefined as the rest of its column."""
    justify: JustifyMethod | None = "right" if isinstance(value, int | float) else "left"
    return Text(_text(value), justify=None if value is None else justify)


def _word(value: Any) -> Text:
    return Text(_text(value), justify="left")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        shown = ", ".join(map(_text, value[:_LONG])) or "none"
        return shown if len(value) <= _LONG else f"{shown}, ... ({len(value)} in all, see --json)"
    return "-" if value is None else str(value)


def _number(value: float, *, sign: str = "") -> str:
    if isinstance(value, int):
        return f"{value:{sign}d}"
    if not math.isfinite(value):
        return "-"
    # Four places, unless they would show nothing of the number.
    return f"{value:{sign}.4f}" if value == 0 or 5e-5 <= abs(value) < 1e6 else f"{value:{sign}.3e}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
