"""LoRA adapters as GGUF files: which model one was made for. llama.cpp compares shapes alone, and another model may have the same."""

from __future__ import annotations

from pathlib import Path

from mdsa_local.errors import ModelFileError
from mdsa_local.runtime.gguf import identity, text_metadata

# Keys of our own in an adapter's metadata: the base's :func:`~mdsa_local.runtime.gguf.identity`, and a name for people.
BASE_IDENTITY, BASE_NAME = "mdsa.base.identity", "mdsa.base.name"


def check(adapter: Path, base: Path) -> None:
    """Raise :class:`ModelFileError` when ``adapter`` is missing, unreadable, damaged or none, or says that it was made for another model than
    ``base``. One that says nothing of its model passes."""
    try:
        there = adapter.is_file()
    except OSError as error:
        raise ModelFileError(f"{adapter}: cannot be read: {error.strerror or error}", "Check its path, and the permissions of its folder.") from None
    if not there:
        raise ModelFileError(f"{adapter}: there is no such adapter", "Check the path.")
    said = text_metadata(adapter)
    if (kind := said.get("general.type", "")) != "adapter":
        raise ModelFileError(f"{adapter} is no adapter: its general.type is {kind or 'not set'}", "Give a LoRA adapter as GGUF.")
    wanted = said.get(BASE_IDENTITY, "")
    if wanted and wanted != identity(base):
        name = said.get(BASE_NAME, "")
        raise ModelFileError(
            f"{adapter}: the adapter was made for another model{f', {name}' if name else ''}, not for {base}",
            "Train it again for this one with `mdsa train adapter`, use the model it was made for, or remove the line adapter from domain.yaml.",
        )
