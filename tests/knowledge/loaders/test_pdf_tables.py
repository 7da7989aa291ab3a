from __future__ import annotations

import re
from pathlib import Path

import pytest
from pypdf import PdfReader

from mdsa_local.knowledge.loaders.pdf import _clean
from tests.knowledge.loaders.test_loaders import read, shown

# x, y, text and, where it is not Helvetica, the font.
Word = tuple[float, float, str] | tuple[float, float, str, str]


def words(*placed: Word) -> str:
    """Each word in a text object of its own, as most word processors write the cells of a table; letters of 10 points."""
    return "\n".join(f"BT /{font[0] if font else 'F1'} 10 Tf {x} {y} Td ({text}) Tj ET" for x, y, text, *font in placed)


def rows(*cells: str, at: tuple[float, ...] = (72, 200, 300, 400), top: float = 700, by: float = 18, font: str = "F1") -> list[Word]:
    """Rows of cells divided by ``|``, one below the other; an empty cell is none."""
    return [(x, top - by * n, text.strip(), font) for n, row in enumerate(cells) for x, text in zip(at, row.split("|"), strict=False) if text.strip()]


def before(folder: Path, content: bytes) -> str:
    path = folder / "plain.pdf"
    path.write_bytes(content)
    return "\n\n".join(page.extract_text() for page in PdfReader(path).pages)


def told(folder: Path, *pages: str) -> list[str]:
    """The lines of each page, without those that are empty."""
    sections = read(folder, "a.pdf", shown(*pages))
    return ["\n".join(line for line in section.text.split("\n") if line.strip()) for section in sections]


FEEDS = ("Material | Feed | Speed", "Oak | 2800 | 18000", "Plywood | 4200 | 20000")
NAMED = "Material: Oak; Feed: 2800; Speed: 18000\nMaterial: Plywood; Feed: 4200; Speed: 20000"
PROSE = "The policy covers fire and storm and hail."


@pytest.mark.parametrize(
    ("page", "said"),
    [
        pytest.param(rows(*FEEDS), NAMED, id="headings without numbers above numbers"),
        pytest.param([(72, 730, "Feeds"), *rows(*FEEDS), (72, 640, "after it.")], f"Feeds\n{NAMED}\nafter it.", id="between text"),
        pytest.param(rows(*FEEDS, by=40), NAMED, id="rows far apart"),
        pytest.param(
            [*rows("Wood | Use", font="F2"), *rows("Oak | floors", "Pine | roofs", top=682)],
            "Wood: Oak; Use: floors\nWood: Pine; Use: roofs",
            id="headings in bold",
        ),
        pytest.param(
            [
                *rows("Name | Fee"),
                *[(72, 682, "Anna"), (238.88, 682, "5.00"), (72, 664, "Ben"), (227.76, 664, "120.00"), (72, 646, "Cleo"), (233.32, 646, "12.00")],
            ],
            "Name: Anna; Fee: 5.00\nName: Ben; Fee: 120.00\nName: Cleo; Fee: 12.00",
            id="numbers set to the right",
        ),
        pytest.param(
            rows("Weight | 480 kg", "Voltage | 400 V", "Made in | Linz"), "Weight: 480 kg\nVoltage: 400 V\nMade in: Linz", id="no headings, two"
        ),
        pytest.param(
            rows("Oak | hard | here", "Pine | soft | here", "Teak | hard | far"),
            "Oak | hard | here\nPine | soft | here\nTeak | hard | far",
            id="no headings, three",
        ),
        pytest.param(
            rows("| 2024 | 2025", "Linz | 10 | 12", "Wels | 8 | 9"),
            "Linz; 2024: 10; 2025: 12\nWels; 2024: 8; 2025: 9",
            id="years, nothing above names",
        ),
        pytest.param(
            rows("Dish | Portion | kcal", "Starters", "Soup | 1 dl | 180", "Salad | 200 g | 90", "Desserts", "Cake | 1 piece | 410", "Total | | 680"),
            "Starters\nDish: Soup; Portion: 1 dl; kcal: 180\nDish: Salad; Portion: 200 g; kcal: 90\nDesserts\n"
            "Dish: Cake; Portion: 1 piece; kcal: 410\nDish: Total; kcal: 680",
            id="names of groups and a total",
        ),
        pytest.param(
            rows("First: | Anna | Last: | Berger", "Street: | Seeweg | City: | Linz", "Born: | 1980 | Phone: | 0732"),
            "First: Anna | Last: Berger\nStreet: Seeweg | City: Linz\nBorn: 1980 | Phone: 0732",
            id="a form",
        ),
        pytest.param(
            rows("Date | Text | Amount", "01.03. | Rent March | -850.00", "| Immobilien Huber", "03.03. | Salary | 2,410.55", by=12),
            "Date: 01.03.; Text: Rent March Immobilien Huber; Amount: -850.00\nDate: 03.03.; Text: Salary; Amount: 2,410.55",
            id="a statement of an account, line by line",
        ),
        pytest.param(
            rows("Wood | Use | Note", "Oak | 1 |", "Pine | 2 |"),
            "Wood | Use | Note\nWood: Oak; Use: 1\nWood: Pine; Use: 2",
            id="a column without cells",
        ),
        pytest.param(
            [*((72, 700 - 12 * n, f"{PROSE} {n}") for n in range(6)), *rows(*FEEDS, at=(350, 420, 480))],
            "\n".join(f"{PROSE} {n}" for n in range(6)) + "\n" + NAMED,
            id="beside text",
        ),
    ],
)
def test_rows_say_what_their_cells_are(tmp_path: Path, page: list[Word], said: str) -> None:
    assert told(tmp_path, words(*page)) == [said]


