from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from mdsa_local.errors import ConfigError, ModelFileError, ModelNotFoundError
from mdsa_local.settings import Settings, shipped
from mdsa_local.validation.judge import AnswerJudge, Remembering

LIMIT = "Cash limits: You can take out $600 a day from a machine."
FEE = "Cash limits: Taking out cash abroad costs 2 %."
CODE = "Card PIN: A wrong code three times in a row blocks the card."


@pytest.fixture(scope="module")
def judge() -> AnswerJudge:
    return AnswerJudge(shipped("models") / "judge")


def scores(judge: AnswerJudge | Remembering, question: str, *texts: str) -> list[float]:
    return judge.scores([(question, text) for text in texts])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped("models") / "judge", tmp_path / "judge"))


def test_what_answers_is_told_from_what_is_about_the_same(judge: AnswerJudge) -> None:
    for question, right in [("how much can i withdraw daily", LIMIT), ("price of withdrawing money on holiday", FEE), ("mistyped my pin", CODE)]:
        told = dict(zip((LIMIT, FEE, CODE), scores(judge, question, LIMIT, FEE, CODE), strict=True))
        assert max(told, key=lambda text: told[text]) == right
    near_miss, answer = scores(judge, "can I withdraw euros from a machine", LIMIT), scores(judge, "how much can i withdraw daily", LIMIT)
    assert near_miss < answer


def test_a_score_does_not_depend_on_what_else_is_read(judge: AnswerJudge) -> None:
    together = scores(judge, "how much can i withdraw daily", LIMIT, FEE, CODE, LIMIT)
    assert together[0] == together[3]
    # A pass is quantised by its largest value, so company changes a score a little.
    assert scores(judge, "how much can i withdraw daily", LIMIT)[0] == pytest.approx(together[0], abs=0.6)
    assert judge.scores([]) == []


@pytest.mark.parametrize("text", ["", "\x00", "😀" * 300, "word " * 5000, "ً́" * 40, "字" * 500])
def test_any_text_gets_a_score(judge: AnswerJudge, text: str) -> None:
    found = [*scores(judge, text, LIMIT, text), *scores(judge, "how much", text)]
    assert len(found) == 3
    assert all(-50 < score < 50 for score in found)


def test_pairs_of_several_questions_are_read_together(judge: AnswerJudge) -> None:
    pairs = [("how much can i withdraw daily", LIMIT), ("mistyped my pin", CODE), ("how much can i withdraw daily", CODE), ("", FEE)]
    apart = [score for pair in pairs for score in judge.scores([pair])]
    assert judge.scores(pairs) == pytest.approx(apart, abs=0.6)


def test_each_pair_is_read_once_for_a_question(judge: AnswerJudge, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = AnswerJudge.scores

    def counted(self: AnswerJudge, pairs: Sequence[tuple[str, str]]) -> list[float]:
        read.extend(text for _, text in pairs)
        return real(self, pairs)

    monkeypatch.setattr(AnswerJudge, "scores", counted)
    remembering = judge.remembering()
    first = scores(remembering, "how much can i withdraw daily", LIMIT, FEE)
    assert scores(remembering, "how much can i withdraw daily", FEE, CODE, LIMIT)[::2] == first[::-1]
    assert read == [LIMIT, FEE, CODE]
    scores(remembering, "another question", LIMIT)
    assert read == [LIMIT, FEE, CODE, LIMIT]


def test_a_judge_with_something_amiss_says_what(copy: Path) -> None:
    card = (copy / "model.yaml").read_text(encoding="utf-8")
    (copy / "model.yaml").write_text(card.replace("nearness:", "nearnes:"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no weighing"):
        AnswerJudge(copy)
    (copy / "model.yaml").write_text(card.replace("kind: judge", "kind: encoder"), encoding="utf-8")
    with pytest.raises(ConfigError, match="holds no judge"):
        AnswerJudge(copy)
    (copy / "model.yaml").write_text(card, encoding="utf-8")
    for name in ("model.onnx_data", "model.onnx"):
        whole = (copy / name).read_bytes()
        damaged = bytearray(whole)
        damaged[len(damaged) // 2] ^= 1
        (copy / name).write_bytes(damaged)
        with pytest.raises(ModelFileError, match=rf"{name} is damaged.*sha256"):
            AnswerJudge(copy)
        (copy / name).unlink()
        with pytest.raises(ModelNotFoundError, match=f"no {name} in it"):
            AnswerJudge(copy)
        (copy / name).write_bytes(whole)
    assert scores(AnswerJudge(copy), "how much can i withdraw daily", LIMIT)


def test_the_setting_names_a_judge_or_none(tmp_path: Path, copy: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    assert settings.judge_place == shipped("models") / "judge"
    assert AnswerJudge.load(settings.changed(judge="")) is None
    loaded = AnswerJudge.load(settings.changed(judge=str(copy)))
    assert loaded is not None
    assert loaded.folder == copy
    with pytest.raises(ModelNotFoundError, match="no-such-judge"):
        AnswerJudge.load(settings.changed(judge="no-such-judge"))
    shutil.copytree(copy, tmp_path / "home" / "models" / "judge")
    assert settings.judge_place == tmp_path / "home" / "models" / "judge"
