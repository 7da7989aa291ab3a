"""Fetch one file over HTTP so that a file of its name is always whole and verified, whatever happens on the way.

Bytes go to ``NAME.partial``, which a later call goes on with. Only when size and SHA-256 are right is it flushed to disk and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit

from mdsa_local.durable import on_disk, only_one, settle, write_whole
from mdsa_local.errors import BackendError, BackendTimeoutError, BackendUnavailableError, InputError, ModelFileError, ModelNotFoundError, StorageError
from mdsa_local.runtime.residency import describe_bytes
from mdsa_local.runtime.wire import bearer, is_loopback

if TYPE_CHECKING:
    import httpx

SPARE_DISK_BYTES = 64 << 20
SILENCE_S = 30.0
MAX_REDIRECTS = 5
# A connection that breaks off is taken up again this often, as long as each one brought something.
MAX_CONNECTIONS = 20
# Of a file; with more digits than any has it is none.
SIZE = re.compile(r"[0-9]{1,18}")
REDIRECTS = (301, 302, 303, 307, 308)

Progress = Callable[[int, int], None]
Check = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Remote:
    """What a server says of a file. ``sha256`` is empty where it does not say; ``version`` changes when the file does. ``begins``: its first bytes
    as the caller knows them, empty for any."""

    url: str
    size_bytes: int
    sha256: str
    version: str
    begins: bytes = b""


class Fetcher:
    """HTTP for downloads: follows redirects only to allowed hosts, and sends the token to the first host alone."""

    def __init__(self, hub_url: str, token: str = "", allowed_hosts: tuple[str, ...] = ()) -> None:
        """``hub_url`` is where files are asked for. ``allowed_hosts`` are names, or a dot and a name for all below it, to which a redirect may lead
        besides the first host. Proxies of the environment are used but for this machine. Raises :class:`ConfigError` for a token that is none."""
        import httpx

        self._token = bearer(token, "HF_TOKEN")
        waits = httpx.Timeout(SILENCE_S, connect=10.0)
        self._client = httpx.Client(follow_redirects=False, timeout=waits, trust_env=not is_loopback(hub_url))
        self._allowed = allowed_hosts

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look_up(self, url: str) -> Remote:
        """Size and hash of a file without fetching it: a hub says them before it redirects to where the bytes lie.

        Raises :class:`ModelNotFoundError`, :class:`BackendError`.
        """
        with self._mapped(url), self._following("HEAD", url, {"Accept-Encoding": "identity"}) as (response, heads):
            found = {key.lower(): value for head in reversed(heads) for key, value in head.items()}
            size = found.get("x-linked-size") or response.headers.get("content-length") or ""
            if not SIZE.fullmatch(size):
                raise BackendError(f"{url}: the server does not say how large the file is", "Download it by other means and `mdsa models add` it.")
            etag = (found.get("x-linked-etag") or found.get("etag") or "").removeprefix("W/").strip('"')
            is_hash = len(etag) == 64 and all(c in "0123456789abcdef" for c in etag)
            return Remote(url, int(size), etag if is_hash else "", etag or found.get("last-modified", ""))

    def fetch(self, remote: Remote, target: Path, progress: Progress = lambda done, total: None, check: Check = lambda partial: None) -> Path:
        """Bring ``target`` to disk, going on with what an earlier call left. ``progress`` is told bytes done and in all. ``check`` looks at the file
        before it takes the place of what is there, and raises :class:`ModelFileError` for one that is of no use: it is removed.

        Raises :class:`StorageError` before the first byte when the disk has no room, :class:`BackendUnavailableError` when the connection breaks
        (what came is kept), :class:`ModelFileError` when size or hash are wrong, or its first bytes, at once (it is removed), and as
        :meth:`look_up`.
        """
        partial = target.with_name(f"{target.name}.partial")
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            with only_one(partial.with_name(f"{partial.name}.lock"), target):
                self._complete(remote, partial, target, progress)
                try:
                    check(partial)
                except ModelFileError:
                    forget(partial)
                    raise
                settle(partial, target)
                _note_of(partial).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot write {partial}: {error.strerror or error}", "Free some space; what is there is kept, so run it again."
            ) from None
        return target

    def _complete(self, remote: Remote, partial: Path, target: Path, progress: Progress) -> None:
        """Bring the partial file to its end; what is of no use for another try is removed."""
        try:
            with partial.open("ab+") as file:
                start = _kept(partial, file, remote)
                need_room(partial.parent, remote.size_bytes - start)
                if start == remote.size_bytes:
                    progress(start, start)
                self._fill(file, remote, start, progress)
                _verify(file, remote, target)
                on_disk(file.fileno())
        except ModelFileError:
            forget(partial)
            raise
        except BackendError:
            if not partial.stat().st_size:
                forget(partial)
            raise

    def _fill(self, file: BufferedRandom, remote: Remote, start: int, progress: Progress) -> None:
        done, connections = start, 0
        _check_beginning(file, remote)
        while done < remote.size_bytes:
            before, connections = done, connections + 1
            try:
                with self._mapped(remote.url):
                    for done in self._chunks(file, remote, before):
                        progress(done, remote.size_bytes)
            except (BackendUnavailableError, BackendTimeoutError):
                done = file.seek(0, os.SEEK_END)
                if done == before or connections == MAX_CONNECTIONS:
                    raise
            else:
                if done < remote.size_bytes and (done == before or connections == MAX_CONNECTIONS):
                    self._broke_off(remote, done)
            if done < remote.size_bytes:
                time.sleep(min(0.1 * connections, 2.0))

    def _chunks(self, file: BufferedRandom, remote: Remote, start: int) -> Iterator[int]:
        """Append what the server sends from byte ``start`` on; the length of the file after each chunk."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with self._following("GET", remote.url, headers) as (response, _):
            if response.status_code == 416:
                # What is there is no part of what it has now: from the beginning again, by the next connection.
                file.truncate(0)
                raise BackendUnavailableError(f"{remote.url}: the server cannot go on where it broke off", "Run it again: it begins anew.")
            if start and (response.status_code != 206 or not response.headers.get("content-range", "").startswith(f"bytes {start}-")):
                # It cannot go on in the middle: from the beginning again.
                start = 0
                file.truncate(0)
            said = response.headers.get("content-length", "")
            if SIZE.fullmatch(said) and start + int(said) != remote.size_bytes:
                raise ModelFileError(
                    f"{remote.url}: the server announced {remote.size_bytes} bytes and sends {start + int(said)}", "Do not trust this server."
                )
            done = start
            for chunk in response.iter_raw():
                done += len(chunk)
                if done > remote.size_bytes:
                    raise ModelFileError(
                        f"{remote.url}: the server sends more than the {remote.size_bytes} bytes it announced", "Do not trust this server."
                    )
                file.write(chunk)
                file.flush()
                if done - len(chunk) < len(remote.begins):
                    _check_beginning(file, remote)
                yield done

    def _broke_off(self, remote: Remote, done: int) -> NoReturn:
        raise BackendUnavailableError(
            f"{remote.url}: broke off after {describe_bytes(done)} of {describe_bytes(remote.size_bytes)}", "Run it again: it goes on from there."
        )

    @contextmanager
    def _following(self, method: str, url: str, headers: Mapping[str, str]) -> Iterator[tuple[httpx.Response, list[httpx.Headers]]]:
        """The response at the end of the redirects, and the headers of all responses on the way, the first first."""
        seen: list[httpx.Headers] = []
        place = url
        for _ in range(MAX_REDIRECTS + 1):
            token = self._token if urlsplit(place).netloc == urlsplit(url).netloc else {}
            with self._client.stream(method, place, headers={**headers, **token}) as response:
                seen.append(response.headers)
                # A hub says all there is to know before it redirects to a storage that may refuse HEAD.
                if response.status_code not in REDIRECTS or (method == "HEAD" and "x-linked-size" in response.headers):
                    self._check(response, url)
                    yield response, seen
                    return
                place = self._allowed_target(url, place, response.headers.get("location", ""))
        raise BackendError(f"{url}: redirects in a circle", "Check the address.")

    def _allowed_target(self, first: str, place: str, location: str) -> str:
        """Where ``location`` leads from ``place``."""
        try:
            target = urljoin(place, location)
            begin, end = urlsplit(first), urlsplit(target)
            # Whether it has a port that is one is only told by whoever reads it.
            host, _ = end.hostname or "", end.port
        except ValueError:
            raise BackendError(f"{first}: redirects to {location!r:.100}, which is no address", "Check the address.") from None
        near = host == begin.hostname or any(host == name or (name.startswith(".") and host.endswith(name)) for name in self._allowed)
        if not near or (begin.scheme == "https" and end.scheme != "https"):
            raise BackendError(
                f"{first}: redirects to {end.scheme}://{end.netloc}, which is not allowed", "Allow it with --allow-host, if you trust it."
            )
        return target

    def _check(self, response: httpx.Response, url: str) -> None:
        status = response.status_code
        if status in (401, 403):
            raise ModelNotFoundError(
                f"{url}: access refused (status {status})", "Accept its licence on the hub, then set HF_TOKEN to a token of yours."
            )
        if status == 404:
            raise ModelNotFoundError(f"{url}: no such file", "Check owner, repository and file name.")
        if status == 429 or status >= 500:
            raise BackendUnavailableError(f"{url}: the server is busy or broken (status {status})", "Run it again later: it goes on from there.")
        if status not in (200, 206, *REDIRECTS) and not (status == 416 and "range" in response.request.headers):
            raise BackendError(f"{url}: the server answers with status {status}", "Check the address.")

    @contextmanager
    def _mapped(self, url: str) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TimeoutException:
            raise BackendTimeoutError(f"{url}: the server fell silent", "Run it again: it goes on from there.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise InputError(
                f"{url!r} is no address: {error}", "Set hub_url, or MDSA_HUB_URL, to one that begins with https://, or http:// within your network."
            ) from None
        except httpx.HTTPError as error:
            raise BackendUnavailableError(
                f"{url}: {error or type(error).__name__}", "Check the network, then run it again: it goes on from there."
            ) from None


