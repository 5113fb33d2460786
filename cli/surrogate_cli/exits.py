"""The one place where a command ends: every outcome becomes an exit code and at most one line on stderr."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.text import Text
from typer.main import get_command

from surrogate.errors import SurrogateError

BUG, INTERRUPTED, READER_LEFT = 1, 130, 141  # the last two are what a shell reports for SIGINT and SIGPIPE


def exit_code(cli: typer.Typer, args: Sequence[str]) -> int:
    """Runs one command and returns how it ended; without arguments, shows the help.

    Typer's own `main` is not used: it draws a box of several lines around a usage error, and leaves silently
    with its own codes where a command was interrupted or its reader is gone.
    """
    try:
        with get_command(cli).make_context("surrogate", list(args) or ["--help"]) as context:
            context.command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except SurrogateError as error:
        return _complain(f"error: {error}", error.exit_code)
    except typer.TyperException as error:
        message = error.format_message().replace("Value error, ", "")  # which pydantic puts before its own
        return _complain(f"error: {message} (--help lists what there is)", error.exit_code)
    except KeyboardInterrupt:
        return _complain("interrupted; what was finished is saved; the same command continues it", INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        return READER_LEFT
    except Exception as error:
        return _report_bug(error)
    return 0


def _complain(message: str, code: int) -> int:
    line = " ".join(message.split("\n"))
    Console(stderr=True).print(Text(line, style="red"), soft_wrap=True)
    return code


def _report_bug(error: Exception) -> int:
    if debug := os.environ.get("SURROGATE_DEBUG") == "1":
        traceback.print_exception(error)
    hint = "" if debug else "; SURROGATE_DEBUG=1 before the same command shows the traceback"
    return _complain(f"internal error (bug): {type(error).__name__}: {error}{hint}", BUG)


def _drop_output() -> None:
    """Sends what is still buffered nowhere; Python would complain of it while shutting down."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
