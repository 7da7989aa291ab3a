"""llama.cpp's own converters, run as the programs they are: a Hugging Face folder, or a peft adapter for it, as GGUF."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mdsa_local.errors import DependencyError, InputError, ModelError

MODEL, ADAPTER = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
TOLD_LINES = 1


def tools(folder: Path | None) -> Path:
    """``folder`` when it holds both converters. Raises :class:`InputError` for none given, :class:`DependencyError` where one is missing."""
    if folder is None:
        raise InputError(
            "a Hugging Face folder as the base needs llama.cpp's converters", "Name the folder of a llama.cpp source tree with --llama-cpp DIR."
        )
    for name in (MODEL, ADAPTER):
        if not (folder / name).is_file():
            raise DependencyError(f"{folder / name} is not there", "Give a llama.cpp source tree: git clone https://github.com/ggml-org/llama.cpp")
    return folder


def convert_model(llama_cpp: Path, folder: Path, target: Path) -> None:
    """Write the model in ``folder`` as an F16 GGUF. Raises :class:`ModelError` with what the converter said."""
    _run(llama_cpp / MODEL, [str(folder), "--outfile", str(target), "--outtype", "f16"], target)


def convert_adapter(llama_cpp: Path, adapter: Path, base: Path, target: Path) -> None:
    """Write the peft adapter in ``adapter``, made for the Hugging Face folder ``base``, as GGUF. Raises :class:`ModelError`."""
    _run(llama_cpp / ADAPTER, [str(adapter), "--base", str(base), "--outfile", str(target), "--outtype", "f32"], target)


def _run(script: Path, arguments: list[str], target: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    # Beside the converters lies the gguf package that they were written with.
    done = subprocess.run(
        [sys.executable, str(script), *arguments], env={**os.environ, **offline}, capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        said = " / ".join(line for line in done.stderr.strip().splitlines()[-TOLD_LINES:] if line.strip()) or f"exit code {done.returncode}"
        raise ModelError(f"{script.name} failed: {said}", "Use a llama.cpp that knows this model; the converter needs what its requirements name.")
