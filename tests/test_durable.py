"""Files that are whole, and that one process at a time writes."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pytest

from mdsa_local import durable
from mdsa_local.durable import only_one, replacing, write_whole
from mdsa_local.errors import InputError, StorageError

HOLDS = """
import sys
from pathlib import Path
from mdsa_local import durable
from mdsa_local.durable import only_one
path = Path(sys.argv[1])
with only_one(path, path):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_small_files_are_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.yaml", "one\n")
    write_whole(tmp_path / "a.yaml", "two\n")
    assert (tmp_path / "a.yaml").read_text() == "two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


def test_a_file_takes_the_place_of_the_one_before_when_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    for content in (b"one", b"two"):
        with replacing(target) as partial:
            partial.write_bytes(content)
            assert not target.exists() or target.read_bytes() == b"one"
        assert target.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_of_many_that_write_at_once_the_last_to_end_wins(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"

    def late() -> None:
        with replacing(target, by_many=True) as partial:
            partial.write_bytes(b"two")

    with replacing(target, by_many=True) as partial:
        partial.write_bytes(b"one")
        other = threading.Thread(target=late)
        other.start()
        other.join()
        assert target.read_bytes() == b"two"
    assert target.read_bytes() == b"one" and [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_what_cannot_be_written_leaves_the_file_before(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"one")
    with pytest.raises(StorageError, match="quota exceeded"), replacing(target) as partial:
        partial.write_bytes(b"tw")
        raise OSError(122, "quota exceeded")
    assert target.read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    with pytest.raises(StorageError, match="cannot write"), replacing(target / "b.bin"):
        pass


def test_who_stops_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.bin") as partial:
        partial.write_bytes(b"on")
        raise KeyboardInterrupt
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.yaml", "half a character: \ud83d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.yaml", "one\n")
    (tmp_path / "a.yaml.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"a\.yaml: No space left"):
        write_whole(tmp_path / "a.yaml", "two\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]
    assert (tmp_path / "a.yaml").read_text() == "one\n"


@pytest.mark.skipif(sys.platform == "win32", reason="no fcntl")
@pytest.mark.parametrize("known", [True, False])
def test_on_macos_the_drive_itself_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    import fcntl

    asked, synced = list[int](), list[int]()

    def ask(descriptor: int, what: int) -> None:
        asked.append(what)
        if not known:
            raise OSError(45, "Operation not supported")

    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", ask)
    monkeypatch.setattr("os.fsync", synced.append)
    write_whole(tmp_path / "a.yaml", "one\n")
    # The file, and then the folder.
    assert (asked, len(synced)) == ([51, 51], 0 if known else 2)


def test_one_process_at_a_time_and_none_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process"), only_one(path, path):
            pytest.fail("two hold it")
    finally:
        other.kill()
        other.communicate()
    with only_one(path, path):
        pass
    assert not path.exists()


def test_a_lock_leaves_nothing_where_what_is_open_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, unlink, opened = tmp_path / "lock", Path.unlink, list[IO[bytes]]()

    def taken(file: IO[bytes]) -> bool:
        opened.append(file)
        return True

    def unless_open(gone: Path, missing_ok: bool = False) -> None:
        if not opened[-1].closed:
            raise PermissionError(13, "Access is denied")
        unlink(gone, missing_ok)

    monkeypatch.setattr(durable, "sys", SimpleNamespace(platform="win32"))
    monkeypatch.setattr(durable, "_taken", taken)
    monkeypatch.setattr(Path, "unlink", unless_open)
    with only_one(path, path):
        assert path.exists()
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a file that is open")
def test_a_lock_that_was_removed_by_who_had_it_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    path, flock = tmp_path / "lock", fcntl.flock
    with ExitStack() as first, ExitStack() as third:
        first.enter_context(only_one(path, path))

        def between(file: IO[bytes], how: int) -> None:
            """The second has opened the file: now the first is done, and a third begins."""
            monkeypatch.setattr(fcntl, "flock", flock)
            first.close()
            third.enter_context(only_one(path, path))
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", between)
        with pytest.raises(InputError, match="another process"), only_one(path, path):
            pytest.fail("two hold it")
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a file that is open")
def test_who_waited_for_a_lock_that_is_gone_makes_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    path, flock = tmp_path / "lock", fcntl.flock
    with ExitStack() as first:
        first.enter_context(only_one(path, path))

        def between(file: IO[bytes], how: int) -> None:
            monkeypatch.setattr(fcntl, "flock", flock)
            first.close()
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", between)
        with only_one(path, path):
            assert path.exists()
            with pytest.raises(InputError, match="another process"), only_one(path, path):
                pytest.fail("two hold it")
    assert not path.exists()
