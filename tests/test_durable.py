"""Files that are whole, and that one process at a time writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mdsa_local.durable import only_one, write_whole
from mdsa_local.errors import InputError

HOLDS = """
import sys
from pathlib import Path
from mdsa_local.durable import only_one
path = Path(sys.argv[1])
with path.open("ab+") as file, only_one(file, path):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_small_files_are_written_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.yaml", "one\n")
    write_whole(tmp_path / "a.yaml", "two\n")
    assert (tmp_path / "a.yaml").read_text() == "two\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.yaml"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_on_a_full_disk_the_file_stays_as_it_was(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.yaml", "one\n")
    (tmp_path / "a.yaml.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a.yaml", "two\n")
    assert (tmp_path / "a.yaml").read_text() == "one\n"


def test_one_process_at_a_time_and_none_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"held\n"
        with path.open("ab+") as file, pytest.raises(InputError, match="another process"), only_one(file, path):
            pytest.fail("two hold it")
    finally:
        other.kill()
        other.communicate()
    with path.open("ab+") as file, only_one(file, path):
        pass
