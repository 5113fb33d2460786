"""One process at a time in a folder: the second waits, says so, and goes on when the first is done or killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from surrogate.alone import alone
from surrogate.errors import DataError, UsageError
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


def test_a_folder_that_is_deleted_while_one_waits_is_not_the_one_that_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with other_process(folder) as first:
        waiting = alone(folder)
        next(waiting)
        folder.rmdir()
        folder.mkdir()
        assert first.stdin is not None
        first.stdin.close()
        with finish(waiting), other_process(tmp_path / "elsewhere"):
            inside = folder.stat().st_ino
            again = alone(folder)
            with pytest.raises(UsageError):  # the lock is on the new one
                finish(again)
            assert folder.stat().st_ino == inside


def test_a_process_does_not_wait_for_itself(tmp_path: Path) -> None:
    with finish(alone(tmp_path)), pytest.raises(UsageError, match="a stage of this process is still at work there"):
        finish(alone(tmp_path))
    with finish(alone(tmp_path)):
        pass


def test_where_there_are_no_locks_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a folder cannot even be opened."""
    module = sys.modules["surrogate.alone"]
    monkeypatch.setattr(module, "_HAS_LOCKS", False)
    monkeypatch.setattr(module.os, "open", lambda *_: pytest.fail("opened"))
    with finish(alone(tmp_path / "new")), finish(alone(tmp_path / "new")):
        assert (tmp_path / "new").is_dir()


def test_whoever_leaves_lets_the_next_one_in(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), finish(alone(tmp_path)):
            raise KeyError
    assert list(alone(tmp_path)) == []  # did not have to wait


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot be made or opened \(File exists\); name another with --run"):
        finish(alone(tmp_path / "file"))