@pytest.mark.parametrize("height", [0, 6, 12], ids=["above", "in the middle", "below"])
def test_lines_of_a_cell_are_put_together(tmp_path: Path, height: float) -> None:
    heading = rows("Item | Text | Fee", top=730, at=(72, 160, 330))
    gold: list[Word] = [(72, 700 - height, "Gold"), (160, 700, "with insurance and"), (160, 688, "a lounge pass"), (330, 700 - height, "120")]
    basic = rows("Basic | free | 0", top=664, at=(72, 160, 330))
    said = "Item: Gold; Text: with insurance and a lounge pass; Fee: 120\nItem: Basic; Text: free; Fee: 0"
    assert told(tmp_path, words(*heading, *gold, *basic)) == [said]


@pytest.mark.parametrize("at", [0, 1])
def test_the_first_and_the_last_cell_may_have_more_lines(tmp_path: Path, at: int) -> None:
    long: list[list[Word]] = [
        [(72, 680, "the holder at"), (72, 668, "the front"), (200, 680, "12")],
        [(72, 680, "E01"), (200, 680, "too hot; let it"), (200, 668, "cool down")],
    ]
    said = ("Part: the holder at the front; Nm: 12", "Part: E01; Nm: too hot; let it cool down")
    page = [*rows("Part | Nm", font="F2"), *long[at], *rows("Nut | 30", top=640)]
    assert told(tmp_path, words(*page)) == [f"{said[at]}\nPart: Nut; Nm: 30"]


@pytest.mark.parametrize(
    "content",
    [
        "BT /F1 10 Tf 72 700 Td (Material) Tj 130 0 Td (Feed) Tj 100 0 Td (Speed) Tj -230 -14 Td (Oak) Tj 130 0 Td (2800) Tj 100 0 Td (18000) Tj "
        "-230 -14 Td (Plywood) Tj 130 0 Td (4200) Tj 100 0 Td (20000) Tj ET",
        "BT /F1 10 Tf 72 700 Td [(Mater)10(ial)-9000(Feed)-8000(Speed)] TJ 0 -14 Td [(Oak)-11000(2800)-8000(18000)] TJ "
        "0 -14 Td [(Plywood)-9500(4200)-8000(20000)] TJ ET",
    ],
    ids=["one text object", "jumps within an operator, as TeX writes"],
)
def test_cells_need_no_operators_of_their_own(tmp_path: Path, content: str) -> None:
    assert told(tmp_path, content) == [NAMED]


