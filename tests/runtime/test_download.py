"""Downloads against a real HTTP server that breaks off, lies and leads elsewhere."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdsa_local.durable import only_one
from mdsa_local.errors import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    InputError,
    MDSAError,
    ModelFileError,
    ModelNotFoundError,
    StorageError,
)
from mdsa_local.runtime.download import Fetcher, need_room

from .file_server import FileHub

CONTENT = random.Random(3).randbytes(1_500_000)


@pytest.fixture
def hub() -> Iterator[FileHub]:
    with FileHub(CONTENT) as running:
        yield running


@pytest.fixture
def fetcher(hub: FileHub) -> Iterator[Fetcher]:
    with Fetcher(hub.url, allowed_hosts=("localhost",)) as made:
        yield made


def fetch(fetcher: Fetcher, hub: FileHub, kind: str, target: Path) -> Path:
    return fetcher.fetch(fetcher.look_up(hub.file(kind)), target)


def ranges(hub: FileHub) -> list[str]:
    return [asked for method, path, asked, _ in hub.server.calls if method == "GET" and path.startswith("/storage/")]


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    remote = fetcher.look_up(hub.file("good"))
    assert (remote.size_bytes, remote.sha256) == (len(CONTENT), hub.server.sha256)
    fetcher.fetch(remote, tmp_path / "new" / "x.gguf", lambda done, total: told.append((done, total)))
    assert (tmp_path / "new" / "x.gguf").read_bytes() == CONTENT
    assert only(tmp_path / "new") == ["x.gguf"]
    assert told == sorted(set(told)), "the end is told once"
    assert told[-1] == (len(CONTENT), len(CONTENT))


def test_a_connection_that_breaks_off_is_taken_up_again(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    fetch(fetcher, hub, "breaks-off", tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert ranges(hub) == ["", f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_server_without_ranges_begins_again(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    fetch(fetcher, hub, "no-ranges", tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == CONTENT


def test_a_server_that_cannot_go_on_begins_again(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    fetch(fetcher, hub, "cannot-go-on", tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == CONTENT
    assert ranges(hub) == ["", f"bytes={len(CONTENT) // 3}-", ""]


def test_what_came_is_kept_and_gone_on_with(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    with pytest.raises(BackendUnavailableError) as caught:
        fetch(fetcher, hub, "dies", target)
    assert caught.value.retryable
    assert "goes on from there" in caught.value.hint
    assert not target.exists()
    kept = (tmp_path / "x.gguf.partial").stat().st_size
    assert kept == len(CONTENT) // 3
    hub.server.calls.clear()
    fetch(fetcher, hub, "good", target)
    assert ranges(hub) == [f"bytes={kept}-"]
    assert target.read_bytes() == CONTENT
    assert only(tmp_path) == ["x.gguf"]


def test_what_is_left_of_another_file_is_not_used(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    (tmp_path / "x.gguf.partial").write_bytes(b"something else")
    (tmp_path / "x.gguf.partial.json").write_text('{"size_bytes": 14, "version": "other"}')
    fetch(fetcher, hub, "good", tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_bytes() == CONTENT


def test_a_damaged_partial_file_is_found_out_and_removed(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError):
        fetch(fetcher, hub, "dies", tmp_path / "x.gguf")
    partial = tmp_path / "x.gguf.partial"
    raw = bytearray(partial.read_bytes())
    raw[100] ^= 1
    partial.write_bytes(raw)
    with pytest.raises(ModelFileError, match="SHA-256"):
        fetch(fetcher, hub, "good", tmp_path / "x.gguf")
    assert only(tmp_path) == []
    fetch(fetcher, hub, "good", tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("wrong-content", ModelFileError, "SHA-256"),
        ("longer-than-it-is", ModelFileError, "announced 1500005 bytes and sends 1500000"),
        ("more-than-said", ModelFileError, "sends more than the"),
        ("elsewhere", BackendError, "http://192.0.2.1, which is not allowed"),
        ("elsewhere-at-once", BackendError, "not allowed"),
        ("circle", BackendError, "circle"),
        ("absent", ModelNotFoundError, "no such file"),
        ("gated", ModelNotFoundError, "access refused"),
        ("sizeless", BackendError, "how large"),
        ("size-odd", BackendError, "how large"),
        ("size-huge", BackendError, "how large"),
        ("bracket", BackendError, r"redirects to 'http://\[bad', which is no address"),
        ("port", BackendError, "which is no address"),
    ],
)
def test_what_is_wrong_is_one_clear_error_and_never_used(
    fetcher: Fetcher, hub: FileHub, tmp_path: Path, kind: str, error: type[MDSAError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        fetch(fetcher, hub, kind, tmp_path / "x.gguf")
    assert caught.value.hint
    assert not (tmp_path / "x.gguf").exists()
    if error is ModelFileError:
        assert only(tmp_path) == []


def test_the_storage_has_to_be_an_allowed_host(hub: FileHub, tmp_path: Path) -> None:
    with Fetcher(hub.url) as strict, pytest.raises(BackendError, match=r"localhost.*not allowed"):
        fetch(strict, hub, "good", tmp_path / "x.gguf")
    with Fetcher(hub.url, allowed_hosts=(".host",)) as strict, pytest.raises(BackendError, match="not allowed"):
        fetch(strict, hub, "good", tmp_path / "x.gguf")


def test_the_token_goes_to_the_hub_alone(hub: FileHub, tmp_path: Path) -> None:
    with Fetcher(hub.url, "secret", ("localhost",)) as trusted:
        fetch(trusted, hub, "gated", tmp_path / "x.gguf")
    sent = {(path.startswith("/storage/"), token) for _, path, _, token in hub.server.calls}
    assert sent == {(False, "Bearer secret"), (True, "")}


def test_a_token_has_no_line_end_and_is_never_shown(hub: FileHub, tmp_path: Path) -> None:
    with Fetcher(hub.url, "secret\n", ("localhost",)) as trusted:
        fetch(trusted, hub, "gated", tmp_path / "x.gguf")
    for wrong in ("hf_sec\nret", "hf_secré"):
        with pytest.raises(ConfigError, match="HF_TOKEN") as caught:
            Fetcher(hub.url, wrong)
        assert "sec" not in f"{caught.value} {caught.value.hint}"


def test_a_disk_without_room_is_said_before_the_first_byte(fetcher: Fetcher, hub: FileHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = fetcher.look_up(hub.file("good"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 50 * 2**20))
    with pytest.raises(StorageError, match=r"1\.5 MB are needed, 52\.4 MB are free"):
        fetcher.fetch(remote, tmp_path / "x.gguf")
    assert ranges(hub) == []
    monkeypatch.undo()
    need_room(tmp_path, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up_keeps_what_there_is(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    (tmp_path / "x.gguf.partial").symlink_to("/dev/full")
    with pytest.raises(StorageError):
        fetch(fetcher, hub, "good", tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_two_at_once_do_not_mix(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    with only_one(tmp_path / "x.gguf.partial.lock", target), pytest.raises(InputError, match="another process"):
        fetch(fetcher, hub, "good", target)
    fetch(fetcher, hub, "good", target)


def test_not_running(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with Fetcher(url) as fetcher, pytest.raises(BackendUnavailableError):
        fetcher.look_up(f"{url}/x")
    with Fetcher("http://127.0.0.1") as fetcher, pytest.raises(InputError, match="no address") as caught:
        fetcher.look_up("ftp://127.0.0.1/x")
    assert "hub_url" in caught.value.hint and "MDSA_HUB_URL" in caught.value.hint


KILLED = """
import sys
from pathlib import Path
from mdsa_local.runtime.download import Fetcher
with Fetcher(sys.argv[1], allowed_hosts=("localhost",)) as fetcher:
    fetcher.fetch(fetcher.look_up(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_kill_9_in_the_middle_loses_nothing(fetcher: Fetcher, hub: FileHub, tmp_path: Path) -> None:
    target, partial = tmp_path / "x.gguf", tmp_path / "x.gguf.partial"
    running = subprocess.Popen([sys.executable, "-c", KILLED, hub.file("slow"), str(target)])
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size > 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(10)
    kept = partial.stat().st_size
    assert 100_000 < kept < len(CONTENT)
    assert not target.exists()
    hub.server.calls.clear()
    fetch(fetcher, hub, "good", target)
    assert ranges(hub) == [f"bytes={kept}-"]
    assert target.read_bytes() == CONTENT
