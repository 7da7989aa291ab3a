"""Layers for the GPU: from free memory, never required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.domains.config import Generation
from mdsa_local.runtime import gpu
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.gguf import GGUFInfo, read_gguf
from mdsa_local.runtime.gpu import ALL, USABLE, devices, free_bytes, layers
from mdsa_local.runtime.library import library
from mdsa_local.runtime.llamacpp import LlamaCppBackend

MB = 10**6


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [("auto", 0, 0), ("auto", 2000 * MB, ALL), ("auto", 600 * MB, 9), ("auto", 50 * MB, 0), (0, 2000 * MB, 0), (7, 0, 7), (2**32, 0, ALL)],
)
def test_layers(tiny: Path, wanted: int | Literal["auto"], free: int, expected: int) -> None:
    info = replace(read_gguf(tiny), size_bytes=1000 * MB, n_layers=20)
    assert layers(info, wanted, free, 200 * MB) == expected


def test_the_cpu_is_a_device_and_no_gpu() -> None:
    library()
    assert 0 in [kind for kind, _ in devices()]
    assert (free_bytes(library()) > 0) == any(kind in (1, 2) for kind, _ in devices())


def test_looking_again_loads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    library()
    devices()
    monkeypatch.setattr("llama_cpp._ctypes_extensions.load_shared_library", lambda *_: pytest.fail("loaded again"))
    assert devices()


@pytest.fixture(scope="module")
def info(tiny: Path) -> GGUFInfo:
    return read_gguf(tiny)


@given(st.integers(0, 40_000 * MB), st.integers(MB, 20_000 * MB), st.integers(0, 4_000 * MB), st.integers(1, 100))
def test_what_goes_to_the_gpu_fits_there(info: GGUFInfo, free: int, size: int, beside: int, n_layers: int) -> None:
    model = replace(info, size_bytes=size, n_layers=n_layers)
    chosen = layers(model, "auto", free, beside)
    if chosen == ALL:
        assert size + beside <= free * USABLE
    else:
        assert 0 <= chosen <= n_layers
        assert chosen * ((size + beside) // n_layers) <= free * USABLE
    assert layers(model, "auto", free + 100 * MB, beside) >= chosen, "more memory never means fewer layers"


def test_free_memory_is_that_of_gpus_alone_and_of_builds_that_use_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Build:
        def __init__(self, offloads: bool) -> None:
            self.llama_supports_gpu_offload = lambda: offloads

    # The CPU, a GPU with memory of its own, one with the system's, an accelerator.
    monkeypatch.setattr(gpu, "devices", lambda: [(0, 1000), (1, 200), (2, 30), (3, 4)])
    assert free_bytes(Build(True)) == 230
    assert free_bytes(Build(False)) == 0


@pytest.mark.parametrize(("free", "wanted", "expected"), [(10**12, "auto", ALL), (0, "auto", 0), (0, 1, 1), (10**12, 0, 0)])
def test_the_decision_reaches_llama_cpp_and_nothing_depends_on_a_gpu(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, free: int, wanted: int | Literal["auto"], expected: int
) -> None:
    def said(backend: LlamaCppBackend) -> str:
        events = backend.stream([Message("user", "hello?")], Generation(max_tokens=8), deadline_s=60)
        return "".join(event for event in events if not isinstance(event, Finished))

    plain = LlamaCppBackend(tiny, "tiny", threads=1, gpu_layers=0)
    alone = said(plain)
    plain.close()
    monkeypatch.setattr(gpu, "free_bytes", lambda _: free)
    backend = LlamaCppBackend(tiny, "tiny", threads=1, gpu_layers=wanted)
    assert backend.weights.gpu_layers == expected
    assert said(backend) == alone
    backend.close()
