from __future__ import annotations

import time
from pathlib import Path

import pytest

from mdsa_local.knowledge.loaders.html import read


def said(folder: Path, page: str) -> str:
    """What a page says, all sections after one another."""
    (folder / "page.html").write_text(page)
    return "".join(section.text for section in read(folder / "page.html")).rstrip("\n")


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>The fee is <math><mn>5</mn><mo>%</mo></math> a year.", "The fee is 5% a year."),
        (
            "<p>Of <math><semantics><mrow><mi>E</mi><mo>=</mo><mi>m</mi><mo>&#x2062;</mo><msup><mi>c</mi><mn>2</mn></msup></mrow>"
            "<annotation>E=mc^2</annotation></semantics></math>, <math><msub><mi>H</mi><mn>2</mn></msub><mi>O</mi></math>",
            "Of E = mc², H₂O",
        ),
        ("<p><math><msup><mn>10</mn><mn>6</mn></msup></math>, <math><msup><mn>20</mn><mo>∘</mo></msup><mi>C</mi></math>", "10⁶, 20°C"),
        ("<p><math><mn>1</mn><mfrac><mn>1</mn><mn>2</mn></mfrac></math> cups, <math><mo>−</mo><mn>18</mn></math> °C", "1 1/2 cups, −18 °C"),
        (
            "<p><math><mi>rate</mi><mo>=</mo><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mtext>days open</mtext></mfrac></math>",
            "rate = (a + b)/(days open)",
        ),
        ("<p><math><msqrt><mi>x</mi><mo>-</mo><mn>1</mn></msqrt><mo>,</mo><mroot><mi>x</mi><mn>3</mn></mroot></math>", "√(x - 1),³√x"),
        (
            "<p><math><munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover><msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup></math>",
            "∑_i^n xᵢ²",
        ),
        ("<p><math><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr><mtr><mtd><mn>3</mn></mtd></mtr></mtable></math>", "1, 2; 3"),
        ("<table><tr><th>A<th>B<tr><td><math><msup><mi>e</mi><mi>rt</mi></msup></math><td>2</table>", "A: e^(rt); B: 2"),
        ("<p>Open <math><mn>5<p>Next <s><math><mn>7</mn></math></s><math hidden><mn>8</mn></math><math><mn>9", "Open 5\n\nNext 9"),
        ("<p>Choose <select><option>Basic<option>Plus</select> and go on.", "Choose and go on."),
    ],
)
def test_a_formula_is_told_in_its_line(tmp_path: Path, page: str, text: str) -> None:
    assert said(tmp_path, page) == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>The fee is $10<sup>2</sup> a year.", "The fee is $10² a year."),
        ("<p>The fee is $10<sup><a href='#fn1'>1</a></sup> a year.", "The fee is $10¹ a year."),
        ("<p>10<sup>-3</sup> m, 5 m<sup>2</sup>, 2<sup>1</sup>/<sub>2</sub>, H<sub>2</sub>O", "10⁻³ m, 5 m², 2¹/₂, H₂O"),
        ("<p>The 1<sup>st</sup> of May<sup>®</sup>, 20<sup> 2a</sup>", "The 1st of May®, 20 ^(2a)"),
        ("<p>x<sup>2<sub>1</sub></sup>, y<sup>2<sup>3</sup></sup> and 4", "x²_¹, y²^³ and 4"),
        ("<p>10<sup hidden>2</sup>, 10<sup>2<p>5</sup>, 6</sub>", "10, 102\n\n5, 6"),
        ("<table><tr><th>A<sup>1</sup><th>B<tr><td>10<sup>2</sup><td>3</table>", "A¹: 10²; B: 3"),
    ],
)
def test_raised_and_lowered_text_makes_no_other_number(tmp_path: Path, page: str, text: str) -> None:
    assert said(tmp_path, page) == text


