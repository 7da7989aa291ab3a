"""Editing a domain while an orchestrator runs: the new model is tried first, and a bad edit changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mdsa_local.domains import watching
from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.registry import DomainRegistry
from mdsa_local.domains.watching import POLL_S, DomainWatcher
from mdsa_local.errors import ClosedError, MDSAError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.runtime import synthetic
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.synthetic import SHAPES, write_random
from mdsa_local.settings import Settings


def until(true: Callable[[], bool], seconds: float = 15) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    return [write_random(tmp_path / f"{name}.gguf", SHAPES["tiny"], seed=seed) for seed, name in enumerate(("one", "two"))]


@pytest.fixture
def garden(tmp_path: Path, models: list[Path]) -> Path:
    folder = tmp_path / "home/domains/garden"
    folder.mkdir(parents=True)
    (folder / "domain.yaml").write_text(f"description: plants\nmodel: {models[0]}\n")
    return folder / "domain.yaml"


@pytest.fixture
def mdsa(tmp_path: Path, garden: Path) -> Iterator[TinyBERTOrchestrator]:
    settings = Settings.load({}, home=tmp_path / "home", threads=1)
    with TinyBERTOrchestrator(settings=settings, watch=True) as orchestrator:
        yield orchestrator


def test_the_model_is_swapped_and_no_request_is_dropped(mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path]) -> None:
    stop, failures, used = threading.Event(), list[str](), list[str]()

    def work() -> None:
        while not stop.is_set():
            domain = mdsa.registry.get("garden")
            try:
                mdsa.manager.generate(str(domain.model), "hello", Generation(max_tokens=4))
                used.append(str(domain.model))
            except MDSAError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(used) > 3)
    garden.write_text(f"description: plants\nmodel: {models[1]}\n")
    assert until(lambda: str(models[1]) in used)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert failures == []
    (change,) = mdsa.changes
    assert (change.domain, change.applied) == ("garden", True)
    assert str(models[1]) in change.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model: /no/such.gguf\n", "no model file"),
        ("model: [\n", "not valid YAML"),
        ("title: 2024-13-01\n", "not valid YAML"),
        ("modle: nano\n", "unknown key 'modle'"),
        ("model: zzz\n", "zzz"),
    ],
)
def test_a_bad_edit_changes_nothing_and_says_why(mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path], text: str, reason: str) -> None:
    garden.write_text(text)
    assert until(lambda: bool(mdsa.changes))
    (change,) = mdsa.changes
    assert not change.applied
    assert reason in change.message
    assert "goes on as it was" in change.message
    assert mdsa.registry.get("garden").model == str(models[0])
    garden.write_text(f"description: plants\nmodel: {models[1]}\n")
    assert until(lambda: mdsa.registry.get("garden").model == str(models[1])), "and the next good one is taken"


def test_a_damaged_model_is_not_switched_to(mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path]) -> None:
    models[1].write_bytes(models[1].read_bytes()[:-5000])
    garden.write_text(f"description: plants\nmodel: {models[1]}\n")
    assert until(lambda: bool(mdsa.changes))
    assert "truncated" in mdsa.changes[0].message
    assert mdsa.registry.get("garden").model == str(models[0])


def test_a_model_that_does_not_take_the_real_prompt_is_not_switched_to(
    mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "{% if 'Answer only from' in messages[0].content %}{{ raise_exception('no rules') }}{% endif %}"
    monkeypatch.setattr(synthetic, "TEMPLATE", refusing + synthetic.TEMPLATE)
    write_random(models[1], SHAPES["tiny"], seed=1)
    garden.write_text(f"description: plants\nmodel: {models[1]}\n")
    assert until(lambda: bool(mdsa.changes))
    assert "no rules" in mdsa.changes[0].message
    assert mdsa.registry.get("garden").model == str(models[0])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("grammar: 'root ::= ['", "grammar"),
        ("think: true", "cannot be told to think"),
        ("tools: [{name: look_up, description: finds, parameters: {type: object}}]", "tools"),
    ],
)
@pytest.mark.parametrize("other", [0, 1])
def test_settings_that_the_model_cannot_follow_are_not_taken_over(
    mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path], setting: str, said: str, other: int
) -> None:
    garden.write_text(f"description: plants\nmodel: {models[other]}\ngeneration: {{{setting}}}\n")
    assert until(lambda: bool(mdsa.changes))
    (change,) = mdsa.changes
    assert not change.applied
    assert said in change.message
    assert mdsa.registry.get("garden").generation == Generation()
    garden.write_text(f"description: plants\nmodel: {models[other]}\ngeneration: {{grammar: 'root ::= \"a longer answer than is tried\"'}}\n")
    assert until(lambda: bool(mdsa.registry.get("garden").generation.grammar)), mdsa.changes
    assert mdsa.changes[-1].applied


def test_a_form_that_a_quoting_model_cannot_give_is_not_taken_over(mdsa: TinyBERTOrchestrator, garden: Path) -> None:
    garden.write_text("description: plants\nmodel: nano\ngeneration: {json_schema: {type: object}}\n")
    assert until(lambda: bool(mdsa.changes))
    assert "it cannot follow json_schema" in mdsa.changes[0].message
    assert not mdsa.changes[0].applied


def test_what_failed_is_tried_again_and_told_once(
    mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.1)
    tried = list[str]()
    real = DomainWatcher._prove

    def prove(watcher: DomainWatcher, domain: DomainConfig) -> None:
        tried.append(str(domain.model))
        real(watcher, domain)

    monkeypatch.setattr(DomainWatcher, "_prove", prove)
    later = models[1].with_name("later.gguf")
    garden.write_text(f"description: plants\nmodel: {later}\n")
    assert until(lambda: len(tried) >= 3)
    assert [change.applied for change in mdsa.changes] == [False]
    # There at once: of half a copy a try would tell what it lacks.
    models[1].rename(later)
    assert until(lambda: mdsa.registry.get("garden").model == str(later))
    assert until(lambda: len(mdsa.changes) == 2)
    assert mdsa.changes[1].applied
    times = len(tried)
    time.sleep(3 * POLL_S)
    assert len(tried) == times, "what was taken over is not tried again"


def test_what_only_an_edit_puts_right_is_not_tried_again(
    mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.1)
    garden.write_text(f"description: plants\nmodel: {models[0]}\ngeneration: {{think: true}}\n")
    assert until(lambda: bool(mdsa.changes))
    assert mdsa._watcher is not None
    assert not mdsa._watcher._failed


@pytest.mark.parametrize("shared", [True, False])
def test_closing_waits_for_no_model_on_trial(tmp_path: Path, garden: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    begun, closed = threading.Event(), threading.Event()

    class Slow:
        def __iter__(self) -> Iterator[str]:
            begun.set()
            assert closed.wait(60)
            return iter(())

        def close(self) -> None:
            with pytest.raises(ClosedError):
                orchestrator.ask("How are plants watered?")
            closed.set()

    monkeypatch.setattr(ModelManager, "stream", lambda *_: Slow())
    settings = Settings.load({}, home=tmp_path / "home", threads=1)
    with closing(ModelManager(settings)) as manager:
        orchestrator = TinyBERTOrchestrator(settings=settings, watch=True, manager=manager if shared else None)
        garden.write_text(f"description: plants\nmodel: {models[1]}\n")
        assert begun.wait(30)
        orchestrator.close()
        assert closed.is_set()
        assert orchestrator.changes == []
        assert orchestrator.registry.get("garden").model == str(models[0])


def test_a_domain_without_a_model_is_tried_with_that_of_the_settings(tmp_path: Path, garden: Path, models: list[Path]) -> None:
    shared = Settings.load({}, home=tmp_path / "home", threads=1)
    settings = shared.changed(default_model=str(models[1]))
    with closing(ModelManager(shared)) as manager, TinyBERTOrchestrator(settings=settings, watch=True, manager=manager) as orchestrator:
        garden.write_text("description: plants\n")
        assert until(lambda: bool(orchestrator.changes))
        assert f"answers with {models[1]} from now on" in orchestrator.changes[0].message


def test_of_an_edit_that_leaves_the_model_no_trial_is_told(mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path]) -> None:
    garden.write_text(f"description: plants\nmodel: {models[0]}\nkeywords: [rose]\n")
    assert until(lambda: bool(mdsa.changes))
    assert (mdsa.changes[0].applied, mdsa.registry.get("garden").keywords) == (True, ("rose",))
    assert mdsa.changes[0].message == f"what was edited is taken over; {models[0]} goes on answering"


def test_domains_come_and_go(mdsa: TinyBERTOrchestrator, garden: Path, models: list[Path]) -> None:
    other = garden.parent.parent / "kitchen"
    other.mkdir()
    (other / "domain.yaml").write_text(f"description: cooking\nmodel: {models[0]}\n")
    assert until(lambda: "kitchen" in mdsa.registry)
    (other / "domain.yaml").unlink()
    assert until(lambda: "kitchen" not in mdsa.registry)
    assert "garden" in mdsa.registry


def test_a_folder_that_hides_another_of_its_name_does_so_while_it_is_there(tmp_path: Path) -> None:
    shipped, own = (tmp_path / name / "garden/domain.yaml" for name in ("shipped", "own"))
    for path in (shipped, own):
        path.parent.mkdir(parents=True)
        path.write_text(f"description: {path.parent.parent.name}\n")
    folders = (shipped.parent.parent, own.parent.parent)
    registry = DomainRegistry.from_folders(folders)
    with (
        closing(ModelManager(Settings.load({}, home=tmp_path))) as manager,
        closing(DomainWatcher(folders, registry, manager, registry.register, registry.unregister, "nano")) as watcher,
    ):
        shipped.write_text("description: shipped, edited\n")
        own.write_text("description: own, edited\n")
        assert until(lambda: bool(watcher.changes))
        assert registry.get("garden").description == "own, edited"
        shipped.write_text("description: shipped, edited again\n")
        time.sleep(3 * POLL_S)
        assert (registry.get("garden").description, len(watcher.changes)) == ("own, edited", 1)
        own.unlink()
        assert until(lambda: registry.get("garden").description == "shipped, edited again")
        shipped.unlink()
        assert until(lambda: "garden" not in registry)
