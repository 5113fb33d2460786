"""The commands. Each asks `surrogate.pipeline` and hands its answer to `view`; none knows an application.

The pipeline is imported inside the commands, so that `surrogate --help` answers without torch.
"""

import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from surrogate.progress import Stage
from surrogate_cli import view
from surrogate_cli.exits import exit_code
from surrogate_cli.options import (
    CollectOptions,
    CompareOptions,
    EvaluateOptions,
    FinetuneOptions,
    Json,
    StageOptions,
    TrainOptions,
    options_from,
)
from surrogate_cli.plugins import plugins
from surrogate_cli.progress import follow

STAGES, LOOK = "Stages (what one needs is made first)", "Look around"
MISSING_PART = 4

EXAMPLES = """
[bold]Examples[/]

surrogate fit --app segmentation --run runs/first

surrogate finetune --run runs/first

surrogate evaluate --run runs/first --json

surrogate fit --app segmentation --data ../CamVid --set fit.depth=3
"""

cli = typer.Typer(
    name="surrogate",
    help="Train on the metric you report: learn a differentiable loss for any metric.",
    epilog=EXAMPLES,
    add_completion=False,
    pretty_exceptions_enable=False,
)


cli.add_typer(plugins, name="plugins", rich_help_panel=LOOK)


def app() -> None:
    """The program `surrogate`: runs the command of `sys.argv` and leaves with its exit code.

    A job that is ended from outside, by `timeout` or a scheduler, ends as one that is interrupted at the keyboard.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code(cli, sys.argv[1:]))


def _print_version(asked: bool) -> None:
    if asked:
        view.write(f"surrogate {version('surrogate-loss')}")
        raise typer.Exit


@cli.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", metavar="", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Holds the options of the program itself."""


@cli.command(rich_help_panel=STAGES)
@options_from(TrainOptions)
def fit(options: TrainOptions) -> None:
    """Learn a surrogate of the metric from recorded statistics."""
    from surrogate import pipeline

    _run("fit", pipeline.fit(options.request("fit")), options)


@cli.command(rich_help_panel=STAGES)
@options_from(FinetuneOptions)
def finetune(options: FinetuneOptions) -> None:
    """Train the model further through the surrogate, or another loss."""
    from surrogate import pipeline

    _run("finetune", pipeline.finetune(options.request("finetune")), options)


@cli.command(rich_help_panel=STAGES)
@options_from(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Score a model with the exact metric over a whole split."""
    from surrogate import pipeline

    _run("evaluate", pipeline.evaluate(options.request("evaluate"), split=options.split), options)


@cli.command(rich_help_panel=STAGES)
@options_from(CompareOptions)
def compare(options: CompareOptions) -> None:
    """Finetune through several losses alike and put them into a table."""
    from surrogate import compare as comparing

    _run("compare", comparing.compare(options.request("finetune"), options.comparison()), options)


@cli.command(rich_help_panel=STAGES)
@options_from(TrainOptions)
def train(options: TrainOptions) -> None:
    """Train the baseline model with the app's usual loss."""
    from surrogate import pipeline

    _run("train", pipeline.train(options.request("train")), options)


@cli.command(rich_help_panel=STAGES)
@options_from(CollectOptions)
def collect(options: CollectOptions) -> None:
    """Record soft statistics and metric values of the baseline model."""
    from surrogate import pipeline

    _run("collect", pipeline.collect(options.request("collect")), options)


@cli.command(rich_help_panel=LOOK)
def apps(as_json: Json = False) -> None:
    """List the installed applications."""
    from surrogate import pipeline

    _show("apps", {"apps": pipeline.apps()}, as_json=as_json)


@cli.command(rich_help_panel=LOOK)
def measures(
    app: Annotated[str | None, typer.Option(metavar="NAME", help="Of this application only.")] = None,
    as_json: Json = False,
) -> None:
    """List the measures a surrogate can be learned for."""
    from surrogate import pipeline

    _show("measures", {"measures": pipeline.measures(app)}, as_json=as_json)


@cli.command(rich_help_panel=LOOK)
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A store, a shard, a surrogate, or a run folder.")],
    as_json: Json = False,
) -> None:
    """Say what a file or a run folder holds."""
    from surrogate import pipeline

    _show("inspect", pipeline.inspect(file), as_json=as_json)


@cli.command(rich_help_panel=LOOK)
def doctor(as_json: Json = False) -> None:
    """Check the installation; exit code 4 when a part is missing."""
    from surrogate import pipeline

    found = pipeline.doctor()
    _show("doctor", found, as_json=as_json)
    if not found["ok"]:
        raise typer.Exit(MISSING_PART)


def _run(command: str, stage: Stage[dict[str, Any]], options: StageOptions) -> None:
    _show(command, follow(stage, quiet=options.quiet), as_json=options.as_json)


def _show(command: str, result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        view.show_json(result)
    else:
        view.show(command, result)
