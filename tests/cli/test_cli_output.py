"""What the command line prints, over a played pipeline: results on stdout, progress on stderr."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from rich.console import Console

from surrogate.progress import Progress
from surrogate_cli.exits import exit_code
from surrogate_cli.main import cli
from surrogate_cli.progress import _lines
from surrogate_cli.view import _next_command, _text, _values

pytestmark = pytest.mark.usefixtures("played")

STAGES = ("train", "collect", "fit", "finetune", "evaluate")
SPEC = "mIoU(macro, dataset, ignore=11, absent=skip)"
MESSAGES = ["train epoch 1/2: loss 0.5", "train epoch 2/2: loss 0.25 [val]"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def take_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes stderr a terminal; within the test, as pytest puts its own stderr in place after the fixtures."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    return terminal


def run(*args: str) -> int:
    return exit_code(cli, args)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """stdout with runs of spaces as one."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_json_is_one_object_on_stdout_and_progress_is_on_stderr(
    played: Any, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    assert run(stage, "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out, parse_constant=pytest.fail) == json.loads(
        json.dumps(played.results[stage]).replace("NaN", "null")
    )
    assert err.splitlines() == ["a model that prints", *MESSAGES]


def test_a_log_gets_each_message_once_and_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("train") == 0
    err = capsys.readouterr().err
    assert err.splitlines() == ["a model that prints", *MESSAGES]
    assert "\r" not in err
    assert "\x1b" not in err


def test_quiet_shows_no_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = take_terminal(monkeypatch)
    assert run("train", "--quiet") == 0
    assert terminal.getvalue() == "a model that prints\n"
    assert SPEC in capsys.readouterr().out


def test_a_terminal_gets_bars_and_each_message_once(
    played: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = take_terminal(monkeypatch)
    assert run("train", "--json") == 0
    drawn = terminal.getvalue()
    assert "\x1b" in drawn
    assert "loss 0.75" in drawn  # a value of a bar
    assert [drawn.count(message) for message in (*MESSAGES, "a model that prints")] == [1, 1, 1]
    assert json.loads(capsys.readouterr().out) == played.results["train"]


def test_finetune_shows_every_number_before_and_after(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("finetune") == 0
    shown = lines(capsys)
    start = shown.index("before and after")
    assert shown[start + 3] == "value@batch (the measure) 0.2500 0.5000 +0.2500", "the run's own measure is first"
    assert shown.index(SPEC) > start + 3, "how to read it stands below"
    assert shown.count(SPEC) == 1
    for row in (
        "value 0.5000 0.6250 +0.1250",
        "sky - 0.5000",
        "road 0.2500 0.1250 -0.1250",
        "surrogate dice",
        "value 0.6250 -",
    ):
        assert row in shown
    assert "checkpoint runs/my run/finetune-surrogate/model.safetensors" in shown
    assert shown[-1] == "next: surrogate evaluate --run 'runs/my run' --loss surrogate"


def test_fit_shows_fidelity_with_its_level_figures_and_the_next_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("fit") == 0
    shown = lines(capsys)
    for row in (
        "columns tp, fp",
        "fidelity iou, level sample",
        "learned analytic",
        "spearman 0.9877 0.5000",
        "kendall - -",
        "r2 - -",
        "n_samples 20 -",
        "regime spearman r2 mae analytic spearman",
        "model 0.8750 - 0.0625 0.7500",
    ):
        assert row in shown
    assert shown[shown.index("figures runs/a/fit.png") + 1] == "runs/a/rows.png"
    assert not any("report" in line or "nan" in line.lower() for line in shown[:-1])
    assert shown[-1].startswith("next: read docs/fidelity-report.md"), "no fit to train through"


def test_of_many_names_the_first_are_shown_and_their_number() -> None:
    assert _text([f"s{k}" for k in range(12)]).endswith("s10, s11")
    assert _text([f"s{k}" for k in range(80)]).endswith("s10, s11, ... (80 in all, see --json)")


def test_numbers_beside_words_keep_to_the_left() -> None:
    console = Console(width=200, color_system=None)
    for value, number in (("a long word " * 5, "7"), (1234.5, "        7")):
        with console.capture() as drawn:
            console.print(_values({"text": value, "width": 7}))
        assert drawn.get().splitlines()[1].rstrip() == f"width   {number}"


def test_a_log_gets_a_line_after_a_long_silence(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    draw = _lines(lambda: now)
    for step in range(1, 101):
        now = float(step)
        draw(Progress("collect", step, 100, message="half" if step == 50 else ""))
    assert capsys.readouterr().err.splitlines() == ["collect: 30 of 100", "half", "collect: 80 of 100"]


def test_after_a_good_fit_the_next_command_trains_through_it() -> None:
    good = {"spearman": 0.99, "r2": 0.99, "wrong_sign": 0.0}
    assert _next_command("fit", {"run": "runs/a", "fidelity": good}) == "surrogate finetune --run runs/a"


@pytest.mark.parametrize(
    ("stage", "rows", "last"),
    [
        ("train", ["metrics", SPEC, "sky -", "[pole] 0.2500"], "next: surrogate fit --run runs/a"),
        (
            "collect",
            ["undefined 3", "regimes iou, level sample", "noisy 47"],
            "next: surrogate fit --run runs/a",
        ),
        ("evaluate", ["metrics", SPEC, "miou 0.5000", "split test"], "model runs/a/model"),
    ],
)
def test_other_stages(capsys: pytest.CaptureFixture[str], stage: str, rows: list[str], last: str) -> None:
    assert run(stage) == 0
    shown = lines(capsys)
    assert set(rows) <= set(shown)
    assert shown[-1] == last


@pytest.mark.parametrize("command", ["apps", "measures"])
def test_a_broken_plugin_is_a_line_of_the_list(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(command) == 0
    shown = lines(capsys)
    assert "toy step surrogate-loss 0.1.0 -" in shown
    assert "toy bad bad 2 ImportError: no Foo" in shown
    assert run(command, "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)[command]] == ["step", "bad"]


def test_measures_of_one_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("measures", "--app", "segmentation", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"measures": []}


def test_inspect_shows_what_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", "runs/a/stats") == 0
    assert {"kind store", "path runs/a/stats", "measure", "name iou", "version 1"} <= set(lines(capsys))


def test_doctor_names_what_is_missing_and_how_to_fix_it(played: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    assert {"device cpu", "torch 2.13.0", "missing none", "ok yes"} <= set(lines(capsys))
    played.ok = False
    assert run("doctor") == 4
    assert "matplotlib no figures pip install 'surrogate-loss[plot]'" in lines(capsys)
