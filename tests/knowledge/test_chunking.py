from __future__ import annotations

import re
import time
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdsa_local.knowledge.chunking import Chunk, chunk, chunk_all
from mdsa_local.knowledge.loaders import Section

from .toy_embedder import ToyEmbedder

count = ToyEmbedder().count_tokens
ARTICLES = sorted((Path(__file__).parents[2] / "domains").glob("*/knowledge/*.md"))


def exact(source: str, chunks: list[Chunk]) -> None:
    """Offsets are those of the text, in order and apart."""
    data = source.encode()
    last = 0
    for piece in chunks:
        assert last <= piece.start < piece.end <= len(data)
        assert data[piece.start : piece.end].decode() == piece.text == piece.text.strip()
        last = piece.end


def squeezed(text: str) -> str:
    return "".join(text.split())


# Pieces of Markdown next to anything: what a parser trips over.
PIECES = st.sampled_from(
    [
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "```\n",
        "~~~~\n",
        "- ",
        "1. ",
        "\n1. ab: cd\n",
        "\n2. ",
        "\n3) ",
        "to do so:\n",
        "12) ",
        "| a | b |\n",
        "a | b\n-|-\n",
        "   ",
        "\t",
        ". ",
        "! ",
        "é",
        "漢字。",
        "👩‍👩‍👧",
        "\u0301",
        "\u2028",
        "\x85",
        "\ufeff",
    ]
)
WEIRD = st.lists(st.one_of(PIECES, st.text(max_size=12)), max_size=40).map("".join)


@settings(max_examples=300, deadline=None)
@given(WEIRD, st.integers(1, 12), st.integers(0, 40), st.booleans())
def test_every_character_is_in_one_chunk(source: str, limit: int, steps: int, markdown: bool) -> None:
    source = source.replace("#", "")  # Headings have their own test below.
    chunks = chunk(source, count, markdown=markdown, max_tokens=limit, max_steps_tokens=steps)
    exact(source, chunks)
    assert squeezed("".join(piece.text for piece in chunks)) == squeezed(source.removeprefix("\ufeff"))
    assert all(count(piece.text) <= max(limit, steps) for piece in chunks)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.text("ab é漢", min_size=1), st.text("xy .\n漢é", max_size=60)), max_size=6))
def test_headings_name_the_chunks_below_them(parts: list[tuple[int, str, str]]) -> None:
    source = "".join(f"{'#' * level} {name}\n{body}\n" for level, name, body in parts)
    chunks = chunk(source, count, title="file", max_tokens=5)
    exact(source, chunks)
    assert squeezed("".join(piece.text for piece in chunks)) == squeezed("".join(body for _, _, body in parts))
    bodies = iter(parts)
    left = ""
    name = ""
    for piece in chunks:
        while not left:
            _, name, body = next(bodies)
            left = squeezed(body)
        text = squeezed(piece.text)
        assert left.startswith(text)
        assert not name.strip() or piece.title.endswith(name.strip())
        left = left[len(text) :]


def test_the_title_is_the_path_of_headings() -> None:
    source = "intro\n# A\none\n## B ##\ntwo\n### C\nthree\n## D\nfour\n# E\nfive\n#nospace"
    found = [(piece.title, piece.text) for piece in chunk(source, count, title="file")]
    assert found == [("file", "intro"), ("A", "one"), ("A > B", "two"), ("A > B > C", "three"), ("A > D", "four"), ("E", "five\n#nospace")]


OVER = [("**{}?**", "{}?"), ("{}?", "{}?"), ("1. {}?", "{}?"), ("**{}**", "{}"), ("{}:", "{}")]


@pytest.mark.parametrize(
    ("over", "behind"),
    [(over, behind) for over, _ in OVER for behind in ("{} it is, or {} else.", "| a | b |\n|---|---|\n| {} | it is {} |")]
    + [("**{}?**", "- {} it is.\n- {} else."), ("{}?", "- {} it is.\n- {} else.")],
)
def test_a_line_that_stands_over_the_next_block_stays_with_it(over: str, behind: str) -> None:
    asked = [f"{over.format(f'What is of number {n}')}\n\n{behind.format(f'Number {n}', n)}".replace("1. What", f"{n}. What") for n in range(7)]
    text = "\n\n".join(asked)
    chunks = chunk(text, count, max_tokens=int(count(asked[0]) * 2.5))
    exact(text, chunks)
    assert [piece.text.count("What is of") for piece in chunks] == [2, 2, 2, 1]
    assert all(piece.text.startswith(asked[2 * n]) for n, piece in enumerate(chunks))