def need_room(folder: Path, size_bytes: int) -> None:
    """Raise :class:`StorageError` with the numbers when ``folder`` has no room for ``size_bytes`` more."""
    free = shutil.disk_usage(folder).free
    if size_bytes + SPARE_DISK_BYTES > free:
        raise StorageError(
            f"{folder}: {describe_bytes(size_bytes)} are needed, {describe_bytes(free)} are free",
            "Free some space, or set MDSA_HOME to another disk.",
        )


def forget(partial: Path) -> None:
    """Remove a partial file and the note beside it."""
    for path in (partial, _note_of(partial)):
        path.unlink(missing_ok=True)


def _note_of(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _kept(partial: Path, file: BufferedRandom, remote: Remote) -> int:
    """How much of the partial file belongs to this very file; the rest is cut off."""
    note = _note_of(partial)
    belongs: dict[str, Any] = {"size_bytes": remote.size_bytes, "version": remote.version}
    size = file.seek(0, os.SEEK_END)
    with suppress(OSError, ValueError):
        if json.loads(note.read_text(encoding="utf-8")) == belongs and size <= remote.size_bytes and remote.version:
            return size
    file.truncate(0)
    write_whole(note, json.dumps(belongs))
    return 0


def _check_beginning(file: BufferedRandom, remote: Remote) -> None:
    """Raise :class:`ModelFileError` where the first bytes that are there are others than they should be."""
    file.seek(0)
    found = file.read(len(remote.begins))
    file.seek(0, os.SEEK_END)
    if not remote.begins.startswith(found):
        raise ModelFileError(f"{remote.url}: begins with {found!r}, expected {remote.begins!r}", "It is no file of this kind: check the address.")


def _verify(file: BufferedRandom, remote: Remote, target: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    if size != remote.size_bytes:
        raise ModelFileError(f"{target}: {size} bytes came, {remote.size_bytes} were announced", "Run it again.")
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if remote.sha256 and found != remote.sha256:
        raise ModelFileError(
            f"{target}: what came has SHA-256 {found}, not {remote.sha256}; it was removed", "Run it again; when it repeats, do not trust the server."
        )