LONG = "Once a paragraph of the page itself. " * 12


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<tr><td>Ibuprofen</td><td>200 mg<br>Not for children under 12</td></tr>", "Ibuprofen | 200 mg; Not for children under 12"),
        ("<tr><td>Gold<td>5 euros<br>per month.<br>Cash only", "Gold | 5 euros per month. Cash only"),
        (
            "<tr><th>Plan<th><p>Price</p><p>(EUR)</p><tr><td>Gold<td><p>5</p><p>In advance</p><tr><td>Tin<td>3",
            "Plan: Gold; Price (EUR): 5; In advance\n\nPlan: Tin; Price (EUR): 3",
        ),
        ("<tr><td>Gold<td><p>lounge</p><p>free bags<br>on all flights", "Gold | lounge; free bags on all flights"),
        ("<tr><td>Gold<td><ul><li>Lounge<li>- 5 C</ul>After<tr><td>Tin<td>-", "Gold | Lounge; - 5 C; After\n\nTin | -"),
        # A cell alone, or with what is rather a part of the page, is told as it stands.
        ("<tr><td><p>One</p><ul><li>Two</ul>", "One\n\n- Two"),
        (f"<tr><td>Menu<td><p>{LONG}</p><ul><li>Two</ul>", f"Menu\n\n{LONG.strip()}\n\n- Two"),
        (f"<tr><th>Plan<th>Terms<tr><td>Gold<td><p>{LONG}</p><p>Two", f"Plan: Gold; Terms: {LONG.strip()} Two"),
        ("<tr><td><pre>1\n2</pre><td><pre>a\n  b</pre>", "1\n2\n\na\n  b"),
        ("<tr><td>Gold<td>5<h2>Head</h2>6<td>7", "Gold | 5\n\n6 | 7"),
    ],
)
def test_a_cell_of_several_lines_stays_in_its_row(tmp_path: Path, page: str, text: str) -> None:
    assert said(tmp_path, f"<table>{page}</table>") == text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (
            "<tr><td rowspan=2>Student</td><td>Card</td><td>free</td></tr><tr><td>Wire transfer</td><td>$5</td></tr><tr><td>Adult<td>Card<td>$1",
            "Student | Card | free\n\nStudent | Wire transfer | $5\n\nAdult | Card | $1",
        ),
        (
            "<tr><th>Who<th>How<th>Fee<tr><td>Student<td>Card<td rowspan=0>free<tr><td>Adult<td>Cash<tr><td>Child<td>Cash",
            "Who: Student; How: Card; Fee: free\n\nWho: Adult; How: Cash; Fee: free\n\nWho: Child; How: Cash; Fee: free",
        ),
        (
            "<tr><th>Plan<th>ATM<th>Wire<tr><th colspan=3>Private<tr><td>Gold<td colspan=2>free<tr><td>Tin<td>$1<td>$2",
            "Plan | ATM | Wire\n\nPrivate\n\nPlan: Gold; ATM, Wire: free\n\nPlan: Tin; ATM: $1; Wire: $2",
        ),
        (
            "<tr><th rowspan=2>Plan<th colspan=2>Price<tr><th>net<th>gross<tr><td>Gold<td>5<td>6<tr><td>Tin<td>3<td>4",
            "Plan: Gold; Price net: 5; Price gross: 6\n\nPlan: Tin; Price net: 3; Price gross: 4",
        ),
        ("<tr><th colspan=2>Hours<tr><th>Day<th>Time<tr><td>Mon<td>9 to 5", "Hours\n\nDay: Mon; Time: 9 to 5"),
        ("<tr><th colspan=2>Hours<tr><td>Mon<td>9 to 5", "Hours\n\nMon | 9 to 5"),
        # No further than the rows, the part of the table, and the table itself.
        ("<tbody><tr><td rowspan=9>A<td>1<tbody><tr><td>B<td>2", "A | 1\n\nB | 2"),
        ("<tr><td rowspan=2>A<td>1<tr></tr><tr><td>B<td>2", "A | 1\n\nB | 2"),
        ("<tr><td rowspan=2>A<td>1</table><table><tr><td>B<td>2", "A | 1\n\nB | 2"),
        (f"<tr><td rowspan=2>{'A' * 2000}<td>1<tr><td>2<td>3", f"{'A' * 2000} | 1\n\n| 2 | 3"),
    ],
)
def test_a_cell_of_several_rows_or_columns_is_said_in_each(tmp_path: Path, page: str, text: str) -> None:
    assert said(tmp_path, f"<table>{page}</table>") == text


ROWS = [
    "<td rowspan=9999>x" * 1000 + "<tr><td>y" * 20_000,
    "<tr>" + "<th rowspan=2 colspan=500>x" * 2 + "<tr><th>y<th colspan=999>z" * 20_000,
    "<tr>" + "<th>word" * 1000 + "<tr><td>y<td colspan=999>z" * 20_000,
    "<tr><td>a<table>" * 20_000,
    "<tr><td><p>a" * 20_000,
    "<p>a " + "<button>b</button> <sup>2</sup>" * 20_000,
    "<button><div>b" * 20_000,
    "<sup>1" * 20_000 + "</sup>" * 20_000,
    "<td><math>" + "<mrow>" * 20_000 + "</mi>" * 20_000,
    "<td><math>" + "<mfrac><mi>x</mi><mrow>" * 10_000,
]


