"""One process at a time in a folder: the second waits, says so, and goes on when the first is done or killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from surrogate.alone import alone
from surrogate.errors import DataError
from surrogate.progress import finish

pytest.importorskip("fcntl", reason="this system has no locks on files")


def other_process(folder: Path) -> subprocess.Popen[str]:
    """One that is in the folder until its input ends."""
    code = f"""
        import sys
        from pathlib import Path
        from surrogate.alone import alone
        from surrogate.progress import finish
        with finish(alone(Path({str(folder)!r}))):
            print("in", flush=True)
            sys.stdin.read()
    """
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "in\n"
    return started


@pytest.mark.parametrize("killed", [False, True])
def test_the_second_waits_for_the_first(tmp_path: Path, killed: bool) -> None:
    folder = tmp_path / "runs" / "new"
    with other_process(folder) as first:
        waiting = alone(folder)
        assert "another process is at work there; waiting" in next(waiting).message
        if killed:
            first.kill()
        else:
            assert first.stdin is not None
            first.stdin.close()
        with finish(waiting):
            assert not list(folder.iterdir())


def test_whoever_leaves_lets_the_next_one_in(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), finish(alone(tmp_path)):
            raise KeyError
    assert list(alone(tmp_path)) == []  # did not have to wait


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot be made \(File exists\); name another folder with --run"):
        finish(alone(tmp_path / "file"))
