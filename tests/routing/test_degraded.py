"""Without its encoder the product says so and goes on by words alone, or, when it is told to be strict, does not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mdsa_local.errors import ModelFileError, ModelNotFoundError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.routing.lexical import LexicalEncoder
from mdsa_local.settings import Settings, shipped


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(shipped("models") / "tinybert", folder)
    with (folder / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"rubbish")
    return folder


def test_routes_and_answers_by_words_and_says_so(product: TinyBERTOrchestrator, damaged: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load(encoder=str(damaged))
    with TinyBERTOrchestrator(settings=settings) as front:
        answer = front.ask("How much does a replacement debit card cost?")
        assert answer.domain == "finance"
        assert answer.status in ("degraded", "not_found")
        assert front.router.route("where is my parcel").degraded == front.router.explain("qwertz asdfgh").route.degraded == front.degraded != ""
        refused = front.ask("qwertz asdfgh")
        assert (refused.status, refused.degraded) == ("abstained", True)
        assert "by words alone" in refused.reason
        unanswered = front.ask("who plays the trombone", domain="finance")
        assert (unanswered.status, unanswered.degraded) == ("not_found", True)
        assert "by words alone" in unanswered.reason
        if answer.status == "degraded":
            assert answer.citations
    assert "by words alone" in caplog.text


def test_small_talk_needs_no_judge(product: TinyBERTOrchestrator, tmp_path: Path) -> None:
    with TinyBERTOrchestrator(settings=Settings.load(judge=str(tmp_path / "nowhere"))) as front:
        assert front.ask("how much does a replacement debit card cost").degraded
        greeted = front.ask("hello!")
        assert (greeted.status, greeted.degraded) == ("abstained", False)


def test_strict_is_an_error(damaged: Path, tmp_path: Path) -> None:
    with TinyBERTOrchestrator(settings=Settings.load(encoder=str(damaged), strict=True)) as front, pytest.raises(ModelFileError, match="damaged"):
        front.ask("where is my parcel")
    missing = Settings.load(encoder=str(tmp_path / "nowhere"), strict=True)
    with TinyBERTOrchestrator(settings=missing) as front, pytest.raises(ModelNotFoundError):
        front.ask("where is my parcel")


def test_words_make_unit_vectors_or_none() -> None:
    encoder = LexicalEncoder("gone")
    vectors = encoder.encode(["stolen credit card", "the card was stolen", "", "of the"])
    assert np.allclose(np.linalg.norm(vectors[:2], axis=1), 1.0)
    assert vectors[0] @ vectors[1] > 0.7
    assert not vectors[2:].any()


def test_of_a_long_message_the_first_and_the_last_part_are_read(encoder: Encoder, product: TinyBERTOrchestrator) -> None:
    middle = "and so on and so forth, " * 50
    first, last = encoder.encode([f"My card was charged twice. {middle}", f"{middle} my card was charged twice."])
    bare, card = encoder.encode([middle, "My card was charged twice."])
    assert first @ card > bare @ card
    assert last @ card > bare @ card
    answer = product.ask(f"{middle} how much does a replacement debit card cost?", domain="finance")
    assert answer.to_dict()["trace"][0]["truncated"] is True
    assert product.ask("how much does a replacement debit card cost?").to_dict()["trace"][0]["truncated"] is False
