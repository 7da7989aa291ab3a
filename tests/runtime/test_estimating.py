"""The estimate beside what real tokenizers count."""

from __future__ import annotations

import pytest

from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.estimating import TOKENS_PER_MESSAGE, estimated_tokens, text_tokens

# Texts, and the tokens that llama.cpp 0.3.36 makes of them with the vocabularies of Qwen 2, Llama 3, Phi 3, Gemma 4 and Command R.
COUNTED = {
    "prose": (
        "The committee met on a grey afternoon to talk about the new library. Most of its members had read the report, and "
        'several of them were worried about how much it would cost the town over the next few years. "We cannot build everything '
        'at once," said the chairman, "but we can begin with the reading room." Nobody disagreed, though a few people looked '
        "unhappy. After a long discussion they decided to ask the architect for another drawing, one with larger windows and a "
        "smaller hall, and to meet again in spring. When the snow had melted the drawing arrived. It showed a low building of "
        "brick and glass between two old trees, and everybody",
        (130, 130, 137, 130, 130),
    ),
    "handbook": (
        "Refunds are paid within fourteen days of our receiving the goods. Keep the receipt: without it we can only offer a "
        "voucher. Goods that were opened can be returned if they are faulty, and so can anything that arrived damaged, provided "
        "that you tell us within two days. Shipping is free above fifty euros; below that it costs five. Orders from abroad may "
        "take up to three weeks, depending on customs.",
        (82, 82, 94, 82, 82),
    ),
    "digits": (
        "4711 90210 123456789 5550199 31415926535 8 1984 20000",
        (53, 26, 54, 53, 53),
    ),
    "table": (
        "| Item | Quantity | Price |\n|---|---:|---:|\n| Pears | 12 | 3.40 |\n| Plums | 250 | 18.75 |\n| Quinces | 7 | 11.02 |\n",
        (60, 51, 67, 62, 63),
    ),
    "numbers": (
        "12.50, 3.75, 118.04\n9.99, 0.25, 47.10\n81.33, 6.02, 5.00\n",
        (56, 42, 57, 56, 56),
    ),
    "dates": (
        "2024-03-17T08:45:00Z\n2023-11-02T23:59:59Z\n",
        (42, 28, 43, 42, 42),
    ),
    "hash": (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        (58, 35, 58, 58, 58),
    ),
    "json": (
        '[{"id": 48213, "name": "user_7", "active": true, "score": 0.4312}, {"id": 9, "name": "user_8", "active": false, "score": 0.07}]',
        (63, 57, 63, 63, 63),
    ),
    "emoji": (
        "😀🎉👍🏽❤️🚀👨\u200d👩\u200d👧\u200d👦🇩🇪✅🔥😂",
        (22, 44, 61, 18, 31),
    ),
    "Chinese": (
        "委员会在一个灰蒙蒙的下午开会，讨论新的图书馆。大多数成员已经读过报告。",
        (20, 27, 56, 21, 21),
    ),
    "Japanese": (
        "委員会は灰色の午後に集まり、新しい図書館について話し合いました。",
        (21, 21, 43, 16, 17),
    ),
    "Korean": (
        "위원회는 흐린 오후에 모여 새 도서관에 대해 이야기했습니다.",
        (20, 18, 50, 17, 15),
    ),
    "Arabic": (
        "اجتمعت اللجنة بعد ظهر يوم رمادي للحديث عن المكتبة الجديدة.",
        (20, 21, 53, 16, 17),
    ),
    "Russian": (
        "Комитет собрался серым днём, чтобы поговорить о новой библиотеке.",
        (28, 24, 25, 18, 16),
    ),
    "Thai": (
        "คณะกรรมการประชุมกันในบ่ายวันที่ท้องฟ้ามืดครึ้ม",
        (24, 21, 53, 15, 47),
    ),
    "German": (
        "Der Ausschuss traf sich an einem grauen Nachmittag, um über die neue Bücherei zu sprechen.",
        (26, 26, 26, 22, 23),
    ),
    "mathematics": (
        "∑ᵢ xᵢ² ≤ ∫₀¹ f(x) dx → ∞, ∀ε>0 ∃δ: |x−y|<δ ⇒ |f(x)−f(y)|<ε",
        (46, 49, 55, 44, 50),
    ),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_the_estimate_is_hardly_below_any_tokenizer(kind: str) -> None:
    text, counts = COUNTED[kind]
    assert text_tokens(text) >= 0.93 * max(counts)


@pytest.mark.parametrize("kind", ["prose", "handbook"])
def test_plain_english_is_not_taken_for_much_longer_than_it_is(kind: str) -> None:
    text, counts = COUNTED[kind]
    assert text_tokens(text) <= 1.15 * min(counts)


def test_what_no_tokenizer_merges_is_counted_whole() -> None:
    assert text_tokens("1234567890" * 100) >= 900
    assert text_tokens("\n" * 100) >= 100
    assert text_tokens("😀" * 100) >= 400
    assert text_tokens("-" * 400) < 100 > text_tokens(" " * 400), "rows of one character are merged by all"
    assert text_tokens("") == 0


def test_messages_have_markers() -> None:
    one = Message("user", "hello there")
    assert estimated_tokens([one, one]) == 2 * (TOKENS_PER_MESSAGE + text_tokens("hello there"))
    assert estimated_tokens([Message("user", "half a character: \ud83d")]) > TOKENS_PER_MESSAGE


def test_a_long_prompt_takes_milliseconds() -> None:
    import time

    for text in ("the quick brown fox " * 5000, "a" * 100_000, "a1" * 50_000, "A" * 100_000, "+" * 100_000, "a+" * 50_000):
        began = time.process_time()
        text_tokens(text)
        assert time.process_time() - began < 1, text[:20]
