"""The command line over a played pipeline: what an option asks for, and how an error ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surrogate.errors import (
    DataError,
    DivergedError,
    MissingExtraError,
    QualityError,
    SurrogateError,
    UsageError,
)
from surrogate_cli.exits import exit_code
from surrogate_cli.main import app, cli
from surrogate_cli.options import RECIPE_KEYS, CollectOptions, EvaluateOptions, FinetuneOptions, TrainOptions

pytestmark = pytest.mark.usefixtures("played")

STAGES = ("train", "collect", "fit", "finetune", "evaluate")
SHORT = {
    "--data": ("digits", "data.path", "digits"),
    "--layout": ("camvid", "data.layout", "camvid"),
    "--size": ("120x160", "data.size", "120x160"),
    "--model": ("pkg.mod:factory", "model.name", "pkg.mod:factory"),
    "--weights": ("w.pt", "model.weights", "w.pt"),
    "--measure": ("iou", "measure.name", "iou"),
    "--seed": ("7", "seed", 7),
    "--device": ("cpu", "device", "cpu"),
}
OF_A_STAGE = {
    "--epochs": ("3", "epochs", 3),
    "--batch-size": ("4", "batch_size", 4),
    "--lr": ("0.1", "lr", 0.1),
}
TAKES = {
    "train": ("--epochs", "--batch-size", "--lr"),
    "fit": ("--epochs", "--batch-size", "--lr"),
    "finetune": ("--epochs", "--batch-size", "--lr"),
    "collect": ("--batch-size",),
    "evaluate": (),
}


def run(*args: str) -> int:
    return exit_code(cli, args)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("option", SHORT)
def test_a_common_option_is_short_for_its_recipe_key(played: Any, stage: str, option: str) -> None:
    text, key, value = SHORT[option]
    assert run(stage, option, text) == 0
    [(name, request, _)] = played.asked
    assert (name, request) == (stage, played.Request(overrides=((key, value),)))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("option", OF_A_STAGE)
def test_an_option_of_the_stage_goes_to_the_table_of_the_stage(played: Any, stage: str, option: str) -> None:
    text, key, value = OF_A_STAGE[option]
    if option in TAKES[stage]:
        assert run(stage, option, text) == 0
        assert played.asked[0][1].overrides == ((f"{stage}.{key}", value),)
    else:
        assert run(stage, option, text) == 2
        assert not played.asked


@pytest.mark.parametrize(
    ("stage", "option", "text", "override"),
    [
        ("finetune", "--loss", "dice", ("finetune.loss", "dice")),
        ("finetune", "--ce-mix", "0", ("finetune.ce_mix", 0.0)),
        ("evaluate", "--loss", "none", ("finetune.loss", "none")),
    ],
)
def test_options_of_one_stage_alone(played: Any, stage: str, option: str, text: str, override: tuple[str, Any]) -> None:
    assert run(stage, option, text) == 0
    assert played.asked[0][1].overrides == (override,)


def test_every_field_that_has_a_recipe_key_is_an_option() -> None:
    fields = {
        name
        for kind in (TrainOptions, CollectOptions, FinetuneOptions, EvaluateOptions)
        for name in kind.__dataclass_fields__
    }
    own = {"app", "run", "recipe", "assignments", "as_json", "quiet", "split"}
    assert fields == own | RECIPE_KEYS.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_app_run_and_recipe_are_no_overrides(played: Any, stage: str) -> None:
    assert run(stage) == 0
    assert run(stage, "--app", "toy", "--run", "runs/a", "--recipe", "fast") == 0
    assert [request for _, request, _ in played.asked] == [
        played.Request(),
        played.Request("toy", Path("runs/a"), "fast"),
    ]


def test_set_repeats_reads_toml_and_comes_after_the_short_options(played: Any) -> None:
    assert run("fit", "--set", "fit.lr=0.5", "--set", "fit.columns=['tp']", "--set", "a.b=x=y", "--lr", "1") == 0
    assert played.asked[0][1].overrides == (
        ("fit.lr", 1.0),
        ("fit.lr", 0.5),
        ("fit.columns", ["tp"]),
        ("a.b", "x=y"),
    )


def test_evaluate_hands_on_the_split(played: Any) -> None:
    assert run("evaluate") == 0
    assert run("evaluate", "--split", "val") == 0
    assert [keywords for _, _, keywords in played.asked] == [{"split": "test"}, {"split": "val"}]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SurrogateError, 2),
        (UsageError, 2),
        (DataError, 3),
        (MissingExtraError, 4),
        (QualityError, 5),
        (DivergedError, 6),
    ],
)
def test_an_error_of_the_user_is_one_line_and_its_code(
    played: Any, capsys: pytest.CaptureFixture[str], error: type[SurrogateError], code: int
) -> None:
    played.error = error("a.png: label 12\nexpected 0 to 10; " + "long " * 50)
    assert run("fit", "--quiet") == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("error: a.png: label 12 expected 0 to 10; " + "long " * 50 + "\n")


def test_an_interrupt_says_that_the_command_continues_and_closes_the_stage(
    played: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    played.error = KeyboardInterrupt()
    assert run("fit") == 130
    assert played.closed
    line = "interrupted; what was finished is saved; the same command continues it"
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_a_bug_is_one_line_and_its_traceback_can_be_had(
    played: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played.error = ValueError("one\ntwo")
    assert run("fit", "--quiet") == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("internal error (bug): ValueError: one two; SURROGATE_DEBUG=1")

    monkeypatch.setenv("SURROGATE_DEBUG", "1")
    assert run("fit", "--quiet") == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("internal error (bug): ValueError: one two\n")


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["finetun"], "Did you mean 'finetune'"),
        (["fit", "--epoch", "3"], "--epochs"),
        (["fit", "extra"], "extra"),
        (["fit", "--seed", "x"], "'--seed'"),
        (["fit", "--device", "tpu"], "for '--device': 'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["fit", "--set", "fit.lr=inf"], "--set fit.lr=inf: expected a finite number"),
        (["compare", "--lrs", "1e-3,inf"], "--lrs 1e-3,inf: expected positive, finite numbers"),
        (["compare", "--lrs", "nan"], "--lrs nan: expected positive, finite numbers"),
        (["fit", "--run"], "'--run' requires an argument"),
        (["fit", "--set", "fit.depth"], "expected key=value"),
        (["evaluate", "--split", "all"], "'train', 'val', 'test'"),
        (["inspect"], "FILE"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    played: Any, capsys: pytest.CaptureFixture[str], args: list[str], part: str
) -> None:
    assert run(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert not played.asked


def test_a_reader_that_leaves_is_no_error() -> None:
    program = (
        "import sys, types; import surrogate; from surrogate_cli.main import app;"
        "m = types.ModuleType('surrogate.pipeline'); m.apps = lambda: [{'name': 'a' * 1000}] * 1000;"
        "surrogate.pipeline = sys.modules['surrogate.pipeline'] = m;"
        "sys.argv = ['surrogate', 'apps', '--json']; app()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_version_and_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("surrogate 0.")
    assert run() == run("--help") == 0
    first, second = capsys.readouterr().out.split("Examples")[:-1]
    assert first.split("Usage")[1:] == second.split("Usage")[1:]
    assert all(command in first for command in (*STAGES, "apps", "measures", "inspect", "doctor"))

    monkeypatch.setattr(sys, "argv", ["surrogate", "fit", "--nothing"])
    with pytest.raises(SystemExit) as end:
        app()
    assert end.value.code == 2


def test_help_says_what_happens_without_an_option_and_where_errors_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--help") == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "the word none: the baseline" in told
    assert "Without --loss: the loss of the run's recipe" in told
    assert "errors go to stderr, with an exit code" in told


@pytest.mark.parametrize("args", [["--help"], ["fit", "--help"], ["--version"], ["fitt"]])
def test_help_and_wrong_usage_do_without_torch_and_apps(args: list[str]) -> None:
    program = (
        "import sys; from surrogate_cli.exits import exit_code; from surrogate_cli.main import cli;"
        f"exit_code(cli, {args!r});"
        "heavy = {'torch', 'numpy', 'h5py', 'surrogate_segmentation', 'surrogate_toy'};"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
