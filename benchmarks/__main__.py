"""`python -m benchmarks`: runs the benchmarks, prints each row as it comes, and writes them where asked to."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import time
from pathlib import Path

import torch

from benchmarks.goals import interval
from benchmarks.harness import Plan
from benchmarks.report import Report, environment, render
from benchmarks.rows import Row, Settings

SUBJECTS = ("imports", "store", "fit", "collect", "step", "scaling", "loss")


def main(arguments: list[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.render:
        return render(options.render)
    device = torch.device(options.device)
    plan = Plan(rounds=options.rounds, least=min(options.rounds, Plan().least), seconds=options.seconds)
    settings = Settings(plan, device, tiny=options.tiny)
    facts = environment(shlex.join(["python", "-m", "benchmarks", *arguments]), device)
    rows: list[Row] = []
    for subject in options.only or SUBJECTS:
        began = time.perf_counter()
        for row in importlib.import_module(f"benchmarks.{subject}").run(settings):
            rows.append(row)
            print(_line(row), flush=True)
        print(f"{subject}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        if options.out:  # after each subject: what is interrupted keeps what it has
            Report(facts, tuple(rows)).write(options.out)
            render(options.out)
    return None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, metavar="SUBJECT", help=f"of: {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, default=Plan().rounds, help="at most, of one comparison")
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="at most, of one comparison's rounds")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, metavar="JSON", help="write the rows there, table and figure beside it")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only write table and figure of a report anew")
    parser.add_argument("--tiny", action="store_true", help="sizes of a test: seconds, and numbers that say nothing")
    return parser


def _line(row: Row) -> str:
    found = f"not measured: {row.note}" if row.value is None else interval(row)
    middle = "" if row.p20 is None else f"  P20/P80 {row.p20:.3g}/{row.p80:.3g}"
    to = f" / {row.anchor}" if row.anchor else f" ({row.unit})"
    return f"{row.what}{to}  {row.case}:  {found}{middle}  n={row.n}{'  noisy' if row.noisy else ''}"


if __name__ == "__main__":
    main(sys.argv[1:])
