"""Pulling, adding, quantising and removing models on a real disk, against a real HTTP server, with kill -9 in between."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from mdsa_local.domains.config import Generation
from mdsa_local.durable import only_one
from mdsa_local.errors import (
    ConfigError,
    InputError,
    MDSAError,
    ModelError,
    ModelFileError,
    ModelMemoryError,
    ModelNotFoundError,
    StorageError,
    UnknownNameError,
)
from mdsa_local.runtime import shelf
from mdsa_local.runtime.catalog import find, known
from mdsa_local.runtime.download import Fetcher
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.runtime.shelf import HubFile, plain_name, variant_of
from mdsa_local.runtime.synthetic import SHAPES, write_lora
from mdsa_local.settings import Settings, shipped

from .file_server import FileHub
from .gguf_writer import Shape, metadata, random_weights, write_gguf

NANO = shipped("models") / "nano" / "nano-q4_0.gguf"
SHORT = Generation(max_tokens=4)
Pull = Callable[..., object]


@pytest.fixture(scope="module")
def hub() -> Iterator[FileHub]:
    with FileHub(NANO.read_bytes()) as running:
        yield running


@pytest.fixture
def home(settings: Settings, hub: FileHub) -> Settings:
    """Settings whose hub is the server on loopback."""
    hub.server.calls.clear()
    return settings.changed(hub_url=hub.url)


def pull(home: Settings, kind: str, name: str = "m", variant: str = "q4_0", **options: object) -> object:
    with Fetcher(home.hub_url, "", ("localhost",)) as fetcher:
        return shelf.pull(HubFile("owner/repo", "main", f"{kind}.gguf"), name, variant, home, fetcher, facts={"licence": "MIT"}, **options)  # type: ignore[arg-type]


def answer(home: Settings, name: str) -> str:
    with ModelManager(home) as manager:
        return manager.generate(name, "hello?", SHORT)


def test_pulled_it_has_a_name_and_answers(home: Settings, hub: FileHub) -> None:
    pull(home, "good")
    model = find("m", home.model_dirs)
    assert find("m-q4_0", home.model_dirs).path == model.path == home.home / "models" / "m" / "good.gguf"
    assert (model.sha256, model.size_bytes) == (hub.server.sha256, NANO.stat().st_size)
    assert answer(home, "m") == answer(home, str(NANO))
    card = yaml.safe_load((home.home / "models/m/model.yaml").read_text())
    assert (card["files"]["q4_0"]["source"], card["licence"], card["default"]) == ("hf://owner/repo/good.gguf", "MIT", "q4_0")
    hub.server.calls.clear()
    pull(home, "good")
    assert [method for method, *_ in hub.server.calls] == ["HEAD"], "what is there is not fetched again"


def split(path: Path) -> None:
    write_gguf(path, metadata(Shape()) | {"split.count": 3}, random_weights(Shape()))


def unknown_type(path: Path) -> None:
    write_gguf(path, metadata(Shape()), random_weights(Shape()))
    raw = bytearray(path.read_bytes())
    # Behind the name of a tensor: the number of its dimensions, one, and its type.
    raw[raw.index(b"output_norm.weight") + len("output_norm.weight") + 12] = 99
    path.write_bytes(raw)


def adapter(path: Path) -> None:
    write_lora(path, SHAPES["tiny"], seed=1)


@pytest.mark.parametrize(
    ("make", "said", "hint"),
    [
        (split, r"good\.gguf: one part of a split model", "llama-gguf-split --merge"),
        (unknown_type, r"good\.gguf: tensor 'output_norm.weight' has unknown type 99", "choose another file"),
        (adapter, r"good\.gguf is an adapter, no model", "domain.yaml"),
    ],
)
def test_a_file_that_is_of_no_use_does_not_take_the_place_of_one_that_is(
    settings: Settings, tmp_path: Path, make: Callable[[Path], None], said: str, hint: str
) -> None:
    make(tmp_path / "new.gguf")
    with FileHub(NANO.read_bytes()) as changing:
        home = settings.changed(hub_url=changing.url)
        pull(home, "good")
        changing.server.content = (tmp_path / "new.gguf").read_bytes()
        changing.server.sha256 = hashlib.sha256(changing.server.content).hexdigest()
        with pytest.raises(ModelFileError, match=said) as caught:
            pull(home, "good")
        assert hint in caught.value.hint and "partial" not in str(caught.value)
        assert sorted(path.name for path in (home.home / "models/m").iterdir()) == ["good.gguf", "model.yaml"]
        assert answer(home, "m")
        with pytest.raises(ModelFileError, match=said):
            pull(home, "good", name="fresh")
        assert not (home.home / "models/fresh").exists()


@pytest.mark.parametrize("spoil", ["flipped", "short", "gone"])
def test_a_damaged_file_is_mended_by_pulling_it_again(home: Settings, hub: FileHub, spoil: str) -> None:
    pull(home, "good")
    path = find("m", home.model_dirs).path
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 255
    path.write_bytes(raw if spoil == "flipped" else raw[:-5])
    if spoil == "gone":
        path.unlink()
    with pytest.raises(ModelError, match=r"good\.gguf"):
        answer(home, "m")
    hub.server.calls.clear()
    pull(home, "good")
    assert [method for method, *_ in hub.server.calls] == ["HEAD", "GET", "GET"]
    assert answer(home, "m") == answer(home, str(NANO))


@pytest.mark.parametrize("name", ["m-q4_0-00001-of-00003.gguf", "sub/m-00003-of-00003.gguf"])
def test_one_part_of_several_is_refused_before_the_download(home: Settings, hub: FileHub, name: str) -> None:
    with pytest.raises(InputError, match="is one part of a split model") as caught, Fetcher(home.hub_url) as fetcher:
        shelf.pull(HubFile("owner/repo", "main", name), "m", "q4_0", home, fetcher, facts={})
    assert "llama-gguf-split --merge" in caught.value.hint
    assert hub.server.calls == []


def test_the_only_part_is_all_of_it(home: Settings) -> None:
    pull(home, "m-00001-of-00001")
    assert answer(home, "m")


def test_the_revision_is_kept_and_another_one_is_the_same_file(home: Settings, hub: FileHub) -> None:
    for revision, source in (("v2", "hf://owner/repo@v2/good.gguf"), ("main", "hf://owner/repo/good.gguf"), ("v2", "hf://owner/repo@v2/good.gguf")):
        with Fetcher(home.hub_url, "", ("localhost",)) as fetcher:
            model = shelf.pull(HubFile("owner/repo", revision, "good.gguf"), "m", "q4_0", home, fetcher, facts={})
        assert model.source == source
        assert HubFile.parse(source) == HubFile("owner/repo", revision, "good.gguf")
    card = home.home / "models/m/model.yaml"
    card.write_text(card.read_text().replace(hub.server.sha256, "a" * 64))
    pull(home, "good")
    with pytest.raises(InputError, match="has a q4_0 file already"):
        pull(home, "breaks-off")


def test_a_second_file_is_another_variant(home: Settings) -> None:
    pull(home, "good")
    pull(home, "breaks-off", variant="q4_k_m")
    assert set(known([home.home / "models"])) == {"m", "m-q4_0", "m-q4_k_m"}
    assert find("m", home.model_dirs).path.name == "good.gguf"


def test_a_file_from_elsewhere_does_not_take_its_place(home: Settings, plain: Path) -> None:
    first = pull(home, "good", variant="q8_0")
    with FileHub(NANO.with_name("nano-q8_0.gguf").read_bytes()) as other, Fetcher(other.url, "", ("localhost",)) as fetcher:
        file = HubFile("bob/other", "main", "better.gguf")
        with pytest.raises(InputError, match="has a q8_0 file already, hf://owner/repo/") as caught:
            shelf.pull(file, "m", "q8_0", home.changed(hub_url=other.url), fetcher, facts={})
    assert "models rm m-q8_0" in caught.value.hint
    with pytest.raises(InputError, match="has a q8_0 file already"):
        shelf.quantize(shelf.find_source(str(plain), home), "Q8_0", "m", home)
    assert pull(home, "good", variant="q8_0") == first, "the same one can be pulled again"
    pull(home, "breaks-off")
    assert {name: model.source for name, model in known([home.home / "models"]).items()} == {
        "m": "hf://owner/repo/good.gguf",
        "m-q8_0": "hf://owner/repo/good.gguf",
        "m-q4_0": "hf://owner/repo/breaks-off.gguf",
    }


@pytest.mark.parametrize("kind", ["wrong-content", "longer-than-it-is", "more-than-said", "dies", "elsewhere", "absent", "gated", "circle"])
def test_what_goes_wrong_leaves_no_model(home: Settings, kind: str) -> None:
    with pytest.raises(MDSAError) as caught:
        pull(home, kind)
    assert caught.value.hint
    assert known([home.home / "models"]) == {}
    assert not list((home.home / "models").glob("*/*.gguf"))
    assert [path.name for path in shelf.unfinished(home)] == (["dies.gguf.partial"] if kind == "dies" else [])
    pull(home, "good")
    assert answer(home, "m")


def test_a_file_that_is_no_gguf_ends_at_its_first_bytes_and_is_not_kept(settings: Settings) -> None:
    told: list[int] = []
    with FileHub(b"<html>" * 200_000) as other, pytest.raises(ModelFileError, match="begins with b'<htm', expected b'GGUF'"):
        pull(settings.changed(hub_url=other.url), "good", progress=lambda done, total: told.append(done))
    assert told == []
    assert not list((settings.home / "models").glob("*/*"))


def test_a_damaged_gguf_is_not_kept(settings: Settings) -> None:
    with FileHub(b"GGUF" + b"<html>" * 1000) as other, pytest.raises(ModelFileError):
        pull(settings.changed(hub_url=other.url), "good")
    assert not list((settings.home / "models").glob("*/*"))


def test_the_hash_has_to_be_known_and_right(home: Settings, hub: FileHub) -> None:
    with pytest.raises(InputError, match="SHA-256") as caught:
        pull(home, "plain")
    assert "--sha256" in caught.value.hint
    with pytest.raises(ModelFileError, match="you say"):
        pull(home, "good", sha256="0" * 64)
    with pytest.raises(ModelFileError):
        pull(home, "plain", sha256="0" * 64)
    pull(home, "plain", sha256=hub.server.sha256.upper())
    assert answer(home, "m")


@pytest.mark.parametrize("given", ["abc", "0" * 63, "sha256:" + "0" * 64])
def test_what_is_no_hash_is_told_before_anything_is_fetched(home: Settings, hub: FileHub, given: str) -> None:
    with pytest.raises(InputError, match="is no SHA-256"):
        pull(home, "plain", sha256=given)
    assert hub.server.calls == []


def test_what_is_larger_than_the_budget_is_refused_before_the_download(home: Settings, hub: FileHub) -> None:
    small = home.changed(memory_budget_mb=2)
    with pytest.raises(ModelMemoryError, match=r"3\.8 MB, the memory budget is 2\.0 MB"):
        pull(small, "good")
    assert [method for method, *_ in hub.server.calls] == ["HEAD"]
    pull(small, "good", anyway=True)


@pytest.mark.parametrize(
    ("ref", "parsed"),
    [
        ("hf://a/b/c.gguf", HubFile("a/b", "main", "c.gguf")),
        ("hf://a/b@v1/c.gguf", HubFile("a/b", "v1", "c.gguf")),
        ("hf://a/b-GGUF/sub/c-Q4_K_M.GGUF".replace("GGUF", "gguf"), HubFile("a/b-gguf", "main", "sub/c-Q4_K_M.gguf")),
    ],
)
def test_references(ref: str, parsed: HubFile) -> None:
    assert HubFile.parse(ref) == parsed
    assert parsed.url("http://h/") == f"http://h/{parsed.repository}/resolve/{parsed.revision}/{parsed.path}"


@pytest.mark.parametrize(
    "ref", ["hf://a/c.gguf", "hf://a/b/c.bin", "https://a/b/c.gguf", "hf://a/b/../../c.gguf", "hf://../b/../c.gguf", "hf://a/b/c.gguf?x"]
)
def test_what_is_no_reference(ref: str) -> None:
    with pytest.raises(InputError, match="no file on a hub"):
        HubFile.parse(ref)


def test_storage_is_only_known_of_the_real_hub() -> None:
    assert shelf.storage_hosts("https://huggingface.co/") == (".huggingface.co", ".hf.co")
    assert shelf.storage_hosts("https://huggingface.co.example.com") == shelf.storage_hosts("http://127.0.0.1:1") == ()


def test_names_from_files() -> None:
    assert plain_name("Qwen2.5-0.5B-Instruct-Q4_K_M.gguf") == "qwen2.5-0.5b-instruct"
    assert plain_name("Some Model (v2).f16.gguf") == "some-model-v2"
    assert plain_name("....gguf") == "model"
    assert variant_of("x-Q4_K_M.gguf") == "q4_k_m"
    assert variant_of("x.gguf") == "file"


def test_added_it_stays_where_it_lies(settings: Settings, tmp_path: Path) -> None:
    mine = tmp_path / "elsewhere" / "Mine-Q4_0.gguf"
    mine.parent.mkdir()
    shutil.copy(NANO, mine)
    model = shelf.add(mine, "mine", settings)
    assert (model.path, model.name) == (mine, "mine-q4_0")
    assert answer(settings, "mine") == answer(settings, str(NANO))
    assert shelf.add(mine, "mine", settings) == model, "adding it again changes nothing"
    with pytest.raises(InputError, match="has a q4_0 file already"):
        shelf.add(NANO, "mine", settings)
    raw = bytearray(mine.read_bytes())
    raw[-1] ^= 1
    mine.write_bytes(raw)
    with pytest.raises(ModelFileError, match="SHA-256"):
        answer(settings, "mine")
    assert shelf.remove("mine", settings) == ([], 0)
    assert mine.exists()
    assert known([settings.home / "models"]) == {}


def test_a_file_of_ollamas_folder_is_added_though_its_name_has_no_ending(settings: Settings, tmp_path: Path) -> None:
    blob = tmp_path / f"sha256-{'0' * 64}"
    shutil.copy(NANO, blob)
    assert shelf.add(blob, "blob", settings).path == blob
    assert answer(settings, "blob") == answer(settings, str(NANO))


def test_a_name_that_another_model_has_is_refused(settings: Settings, tmp_path: Path) -> None:
    one, other = (write_gguf(tmp_path / f"{seed}.gguf", metadata(Shape()), random_weights(Shape(), seed)) for seed in (0, 1))
    shelf.add(one, "x", settings)
    for name, there in (("x-f32", settings.home / "models" / "x"), ("nano-int4", shipped("models") / "nano")):
        with pytest.raises(InputError, match=f"{name} is the name of another model already") as caught:
            shelf.add(other, name, settings)
        assert str(there) in str(caught.value)
    assert find("x-f32", settings.model_dirs).path == one
    shelf.add(other, "y-f32", settings)
    with pytest.raises(InputError, match="y-f32 is the name of another model already"):
        shelf.add(one, "y", settings)
    shutil.copy(one, settings.home / "models" / "z.gguf")
    with pytest.raises(InputError, match=r"z is the name of another model already, in .*z\.gguf"):
        shelf.add(other, "z", settings)
    shelf.add(one, "x", settings)
    assert sorted(path.name for path in (settings.home / "models").glob("*/")) == ["x", "y-f32"]


def test_of_two_that_are_added_at_once_under_one_name_the_second_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write_gguf(tmp_path / f"{seed}.gguf", metadata(Shape()), random_weights(Shape(), seed)) for seed in (0, 1)]
    both, real, refused = threading.Barrier(2), shelf.sha256_of, list[str]()

    def hashed(path: Path, progress: Callable[[int, int], None]) -> str:
        # Both have looked, and nothing was there.
        both.wait(20)
        return real(path, progress)

    def added(path: Path) -> None:
        try:
            shelf.add(path, "same", settings)
        except InputError as error:
            refused.append(str(error))

    monkeypatch.setattr(shelf, "sha256_of", hashed)
    threads = [threading.Thread(target=added, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [f"has a f32 file already, {find('same', settings.model_dirs).path}" in text for text in refused] == [True]


def test_a_file_that_was_moved_is_added_from_its_new_place(settings: Settings, tmp_path: Path) -> None:
    old, new = tmp_path / "old.gguf", tmp_path / "new.gguf"
    shutil.copy(NANO, old)
    shelf.add(old, "mv", settings)
    old.rename(new)
    with pytest.raises(ModelNotFoundError) as caught:
        answer(settings, "mv")
    assert "moved, mdsa models add FILE --name" in caught.value.hint
    assert shelf.add(new, "mv", settings).path == new
    assert find("mv", settings.model_dirs).source == str(new)


@pytest.mark.parametrize("name", ["", "../x", "A", "a b", ".x", "x" * 65])
def test_names_that_are_no_folder(settings: Settings, name: str) -> None:
    with pytest.raises(InputError, match="no name for a model"):
        shelf.add(NANO, name, settings)


def test_what_cannot_be_added(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"hello" * 100)
    with pytest.raises(ModelFileError):
        shelf.add(tmp_path / "x.gguf", "x", settings)
    with pytest.raises(ModelNotFoundError):
        shelf.add(tmp_path / "y.gguf", "y", settings)
    with pytest.raises(ModelFileError, match="is an adapter, no model"):
        shelf.add(write_lora(tmp_path / "z.gguf", SHAPES["tiny"], seed=1), "z", settings)
    assert not (settings.home / "models").exists()


@pytest.mark.parametrize(
    "files",
    [
        "{q8: {file: VICTIM}}",
        "{q8: {file: ../victim.gguf}}",
        "{q8: {file: ..}, q4: {file: x.gguf}}",
        "{q8: VICTIM}",
        "{q8: x.gguf}",
        "[x.gguf]",
        "{model.onnx: {sha256: 00}}",
        "{q8: {file: x.gguf, colour: red}}",
        "{q8: {file: x.gguf}",
    ],
)
def test_only_what_lies_beside_a_right_card_is_removed(settings: Settings, files: str) -> None:
    victim, folder = settings.home / "models" / "victim.gguf", settings.home / "models" / "odd"
    shelf.add(NANO, "mine", settings)
    folder.mkdir()
    for path in (victim, folder / "x.gguf"):
        path.write_bytes(b"GGUF")
    (folder / "model.yaml").write_text(f"default: q8\nfiles: {files}\n".replace("VICTIM", str(victim)))
    for name in ("odd", "odd-q8"):
        with pytest.raises(MDSAError) as caught:
            shelf.remove(name, settings)
        assert isinstance(caught.value, ModelNotFoundError if name == "odd-q8" else ConfigError | InputError)
        assert name == "odd-q8" or (str(folder) in str(caught.value) and f"Remove its folder by hand: {folder}" in caught.value.hint)
    with pytest.raises((ConfigError, InputError)):
        shelf.quantize(shelf.find_source(str(NANO.with_name("nano-q8_0.gguf")), settings), "Q4_0", "odd", settings)
    assert victim.exists() and {path.name for path in folder.iterdir()} == {"x.gguf", "model.yaml"}
    shelf.remove("mine", settings)


def test_a_file_of_two_variants_goes_with_the_last(home: Settings) -> None:
    pull(home, "good")
    card = home.home / "models/m/model.yaml"
    values = yaml.safe_load(card.read_text())
    card.write_text(yaml.safe_dump(values | {"files": {"a": values["files"]["q4_0"], "b": values["files"]["q4_0"]}, "default": "a"}))
    assert shelf.remove("m-a", home) == ([], 0)
    assert answer(home, "m")
    assert shelf.remove("m-b", home)[1] == NANO.stat().st_size


def test_a_model_does_not_go_into_the_folder_of_an_encoder(home: Settings, hub: FileHub) -> None:
    card = home.home / "models/m/model.yaml"
    card.parent.mkdir(parents=True)
    card.write_text("kind: encoder\nfiles: {model.onnx: {sha256: 00, size_bytes: 1}}\n")
    with pytest.raises(InputError, match="something else than GGUF"):
        pull(home, "good")
    assert [method for method, *_ in hub.server.calls] == ["HEAD"]


def test_removing(home: Settings) -> None:
    pull(home, "good")
    pull(home, "breaks-off", variant="q4_k_m")
    files, freed = shelf.remove("m-q4_0", home)
    assert ([path.name for path in files], freed) == (["good.gguf"], NANO.stat().st_size)
    assert find("m", home.model_dirs).path.name == "breaks-off.gguf", "the default moves on"
    with pytest.raises(MDSAError):
        pull(home, "dies", variant="q8_0")
    (home.home / "models/m/notes.txt").write_text("mine")
    shelf.remove("m", home)
    assert [path.name for path in (home.home / "models/m").iterdir()] == ["notes.txt"], "what is not the model's stays"
    shutil.copy(NANO, home.home / "models" / "loose.gguf")
    assert shelf.remove("loose", home)[1] == NANO.stat().st_size
    for name in ("nano", "m", "nope"):
        with pytest.raises(ModelNotFoundError):
            shelf.remove(name, home)


@pytest.mark.skipif(os.name == "nt", reason="links and pipes are another thing there")
def test_of_links_the_link_is_removed_and_what_is_no_file_is_told(settings: Settings, tmp_path: Path) -> None:
    folder = settings.home / "models"
    folder.mkdir(parents=True)
    shutil.copy(NANO, tmp_path / "there.gguf")
    for name, target in (("gone", "/nowhere/x.gguf"), ("link", tmp_path / "there.gguf")):
        (folder / f"{name}.gguf").symlink_to(target)
        assert shelf.remove(name, settings) == ([folder / f"{name}.gguf"], 0)
        assert not (folder / f"{name}.gguf").is_symlink()
    assert (tmp_path / "there.gguf").is_file()
    (folder / "folder.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    for name in ("folder", "pipe"):
        with pytest.raises(InputError, match=rf"{name}\.gguf is no file"):
            shelf.remove(name, settings)
        assert (folder / f"{name}.gguf").exists()


@pytest.mark.parametrize("name", ["m", "m-q4_0", "m-q4_k_m"])
def test_a_model_whose_file_is_in_use_on_windows_can_be_removed_later(home: Settings, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pull(home, "good")
    if name != "m-q4_0":
        pull(home, "breaks-off", variant="q4_k_m")
    unlink, card = Path.unlink, (home.home / "models/m/model.yaml").read_text(encoding="utf-8")

    def kept(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".gguf":
            error = PermissionError(13, "Access is denied", str(path))
            error.winerror = 5  # type: ignore[attr-defined]
            raise error
        unlink(path, missing_ok)

    with monkeypatch.context() as here:
        here.setattr(Path, "unlink", kept)
        with pytest.raises(StorageError) as caught:
            shelf.remove(name, home)
    assert caught.value.hint.startswith("Close the programs that use it")
    assert (home.home / "models/m/model.yaml").read_text(encoding="utf-8") == card
    assert [path.is_file() for path in shelf.remove(name, home)[0]] == [False] * (2 if name == "m" else 1)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An F32 model of 22 million parameters, large enough that quantising takes a while."""
    shape = Shape(width=512, layers=8, heads=8, kv_heads=4, inner=1280)
    return write_gguf(tmp_path_factory.mktemp("plain") / "plain-F32.gguf", metadata(shape), random_weights(shape))


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8.6), ("q5_k_m", 6.2), ("Q4_K_M", 5.4), ("Q4_0", 4.8)])
def test_quantising(settings: Settings, plain: Path, kind: str, bits: float) -> None:
    source = shelf.find_source(str(plain), settings)
    model = shelf.quantize(source, kind, "plain", settings)
    info = read_gguf(model.path)
    assert (info.quantization, model.name) == (kind.upper(), f"plain-{kind.lower()}")
    assert info.size_bytes * 8 / info.n_parameters < bits
    assert [path.name for path in model.path.parent.iterdir() if path.suffix != ".yaml"] == [model.path.name]
    assert answer(settings, "plain")
    with pytest.raises(InputError, match=f"is {kind.upper()} already"):
        shelf.quantize(model, "Q4_0", "plain", settings)