@pytest.mark.parametrize(("over", "title"), OVER)
def test_what_is_too_long_is_headed_by_the_line_that_stands_over_it(over: str, title: str) -> None:
    over, title = over.format("What is of it"), title.format("What is of it")
    text = f"{over}\n\n{'It is so, and that is it. ' * 8}\n\nAfter."
    first, *chunks, last = chunk(text, count, title="T", markdown=False, max_tokens=30)
    exact(text, [first, *chunks, last])
    assert (first.title, first.text.startswith(f"{over}\n\nIt is so"), last.title, last.text) == ("T", True, "T", "After.")
    assert {piece.title for piece in chunks} == {f"T > {title}"}


def test_a_sentence_in_bold_and_a_question_over_another_are_no_titles() -> None:
    for line in ("**Do not open the lid.**", "Is it shut:\nor is it?"):
        assert {piece.title for piece in chunk(f"{line}\n\n{'It is so, and that is it. ' * 8}", count, title="T", max_tokens=30)} == {"T"}
    questions = "\n\n".join(f"What is it that {n} is of?" for n in range(9))
    assert {piece.title for piece in chunk(questions, count, title="T", max_tokens=20)} == {"T"}


def test_a_list_that_fits_stays_together() -> None:
    steps = "1. Open the app.\n2. Tap Cards.\n\n   Then wait.\n3. Done."
    texts = [piece.text for piece in chunk(f"{'word ' * 15}\n{steps}\n\nAfter the list.", count, max_tokens=count(steps))]
    assert texts == [("word " * 15).strip(), steps, "After the list."]


def test_a_long_list_is_split_between_items() -> None:
    items = [f"{n}. Do the thing with number {n} now." for n in range(1, 9)]
    chunks = chunk("\n".join(items), count, max_tokens=25, max_steps_tokens=50)
    assert len(chunks) > 1
    assert [line for piece in chunks for line in piece.text.splitlines()] == items


STEPS = [f"{n}. Turn the thing with number {n} off, and wait." for n in range(1, 9)]


@pytest.mark.parametrize("markdown", [True, False])
@pytest.mark.parametrize(
    "between", ["\n", "\n\n", "\n   More about it.\n", "\nMore about it.\n", "\n   - one\n   - two\n", "\n- one\n", "\n   1. one\n   2. two\n"]
)
def test_numbered_steps_stay_together_with_what_leads_them_in(markdown: bool, between: str) -> None:
    steps = between.join(STEPS)
    text = f"{'Word ' * 20}\nand more of it.\nTo claim:\n\n{steps}\n\nAnd then {'word ' * 20}"
    size = count(f"To claim:\n{steps}")
    chunks = chunk(text, count, title="Claims", markdown=markdown, max_tokens=25, max_steps_tokens=size)
    exact(text, chunks)
    assert (len(chunks), chunks[1].title, chunks[1].text) == (3, "Claims", f"To claim:\n\n{steps}")
    # One token too many: without what leads it in, which is its heading then.
    chunks = chunk(text, count, title="Claims", markdown=markdown, max_tokens=25, max_steps_tokens=size - 1)
    assert ("Claims > To claim", steps) in [(piece.title, piece.text) for piece in chunks]


def test_of_steps_that_are_split_each_chunk_tells_which_it_has() -> None:
    text = "# Claims\nSome words before.\n\n" + "\n".join(STEPS) + "\n\nAnd after.\n\n## Other\n1. One.\n2. Two."
    chunks = chunk(text, count, max_tokens=25, max_steps_tokens=50)
    exact(text, chunks)
    for piece in chunks:
        numbers = re.findall(r"^(\d)\.", piece.text, re.MULTILINE)
        if "Turn" in piece.text:
            which = f"steps {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"step {numbers[0]}"
            assert piece.title == f"Claims > {which} of 8"
        else:
            assert piece.title in ("Claims", "Claims > Other")
    # What comes after steps is in no chunk that is called a part of them.
    assert [piece.text for piece in chunks if "after" in piece.text] == ["And after."]


def test_steps_that_go_on_behind_something_else_are_parts() -> None:
    text = "# Set up\n1. Run this:\n\n```\n" + "make it\n" * 9 + "```\n\n2. Wait.\n3. Look."
    titles = [piece.title for piece in chunk(text, count, max_tokens=20)]
    assert (titles[0], titles[-1]) == ("Set up > step 1 of 3", "Set up > steps 2 to 3 of 3")
    assert [piece.title for piece in chunk(text, count)] == ["Set up"]
    rest = chunk("# Go on\n" + "\n".join(STEPS[4:]), count, max_tokens=25, max_steps_tokens=9)
    assert rest[0].title == "Go on > step 5 of 5 to 8"
    # Years, or the answers to a quiz, are no steps that go on.
    assert {piece.title for piece in chunk("# T\n" + "\n".join(f"{n}. It was a year." for n in range(1990, 2020, 3)), count, max_tokens=20)} == {"T"}


