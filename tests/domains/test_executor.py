from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGUFWriter

from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.executor import DomainExecutor
from mdsa_local.errors import ModelNotFoundError
from mdsa_local.runtime.adapters import BASE_IDENTITY
from mdsa_local.runtime.gguf import identity
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_lora, write_random
from mdsa_local.settings import Settings


@pytest.fixture
def executor(tmp_path: Path) -> Iterator[DomainExecutor]:
    with ModelManager(Settings.load(home=tmp_path)) as manager:
        yield DomainExecutor(manager)


def test_a_model_is_tried_without_an_adapter_of_another(tmp_path: Path, executor: DomainExecutor) -> None:
    own, other = (str(write_random(tmp_path / name, SHAPES["tiny"], "Q8_0")) for name in ("own.gguf", "other.gguf"))
    silent, made = write_lora(tmp_path / "silent.gguf", SHAPES["tiny"]), tmp_path / "made.gguf"
    writer = GGUFWriter(made, "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string(BASE_IDENTITY, identity(Path(own)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    for given in ({"adapter": str(silent)}, {"generation": Generation(adapter=str(silent), max_tokens=7)}):
        domain = DomainConfig(name="garden", model=own, **given)
        for reference in (other, "ollama://llama3.2:1b", "openai://small"):
            tried = executor.tried_with(domain, reference)
            assert (tried.model, tried.sampling.adapter) == (reference, "")
            assert tried.sampling.max_tokens == domain.sampling.max_tokens
        assert executor.tried_with(domain, own) == domain
        # What is tried because the domain's own model is not there.
        assert executor.tried_with(domain.model_copy(update={"model": "absent"}), other).sampling.adapter == ""
    domain = DomainConfig(name="garden", model="absent", adapter=str(made))
    assert executor.tried_with(domain, own).sampling.adapter == str(made)
    assert executor.tried_with(DomainConfig(name="bare"), "no-such-model").model == "no-such-model"
    with pytest.raises(ModelNotFoundError):
        executor.tried_with(domain, "no-such-model")


def test_an_unknown_model_is_told_with_the_domain_that_names_it(executor: DomainExecutor) -> None:
    with pytest.raises(ModelNotFoundError, match="domain 'garden': unknown model 'nanoo'") as raised:
        executor.quotes(DomainConfig(name="garden", model="nanoo"))
    assert "Did you mean 'nano'" in raised.value.hint
