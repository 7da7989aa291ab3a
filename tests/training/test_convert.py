"""llama.cpp's converters are run as programs; what they say of a failure is passed on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mdsa_local.errors import DependencyError, InputError, ModelError
from mdsa_local.training import convert

# Stands for a converter: writes down how it was called.
WRITES = """
import json, os, sys
target = sys.argv[sys.argv.index("--outfile") + 1]
open(target, "w").write(json.dumps({"arguments": sys.argv[1:], "offline": os.environ["HF_HUB_OFFLINE"]}))
"""
FAILS = """
import sys
target = sys.argv[sys.argv.index("--outfile") + 1]
open(target, "w").write("half a model")
sys.exit("Model FooForCausalLM is not supported")
"""


def llama_cpp(folder: Path, script: str) -> Path:
    for name in (convert.MODEL, convert.ADAPTER):
        (folder / name).write_text(script, encoding="utf-8")
    return folder


def test_a_converter_is_called_as_it_wants_to_be(tmp_path: Path) -> None:
    tree = convert.tools(llama_cpp(tmp_path, WRITES))
    convert.convert_model(tree, tmp_path / "my model", tmp_path / "out.gguf")
    told = (tmp_path / "out.gguf").read_text(encoding="utf-8")
    assert f'["{tmp_path / "my model"}", "--outfile", "{tmp_path / "out.gguf"}", "--outtype", "f16"]' in told
    assert '"offline": "1"' in told
    convert.convert_adapter(tree, tmp_path / "peft", tmp_path / "my model", tmp_path / "adapter.gguf")
    assert f'["{tmp_path / "peft"}", "--base", "{tmp_path / "my model"}"' in (tmp_path / "adapter.gguf").read_text(encoding="utf-8")


def test_a_failure_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    tree = llama_cpp(tmp_path, FAILS)
    with pytest.raises(ModelError, match="FooForCausalLM is not supported"):
        convert.convert_model(tree, tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
    llama_cpp(tmp_path, "")
    with pytest.raises(ModelError, match="exit code 0"):
        convert.convert_model(tree, tmp_path, tmp_path / "out.gguf")


def test_without_them_it_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError) as missing:
        convert.tools(None)
    assert "--llama-cpp" in missing.value.hint
    with pytest.raises(DependencyError, match=r"convert_hf_to_gguf\.py is not there") as absent:
        convert.tools(tmp_path)
    assert "git clone" in absent.value.hint