@pytest.mark.parametrize("between", ["", "\n"])
def test_a_line_with_a_number_over_others_is_no_step_and_heads_them(between: str) -> None:
    said = "Take one in the morning, and one more at night. " * 3
    text = between.join(f"{line}\n{said}\n" for line in ("1. HOW TO TAKE IT", "2. HOW TO STORE IT", "§ 3 Law"))
    chunks = chunk(text, count, title="leaflet", markdown=False, max_tokens=30)
    exact(text, chunks)
    titles = ["leaflet", "leaflet > 1. HOW TO TAKE IT", "leaflet", "leaflet > 2. HOW TO STORE IT", "leaflet", "leaflet > § 3 Law"]
    assert [title for title, _ in groupby(piece.title for piece in chunks)] == titles


def test_a_list_that_is_whole_hides_none_that_is_not() -> None:
    text = "# T\n1. One.\n2. Two.\n\nThen:\n" + "\n".join(STEPS)
    first, *_ = chunk(text, count, max_tokens=40, max_steps_tokens=50)
    assert "2. Two." in first.text and "1. Turn" in first.text and re.fullmatch(r"T > steps? 1.* of 8", first.title)


def test_many_lists_of_steps_take_no_longer_each() -> None:
    began = time.process_time()
    chunk("1. One.\n2. Two.\n\nThen more.\n\n" * 20_000, len)
    assert time.process_time() - began < 5


def test_another_list_is_no_step() -> None:
    bullets = "\n".join(f"- And another thing {n}, which is long enough." for n in range(5))
    text = f"{bullets}\n{chr(10).join(STEPS)}\n{bullets}"
    assert chr(10).join(STEPS) in [piece.text for piece in chunk(text, count, max_tokens=25)]


def test_a_fence_that_fits_stays_whole_and_hides_headings() -> None:
    fence = "```python\n# not a heading\n\nx = 1\n\ny = 2\n```"
    texts = [piece.text for piece in chunk(f"# T\n{'word ' * 10}\n{fence}\nafter", count, max_tokens=count(fence))]
    assert fence in texts


def test_an_open_fence_ends_with_the_file() -> None:
    assert [(piece.title, piece.text) for piece in chunk("# T\n```\n# x\n", count)] == [("T", "```\n# x")]


def test_a_long_paragraph_is_split_at_sentence_ends() -> None:
    sentences = [f"This is sentence number {n}." for n in range(12)]
    chunks = chunk(" ".join(sentences), count, max_tokens=20)
    assert len(chunks) > 2
    assert all(piece.text.endswith(".") for piece in chunks)


def test_a_row_whose_first_cell_is_blank_stays_with_those_above_it() -> None:
    rows = [row for n in range(5) for row in (f"| Course {n} | Monday | 18:00 |", "|  | Thursday | 9:00 |")]
    chunks = chunk("\n".join(["| Course | Day | Time |", "|---|---|---|", *rows]), count, max_tokens=50)
    assert len(chunks) > 2
    assert not [piece for piece in chunks if piece.text.startswith("|  |")]
    long = chunk("\n".join(["| A | 1 |", *["| | 2 |"] * 30]), count, max_tokens=20)
    assert all(count(piece.text) <= 20 for piece in long)


def test_a_table_is_split_between_rows() -> None:
    rows = [f"| row {n} | Yes. It is |" for n in range(9)]
    chunks = chunk("\n".join(rows), count, max_tokens=30)
    assert len(chunks) > 1
    assert [line for piece in chunks for line in piece.text.splitlines()] == rows


@pytest.mark.parametrize("below", ["", "\n"])
@pytest.mark.parametrize(("lead", "title"), [("The following is not allowed:", "The following is not allowed"), ("**Prohibited**", "Prohibited")])
def test_a_list_right_below_another_is_headed_by_what_leads_in_that(lead: str, title: str, below: str) -> None:
    first, second = ("".join(f"- {what} number {n} of all those in the park.\n" for n in range(6)) for what in ("Games", "Fires"))
    text = f"The following is allowed:\n{first}{lead}\n{below}{second}"
    chunks = chunk(text, count, title="Park", max_tokens=40)
    exact(text, chunks)
    assert {piece.title for piece in chunks if piece.text.startswith("- Games")} == {"Park > The following is allowed"}
    assert {piece.title for piece in chunks if piece.text.startswith("- Fires")} == {f"Park > {title}"}
    assert not any("Games" in piece.text and "Fires" in piece.text for piece in chunks)


