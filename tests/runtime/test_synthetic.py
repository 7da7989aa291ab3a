"""Files with random weights are real files: llama.cpp loads them, and they are as large as their namesakes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mdsa_local.domains.config import Generation
from mdsa_local.errors import InputError, UnknownNameError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.runtime.synthetic import FILE_TYPE_IDS, SHAPES, write_random

TINY = SHAPES["tiny"]


@pytest.mark.parametrize("quantization", FILE_TYPE_IDS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_llama_cpp_runs_them(tmp_path: Path, quantization: str, architecture: str) -> None:
    path = write_random(tmp_path / "random.gguf", replace(TINY, architecture=architecture), quantization)
    info = read_gguf(path)
    assert (info.architecture, info.n_layers, info.vocabulary_size) == (architecture, 2, 2048)
    backend = LlamaCppBackend(path, "random", threads=1)
    *_, finished = backend.stream([Message("user", "hello there")], Generation(max_tokens=8, probabilities=1), deadline_s=30)
    backend.close()
    assert isinstance(finished, Finished)
    assert all(-30 < token.log_probability <= 0 for token in finished.probabilities), "no NaN, no blow-up"


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    one, again, other = (write_random(tmp_path / f"{at}.gguf", TINY, seed=seed, name="x") for at, seed in enumerate((1, 1, 2)))
    assert one.read_bytes() == again.read_bytes() != other.read_bytes()


def test_a_tokenizer_is_copied(tmp_path: Path, tiny: Path) -> None:
    path = write_random(tmp_path / "like.gguf", TINY, like=tiny)
    assert read_gguf(path).vocabulary_size == read_gguf(tiny).vocabulary_size
    ours, theirs = (LlamaCppBackend(at, "x", threads=1) for at in (path, tiny))
    assert ours.count_tokens([Message("user", "hello and then")]) == theirs.count_tokens([Message("user", "hello and then")])
    ours.close()
    theirs.close()


def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        write_random(tmp_path / "x.gguf", TINY, "Q9")
    with pytest.raises(InputError, match="multiples of 256"):
        write_random(tmp_path / "x.gguf", replace(TINY, width=128), "Q4_K")
    for wrong in (replace(TINY, heads=3), replace(TINY, kv_heads=3), replace(TINY, heads=0)):
        with pytest.raises(InputError):
            write_random(tmp_path / "x.gguf", wrong)
    script = Path(__file__).parents[2] / "scripts" / "make_gguf.py"
    ran = subprocess.run([sys.executable, str(script), "x.gguf", "--width", "250", "--heads", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, "Traceback" in ran.stderr, "3 heads" in ran.stderr) == (2, False, True)
    with pytest.raises(InputError, match="vocabulary of 100"):
        write_random(tmp_path / "x.gguf", replace(TINY, vocabulary=100))
