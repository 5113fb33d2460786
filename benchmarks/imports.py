"""What a user waits for before anything happens: imports on top of torch, and `surrogate --help`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import Case, seconds, summary
from benchmarks.rows import Row, Settings, row

SUBJECT = "imports"
MODULES = ("surrogate", "surrogate.loss", "surrogate.pipeline")
_IMPORT = "import time, torch; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_HELP = "from surrogate_cli.main import app; app()"


def run(settings: Settings) -> Iterator[Row]:
    """Each in fresh interpreters; seconds."""
    rounds = 1 if settings.tiny else min(settings.plan.rounds, 5)
    for module in MODULES[:1] if settings.tiny else MODULES:
        found = summary([float(_python(_IMPORT.format(module))) for _ in range(rounds)])
        yield row(SUBJECT, f"import {module}", "on top of torch", found, unit="s")
    help_ = seconds({"help": Case(lambda: _python(_HELP, "--help"))}, settings.plan, anchor="help")["help"]
    yield row(SUBJECT, "surrogate --help", "interpreter and all", summary(help_), unit="s")


def _python(code: str, *arguments: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout
