"""The arithmetic of the benchmarks, and that each of them runs. Nothing here looks at how long anything took."""

from __future__ import annotations

import dataclasses
import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import goals, harness, report
from benchmarks.__main__ import SUBJECTS, main
from benchmarks.harness import Case, Plan, ratios, seconds, slope, summary, sweep
from benchmarks.memory import process_peak, tensor_peak
from benchmarks.rows import Row, Settings
from benchmarks.scene import VOID, Scene

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
NOT_WHEN_TINY = {"loss, native", "compiled CE", "MONAI Dice", "import surrogate.loss", "import surrogate.pipeline"}
"""Rows that need a compiler, an extra, or more seconds than a test should take."""
TINY = Settings(Plan(rounds=1, least=1), tiny=True)


# --- the harness ---


def test_the_summary_of_equal_values_is_certain() -> None:
    found = summary([2.0] * 10)
    assert found == harness.Summary(median=2.0, low=2.0, high=2.0, p20=2.0, p80=2.0, n=10)
    assert not found.noisy


def test_the_summary_has_the_quantiles_and_says_when_it_is_noisy() -> None:
    found = summary([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (found.p20, found.median, found.p80) == (2.0, 3.5, 5.0)
    assert 1.0 <= found.low < found.median < found.high <= 6.0
    assert found.noisy


def test_the_interval_covers_the_true_median_about_95_times_in_100() -> None:
    """Of a skewed distribution, as times are; the bootstrap of a median is a little too wide, never too narrow."""
    dice = np.random.default_rng(3)
    samples = [summary(list(dice.lognormal(0.0, 0.3, size=30)), resamples=500) for _ in range(200)]
    covered = sum(found.low <= 1.0 <= found.high for found in samples)
    assert 180 <= covered < 200


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that slows down threefold on the way changes no ratio."""
    drift = np.linspace(1.0, 3.0, 9)
    found = ratios({"anchor": list(drift), "ours": list(0.5 * drift)}, anchor="anchor")
    assert list(found) == ["ours"]
    assert found["ours"].median == found["ours"].low == found["ours"].high == pytest.approx(0.5)


def test_every_case_runs_once_a_round_made_ready_and_the_order_varies() -> None:
    calls: list[str] = []
    cases = {
        name: Case(run=lambda name=name: calls.append(name), reset=lambda name=name: calls.append(f"ready {name}"))
        for name in ("a", "b", "c")
    }
    taken = seconds(cases, Plan(rounds=12, least=12), anchor="a")
    assert {name: len(times) for name, times in taken.items()} == {"a": 12, "b": 12, "c": 12}
    assert calls[0::2] == [f"ready {name}" for name in calls[1::2]]
    rounds = [tuple(calls[start + 1 : start + 6 : 2]) for start in range(12, len(calls), 6)]  # after the warm-up
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 1


def test_a_comparison_stops_when_it_is_sure_or_late(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"a": Case(lambda: None), "b": Case(lambda: None)}
    monkeypatch.setattr(harness, "timed", lambda case: 1.0 if case is cases["a"] else 2.0)
    assert len(seconds(cases, Plan(rounds=30, least=8), anchor="a")["a"]) == 8  # sure at once
    dice = np.random.default_rng(0)
    monkeypatch.setattr(harness, "timed", lambda _: float(dice.lognormal()))
    assert len(seconds(cases, Plan(rounds=30, least=8), anchor="a")["a"]) == 30
    assert len(seconds(cases, Plan(rounds=30, least=8, seconds=0.0), anchor="a")["a"]) == 8


def test_a_slope_is_the_exponent() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert slope(sizes, [3 * s**1.5 for s in sizes]) == pytest.approx(1.5)
    assert list(sweep(10, 1000, 10)) == [10, 100, 1000]


def test_memory_is_counted_at_its_peak() -> None:
    def call() -> None:
        first = torch.empty(1000, dtype=torch.uint8)
        del first
        second, third = torch.empty(3000, dtype=torch.uint8), torch.empty(2000, dtype=torch.uint8)
        del second, third

    assert tensor_peak(call, torch.device("cpu")) == 5000


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_of_the_process_is_counted_at_its_peak() -> None:
    without, peak = process_peak(lambda: None), process_peak(lambda: torch.ones(2**27, dtype=torch.uint8))
    assert without is not None
    assert peak is not None
    assert 0.9 * 2**27 < peak - without < 1.5 * 2**27


# --- what is measured ---


@pytest.mark.parametrize("accuracy", [0.05, 0.60, 0.95])
def test_a_scene_is_as_right_as_it_says(accuracy: float) -> None:
    scene = Scene(2, 5, 40, 50, accuracy=accuracy, void=0.2, layout=torch.channels_last)
    logits, labels = scene.tensors(torch.device("cpu"))
    assert logits.shape == (2, 5, 40, 50)
    assert logits.is_contiguous(memory_format=torch.channels_last)
    known = labels != VOID
    assert float(known.float().mean()) == pytest.approx(0.8, abs=0.03)
    right = logits.argmax(1) == labels
    assert float(right[known].float().mean()) == pytest.approx(accuracy, abs=0.03)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_benchmark_runs_and_gives_finite_numbers(subject: str) -> None:
    rows = list(importlib.import_module(f"benchmarks.{subject}").run(TINY))
    assert rows
    assert {row.subject for row in rows} == {subject}
    for row in rows:
        assert row.note if row.value is None else math.isfinite(row.value) and row.n > 0, row
    named = {(row.what, row.anchor) for row in rows}
    wanted = {(g.what, g.anchor) for g in goals.GOALS if g.subject == subject and g.device == "cpu"}
    assert {pair for pair in wanted - named if not set(pair) & NOT_WHEN_TINY} == set()


# --- what is reported ---


def test_the_worst_case_decides_a_goal() -> None:
    goal = goals.Goal("loss", "loss", "x", gate=1.5, stretch=1.0)
    faster = goals.Goal("fit", "loss", "x", gate=1.4, stretch=1.8, least=False)

    def rows(*values: float) -> list[Row]:
        return [Row("loss", "x", "", value=value) for value in values]

    assert [goal.verdict(rows(*v)) for v in ((0.9, 1.0), (0.2, 1.5), (0.2, 1.6), ())] == [
        "**stretch**", "holds", "missed", "not measured",
    ]  # fmt: skip
    assert [faster.verdict(rows(4.0, v)) for v in (1.8, 1.4, 1.3)] == ["**stretch**", "holds", "missed"]


def test_a_goal_speaks_of_its_own_rows() -> None:
    goal = goals.Goal("loss", "loss", "x", 1.5, 1.0, anchor="CE", case="fp32 16x")
    mine = Row("loss", "x", "16x2, fp32", anchor="CE", value=1.0)
    others = [
        dataclasses.replace(mine, subject="fit"),
        dataclasses.replace(mine, anchor=""),
        dataclasses.replace(mine, case="16x2, bf16"),
        dataclasses.replace(mine, value=None),
    ]
    assert goal.rows([*others, mine]) == [mine]


def test_a_report_is_written_read_and_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "small.json"
    main(["--only", "step", "--tiny", "--rounds", "1", "--out", str(path)])
    assert "whole finetuning step" in capsys.readouterr().out
    read = report.Report.read(path)
    assert read.environment["command"].startswith("python -m benchmarks --only step --tiny --rounds 1")
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    for row in read.rows:
        assert f"| {row.what} | {row.case} |" in page
    main(["--render", str(path)])
    assert path.with_suffix(".md").read_text(encoding="utf-8") == page


def test_the_published_page_is_the_one_of_the_published_numbers() -> None:
    path = RESULTS / "performance.json"
    reports = [report.Report.read(p) for p in (path, path.with_name("performance-gpu.json")) if p.exists()]
    page = report.markdown(reports, name="performance", figure="performance-scaling.png")
    assert path.with_suffix(".md").read_text(encoding="utf-8") == page
