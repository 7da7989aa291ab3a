"""References to models, and the registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdsa_local.errors import InputError, MDSAError, UnknownNameError
from mdsa_local.runtime.backend import BACKENDS, Reference, backend_module, parse_reference


@pytest.mark.parametrize(
    ("ref", "scheme", "target"),
    [
        ("nano", "name", "nano"),
        (" nano-int4 ", "name", "nano-int4"),
        ("/models/x.gguf", "gguf", "/models/x.gguf"),
        ("/models/X.GGUF", "gguf", "/models/X.GGUF"),
        ("ollama://llama3.2:1b", "ollama", "llama3.2:1b"),
        ("ollama://hf.co/owner/model-GGUF:Q4_K_M", "ollama", "hf.co/owner/model-GGUF:Q4_K_M"),
        ("llama3.2:1b", "ollama", "llama3.2:1b"),
        ("gguf:///models/x.gguf", "gguf", "/models/x.gguf"),
        ("owner/name", "name", "owner/name"),
        ("hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "ollama", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
        ("user/model:tag", "ollama", "user/model:tag"),
        ("C:/models/x", "name", "C:/models/x"),
        ("./model:tag", "name", "./model:tag"),
        ("/models/model:tag", "name", "/models/model:tag"),
        ("hf://owner/repo/x-Q4_0.gguf", "name", "hf://owner/repo/x-Q4_0.gguf"),
    ],
)
def test_parse_reference(ref: str, scheme: str, target: str) -> None:
    assert parse_reference(ref) == Reference(scheme, target)


def test_relative_and_home_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert parse_reference("~/x.gguf").target == str(tmp_path / "x.gguf")
    assert parse_reference("sub/x.gguf").target == str(tmp_path / "sub/x.gguf")


def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="'ftp'") as caught:
        parse_reference("ftp://host/model.gguf")
    assert all(scheme in caught.value.hint for scheme in BACKENDS)


@pytest.mark.parametrize(
    ("ref", "written"),
    [
        ("http://127.0.0.1:8099/v1", "openai://127.0.0.1:8099/NAME"),
        ("HTTP://localhost", "openai://localhost:80/NAME"),
        ("https://api.example.com/v1/", "openai://api.example.com:443/NAME"),
        ("http://[::1]/v1", "openai://[::1]:80/NAME"),
        ("https://host/x.gguf", "mdsa models pull"),
    ],
)
def test_an_address_is_told_how_it_is_written(ref: str, written: str) -> None:
    with pytest.raises(UnknownNameError, match="is an address") as caught:
        parse_reference(ref)
    assert written in caught.value.hint


@pytest.mark.parametrize("ref", ["", "  ", "ollama://", "a\0b.gguf", "hf://a\0b"])
def test_no_reference(ref: str) -> None:
    with pytest.raises(InputError):
        parse_reference(ref)


@given(st.text())
def test_any_text_parses_or_is_refused(ref: str) -> None:
    try:
        assert parse_reference(ref).scheme in {"name", *BACKENDS}
    except MDSAError as error:
        assert error.hint


def test_references_are_written_as_they_are_read() -> None:
    for ref in ("nano", "/x.gguf", "ollama://llama3.2:1b", "hf://owner/repo/x.gguf"):
        assert str(parse_reference(ref)) == ref


@pytest.mark.parametrize("scheme", BACKENDS)
def test_every_registered_module_keeps_the_contract(scheme: str) -> None:
    module = backend_module(scheme)
    assert callable(module.estimate_bytes)
    assert callable(module.open_backend)
