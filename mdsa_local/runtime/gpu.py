"""How many layers of a model go to a GPU: a pure decision from free memory, and how llama.cpp is asked for that memory."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Literal

from mdsa_local.runtime.gguf import GGUFInfo

# Of free video memory: the driver and the display take some of it, at any moment.
USABLE = 0.9
# More than any model has. llama.cpp takes a number of 32 bits: of a larger one it would see the rest.
ALL = 10_000
# ggml's kinds of device that are GPUs, with memory of their own or the system's.
GPU_KINDS = (1, 2)


def layers(info: GGUFInfo, wanted: int | Literal["auto"], free_bytes: int, beside_bytes: int) -> int:
    """Layers to put on the GPU: ``wanted``, at most :data:`ALL`, or, for ``auto``, as many as fit ``free_bytes`` of video memory.

    ``beside_bytes``: key-value memory and compute buffers, which go with the layers. :data:`ALL` puts the output layer there too; 0 when there is
    no GPU.
    """
    if wanted != "auto":
        return min(wanted, ALL)
    usable = int(free_bytes * USABLE)
    if info.size_bytes + beside_bytes <= usable:
        return ALL
    # The output layer stays on the CPU; keys and values are spread over the layers.
    each = (info.size_bytes + beside_bytes) // max(info.n_layers, 1)
    return max(0, min(info.n_layers, usable // max(each, 1)))


def free_bytes(lib: Any) -> int:
    """Free memory of the GPUs that this build of llama.cpp can use, in bytes; 0 without any."""
    if not lib.llama_supports_gpu_offload():
        return 0
    return sum(free for kind, free in devices() if kind in GPU_KINDS)


def devices() -> list[tuple[int, int]]:
    """``(ggml's kind of device, free bytes)`` of everything llama.cpp can compute on; the CPU is kind 0."""
    from llama_cpp import _ggml

    every, base = _ggml.libggml, _base()
    every.ggml_backend_dev_count.restype = ctypes.c_size_t
    every.ggml_backend_dev_get.restype, every.ggml_backend_dev_get.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    found = []
    for index in range(every.ggml_backend_dev_count()):
        device = every.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append((int(base.ggml_backend_dev_type(device)), free.value))
    return found


@cache
def _base() -> Any:
    """The library below ``ggml``. Loaded once: each time, llama_cpp puts its folder into Windows' PATH, which takes 32,767 characters."""
    from llama_cpp import _ggml
    from llama_cpp._ctypes_extensions import load_shared_library

    return load_shared_library("ggml-base", _ggml.libggml_base_path)
