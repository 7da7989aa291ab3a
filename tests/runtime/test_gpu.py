"""Layers for the GPU: from free memory, never required."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.gpu import ALL, devices, free_bytes, layers
from mdsa_local.runtime.native import library

MB = 10**6


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [("auto", 0, 0), ("auto", 2000 * MB, ALL), ("auto", 600 * MB, 9), ("auto", 50 * MB, 0), (0, 2000 * MB, 0), (7, 0, 7)],
)
def test_layers(tiny: Path, wanted: int | Literal["auto"], free: int, expected: int) -> None:
    info = replace(read_gguf(tiny), size_bytes=1000 * MB, n_layers=20)
    assert layers(info, wanted, free, 200 * MB) == expected


def test_the_cpu_is_a_device_and_no_gpu() -> None:
    library()
    assert 0 in [kind for kind, _ in devices()]
    assert (free_bytes(library()) > 0) == any(kind in (1, 2) for kind, _ in devices())
