"""Quantising in a process of its own, because llama.cpp cannot be stopped in the middle of it:
``python -m mdsa_local.runtime.quantising SOURCE TARGET TYPE THREADS``, which ends when its standard input does."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path

from mdsa_local import child
from mdsa_local.runtime.library import library, listen, load_error


def quantised(source: Path, target: Path, file_type: int, threads: int) -> str:
    """Write ``source`` to ``target`` as ``file_type``, a number of llama.cpp's; why it failed, empty where it did not. An exception, such as that of
    Ctrl-C, ends it at once."""
    with child.started("mdsa_local.runtime.quantising", str(source), str(target), str(file_type), str(threads)) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip().split("\n")[-1]
            return (said or f"{source}: llama.cpp ended while it was quantising") if process.wait() else ""
        except BaseException:
            process.kill()
            process.wait()
            raise


def main() -> None:
    """The child."""
    # Ctrl-C reaches it as well; the parent ends it. On Windows that waits for what is said here and hears nothing else, so it ends at once by itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL if sys.platform == "win32" else signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    source, target, file_type, threads = sys.argv[1:]
    lib = library()
    listen()
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = int(file_type), int(threads)
    # On Windows llama.cpp reads any file, but opens what it writes by a name in the system's old encoding: that of the file alone is in ASCII.
    read, written = Path(source).absolute(), Path(target)
    os.chdir(written.parent)
    if lib.llama_model_quantize(os.fsencode(read), os.fsencode(written.name), ctypes.byref(params)) != 0:
        sys.exit(str(load_error(Path(source), "llama.cpp could not quantise it")))


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main()
