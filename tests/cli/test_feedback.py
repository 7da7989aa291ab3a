"""``mdsa feedback`` and ``mdsa train router`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdsa_local.cli.train_adapter import NOT_BETTER
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.settings import Settings
from tests.cli.test_cli import inside

CARD = "My card was charged twice, how do I get my money back?"


@pytest.fixture
def home(tmp_path: Path, product: TinyBERTOrchestrator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two answers logged by the product's own parts, in a home of their own."""
    home = tmp_path / "home"
    monkeypatch.setenv("MDSA_HOME", str(home))
    settings = Settings.load(home=home, answer_log=10)
    with TinyBERTOrchestrator(settings=settings, manager=product.manager, knowledge=product.knowledge) as orchestrator:
        orchestrator.__dict__["encoder"], orchestrator.__dict__["router"] = product.encoder, product.router
        for question in (CARD, "what's the weather on mars"):
            orchestrator.ask(question)
    return home


def test_from_an_answer_to_a_question_set(
    home: Path, product: TinyBERTOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = inside(capsys, "feedback", "recent", "--json")
    weather, card = json.loads(out)
    assert (code, card["question"], card["domain"], weather["domain"]) == (0, CARD, "finance", None)
    assert inside(capsys, "feedback", "right", card["id"][:8], "--note", "as it should be")[0] == 0
    assert inside(capsys, "feedback", "wrong", "last", "-d", "technical")[1].endswith("`mdsa train router` learns it, once it has 10 examples\n")
    code, out, _ = inside(capsys, "feedback", "list")
    assert "as it should be" in out
    assert "technical" in out
    file = tmp_path / "questions.jsonl"
    code, out, _ = inside(capsys, "feedback", "export", str(file), "--json")
    assert (code, json.loads(out)["rows"]) == (0, 1)
    # Whether the file is a question set is asked here, not how near it comes to all that was trained on, which takes minutes.
    monkeypatch.setattr("mdsa_local.evaluation.overlap.trained_on", lambda _: {"some": ["how do i block my card"]})
    code, out, err = inside(capsys, "eval", "answers", str(file), "--overlap", "--json")
    assert code == 0, err
    code, out, _ = inside(capsys, "feedback", "export", str(tmp_path / "lines.jsonl"), "--as", "router")
    assert [json.loads(line)["domain"] for line in (tmp_path / "lines.jsonl").read_text(encoding="utf-8").splitlines()] == ["finance", "technical"]
    code, out, err = inside(capsys, "feedback", "export", "-", "--as", "router")
    assert (code, out, err) == (0, (tmp_path / "lines.jsonl").read_text(encoding="utf-8"), "2 written\n")
    code, out, _ = inside(capsys, "train", "router", "--json")
    assert json.loads(out)["error"]["message"].startswith("2 different examples"), "too few to learn from"
    assert inside(capsys, "feedback", "remove", card["id"])[1] == "1 removed\n"
    assert inside(capsys, "feedback", "remove", "--all", "--json")[0] == 0
    monkeypatch.setenv("MDSA_ANSWER_LOG", "10")
    assert inside(capsys, "feedback", "recent")[1] == "No answer is in the log.\n"
    assert "No answer has been marked." in inside(capsys, "feedback", "list")[1]
    assert CARD.encode() not in (home / "feedback.db").read_bytes()


def test_without_the_encoder_nothing_is_removed(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    router = home / "router.npz"
    router.write_bytes(b"made by another version")
    inside(capsys, "feedback", "wrong", "last", "-d", "none")
    with monkeypatch.context() as patched:
        patched.setenv("MDSA_ENCODER", "tinybertx")
        code, out, _ = inside(capsys, "feedback", "remove", "last", "--json")
        assert (code, "without its encoder" in json.loads(out)["error"]["message"]) == (3, True)
    assert router.exists()
    assert inside(capsys, "feedback", "remove", "last")[1].startswith("1 removed; the router, which could not be used any more, was removed: ")
    assert not router.exists()


def test_what_taught_nothing_is_removed_from_the_log_alone(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The router may know the question by a line of the user's own."""
    router = home / "router.npz"
    router.write_bytes(b"not even looked at")
    monkeypatch.setenv("MDSA_ENCODER", "tinybertx")
    assert inside(capsys, "feedback", "remove", "last")[1] == "1 removed\n"
    assert router.exists()


def test_mistakes_are_told(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, code in (
        (("right", "nosuchid"), "unknown_name"),
        (("wrong", "last", "-d", "astrology"), "unknown_name"),
        (("wrong", "last", "--fact", "x"), "input"),
        (("wrong", "last", "--fact", "", "--source", ""), "input"),
        (("export", str(tmp_path / "x")), "input"),
        (("export", "-"), "input"),
        (("list", "-d", "astrology"), "unknown_name"),
        (("export", str(tmp_path / "x"), "-d", "astrology"), "unknown_name"),
        (("remove",), "input"),
        (("remove", "abcd1234", "--all"), "input"),
    ):
        assert json.loads(inside(capsys, "feedback", *arguments, "--json")[1])["error"]["code"] == code, arguments
    assert not (tmp_path / "x").exists()
    assert inside(capsys, "feedback", "list", "-d", "none")[1] == "No marked answer belongs to no domain.\n"
    inside(capsys, "feedback", "right", "last")
    told = inside(capsys, "feedback", "export", str(tmp_path / "x"), "-d", "medical")[2]
    assert "nothing to export: 1 left out, not known to belong to medical" in told


def test_train_router_installs_what_is_better(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"text": f"the gribble went sideways {when}", "domain": "technical"} for when in "today again twice tonight".split()]
    lines += [{"text": f"the plonk is round the bend {when}", "domain": "support"} for when in "today again twice tonight".split()]
    file = tmp_path / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (*lines, {"text": "sing a song", "domain": None})), encoding="utf-8")
    with file.open("a", encoding="utf-8") as more:
        more.write('{"text": "x", "domain": 3}\n')
    code, out, _ = inside(capsys, "train", "router", "--data", str(file), "--json")
    assert (code, "lines.jsonl, line 10" in json.loads(out)["error"]["message"]) == (2, True)
    file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[:9]), encoding="utf-8")
    # The tenth example is a mark.
    inside(capsys, "feedback", "wrong", "last", "-d", "none")
    code, out, err = inside(capsys, "train", "router", "--data", str(file), "--json")
    told = json.loads(out)
    assert (told["from_file"], told["from_feedback"], told["examples"]) == (9, 1, 10)
    assert code == (0 if told["installed"] else NOT_BETTER), err
    assert err.startswith("fitting ")
    with file.open("a", encoding="utf-8") as more:
        more.write('{"text": "Sing a  song", "domain": null}\n')
    _, out, _ = inside(capsys, "train", "router", "--data", str(file))
    assert out.startswith("10 examples: 10 from the file, 1 from marked answers, 1 of them given again: the last counts\n")
    assert (home / "router.npz").exists() is told["installed"]
    gains = told["held_out"]["right_after"] - told["held_out"]["right_before"]
    assert told["installed"] == (gains > max(0, told["known"]["right_before"] - told["known"]["right_after"]))