def test_a_table_goes_on_over_pages(tmp_path: Path) -> None:
    def page(*cells: str) -> str:
        return words((72, 750, "Club"), *rows(*cells), (300, 40, "1"))

    first, second = page(*FEEDS), page("Ash | 3100 | 17000", "Pine | 5000 | 20000", "Elm | 2900 | 18500")
    assert told(tmp_path, first, page("Material | Feed | Speed", "Ash | 3100 | 17000", "Elm | 2900 | 18500"))[1].split("\n")[1:3] == [
        "Material: Ash; Feed: 3100; Speed: 17000",
        "Material: Elm; Feed: 2900; Speed: 18500",
    ]
    assert told(tmp_path, first, second)[1].split("\n")[1] == "Material: Ash; Feed: 3100; Speed: 17000"
    assert told(tmp_path, second, second)[1].split("\n")[1] == "Ash | 3100 | 17000"


PLAIN = {
    "prose": words(*((72, 700 - 12 * n, f"{PROSE} {n}") for n in range(20))),
    "two columns of prose": words(*((x, 700 - 12 * n, f"{PROSE} {n}") for x in (72, 320) for n in range(20))),
    "two columns of prose, line by line": words(*((x, 700 - 12 * n, f"{PROSE} {n}") for n in range(20) for x in (72, 320))),
    "two languages": words(*((x, 700 - 90 * p - 12 * n, f"{PROSE} {n}") for p in range(5) for x in (72, 320) for n in range(5))),
    "bullets": words(*rows("\\225 | Oak", "\\225 | Pine | ", "\\225 | Ash", at=(72, 90))),
    "numbers": words(*rows("1. | Oak", "2. | Pine", "3. | Ash", at=(72, 90))),
    "contents": words(*rows(*(f"{n} | Part {'.' * 30} | {3 * n}" for n in range(1, 7)), at=(72, 90, 500))),
    "head of a letter": words(*rows("ACME GmbH | Invoice: 117", "Hauptstrasse 5 | Date: 12.03.", "80331 Munich | Customer: 77", at=(72, 400), by=14)),
    "two rows": words(*rows("Anna | 5", "Ben | 6")),
    "a program": words(*rows("x = 5 | # start", "stop | # ready", "y = x | # end", by=11, font="F3")),
    "ticks of figures": words(*((60 + 60 * n, 700 - 120 * f, str(20 * n)) for f in range(3) for n in range(6))),
    "other columns in each row": words(*rows("a | b | c"), *rows("d | e", top=682, at=(150, 250)), *rows("f | g", top=664, at=(90, 330))),
    "turned": "\n".join(f"BT /F1 10 Tf 0 1 -1 0 {200 + 18 * n} 300 Tm (a) Tj 0 1 -1 0 {200 + 18 * n} 400 Tm (5) Tj ET" for n in range(5)),
    "words far apart": "BT /F1 10 Tf 72 700 Td [(all)-600(of)-650(this)-620(is)] TJ 0 -12 Td [(one)-640(line)-600(of)-610(it)] TJ ET",
}  # fmt: skip


@pytest.mark.parametrize("name", PLAIN)
def test_all_else_stays_as_it_is(tmp_path: Path, name: str) -> None:
    content = shown(PLAIN[name])
    assert [section.text for section in read(tmp_path, "a.pdf", content)] == [before(tmp_path, content) + "\n\n"]


