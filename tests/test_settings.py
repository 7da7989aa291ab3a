from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from mdsa_local import TinyBERTOrchestrator, settings
from mdsa_local.domains.config import DomainConfig
from mdsa_local.errors import ConfigError, InputError
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.place import located
from mdsa_local.routing.encoder import Encoder
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.settings import Settings


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("top_k: 7\ndefault_model: other\n")
    environ = {"MDSA_HOME": str(tmp_path), "MDSA_TOP_K": "9"}
    assert Settings.load(environ).top_k == 9
    assert Settings.load(environ).default_model == "other"
    assert Settings.load(environ, top_k=2).top_k == 2


def test_home_is_the_platforms_user_data_folder_and_never_the_current_one() -> None:
    assert Settings.load({"HOME": "/somewhere"}).home.is_relative_to("/somewhere")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("top_k: many\n", "top_k"),
        ("colour: red\n", "unknown key 'colour'"),
        ("a: [1\n", "not valid YAML"),
        ("top_k: yes\n", "key 'top_k': expected a number"),
        ("keep_alive_s: true\n", "key 'keep_alive_s': expected a number"),
        ("gpu_layers: true\n", "key 'gpu_layers': expected auto"),
        ("- a\n", "expected a mapping"),
        ("top_k: 4\nencoder: 2024-99-99\n", """'2024-99-99' cannot be read: month must be in 1..12, line 2"""),
        ("encoder: !!bool perhaps\n", "not valid YAML: 'perhaps' cannot be read"),
        ("encoder: !!timestamp noon\n", "not valid YAML: 'noon' cannot be read"),
        ("[" * 9000, "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Settings.load({"MDSA_HOME": str(tmp_path)})
    assert said in str(caught.value)
    assert "config.yaml" in f"{caught.value} {caught.value.hint}"


def test_a_key_with_nothing_behind_it_is_empty_where_that_means_something(tmp_path: Path) -> None:
    names = ("judge", "reranker", "knowledge_uri", "ollama_api_key", "openai_api_key")
    (tmp_path / "config.yaml").write_text("".join(f"{name}:\n" for name in names))
    loaded = Settings.load({"MDSA_HOME": str(tmp_path)})
    assert (loaded.judge_place, loaded.reranker_place, loaded.knowledge_place) == (None, None, tmp_path / "knowledge")
    assert not loaded.ollama_api_key and not loaded.openai_api_key
    for name in ("default_model", "encoder"):
        (tmp_path / "config.yaml").write_text(f"{name}:\n")
        with pytest.raises(ConfigError, match=name):
            Settings.load({"MDSA_HOME": str(tmp_path)})


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        Settings.load({"MDSA_HOME": str(tmp_path)})


def test_a_home_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    # No name can be so long.
    with pytest.raises(ConfigError, match="x" * 300):
        Settings.load({}, home=tmp_path / ("x" * 300) / "home")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = settings.storage_error(FileNotFoundError(2, "No such file or directory"), tmp_path / "none" / "x")
    assert missing.hint == f"There is no folder {tmp_path / 'none'}: make it first, or write elsewhere."
    assert "Free some space" in settings.storage_error(OSError(28, "No space left on device"), tmp_path / "x").hint


def test_only_where_the_home_is_in_the_way_its_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "home"))
    refused = OSError(30, "Read-only file system")
    for path, named in ((tmp_path / "home", True), (tmp_path / "home" / "models" / "x", True), (tmp_path / "x.mdsa", False)):
        hint = settings.storage_error(refused, path).hint
        assert ("MDSA_HOME" in hint, "write elsewhere" in hint) == (named, not named)


@pytest.mark.parametrize("name", ["MDSA_OPENAI_API_KEY", "MDSA_OLLAMA_API_KEY", "OLLAMA_API_KEY"])
def test_a_key_has_no_line_end_and_is_never_shown(tmp_path: Path, name: str) -> None:
    loaded = Settings.load({"MDSA_HOME": str(tmp_path), name: " sesame\r\n"})
    assert {loaded.openai_api_key.get_secret_value(), loaded.ollama_api_key.get_secret_value()} == {"", "sesame"}
    for wrong in ("ses\name", "sesamé", "ses\0ame"):
        with pytest.raises(ConfigError, match="printable ASCII") as caught:
            Settings.load({"MDSA_HOME": str(tmp_path), name: wrong})
        assert "ses" not in f"{caught.value} {caught.value.hint}" and name in caught.value.hint


