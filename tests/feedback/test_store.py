"""The log of answers and the marks on them."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mdsa_local.errors import InputError, StorageError, UnknownNameError
from mdsa_local.feedback.export import export, router_pairs, write
from mdsa_local.feedback.store import Feedback
from mdsa_local.settings import Settings
from mdsa_local.types import Answer, Citation, Passage, Verdict

QUESTION = "how much is the Zyxquorn fee?"
PASSAGE = Passage("p1", "domains/finance/knowledge/fees.md", "finance", "Fees", "The Zyxquorn fee is $5. It is charged monthly.", 0, 46, 0.9)


def answer(id: str = "aaaa1111", **changes: object) -> Answer:
    cited = (Citation(1, PASSAGE),)
    made = Answer(
        id, "success", "The Zyxquorn fee is $5. [1]", "finance", 0.9, {"finance": 0.9}, "nano", 9, 12.0, cited, Verdict("success", "", cited, ()), ()
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def feedback(tmp_path: Path) -> Feedback:
    return Feedback(Settings.load({}, home=tmp_path / "home", answer_log=3))


def test_nothing_is_logged_unless_asked(tmp_path: Path) -> None:
    feedback = Feedback(Settings.load({}, home=tmp_path / "home"))
    feedback.record(answer(), QUESTION)
    assert not feedback.path.exists()
    assert (feedback.recent(), feedback.marks(), feedback.remove(everything=True)) == ([], [], [])
    with pytest.raises(UnknownNameError) as error:
        feedback.mark("aaaa1111", True)
    assert "answer_log" in error.value.hint
    with pytest.raises(UnknownNameError) as error:
        Feedback(feedback.settings.changed(answer_log=3)).mark("last", True)
    assert error.value.hint == "No answer is in the log: ask a question first."


def test_the_log_keeps_the_last_and_only_its_owner_reads_it(feedback: Feedback) -> None:
    for number in range(5):
        feedback.record(answer(f"id{number}0000"), f"{QUESTION} {number}")
    assert [found.id for found in feedback.recent()] == ["id40000", "id30000", "id20000"]
    assert b"Zyxquorn fee? 0" not in feedback.path.read_bytes()
    assert os.name == "nt" or stat.S_IMODE(feedback.path.stat().st_mode) == 0o600


def test_marks_of_the_wrong_kind_are_told(feedback: Feedback) -> None:
    for number in range(2):
        feedback.record(answer(f"{number}aaa1111"), QUESTION)
    feedback.record(answer("caaa1111", domain="hr-desk"), QUESTION)
    with pytest.raises(UnknownNameError, match="unknown domain 'finanse'") as caught:
        feedback.mark("last", False, domain="finanse")
    assert caught.value.hint.startswith("Did you mean 'finance'? ")
    for domain, near in (("hr-desc", "hr-desk"), ("Med ical", "medical")):
        with pytest.raises(UnknownNameError) as caught:
            feedback.mark("last", False, domain=domain)
        assert f"Did you mean {near!r}" in caught.value.hint
    # A program may know more of them than there are folders.
    assert feedback.mark("last", False, domain="garden").domain == "garden"
    shown = answer("daaa1111", scores={"finances": 1.0})
    assert feedback.mark(shown, False, question=QUESTION, domain="finances").domain == "finances"
    wrong: list[tuple[object, object, object]] = [("last", "yes", None), ("last", 1, None), (None, True, None), (5, True, None), ("last", False, 5)]
    for about, right, domain_ in wrong:
        with pytest.raises(InputError, match="cannot be"):
            feedback.mark(about, right, domain=domain_)  # type: ignore[arg-type]
    texts: list[dict[str, Any]] = [{"facts": ["18 %"], "sources": "a.md"}, {"facts": "18 %", "sources": ["a.md"]}, {"note": None}]
    for said in [*texts, {"facts": None}, {"facts": [18], "sources": ["a.md"]}]:
        with pytest.raises(InputError, match="cannot be"):
            feedback.mark("last", True, **said)
    with pytest.raises(InputError, match="'none' is no domain") as refused:
        feedback.mark("last", False, domain="none")
    assert "out_of_scope=True" in refused.value.hint
    with pytest.raises(UnknownNameError, match="unknown domain 'global'"):
        feedback.mark("last", False, domain="global")
    for question in (5, None, "\ud800", " "):
        with pytest.raises(InputError, match="the question"):
            feedback.mark(answer(), True, question=question)  # type: ignore[arg-type]
    for limit in ("x", None, True, -1, 2**70):
        with pytest.raises(InputError, match="limit is"):
            feedback.recent(limit)  # type: ignore[arg-type]
    assert feedback.recent(0) == []
    assert feedback.remove("0aaa1111") == [QUESTION]
    assert [found.id for found in feedback.recent()] == ["caaa1111", "1aaa1111"]


def test_half_a_character_is_refused(feedback: Feedback) -> None:
    half = b"caf\xe9".decode("utf-8", "surrogateescape")
    feedback.record(answer(id := "baaa1111"), QUESTION)
    for said in ({"note": half}, {"facts": [half]}, {"sources": [half]}):
        with pytest.raises(InputError, match="not valid UTF-8"):
            feedback.mark(id, True, **said)
    with pytest.raises(InputError, match="not valid UTF-8"):
        feedback.find(half)
    assert feedback.marks() == []


def test_a_mark_outlives_the_log(feedback: Feedback) -> None:
    feedback.record(answer(), QUESTION)
    feedback.mark("last", True, note="good")
    for number in range(4):
        feedback.record(answer(f"id{number}0000"), "another")
    (mark,) = feedback.marks()
    assert (mark.answer.question, mark.right, mark.domain, mark.note) == (QUESTION, True, "finance", "good")
    assert feedback.mark("aaaa", False, domain="support").domain == "support", "a second mark replaces the first"
    assert [(m.right, m.domain) for m in feedback.marks()] == [(False, "support")]
    assert feedback.marks(right=True) == []


def test_ids(feedback: Feedback) -> None:
    for id in ("abcd1111", "abcd2222"):
        feedback.record(answer(id), QUESTION)
    assert feedback.find("abcd1").id == "abcd1111"
    with pytest.raises(InputError, match="2 answers"):
        feedback.find("abcd")
    with pytest.raises(InputError, match="too short"):
        feedback.find("abc")
    with pytest.raises(UnknownNameError, match="zzzz"):
        feedback.find("zzzz")


def test_what_contradicts_itself_is_refused(feedback: Feedback) -> None:
    feedback.record(answer(), QUESTION)
    with pytest.raises(InputError, match="no correction"):
        feedback.mark("aaaa1111", True, domain="support")
    with pytest.raises(InputError, match="not both"):
        feedback.mark("aaaa1111", False, domain="support", out_of_scope=True)
    with pytest.raises(InputError, match="neither"):
        feedback.mark("aaaa1111", False, unanswerable=True, facts=["x"], sources=["y"])
    with pytest.raises(InputError, match="go together"):
        feedback.mark("aaaa1111", False, facts=["x"])
    for facts, sources in ((["x", ""], ["y"]), (["x"], [" "])):
        with pytest.raises(InputError, match="is empty"):
            feedback.mark("aaaa1111", False, facts=facts, sources=sources)
    with pytest.raises(InputError, match="question"):
        feedback.mark(answer(), True)
    refused = answer(status="not_found")
    for status in ("not_found", "abstained"):
        for facts, sources in ((["$30"], []), ([], ["nope.md"])):
            with pytest.raises(InputError, match="said that nothing answers") as caught:
                feedback.mark(answer(status=status), True, question=QUESTION, facts=facts, sources=sources)
            assert caught.value.hint == "Mark it wrong, with the facts."
    assert feedback.marks() == []
    assert feedback.mark(refused, False, question=QUESTION, facts=["$30"], sources=["fees.md"]).facts == ("$30",)


def test_removed_is_removed(feedback: Feedback) -> None:
    feedback.record(answer(), QUESTION)
    feedback.record(answer("bbbb2222", response="Something else. [1]"), "and what of the Plumbwark?")
    feedback.mark("aaaa1111", True, note="Xylonote")
    with pytest.raises(UnknownNameError):
        feedback.remove(["aaaa1111", "nosuch"])
    assert len(feedback.marks()) == 1, "an unknown id removes nothing"
    assert feedback.remove(["aaaa1111"]) == [QUESTION]
    kept = b"".join(path.read_bytes() for path in feedback.path.parent.glob("feedback.db*"))
    assert b"Plumbwark" in kept
    # The other answer cites the passage, too.
    assert not any(word in kept for word in (b"Zyxquorn fee?", b"Xylonote"))
    assert feedback.remove(everything=True)
    assert b"Plumbwark" not in feedback.path.read_bytes()
    assert (feedback.recent(), feedback.marks()) == ([], [])


def test_what_is_removed_is_counted_by_answers(feedback: Feedback) -> None:
    for id in ("aaaa1111", "bbbb2222", "cccc3333"):
        feedback.record(answer(id), QUESTION)
    feedback.mark("aaaa1111", True)
    assert feedback.remove(everything=True) == [QUESTION] * 3


def test_what_another_mark_has_need_not_be_forgotten(feedback: Feedback) -> None:
    feedback.record(answer(), QUESTION)
    feedback.record(answer("bbbb2222"), QUESTION.upper())
    for name in ("aaaa1111", "bbbb2222"):
        feedback.mark(name, True)
    assert feedback.questions(["aaaa1111"]) == []
    assert feedback.questions(["aaaa1111", "bbbb2222"]) == feedback.questions(everything=True) == [QUESTION, QUESTION.upper()]


def test_only_what_a_mark_says_of_the_route_need_be_forgotten(feedback: Feedback) -> None:
    for id in ("aaaa1111", "bbbb2222", "cccc3333"):
        feedback.record(answer(id), f"{QUESTION} {id}")
    feedback.mark("aaaa1111", False, domain="medical")
    feedback.mark("bbbb2222", False, note="says nothing of the route")
    assert feedback.questions(everything=True) == [f"{QUESTION} aaaa1111"]
    assert feedback.questions("cccc3333") == []
    # What says nothing of the route has taught nothing either.
    feedback.record(answer("dddd4444"), f"{QUESTION} aaaa1111")
    feedback.mark("dddd4444", False)
    assert feedback.questions("aaaa1111") == [f"{QUESTION} aaaa1111"]


def test_two_processes_lose_nothing(feedback: Feedback) -> None:
    feedback.settings = feedback.settings.changed(answer_log=1000)
    script = (
        "import sys; from tests.feedback.test_store import *\n"
        "feedback = Feedback(Settings.load({}, home=Path(sys.argv[1]), answer_log=1000))\n"
        "for n in range(25):\n"
        "    feedback.record(answer(f'{sys.argv[2]}{n:04}'), QUESTION); feedback.mark('last' if n % 2 else f'{sys.argv[2]}{n:04}', True)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(feedback.settings.home), name]) for name in ("aaaa", "bbbb")]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(feedback.recent(100)) == 50
    assert len(feedback.marks()) >= 26


def test_a_damaged_entry_is_removed_as_its_message_says(feedback: Feedback) -> None:
    for id in ("aaaa1111", "bbbb2222"):
        feedback.record(answer(id), QUESTION)
        feedback.mark("last", True)
    with closing(sqlite3.connect(feedback.path)) as db:
        db.execute("update answers set answer = '{' where id = 'bbbb2222'")
        db.execute("update marks set mark = '{' where id = 'bbbb2222'")
        db.commit()
    for look in (feedback.recent, feedback.marks):
        with pytest.raises(StorageError) as caught:
            look()
        assert caught.value.hint == "Remove it: mdsa feedback remove bbbb2222"
    assert feedback.remove("bbbb2222") == [QUESTION]
    assert [found.id for found in feedback.recent()] == [mark.answer.id for mark in feedback.marks()] == ["aaaa1111"]


def test_a_damaged_file_and_a_full_disk_are_one_clear_error(feedback: Feedback, tmp_path: Path) -> None:
    feedback.record(answer(), QUESTION)
    good = feedback.path.read_bytes()
    feedback.path.write_bytes(b"no database, but long enough to be read as one" * 40)
    with pytest.raises(StorageError, match=r"feedback\.db"):
        feedback.recent()
    with pytest.raises(StorageError, match=r"feedback\.db"):
        feedback.record(answer(), QUESTION)
    feedback.path.write_bytes(good)
    script = (
        "import resource, sys; from tests.feedback.test_store import *\n"
        "feedback = Feedback(Settings.load({}, home=Path(sys.argv[1]), answer_log=1000))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000))\n"
        "try:\n"
        "    for n in range(100): feedback.record(answer(f'cccc{n:04}'), 'x' * 3000)\n"
        "except StorageError as error: print(n, error)\n"
    )
    if os.name != "nt":
        told = subprocess.run([sys.executable, "-c", script, str(feedback.settings.home)], capture_output=True, text=True, timeout=120, check=True)
        written = int(told.stdout.split()[0])
        assert "feedback.db" in told.stdout
        assert len(feedback.recent(1000)) in (written + 1, 3), "what was written before stands"
        assert feedback.find("aaaa1111").question == QUESTION


def test_marks_become_examples_questions_and_pairs(feedback: Feedback, tmp_path: Path) -> None:
    feedback.settings = feedback.settings.changed(answer_log=100)
    refused = {"status": "not_found", "response": "The documents do not answer this.", "citations": ()}
    for id, question, changes in (
        ("right000", QUESTION, {}),
        ("route000", "where is my parcel", {}),
        ("scope000", "best pizza in town", {}),
        ("vague000", "and then?", {}),
        ("nothing0", "what is the fee on Mars?", refused),
        ("missed00", "what does a stop cost?", refused),
    ):
        feedback.record(answer(id, **changes), question)
    feedback.mark("right000", True)
    feedback.mark("route000", False, domain="support")
    feedback.mark("scope000", False, out_of_scope=True)
    feedback.mark("vague000", False)
    feedback.mark("nothing0", True)
    feedback.mark("missed00", False, domain="finance", facts=["$30"], sources=["fees.md"])
    marks = feedback.marks()
    assert dict(router_pairs(marks)) == {
        QUESTION: "finance",
        "where is my parcel": "support",
        "best pizza in town": None,
        "what is the fee on Mars?": "finance",
        "what does a stop cost?": "finance",
    }
    questions = export(marks, "answers")
    assert list(questions.rows) == [
        {"question": QUESTION, "domain": "finance", "facts": ["The Zyxquorn fee is $5."], "sources": ["fees.md"]},
        {"question": "what is the fee on Mars?", "domain": "finance", "facts": [], "sources": []},
        {"question": "what does a stop cost?", "domain": "finance", "facts": ["$30"], "sources": ["fees.md"]},
    ]
    assert sum(questions.left_out.values()) == 3
    pairs = export(marks, "pairs").rows
    assert [(row["question"], row["answer"]) for row in pairs] == [(QUESTION, "The Zyxquorn fee is $5."), ("what is the fee on Mars?", None)]
    assert pairs[0]["passages"] == [{"title": "Fees", "text": PASSAGE.text}]
    assert len(export(marks, "all").rows) == 6
    from mdsa_local.evaluation import questions as sets
    from mdsa_local.training import pairs as training

    for kind in ("answers", "pairs"):
        write(export(marks, kind), tmp_path / kind)
    assert len(sets.read(tmp_path / "answers")) == 3
    assert training.read(tmp_path / "pairs").total == 2


def test_a_question_belongs_where_it_was_marked_last(feedback: Feedback, tmp_path: Path) -> None:
    feedback.mark(answer("aaaa1111"), True, question="where is my parcel")
    feedback.mark(answer("bbbb1111"), False, question="where is my parcel", domain="support")
    feedback.mark(answer("cccc1111", domain=None), True, question="weather on mars")
    feedback.mark(answer("dddd1111"), False, question="and then?")
    marks = feedback.marks()
    assert [mark.answer.id for mark in feedback.marks(domain="none")] == ["cccc1111"]
    assert export(marks, "router", "finance").rows == ()
    assert [row["text"] for row in export(marks, "router", "support").rows] == ["where is my parcel"]
    assert [row["text"] for row in export(marks, "router", "none").rows] == ["weather on mars"]
    assert [row["id"] for row in export(marks, "all", "finance").rows] == ["aaaa1111"]
    write(export(marks, "router", "support"), tmp_path / "lines.jsonl")
    with pytest.raises(InputError, match="already something of this name"):
        write(export(marks, "router"), tmp_path / "lines.jsonl")
    assert (tmp_path / "lines.jsonl").read_text(encoding="utf-8").count("\n") == 1


def test_nothing_to_export_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no answer has been marked"):
        write(export([], "answers"), tmp_path / "x")
    (tmp_path / "good").write_text("as it was", encoding="utf-8")
    with pytest.raises(StorageError):
        write(export([], "answers").__class__(({"a": 1},), {}), tmp_path / "no such folder" / "x")
