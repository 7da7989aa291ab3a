"""Questions written for public texts: they are found again by the digests of their sentences, and those that ship are whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mdsa_local.training import written


def test_passages_whose_sentences_are_there_are_read(data: Path, tmp_path: Path) -> None:
    said = ["The moss grows slowly near the old harbour wall.", "Nobody sells moss on Sunday."]
    rows = [
        {
            "source": "manual",
            "title": "Moss",
            "sentences": [written.digest(text) for text in said],
            "questions": [[[2], "can I buy moss at the weekend"], [[], "price?"]],
        },
        {"source": "manual", "title": "Lost", "sentences": [written.digest("Nobody wrote this.")], "questions": [[[1], "who wrote it"]]},
    ]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (found,) = written.read(data, tmp_path)
    assert found == written.Written("manual", "Moss", tuple(said), (((1,), "can I buy moss at the weekend"), ((), "price?")))


def test_shipped_questions_are_whole() -> None:
    rows = [json.loads(line) for path in sorted(written.QUESTIONS.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    asked = [text for row in rows for _, text in row["questions"]]
    assert len(rows) > 4000
    assert len(asked) > 20_000
    assert len(set(asked)) > 0.99 * len(asked)
    assert all(re.fullmatch(r"[0-9a-f]{12}", key) for row in rows for key in row["sentences"])
    assert all(1 <= place <= len(row["sentences"]) for row in rows for places, _ in row["questions"] for place in places)
    unanswered = sum(not places for row in rows for places, _ in row["questions"])
    assert 0.1 < unanswered / len(asked) < 0.3