@pytest.mark.parametrize("text", ["4711", "[sesame4711]", "{a: sesame4711}"])
def test_a_key_of_another_kind_is_not_shown_either(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(f"openai_api_key: {text}\n")
    with pytest.raises(ConfigError, match="'openai_api_key'") as caught:
        Settings.load({"MDSA_HOME": str(tmp_path)})
    assert "4711" not in str(caught.value)


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.load({"MDSA_HOME": str(tmp_path), "MDSA_CONFIDENCE_THRESHOLD": "2"})
    assert "MDSA_CONFIDENCE_THRESHOLD" in caught.value.hint


@pytest.mark.parametrize("seconds", [".inf", "1.0e+300", ".nan", "0"])
def test_a_wait_without_end_is_refused(tmp_path: Path, seconds: str) -> None:
    (tmp_path / "config.yaml").write_text(f"request_timeout_s: {seconds}\n")
    with pytest.raises(ConfigError, match=r"request_timeout_s.*(less than or equal to 604800|greater than 0)"):
        Settings.load({}, home=tmp_path)


@pytest.mark.parametrize("seconds", [".inf", "-.inf", ".nan"])
def test_a_model_is_kept_for_a_number_of_seconds_or_by_0_or_minus_1_until_its_room_is_needed(tmp_path: Path, seconds: str) -> None:
    (tmp_path / "config.yaml").write_text(f"keep_alive_s: {seconds}\n")
    with pytest.raises(ConfigError, match=r"keep_alive_s.*expected a number of seconds; 0 or -1 keeps the model"):
        Settings.load({}, home=tmp_path)
    (tmp_path / "config.yaml").write_text("keep_alive_s: -1\n")
    assert Settings.load({}, home=tmp_path).keep_alive_s == -1


@pytest.mark.parametrize(("value", "good"), [
    ("5m", True), ("1h30m", True), ("-1", True), ("0", True), ("300", True), ("1.5h", True), ("-1m", True), ("250ms", True),
    (".inf", False), (".nan", False), ("banana", False), ("5 minutes", False), ("5", True), ("1.0e+400", False), ("''", False),
])  # fmt: skip
def test_what_ollama_is_told_of_keeping_a_model_is_a_duration(tmp_path: Path, value: str, good: bool) -> None:
    (tmp_path / "config.yaml").write_text(f"ollama_keep_alive: {value}\n")
    if good:
        assert Settings.load({}, home=tmp_path).ollama_keep_alive == value
    else:
        with pytest.raises(ConfigError, match=r"ollama_keep_alive.*expected a duration such as 5m"):
            Settings.load({}, home=tmp_path)


def test_a_number_of_answers_that_no_database_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"answer_log.*less than or equal to 1000000000"):
        Settings.load({}, home=tmp_path, answer_log=10**30)


def test_a_misspelt_key_is_told_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("topk: 3\n")
    with pytest.raises(ConfigError, match="unknown key 'topk'") as caught:
        Settings.load(home=tmp_path)
    assert caught.value.hint == f"Did you mean 'top_k'? Fix it in {tmp_path / 'config.yaml'}."
    with pytest.raises(ConfigError) as caught:
        Settings.load({}, home=tmp_path / "none").changed(thread=1)
    assert caught.value.hint.startswith("Did you mean 'threads'?")


def test_a_variable_that_is_no_setting_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_told", set())
    ours = {"MDSA_HOME": str(tmp_path), "MDSA_DEBUG": "1", "MDSA_TOP_K": "5", "MDSA_TEST_KILLS": "3", "OTHER": "x"}
    for _ in range(2):
        assert Settings.load({**ours, "MDSA_TOPK": "3", "MDSA_QUUX": "1"}).top_k == 5
    assert caplog.messages == ["MDSA_QUUX is no setting and has no effect.", "MDSA_TOPK is no setting and has no effect. Did you mean MDSA_TOP_K?"]


