"""Draws a running stage on stderr: bars on a terminal, plain lines in a log, or nothing."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, redirect_stdout
from typing import TypeVar

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from surrogate.progress import Progress, Stage

T = TypeVar("T")
Draw = Callable[[Progress], None]

_SILENCE = 30.0
"""Seconds after which a log gets a line on how far the stage is."""


def follow(stage: Stage[T], *, quiet: bool) -> T:
    """Runs a stage to its end, shows its progress, and returns its result.

    stdout belongs to the result, so what a user's model prints meanwhile goes to stderr.
    """
    with redirect_stdout(sys.stderr), closing(stage), _display(quiet=quiet) as draw:
        while True:
            try:
                draw(next(stage))
            except StopIteration as end:
                result: T = end.value
                return result


def _display(*, quiet: bool) -> AbstractContextManager[Draw]:
    if quiet:
        return nullcontext(lambda _: None)
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    # A forced colour (FORCE_COLOR) makes rich take a log for a terminal, so the stream itself is asked too.
    if sys.stderr.isatty() and console.is_interactive:
        return _bars(console)
    return nullcontext(_lines(time.monotonic))


def _lines(clock: Callable[[], float]) -> Draw:
    """A line for each message, and after a long silence one for the step that comes then."""
    printed = clock()

    def draw(event: Progress) -> None:
        nonlocal printed
        if event.message or clock() - printed >= _SILENCE:
            line = event.message or f"{event.stage}: {event.step} of {event.total}"
            print(line, file=sys.stderr, flush=True)
            printed = clock()

    return draw


@contextmanager
def _bars(console: Console) -> Iterator[Draw]:
    """Messages, and under them a bar for each stage that is under way; stages lie within each other."""
    columns = (
        rich_progress.TextColumn("{task.description}", style="bold", markup=False),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[values]}", style="dim", markup=False),
    )
    with rich_progress.Progress(*columns, console=console, transient=True) as bars:
        under_way: dict[str, rich_progress.TaskID] = {}

        def draw(event: Progress) -> None:
            if event.stage not in under_way:
                # A resumed stage starts where it was left: steps of an earlier run do not count as speed.
                under_way[event.stage] = bars.add_task(event.stage, completed=event.step, total=event.total, values="")
            values = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
            bars.update(under_way[event.stage], completed=event.step, total=event.total, values=values)
            if event.message:
                console.print(Text(event.message), soft_wrap=True)
            if event.step == event.total:
                bars.remove_task(under_way.pop(event.stage))

        yield draw