@pytest.mark.parametrize("blank", ["", "\n"])
def test_steps_behind_a_list_are_not_headed_by_what_leads_in_that(blank: str) -> None:
    nevers = "".join(f"- Pour thing number {n} into a cup or a glass.\n{blank}" for n in range(6))
    steps = f"\n{blank}".join(STEPS[:3])
    text = f"Never do the following:\n{blank}{nevers}{steps}"
    chunks = chunk(text, count, title="Kettle", max_tokens=60)
    exact(text, chunks)
    assert {piece.title for piece in chunks if "- Pour" in piece.text and "Never" not in piece.text} == {"Kettle > Never do the following"}
    assert [piece.title for piece in chunks if "1. Turn" in piece.text] == ["Kettle"]


def test_underlined_lines_are_headings() -> None:
    text = "Plans\n=====\nTwo.\n\nPlan A {#a}\n---\nIt is $5.\n\nPlan B\n------\nIt is $9.\nAll of it\n---\n\nThe end.\n---\n\n- one\n---\n# C {.x}"
    found = [(piece.title, piece.text) for piece in chunk(f"{text}\nEnd", count)]
    rest = "It is $9.\nAll of it\n---\n\nThe end.\n---\n\n- one\n---"
    assert found == [("Plans", "Two."), ("Plans > Plan A", "It is $5."), ("Plans > Plan B", rest), ("C", "End")]
    assert [piece.title for piece in chunk(text, count, title="file", markdown=False)] == ["file"]


@pytest.mark.parametrize(("lead", "title"), [("Keep it dry. Do not use it", " > Do not use it"), ("Never use it.", ""), ("It may be used", "")])
def test_a_list_is_headed_by_what_denies_and_has_no_end(lead: str, title: str) -> None:
    items = "".join(f"- if part number {n} of the machine is wet\n" for n in range(9))
    chunks = chunk(f"A machine.\n{lead}\n\n{items}", count, title="Saw", max_tokens=40)
    inside = {piece.title for piece in chunks if piece.text.startswith("- if")}
    assert inside == {f"Saw{title}"}


@pytest.mark.parametrize("markdown", [True, False])
def test_what_goes_on_with_a_list_is_headed_by_what_leads_it_in(markdown: bool) -> None:
    items = "".join(f"- Do not wash item number {n} in the machine.\n" for n in range(20))
    text = f"The tent is made of silk. Never do the\nfollowing:\n\n{items}\nIt lasts for years. Colours:\n- red\n\nShort."
    chunks = chunk(text, count, title="Tents", markdown=markdown, max_tokens=40)
    exact(text, chunks)
    inside = [piece.title for piece in chunks if piece.text.startswith("- Do")]
    assert len(inside) > 1 and set(inside) == {"Tents > Never do the following"}
    assert chunks[0].title == "Tents"
    assert {piece.title for piece in chunks if "Colours" in piece.text or "Short" in piece.text} <= {"Tents"}


def test_what_goes_on_with_a_table_is_headed_by_the_names_of_its_columns() -> None:
    rows = [f"| key{n} | {n} s | how long step {n} takes |" for n in range(9)]
    table = "\n".join(["| Key | Value | Meaning |", "|:---|---:|---|", *rows])
    chunks = chunk(f"# Keys\nAll of them.\n\n{table}\n\nAfter the table.", count, title="file", max_tokens=60)
    exact(f"# Keys\nAll of them.\n\n{table}\n\nAfter the table.", chunks)
    inside = [piece.title for piece in chunks if piece.text.startswith("| key")]
    assert len(inside) > 1 and set(inside) == {"Keys > | Key | Value | Meaning |"}
    assert {piece.title for piece in chunks if not piece.text.startswith("| key")} == {"Keys"}
    fence = "\n".join(["```", "| Key | Value |", "|---|---|", *rows, "```"])
    assert {piece.title for piece in chunk(f"# Keys\n{fence}", count, max_tokens=60)} == {"Keys"}
    assert chunk(f"{table}", count, max_tokens=60)[-1].title == "| Key | Value | Meaning |"