def test_cards_written_at_once_lose_nothing(home: Settings) -> None:
    first = shelf.add(NANO, "m", home).name.removeprefix("m-")
    folder, failed = home.home / "models" / "m", list[BaseException]()
    kinds = [f"q{n}" for n in range(12)]

    def work(kind: str) -> None:
        try:
            shelf._enter(folder, kind, {"file": f"{kind}.gguf"}, {}, home)
            if kind == "q7":
                shelf.remove("m-q7", home)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    card = yaml.safe_load((folder / "model.yaml").read_text())
    assert set(card["files"]) == {first, *kinds} - {"q7"}
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["m", "model.yaml"]


def test_what_cannot_be_quantised(settings: Settings, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shelf.find_source(str(plain), settings)
    with pytest.raises(UnknownNameError) as caught:
        shelf.quantize(source, "Q9", "plain", settings)
    assert "Q4_K_M" in caught.value.hint
    with pytest.raises(InputError, match="already"):
        shelf.quantize(shelf.find_source("nano", settings), "Q4_0", "x", settings)
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(StorageError, match="needed"):
        shelf.quantize(source, "Q4_0", "plain", settings)
    assert known([settings.home / "models"]) == {}


def test_what_llama_cpp_does_not_quantise_is_told_with_its_reason(settings: Settings, plain: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd-F32.gguf"
    odd.write_bytes(plain.read_bytes().replace(b"llama", b"lamas"))
    with pytest.raises(ModelError, match=r"odd-F32\.gguf: llama.cpp could not quantise it: .*unknown.*architecture"):
        shelf.quantize(shelf.find_source(str(odd), settings), "Q4_0", "odd", settings)
    assert not (settings.home / "models" / "odd").exists()


KILLED = """
import sys
from pathlib import Path
from mdsa_local.runtime import shelf
from mdsa_local.settings import Settings
settings = Settings.load({}, home=Path(sys.argv[1]), threads=1)
if sys.argv[2] == "add":
    shelf.add(Path(sys.argv[3]), "killed", settings, lambda done, total: print(done, flush=True))
else:
    print(0, flush=True)
    shelf.quantize(shelf.find_source(sys.argv[3], settings), "Q4_K_M", "killed", settings)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("what", ["add", "quantize"])
def test_kill_9_in_the_middle_loses_nothing(settings: Settings, plain: Path, what: str) -> None:
    shelf.add(NANO, "before", settings)
    code = KILLED if what == "quantize" else KILLED.replace("print(done, flush=True)", "print(done, flush=True) or __import__('time').sleep(5)")
    running = subprocess.Popen([sys.executable, "-c", code, str(settings.home), what, str(plain)], stdout=subprocess.PIPE)
    assert running.stdout
    running.stdout.readline()
    partial = settings.home / "models/killed/killed-q4_k_m.gguf.quantising.partial"
    deadline = time.monotonic() + 30
    while what == "quantize" and not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(10)
    running.stdout.close()
    assert set(known([settings.home / "models"])) == {"before", "before-q4_0"}
    assert answer(settings, "before")
    if what == "add":
        shelf.add(plain, "killed", settings)
    else:
        assert shelf.leftovers(settings) == [partial], "it was killed before the end"
        assert shelf.unfinished(settings) == []
        assert shelf.remove("killed", settings)[1] > 0
        assert not partial.parent.exists()
        shelf.quantize(shelf.find_source(str(plain), settings), "Q4_K_M", "killed", settings)
        assert not partial.exists()
    assert answer(settings, "killed")


def test_a_model_that_ships_keeps_its_name(tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    with pytest.raises(InputError, match="ships with mdsa_local"):
        shelf.add(NANO, "nano", settings)
    assert not (tmp_path / "models").exists()


def test_an_unfinished_download_can_be_removed(tmp_path: Path) -> None:
    settings = Settings.load({}, home=tmp_path)
    partial = tmp_path / "models" / "begun" / "begun-q4_0.gguf.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"GGUF" * 100)
    assert shelf.remove("begun", settings) == ([], 400)
    assert not partial.parent.exists()


def test_what_another_process_is_making_is_not_removed_from_under_it(home: Settings) -> None:
    pull(home, "good")
    partial = home.home / "models" / "m" / "other.gguf.partial"
    partial.write_bytes(b"GGUF" * 100)
    for name in ("m", "m-q4_0"):
        with only_one(partial.with_name(f"{partial.name}.lock"), partial), pytest.raises(InputError, match="another process"):
            shelf.remove(name, home)
        assert partial.exists() and find("m", home.model_dirs).path.exists()
    shelf.remove("m", home)
    assert not partial.parent.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_ends_quantising_and_leaves_nothing(settings: Settings, plain: Path) -> None:
    environment = {**os.environ, "MDSA_HOME": str(settings.home), "MDSA_THREADS": "1"}
    command = [sys.executable, "-m", "mdsa_local", "models", "quantize", str(plain), "Q4_K_M", "--name", "stopped"]

    def heed() -> None:
        # A shell's background jobs ignore it, and so would what they start.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=heed)
    partial = settings.home / "models/stopped/stopped-q4_k_m.gguf.quantising.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    began = time.monotonic()
    # As a terminal does: all processes of the group.
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate(timeout=10)[1].decode()
    assert time.monotonic() - began < 2
    assert (running.returncode, "Traceback" in said, "Exception" in said) == (130, False, False), said
    assert not partial.parent.exists()
