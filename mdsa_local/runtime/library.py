"""The llama.cpp library: loading it once, its log, and what the log tells of a load: the reason it failed, the memory it took."""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mdsa_local.errors import BackendUnavailableError, ModelFileError, ModelMemoryError
from mdsa_local.machine import free_at_once
from mdsa_local.trimming import Trim, trimmed

logger = logging.getLogger("mdsa_local.llama")
# Without a handler of its own, Python prints warnings of an unconfigured logger to stderr.
logger.addHandler(logging.NullHandler())
# ggml_log_level, where llama.cpp calls every detail of a load INFO (2).
LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
CONTINUED = 5
# omp_pause_resource_t of OpenMP 5.0.
OMP_PAUSE_SOFT = 1
# What llama.cpp complains of and we do on purpose: cells shared by sequences that are more than the model was trained with, aborted batches, and
# batches and states tried for which something has to go first.
EXPECTED = (
    b"possible training context overflow",
    b"graph_compute_async failed with error 1",
    b"compute status: 1",
    b"removing memory module entries",
    b"failed to decode, ret = 2",
    b"failed to find a memory slot",
    b"failed to decode, ret = 1",
    b"available cells in kv cache",
    b"failed to restore kv cache",
)
NO_MEMORY = re.compile(r"alloc|out of memory|mmap failed", re.IGNORECASE)
# What llama.cpp says of each buffer that it allocates or maps.
BUFFER = re.compile(rb"buffer size = +([\d.]+) MiB")
OTHER_BUILD = "Use another build of the model, or a newer llama-cpp-python."

# llama_cpp's own classes, its chat formats, caches and the disk cache's database: 25 ms of import.
TRIM = Trim(unused=("llama_cpp.llama",))


@dataclass(slots=True)
class _Heard:
    """What llama.cpp said in a thread since that began to listen: what it complained of, and the bytes of the buffers it named."""

    complaints: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    allocated: int = 0


_lock = threading.Lock()
_library: Any = None
_release: Any = None
_bare = False
_callbacks: list[Any] = []
# By the thread that is in llama.cpp: several load at once.
_heard: dict[int, _Heard] = {}
# What closes each of those that are open, where the end of the process is not enough, and the process they were opened in.
_open: list[Callable[[], object]] = []
_opened_in = 0


def import_bare() -> None:
    """From now on ``llama_cpp`` is imported without :data:`TRIM`: for a program that owns its process."""
    global _bare
    _bare = True


def library() -> Any:
    """The loaded ``llama_cpp`` module, logging to ``mdsa_local.llama``.

    Raises :class:`BackendUnavailableError` when it is not installed or broken.
    """
    global _library, _release
    with _lock:
        if _library is None:
            try:
                with trimmed(TRIM) if _bare else nullcontext():
                    import llama_cpp
            except (ImportError, OSError, RuntimeError) as error:
                raise BackendUnavailableError(
                    f"llama.cpp cannot be loaded: {error}",
                    "Install it: pip install llama-cpp-python --extra-index-url https://abetlen.github.io/llama-cpp-python/whl/cpu",
                ) from None
            # llama_cpp has just installed a callback that prints to stderr.
            _callbacks.append(llama_cpp.llama_log_callback(_log()))
            llama_cpp.llama_log_set(_callbacks[0], ctypes.c_void_p(0))
            free_at_once()
            llama_cpp.llama_backend_init()
            _release = _find_release()
            _library = llama_cpp
    return _library


def close_at_exit(close: Callable[[], object]) -> None:
    """Have ``close`` called at the end of the process, unless :func:`closed` says before that it is done, where llama.cpp was built for a GPU: on
    macOS its part for Metal aborts a process that ends while a model is loaded (llama.cpp#22593)."""
    global _opened_in
    if not library().llama_supports_gpu_offload():
        return
    if _opened_in != os.getpid():
        _open.clear()
        _opened_in = os.getpid()
        atexit.register(_close_all)
    _open.append(close)


def closed(close: Callable[[], object]) -> None:
    """What ``close`` closes is closed."""
    with suppress(ValueError):
        _open.remove(close)


def _close_all() -> None:
    # What a process was forked with belongs to the other one.
    for close in [*_open] if _opened_in == os.getpid() else ():
        close()


def _log() -> Any:
    """A log callback that joins the fragments of a line. llama.cpp calls it from any thread, several at once."""
    begun: dict[int, tuple[str, int]] = {}

    def callback(kind: int, text: bytes, _data: Any) -> None:
        thread = threading.get_ident()
        line, level = begun.get(thread, ("", logging.DEBUG))
        level = level if kind == CONTINUED else LEVELS.get(kind, logging.DEBUG)
        if any(part in text for part in EXPECTED):
            level = logging.DEBUG
        heard = _heard.get(thread)
        if heard and (found := BUFFER.search(text)):
            heard.allocated += int(float(found[1]) * 2**20)
        line += text.decode("utf-8", "replace")
        ended = line.endswith("\n")
        begun[thread] = "" if ended else line, level
        if ended:
            done = line.strip()
            if heard and level == logging.ERROR:
                heard.complaints.append(done)
            if done.strip("."):
                logger.log(level, "%s", done)

    return callback


def listen() -> None:
    """Begin to note what a call to llama.cpp in this thread allocates and complains of."""
    _heard[threading.get_ident()] = _Heard()


def allocated_bytes() -> int:
    """Bytes of the buffers that llama.cpp named in this thread since :func:`listen`, which ends."""
    return _told().allocated


def load_error(path: Path, what: str, hint: str = OTHER_BUILD) -> ModelFileError | ModelMemoryError:
    """The error for what failed in this thread since :func:`listen`, which ends, with llama.cpp's own words; ``hint``: what to do where it was not
    for want of memory."""
    reason = "; ".join(_told().complaints) or "no reason given"
    if NO_MEMORY.search(reason):
        return ModelMemoryError(f"{path}: {what}: {reason}", "Close other programs, choose a smaller model, or lower context_tokens.")
    return ModelFileError(f"{path}: {what}: {reason}", hint)


def _told() -> _Heard:
    return _heard.pop(threading.get_ident(), None) or _Heard()


def release_workers() -> None:
    """End the threads that OpenMP keeps to help the calling one, where llama.cpp was built with GNU's.

    GNU's lets threads that wait for each other spin only while the process has no more of its threads than cores, those that sleep included, and
    else puts them to sleep at once: beside a second engine that did nothing, a token took 39 ms in place of 20 on two cores (GCC 12, 0.5B
    parameters). Other builds keep none, or wait otherwise.
    """
    if _release is not None:
        _release(OMP_PAUSE_SOFT)


def _find_release() -> Any:
    """``omp_pause_resource_all`` of the GNU OpenMP that llama.cpp is linked with, None where it is another or none."""
    from llama_cpp import _ggml

    if hasattr(_ggml.libggml, "kmp_set_blocktime"):
        return None
    return getattr(_ggml.libggml, "omp_pause_resource_all", None)
