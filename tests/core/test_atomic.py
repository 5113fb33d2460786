"""Atomic files: at every instant the old content or the new one, and what a kill leaves can be swept."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from surrogate.atomic import sweep, write_atomic
from surrogate.errors import DataError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that holds `old`, alone in its folder."""
    path = tmp_path / "manifest.json"
    path.write_bytes(b"old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"new", memoryview(b"new"), bytes(3_000_000)])
def test_writes_and_replaces_the_whole_file(path: Path, data: bytes | memoryview) -> None:
    write_atomic(path, data)
    write_atomic(path.with_name("fresh"), data)
    assert path.read_bytes() == path.with_name("fresh").read_bytes() == bytes(data)
    assert names(path.parent) == ["fresh", "manifest.json"]


def test_the_data_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(handle: int) -> None:
        status = os.fstat(handle)
        steps.append("folder" if stat.S_ISDIR(status.st_mode) else f"file of {status.st_size}")
        fsync(handle)

    def record_replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomic(path, b"12345")
    assert steps == ["file of 5", "rename", "folder"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_one_line(path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(DataError, match=r"manifest\.json: cannot be written \(No space left on device\)") as caught:
        write_atomic(path, b"new")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert names(path.parent) == ["manifest.json"]


def test_an_interrupt_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(path.parent) == ["manifest.json"]


def test_a_missing_folder_is_made_and_an_impossible_one_is_named(path: Path) -> None:
    write_atomic(path.parent / "a" / "b" / "file", b"new")
    assert (path.parent / "a" / "b" / "file").read_bytes() == b"new"
    with pytest.raises(DataError, match=r"manifest\.json/file: cannot be written"):
        write_atomic(path / "file", b"new")


def test_the_umask_alone_decides_who_may_read(path: Path) -> None:
    plain = path.with_name("plain")
    plain.write_bytes(b"")
    write_atomic(path, b"new")
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_killed_writer_leaves_the_old_file_and_a_leftover_that_is_swept(path: Path) -> None:
    script = (
        "import os, pathlib, sys; from surrogate.atomic import write_atomic\n"
        "os.fsync = lambda handle: os._exit(9)\n"  # dies with the data written and the name not yet changed
        "write_atomic(pathlib.Path(sys.argv[1]), b'new')\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == 9
    assert path.read_bytes() == b"old"
    (leftover,) = sweep(path.parent)
    assert leftover.name.startswith(".manifest.json.")
    assert names(path.parent) == ["manifest.json"]


def test_sweep_removes_nothing_else(path: Path) -> None:
    for name in (".hidden", "kept.partial", ".gitignore"):
        path.with_name(name).write_bytes(b"")
    path.with_name(".folder.partial").mkdir()
    before = names(path.parent)
    assert sweep(path.parent) == []
    assert names(path.parent) == before