@pytest.mark.parametrize("rows", ROWS)
def test_no_table_takes_long_or_much(tmp_path: Path, rows: str) -> None:
    began = time.process_time()
    assert len(said(tmp_path, f"<table>{rows}")) < 50_000_000
    assert time.process_time() - began < 15


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Press <button>Save</button> to store, then <button><div>Log</div> out</button>.", "Press Save to store, then Log out."),
        ("<p><button><svg><title>x</title></svg>Save</button> stores it.", "Save stores it."),
        ("<ol><li>Press <button>Save</button><li>Wait</ol>", "1. Press Save\n\n2. Wait"),
        ("<p>Choose: <button>Yes</button><button>No</button></p>", "Choose: Yes No"),
        ("<p>The<svg><text>x</text></svg>icon", "The icon"),
        # Those alone, after what they send, and in code are left out.
        ("<p>One</p><button>Send</button><p><button>Yes</button> <button>No</button></p>Two", "One\n\nTwo"),
        ("<div>Your name <input> <button>Send</button></div>Two", "Your name\n\nTwo"),
        ("<table><tr><td>Gold<td>5 <button>Buy</button><tr><td>Tin<td><button>Buy</button></table>", "Gold | 5\n\nTin |"),
        ("<pre><button>Copy</button>a = 1</pre>", "a = 1"),
        # Without an end it is no more than a line.
        ("<p>One <button>Save<p>Two</p><ul><li>Three", "One Save Two\n\n- Three"),
        ("<p>One <button hidden>Save</button> two <sup><button>1</button></sup> three", "One two ¹ three"),
    ],
)
def test_a_button_in_a_line_of_text_has_its_label(tmp_path: Path, page: str, text: str) -> None:
    assert said(tmp_path, page) == text


def test_a_heading_that_is_a_button_is_a_title(tmp_path: Path) -> None:
    page = "<h2><button>Fees</button></h2>a<h2>Time <button>Copy</button></h2>b<button><h2>Place</h2></button>c"
    (tmp_path / "a.html").write_text(page)
    assert [(section.title, section.text.strip()) for section in read(tmp_path / "a.html")] == [("Fees", "a"), ("Time", "b"), ("Place", "c")]


def test_where_a_word_may_be_parted_it_is_one_word(tmp_path: Path) -> None:
    page = "<title>Kranken&shy;kasse</title><p>Ver&shy;sicherungs\u00adpflicht, a&#8203;b\u200bc, d<wbr>e<pre>f&shy;g</pre><h2>Bei\u00adtrag</h2>Text"
    (tmp_path / "a.html").write_text(page)
    assert [(section.title, section.text.strip()) for section in read(tmp_path / "a.html")] == [
        ("Krankenkasse", "Versicherungspflicht, abc, de\n\nfg"),
        ("Beitrag", "Text"),
    ]


@pytest.mark.parametrize(
    ("cells", "said_of_them"),
    [
        ("<td><img alt='not included'><td><img src=a title=' in \n cluded '>", "Free: not included; Plus: in cluded"),
        ("<td><img alt=not> included<td><img alt='From' aria-hidden=true> 2025<img alt=x hidden>", "Free: not included; Plus: 2025"),
        ("<td><input type=checkbox><td><input type=radio checked disabled>", "Free: no; Plus: yes"),
        ("<td><i class=no title='not included'></i><td><svg aria-label=meat><path/></svg>", "Free: not included; Plus: meat"),
        ("<td><i title=Yes aria-hidden=true></i><td><i title=a></i><i title=b></i>", "Free: Yes; Plus: a, b"),
        # What is shown without words is not left out as if nothing were.
        ("<td><img src=a><td><svg><path/></svg>", "Free: ?; Plus: ?"),
        ("<td><i class=yes></i><td><span class=a><b class=b>5</b></span>", "Free: ?; Plus: 5"),
        ("<td><i></i><span hidden class=a></span><s><img></s><td><input><button><img></button>", "Plus: ?"),
    ],
)
def test_what_is_shown_in_a_cell_without_text_is_told(tmp_path: Path, cells: str, said_of_them: str) -> None:
    page = f"<table><tr><th><th>Plan<th>Free<th>Plus<tr><td><input type=checkbox><td>Offline{cells}</table>"
    assert said(tmp_path, page) == f"Plan: Offline; {said_of_them}"


def test_cells_left_blank_for_those_above_them_are_told(tmp_path: Path) -> None:
    rows = ["Yoga", "Mon", "18"], ["&nbsp;", "Tue", "19"], ["Dance", "Mon", "20"], ["", "Fri", "21"]
    head, *body = ("".join(f"<td>{cell}" for cell in row) for row in (["<th>Course<th>Day<th>Time"], *rows))
    page = f"<table><tr>{head.removeprefix('<td>')}" + "".join(f"<tr>{row}" for row in body)
    told = (
        "Course: Yoga; Day: Mon; Time: 18",
        "Course: Yoga; Day: Tue; Time: 19",
        "Course: Dance; Day: Mon; Time: 20",
        "Course: Dance; Day: Fri; Time: 21",
    )
    assert said(tmp_path, f"{page}</table>After.") == "\n\n".join([*told, "After."])
    assert said(tmp_path, f"{page}<tr><td colspan=2>From May<td>5</table>").split("\n\n")[1] == "Day: Tue; Time: 19"
    assert said(tmp_path, f"{page}<tr><td colspan=3>From May</table>").split("\n\n")[1] == "Day: Tue; Time: 19"
