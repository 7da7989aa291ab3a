"""Write a LoRA adapter as GGUF in llama.cpp's format, with a note of the model it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from mdsa_local.runtime.adapters import BASE_IDENTITY, BASE_NAME
from mdsa_local.runtime.gguf import identity, text_metadata
from mdsa_local.settings import storage_error


def write(path: Path, tensors: Mapping[str, NDArray[np.float32]], alpha: float, base: Path, base_name: str) -> None:
    """Write ``tensors`` (``blk.0.attn_q.weight.lora_a`` …) for the GGUF model ``base``. Raises :class:`StorageError`; no part of it stays."""
    try:
        writer = gguf.GGUFWriter(path, text_metadata(base)["general.architecture"])
        try:
            writer.add_type(gguf.GGUFType.ADAPTER)
            writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
            writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
            writer.add_string(BASE_IDENTITY, identity(base))
            writer.add_string(BASE_NAME, base_name)
            for name, values in tensors.items():
                writer.add_tensor(name, values)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
    except OSError as error:
        path.unlink(missing_ok=True)
        raise storage_error(error, path) from None


def read(path: Path) -> tuple[dict[str, NDArray[np.float32]], float]:
    """The tensors and the alpha of an adapter, as llama.cpp's converter wrote them."""
    reader = gguf.GGUFReader(path)
    field = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    # A copy: the file's own are a view of it.
    found = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy() for tensor in reader.tensors}
    return found, float(field.contents()) if field else 0.0