def test_ollama_address_comes_from_its_own_variables(tmp_path: Path) -> None:
    assert Settings.load({"MDSA_HOME": str(tmp_path), "OLLAMA_HOST": "10.0.0.1:1"}).ollama_base_url == "10.0.0.1:1"
    for listens, called in (("0.0.0.0", "127.0.0.1"), ("http://0.0.0.0:1", "http://127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.0", "10.0.0.0")):
        assert Settings.load({"MDSA_HOME": str(tmp_path), "OLLAMA_HOST": listens}).ollama_base_url == called
    both = {"MDSA_HOME": str(tmp_path), "OLLAMA_HOST": "a:1", "OLLAMA_BASE_URL": "http://b:2"}
    assert Settings.load(both).ollama_base_url == "http://b:2"


def test_the_users_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("top_k: 7\n")
    for home in ("~/x", Path("~/x")):
        settings = Settings.load({}, home=home)
        assert (settings.home, settings.top_k) == (tmp_path / "x", 7)
    assert settings.changed(home="~/y").home == Settings(home=Path("~/y")).home == tmp_path / "y"
    settings = Settings.load({}, home=tmp_path, reranker=Path("~/r"), judge="~/j", knowledge_uri=Path("~/k"), encoder=Path("~/e"))
    assert (settings.reranker_place, settings.judge_place) == (tmp_path / "r", tmp_path / "j")
    assert located(settings.knowledge_place) == tmp_path / "k"
    assert settings.encoder == str(Path("~/e"))


def test_a_wrong_keyword_is_named_and_no_file(tmp_path: Path) -> None:
    for given in ({"top_k": 99}, {"top_kk": 3}):
        (key,) = given
        with pytest.raises(ConfigError, match=key) as caught:
            Settings.load({"MDSA_TOP_K": "2"}, home=tmp_path, **given)
        assert caught.value.hint.endswith(f"Fix it in the call, keyword {key}.")
        assert "config.yaml" not in caught.value.hint
    with pytest.raises(ConfigError, match="home is 5"):
        Settings.load({}, home=5)
    with pytest.raises(ConfigError, match="no such user"):
        Settings.load({}, home="~nobody-of-this-name/x")
    # Made directly it is pydantic's own error, as its docstring says.
    with pytest.raises(ValidationError):
        Settings(top_k=3)  # type: ignore[call-arg]


def test_a_home_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such user"):
        Settings.load({"MDSA_HOME": "~nobody-of-this-name/x"})

    def unknown(path: Path) -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "expanduser", unknown)
    with pytest.raises(ConfigError, match="the user's folder is unknown") as caught:
        Settings.load({})
    assert "MDSA_HOME" in caught.value.hint


@pytest.mark.parametrize(
    "use",
    [
        lambda path: DualRAG(path),
        lambda path: DualRAG("memory://", reranker=path).query("hello there"),
        lambda path: Settings.load(judge=path).judge_place,
        lambda path: Settings.load(reranker=path).reranker_place,
        lambda path: Encoder.load(path),
        lambda path: TinyBERTOrchestrator(path).encoder,
        lambda path: TinyBERTOrchestrator(settings=Settings.load(knowledge_uri=path)).knowledge,
        lambda path: ModelManager().ensure_ready(f"{path}/x.gguf"),
        lambda path: ModelManager().ensure_ready(f"gguf://{path}/x.gguf"),
        lambda path: DomainConfig(name="a", adapter=path).sampling,
    ],
)
def test_a_path_of_nobody_is_told(use: Callable[[str], object]) -> None:
    with pytest.raises((ConfigError, InputError), match="no such user") as caught:
        use("~nobody-of-this-name/kb")
    assert caught.value.hint == "Write the path in full."


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LOCALAPPDATA": "/users/me/AppData/Local", "USERPROFILE": "/users/me"}, "/users/me/AppData/Local/mdsa_local"),
        ({"LOCALAPPDATA": "", "USERPROFILE": "/users/me"}, "/users/me/AppData/Local/mdsa_local"),
        ({"MDSA_HOME": "/elsewhere", "LOCALAPPDATA": "/users/me/AppData/Local"}, "/elsewhere"),
    ],
)
def test_where_windows_keeps_a_users_data(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str) -> None:
    monkeypatch.setattr(settings, "sys", SimpleNamespace(platform="win32"))
    assert settings.default_home(environ) == Path(expected)