def test_no_word_is_lost(tmp_path: Path) -> None:
    page = words(
        *rows("Statement | Page 1", top=760), *rows("Price for", top=718, at=(220,)), *rows("Plan | month | year", "Basic | 5 | 50", "Pro | 15 | 150")
    )
    plain, [said] = before(tmp_path, shown(page)), told(tmp_path, page)
    assert "Plan: Basic; month: 5; year: 50" in said
    assert set(re.findall(r"\w+", plain)) <= set(re.findall(r"\w+", said))


@pytest.mark.parametrize(
    "content",
    [
        "BT /F1 Tf 72 700 Td (Text) Tj ET",
        "BT /F9 10 Tf 72 700 Td (Text) Tj ET",
        "BT /F1 10 Tf 72 700 Td () Tj [] TJ [-800] TJ [-900 (Text) -1000] TJ (and) Tj ET",
        "BT /F1 10 Tf (Text) ' 2 3 (more) \" ET",
        "BT /F1 10 Tf q 90 Tz 1 Tc 72 700 Td (Te) Tj /F2 10 Tf (xt) Tj Q Q ( and more) Tj ET",
    ],
)
def test_odd_operators_change_no_text(tmp_path: Path, content: str) -> None:
    page = shown(content)
    assert [section.text for section in read(tmp_path, "a.pdf", page)] == [before(tmp_path, page) + "\n\n"]


def test_arabic_and_hebrew_stay_in_their_order(tmp_path: Path) -> None:
    """A line of such letters is put together from behind."""
    letters = "/Encoding << /Differences [97 /afii57664 /afii57665 /afii57666] >>"
    page = shown("BT /F1 10 Tf 72 700 Td (ab) Tj 20 0 Td (bc) Tj 20 0 Td (ca) Tj ET")
    page = page.replace(b"/BaseFont /Helvetica >>", f"/BaseFont /Helvetica {letters} >>".encode())
    assert "\u05d0" in before(tmp_path, page)
    assert [section.text for section in read(tmp_path, "a.pdf", page)] == [before(tmp_path, page) + "\n\n"]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        # A footnote's number, in a piece of its own; of the letters 12 points high, each digit is 6.67 wide.
        ("BT /F1 12 Tf 72 700 Td (Fee: 10) Tj ET BT /F1 7 Tf 114 704 Td (2) Tj ET BT /F1 12 Tf 124 700 Td (a year) Tj ET", "Fee: 10 ² a year"),
        ("BT /F1 12 Tf 72 700 Td (About 10) Tj /F1 7 Tf 5 Ts (16) Tj /F1 12 Tf 0 Ts ( cells) Tj ET", "About 10¹⁶ cells"),
        ("BT /F1 12 Tf 72 700 Td (The 1) Tj /F1 7 Tf 5 Ts (st) Tj /F1 12 Tf 0 Ts ( day) Tj ET", "The 1st day"),
        # Neither raised nor small, or not behind a number.
        ("BT /F1 12 Tf 72 700 Td (About 10) Tj /F2 12 Tf (16) Tj /F1 7 Tf (16) Tj ET", "About 101616"),
        ("BT /F1 12 Tf 72 700 Td (Members) Tj /F1 7 Tf 5 Ts (2) Tj ET", "Members2"),
    ],
)
def test_what_is_raised_behind_a_number_is_no_part_of_it(tmp_path: Path, page: str, said: str) -> None:
    assert told(tmp_path, page) == [said]


def test_a_table_behind_what_is_raised_is_where_it_was(tmp_path: Path) -> None:
    page = words((72, 730, "Fee: 10"), *rows(*FEEDS))
    raised = "BT /F1 6 Tf 105.5 733 Td (2a) Tj ET"
    first, rest = page.split("\n", 1)
    assert told(tmp_path, f"{first}\n{raised}\n{rest}") == [f"Fee: 10^(2a)\n{NAMED}"]


def test_marks_where_a_word_may_be_parted_are_left_out() -> None:
    assert _clean("Ver\u00adsand\u00ad\nkosten a\u200bb 555\u00ad0101 \u00ad5") == "Versandkosten ab 555-0101 -5"
