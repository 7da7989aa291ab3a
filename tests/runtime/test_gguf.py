"""The header reader on good files, cut files and hostile ones."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mdsa_local.errors import MDSAError, ModelFileError, ModelNotFoundError
from mdsa_local.runtime.gguf import memory_estimate_bytes, read_gguf

from .gguf_writer import VOCABULARY, Shape, metadata, random_weights, string, write_gguf

REUSED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)


def test_a_good_header(tiny: Path) -> None:
    info = read_gguf(tiny)
    assert (info.version, info.architecture, info.name, info.quantization) == (3, "llama", "tiny", "F32")
    assert (info.context_length, info.n_layers, info.n_heads, info.n_kv_heads) == (512, 2, 4, 2)
    assert (info.key_length, info.value_length, info.embedding_length, info.feed_forward_length) == (16, 16, 64, 128)
    assert info.vocabulary_size == len(VOCABULARY)
    assert info.has_chat_template
    assert info.n_parameters == sum(tensor.size for tensor in random_weights(Shape()).values())
    assert info.size_bytes == info.expected_size_bytes == tiny.stat().st_size


def test_every_cut_is_noticed(tiny: Path, tmp_path: Path) -> None:
    raw = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 200, 7), *range(200, len(raw), 997), len(raw) - 1]:
        cut.write_bytes(raw[:size])
        with pytest.raises(ModelFileError, match=r"cut\.gguf"):
            read_gguf(cut)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"absent\.gguf"):
        read_gguf(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_gguf(tmp_path)


def header(n_tensors: int = 1, n_pairs: int = 1, version: int = 3, magic: bytes = b"GGUF") -> bytes:
    return struct.pack("<4sIQQ", magic, version, n_tensors, n_pairs)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (header(magic=b"PK\x03\x04"), "not a GGUF file"),
        (header(version=1), "version 1"),
        (header(version=0x03000000), "big-endian"),
        (header(n_tensors=2**63), "absurd"),
        (header(n_pairs=2**40), "absurd"),
        (header() + struct.pack("<Q", 2**62) + b"key", "absurd"),
        (header() + string("k") + struct.pack("<IIQ", 9, 4, 2**60), "absurd"),
        (header() + string("k") + struct.pack("<IIQ", 9, 8, 2**60), "absurd"),
        (header() + string("k") + struct.pack("<II", 9, 9), "array of unknown type 9"),
        (header() + string("k") + struct.pack("<I", 99), "unknown type 99"),
        (header(n_tensors=0) + string("general.architecture") + struct.pack("<I", 8) + string("llama"), "no tensors"),
        (header(n_pairs=0) + string("t") + struct.pack("<IQIQ", 9, 1, 0, 0), "9 dimensions"),
        (header(n_pairs=0) + string("t") + struct.pack("<IQIQ", 1, 2**62, 0, 0), "absurd shape"),
        (header(n_pairs=0) + string("t") + struct.pack("<IQIQ", 1, 33, 8, 0), "absurd shape"),
        (header(n_pairs=0) + string("t") + struct.pack("<IQIQ", 1, 32, 77, 0), "unknown type 77"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw + bytes(64))
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_gguf(path)
    assert "bad.gguf" in str(caught.value)


def test_a_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "part.gguf", {**metadata(Shape()), "split.count": 2}, random_weights(Shape()))
    with pytest.raises(ModelFileError, match="split"):
        read_gguf(path)


@REUSED_FOLDER
@given(st.binary(max_size=400))
@example(header())
def test_random_bytes_raise_only_our_errors(tmp_path: Path, raw: bytes) -> None:
    for prefix in (b"", b"GGUF\x03\x00\x00\x00", header(1, 1), header(1, 0) + string("t")):
        path = tmp_path / "random.gguf"
        path.write_bytes(prefix + raw)
        with pytest.raises(MDSAError):
            read_gguf(path)


@REUSED_FOLDER
@given(st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_headers_raise_only_our_errors(tmp_path: Path, tiny: Path, changes: list[tuple[int, int]]) -> None:
    raw = bytearray(tiny.read_bytes())
    for at, byte in changes:
        raw[at] = byte
    path = tmp_path / "damaged.gguf"
    path.write_bytes(raw)
    try:
        info = read_gguf(path)
    except MDSAError as error:
        assert "damaged.gguf" in str(error)
    else:
        assert memory_estimate_bytes(info, 512) > 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match=r"pipe\.gguf: cannot be read: not a file"):
        read_gguf(tmp_path / "pipe.gguf")


def test_per_layer_head_counts(tmp_path: Path) -> None:
    pairs = {**metadata(Shape()), "llama.attention.head_count_kv": [1, 2]}
    assert read_gguf(write_gguf(tmp_path / "layers.gguf", pairs, random_weights(Shape()))).n_kv_heads == 2


def test_the_estimate_grows_with_the_context_by_the_size_of_keys_and_values(tiny: Path) -> None:
    info = read_gguf(tiny)
    grown = memory_estimate_bytes(info, 4096) - memory_estimate_bytes(info, 2048)
    keys_and_values = 2048 * info.n_layers * info.n_kv_heads * (info.key_length + info.value_length) * np.dtype(np.float16).itemsize
    assert grown >= keys_and_values
    assert memory_estimate_bytes(info, 512) > info.size_bytes
    assert memory_estimate_bytes(replace(info, vocabulary_size=150_000), 512) > memory_estimate_bytes(info, 512)