def test_a_table_needs_no_bars_around_it() -> None:
    rows = [f"Plan number {n} | ${n} | ${n}0" for n in range(9)]
    text = "\n".join(["# Prices", "All of them.", "Plan | Month | Year", "--- | ---: | ---", *rows, "", "That | is all."])
    chunks = chunk(text, count, max_tokens=40)
    exact(text, chunks)
    inside = [piece.title for piece in chunks if piece.text.startswith("Plan number")]
    assert len(inside) > 1 and set(inside) == {"Prices > | Plan | Month | Year |"}
    assert {piece.title for piece in chunks if not piece.text.startswith("Plan number")} == {"Prices"}


def test_a_word_without_end_is_cut() -> None:
    blob = "A" * 100_000
    chunks = chunk(blob, count, max_tokens=110)
    assert "".join(piece.text for piece in chunks) == blob
    assert max(len(piece.text) for piece in chunks) < 2000


@pytest.mark.parametrize("source", ["", " \n\t\n", "# Only\n\n## Headings", "\ufeff"])
def test_no_text_is_no_chunk(source: str) -> None:
    assert chunk(source, count) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(WEIRD, st.booleans()), max_size=8), st.integers(1, 200), st.booleans(), st.sampled_from(["", "---\nfür: alle\n---\n"]))
def test_in_windows_no_text_is_lost_either_but_front_matter(pieces: list[tuple[str, bool]], window: int, markdown: bool, front: str) -> None:
    sections = [Section(text.replace("#", "").replace("\ufeff", ""), markdown=markdown, continues=continues) for text, continues in pieces]
    sections[:0] = [Section(front, "Title", about={"für": "alle"})] if front else []
    source = "".join(section.text for section in sections)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdsa_local.knowledge.chunking.WINDOW_CHARS", window)
        chunks = list(chunk_all(sections, count, max_tokens=12))
    exact(source, chunks)
    assert squeezed("".join(piece.text for piece in chunks)) == squeezed(source.removeprefix(front))
    assert not front or all(piece.title.startswith("Title") for piece in chunks)


def test_windows_keep_headings_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(path.read_text(encoding="utf-8") + "\n" for path in ARTICLES[:30])
    whole = chunk(source, count)
    monkeypatch.setattr("mdsa_local.knowledge.chunking.WINDOW_CHARS", 20_000)
    parts = [Section(source[at : at + 3000], markdown=True, continues=at > 0) for at in range(0, len(source), 3000)]
    windowed = list(chunk_all(parts, count))
    # A heading's blocks may be packed otherwise where a window ends; everything else is the same.
    assert {piece.title for piece in windowed} == {piece.title for piece in whole}
    assert len(set(windowed) ^ set(whole)) <= 2 * len(source) / 20_000


def test_a_list_keeps_the_line_that_leads_it_in_where_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdsa_local.knowledge.chunking.WINDOW_CHARS", 300)
    items = "Never do the following:\n\n" + "".join(f"- Pour bleach number {n} on the lawn.\n" for n in range(4))
    for before in range(200, 420, 20):
        for above in ("\n\n", "\n\n# Lawn\n\n"):
            source = "x" * before + above + items + "\nThe end.\n"
            parts = [Section(source[at : at + 20], markdown=True, continues=at > 0) for at in range(0, len(source), 20)]
            chunks = list(chunk_all(parts, count, title="a", max_tokens=40))
            exact(source, chunks)
            led = [piece for piece in chunks if "- Pour" in piece.text]
            assert all(piece.text.startswith("Never") or piece.title.endswith("Never do the following") for piece in led), before


def test_sections_have_their_own_titles() -> None:
    sections = [Section("one\n\n", "a > page 1"), Section("# x\ntwo\n\n", "a > page 2", markdown=True), Section("drei é\n\n"), Section("vier")]
    chunks = list(chunk_all(sections, count, title="a"))
    assert [(piece.title, piece.text) for piece in chunks] == [("a > page 1", "one"), ("x", "two"), ("a", "drei é"), ("a", "vier")]
    exact("".join(section.text for section in sections), chunks)


def test_sections_of_the_shipped_articles_are_one_chunk_each() -> None:
    assert len(ARTICLES) > 100
    sections = chunks = 0
    for path in ARTICLES:
        source = path.read_bytes().decode()
        found = chunk(source, count)
        exact(source, found)
        sections += sum(bool(body.strip()) for body in re.split(r"^#+ .*\n", source, flags=re.MULTILINE))
        chunks += len(found)
    assert sections <= chunks <= sections * 1.05


def test_a_line_that_is_nearly_a_rule_takes_no_time() -> None:
    began = time.process_time()
    chunk("| a |\n|-" + " " * 200_000 + "x\n| y |", len, max_tokens=10_000)
    assert time.process_time() - began < 2
