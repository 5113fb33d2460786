"""A report as JSON, and the Markdown table and the figure that are generated from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from benchmarks.goals import GOALS, interval
from benchmarks.rows import Row
from surrogate.atomic import write_atomic
from surrogate.provenance import PACKAGES, versions

_HEAD = """# Performance

Generated from [{name}.json]({name}.json) by `python -m benchmarks --render docs/results/{name}.json`; do not edit.
Ratios are ours / anchor, the median over paired rounds in random order, with its 95 % bootstrap interval; with
several cases the worst decides. *noisy*: the interval is wider than 10 %. How: `benchmarks/harness.py`.
Device time is a GPU's own, of launches that wait for it as within a training step; all else is by the clock.
"""


@dataclass(frozen=True)
class Report:
    """Rows, and what they were measured with."""

    environment: dict[str, Any]
    rows: tuple[Row, ...]

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        data = {"environment": self.environment, "rows": [asdict(row) for row in self.rows]}
        write_atomic(path, (json.dumps(data, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**{**row, "points": tuple(map(tuple, row["points"]))}) for row in data["rows"]]
        return cls(data["environment"], tuple(rows))


def environment(command: str, device: torch.device) -> dict[str, Any]:
    """Command, machine, threads and versions."""
    cuda = device.type == "cuda"
    return {
        "command": command,
        "device": device.type,
        "machine": torch.cuda.get_device_name() if cuda else f"{_cpu()}, {os.cpu_count()} cores",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version(), **versions((*PACKAGES, "monai"))},
    }


def render(path: Path) -> None:
    """Writes table and figure beside the JSON; a `-gpu` report beside it fills the rows of the GPU."""
    reports = [Report.read(path)]
    gpu = path.with_name(f"{path.stem}-gpu.json")
    if gpu.exists():
        reports.append(Report.read(gpu))
    figure = path.with_name(f"{path.stem}-scaling.png")
    write_atomic(path.with_suffix(".md"), markdown(reports, name=path.stem, figure=figure.name).encode())
    _draw(reports[0].rows, figure)


def markdown(reports: Sequence[Report], *, name: str, figure: str) -> str:
    """The page: goals first, then every row."""
    parts = [_HEAD.format(name=name), *(_setup(report) for report in reports), _goals(reports)]
    parts.append(f"![Cost against size, log-log, with the slope of each]({figure})\n")
    for report in reports:
        for subject, rows in groupby(report.rows, key=lambda row: row.subject):
            parts.append(f"## {subject}, {report.environment['device']}\n\n{_table(rows)}")
    return "\n".join(parts)


def _setup(report: Report) -> str:
    facts = report.environment
    used = ", ".join(f"{name} {version or '(not installed)'}" for name, version in facts["versions"].items())
    return (
        f"`{facts['command']}` on {facts['machine']} ({facts['capability']}), {facts['threads']} thread(s), "
        f"load {facts['load']} at the start. {used}.\n"
    )


def _goals(reports: Sequence[Report]) -> str:
    lines = ["| what | on | anchor | gate | stretch | found | verdict |", "|---|---|---|---|---|---|---|"]
    for goal in GOALS:
        measured = [row for report in reports if report.environment["device"] == goal.device for row in report.rows]
        rows = goal.rows(measured)
        bars = f"{goal.bar(goal.gate)} | {goal.bar(goal.stretch)}"
        cells = f"{goal.device} | {goal.anchor or '-'} | {bars} | {goal.found(rows)} | {goal.verdict(rows)}"
        lines.append(f"| {goal.text} | {cells} |")
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Row]) -> str:
    lines = ["| what | case | to | median [95 %] | P20 to P80 | n | anchor, ms |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.case} | {row.anchor or row.unit} | {' | '.join(_numbers(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _numbers(row: Row) -> Iterator[str]:
    if row.value is None:
        yield from (f"not measured: {row.note}", "", "", "")
        return
    yield interval(row) + (" *noisy*" if row.noisy else "")
    yield "" if row.p20 is None else f"{row.p20:.3g} to {row.p80:.3g}"
    yield str(row.n)
    yield "" if row.anchor_ms is None else f"{row.anchor_ms:.3g}"


def _draw(rows: Sequence[Row], path: Path) -> None:
    """Each sweep relative to its smallest size, so that seconds and bytes share one pair of axes."""
    sweeps = [row for row in rows if row.points and min(cost for _, cost in row.points) > 0]  # the axes are logs
    if not sweeps:
        return
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained", sharey=True)
    for row in sweeps:
        sizes, costs = zip(*row.points, strict=True)
        slope = f", slope {row.value:.2f}" if row.unit == "exponent" else ""
        axis = axes[int("memory" in row.what)]
        axis.loglog([s / sizes[0] for s in sizes], [c / costs[0] for c in costs], "o-", label=row.what + slope)
    for axis, title in zip(axes, ("time", "memory"), strict=True):
        axis.set(title=title, xlabel="size, relative to the smallest", ylabel="cost, relative to the smallest")
        axis.legend(fontsize=8)
    fig.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(fig)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
