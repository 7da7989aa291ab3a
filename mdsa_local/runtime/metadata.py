"""Text that a GGUF file says of itself, such as its licence, read by llama.cpp without loading any weights."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from mdsa_local.errors import ModelFileError


def metadata_texts(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """The values of those ``keys`` that the file has. Raises :class:`ModelFileError` when llama.cpp cannot read it."""
    from mdsa_local.runtime.library import library

    lib = library()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFileError(f"{path}: llama.cpp cannot read it", "Use another build of the model, or a newer llama-cpp-python.")
    try:
        found = {}
        for key in keys:
            size = lib.llama_model_meta_val_str(model, key.encode(), None, 0)
            if size >= 0:
                buffer = ctypes.create_string_buffer(size + 1)
                lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
                found[key] = buffer.value.decode("utf-8", "replace")
        return found
    finally:
        lib.llama_model_free(model)
