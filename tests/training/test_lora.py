"""An adapter trained by torch and peft is the same adapter in llama.cpp."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mdsa_local.errors import InputError, ModelFileError, ModelMemoryError, StorageError
from mdsa_local.runtime.adapters import BASE_NAME
from mdsa_local.runtime.gguf import identity, text_metadata
from mdsa_local.runtime.native import Context, ContextOptions, Model
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import shipped

TINY = replace(SHAPES["tiny"], context=512)
OPTIONS = ContextOptions(256, 1, 64, 64, 1)
IDS = [5, 300, 17, 900, 33, 42, 1200, 7, 260, 11, 12, 13]


def llama_cpp(base: Path, adapter: Path | None) -> NDArray[np.float32]:
    model = Model(base)
    with closing(model), closing(Context(model, OPTIONS)) as context:
        context.use_adapter(context.load_adapter(str(adapter or "")))
        context.clear()
        row = context.add(0, 0, IDS, len(IDS))
        assert context.decode() == 0
        return np.stack([context.logits(row + i).copy() for i in range(len(IDS))])


def torch_logits(model: Any) -> NDArray[np.float32]:
    import torch

    with torch.no_grad():
        found: NDArray[np.float32] = model(torch.tensor([IDS])).logits[0].numpy()
        return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_logits_agree_with_llama_cpp(tmp_path: Path, architecture: str) -> None:
    import torch

    from mdsa_local.training import export_adapter, lora

    base = write_random(tmp_path / "base.gguf", replace(TINY, architecture=architecture), "F32")
    model = lora.adapted(lora.load_gguf(base), lora.Options(rank=4, alpha=8.0, dropout=0.0)).eval()
    plain = torch_logits(model)
    assert np.abs(plain - llama_cpp(base, None)).max() < 2e-3 * np.abs(plain).max(), "read back from the GGUF"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.2)
    adapter = tmp_path / "adapter.gguf"
    export_adapter.write(adapter, lora.tensors(model, architecture), 8.0, base, "base")
    changed = torch_logits(model)
    assert np.abs(changed - plain).max() > 0.1 * np.abs(plain).max(), "the adapter does something"
    assert np.abs(changed - llama_cpp(base, adapter)).max() < 2e-3 * np.abs(changed).max()
    assert text_metadata(adapter)["general.type"] == "adapter"


def test_it_says_which_model_it_is_for(tmp_path: Path) -> None:
    from mdsa_local.training import export_adapter

    nano, small = (shipped("models") / "nano" / f"nano-{kind}.gguf" for kind in ("q8_0", "q4_0"))
    assert identity(nano) == identity(small), "another quantisation is the same model"
    first, other = (write_random(tmp_path / f"{seed}.gguf", replace(TINY, width=size, inner=512), "F32") for seed, size in ((1, 256), (2, 128)))
    assert identity(first) != identity(other)
    values = np.ones((4, 256), np.float32)
    adapter = tmp_path / "adapter.gguf"
    export_adapter.write(adapter, {"blk.0.attn_q.weight.lora_a": values, "blk.0.attn_q.weight.lora_b": values.T.copy()}, 4.0, nano, "nano")
    # llama.cpp itself would take it: architecture and shapes are the same.
    with pytest.raises(ModelFileError, match="another model, nano") as error:
        llama_cpp(first, adapter)
    assert "mdsa train adapter" in error.value.hint
    llama_cpp(nano, adapter)
    llama_cpp(small, adapter)
    tensors, alpha = export_adapter.read(adapter)
    assert alpha == 4.0
    assert tensors["blk.0.attn_q.weight.lora_b"].shape == (256, 4)
    assert text_metadata(adapter)[BASE_NAME] == "nano"


def test_what_cannot_be_trained_from_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mdsa_local.training import export_adapter, lora

    nano = shipped("models") / "nano" / "nano-q8_0.gguf"
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(nano.read_bytes()[:100_000])
    with pytest.raises(ModelFileError, match="truncated"):
        lora.load_gguf(cut)
    odd = write_random(tmp_path / "odd.gguf", replace(TINY, architecture="mamba"), "F32")
    with pytest.raises(InputError, match="'mamba'"):
        lora.load_gguf(odd)
    with pytest.raises(ModelMemoryError, match="are free"):
        lora.need_memory(10**15, nano)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelFileError, match="causal"):
        lora.load_folder(tmp_path)
    with pytest.raises(StorageError):
        export_adapter.write(tmp_path / "no folder" / "x.gguf", {}, 1.0, nano, "nano")
    if Path("/dev/full").exists():
        (tmp_path / "full.gguf").symlink_to("/dev/full")
        with pytest.raises(StorageError, match="No space left"):
            export_adapter.write(tmp_path / "full.gguf", {"a.lora_a": np.ones((4, 4), np.float32)}, 1.0, nano, "nano")
        assert not (tmp_path / "full.gguf").is_symlink(), "no part of a file stays"


def test_batches_hold_every_example_and_keep_to_their_size() -> None:
    from mdsa_local.training.lora import Example, batches, schedule

    examples = [Example(tuple(range(length)), (1, 2)) for length in (3, 500, 7, 90, 91, 92, 4)]
    found = batches(examples, 200)
    assert {id(e) for b in found for e in b} == set(map(id, examples))
    assert all(len(batch) == 1 or len(batch) * max(len(e.prompt) + 2 for e in batch) <= 200 for batch in found)
    rates = [schedule(step, 100) for step in range(100)]
    assert max(rates) == 1.0
    assert rates[0] < 0.3
    assert rates[-1] < 0.01
