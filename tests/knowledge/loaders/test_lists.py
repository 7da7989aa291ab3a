from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from mdsa_local.knowledge.loaders.html import read


def text(folder: Path, page: str) -> str:
    """What a page says, all sections after one another."""
    (folder / "page.html").write_text(page)
    return "".join(section.text for section in read(folder / "page.html")).rstrip("\n")


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<ol><li>Close<li>Drain<li>Open</ol>", "1. Close\n\n2. Drain\n\n3. Open"),
        ("<ol start=4><li>Close<li value=' 9 '>Drain<li>Open</ol>", "4. Close\n\n9. Drain\n\n10. Open"),
        ("<ol start=x><li value=1.5>Close<li value>Drain</ol>", "1. Close\n\n2. Drain"),
        (f"<ol start={'9' * 5000}><li>Close<li value=²>Drain</ol>", "1. Close\n\n2. Drain"),
        ("<ol start=3 reversed><li>c<li>b</ol><ol reversed><li>z<li value=1>y</ol>", "3. c\n\n2. b\n\n- z\n\n1. y"),
        # As a browser counts: what is not there is not counted, what is struck out is.
        ("<ol><li>Close<li hidden>Hit<li><del>Wait</del><li>Open</ol>", "1. Close\n\n3. Open"),
        ("<ol><li>a</ol><ul><li value=3>b</ul><ol><li>c</ol>", "1. a\n\n- b\n\n1. c"),
    ],
)
def test_items_of_a_numbered_list_have_their_numbers(tmp_path: Path, page: str, said: str) -> None:
    assert text(tmp_path, page) == said


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            "<ul><li>Fees<ul><li>small: 200 euros</li><li>big<ol><li>first</ol></li></ul>both are due</li><li>Time</ul>",
            "- Fees\n\n  - small: 200 euros\n\n  - big\n\n    1. first\n\n  both are due\n\n- Time",
        ),
        ("<ul><li>Fees</li><ul><li>small</li></ul><li>Time</ul>After", "- Fees\n\n  - small\n\n- Time\n\nAfter"),
        ("<menu><li>a<menu><li>b</menu></menu>", "- a\n\n  - b"),
        # What else an item has is told apart from what comes after the list.
        ("<ul><li><p>Take it off.</p><p>Do not smoke.</p></li></ul><p>Then call.", "- Take it off.\n\n  Do not smoke.\n\nThen call."),
        ("<ol><li>Type<pre>a\n  b</pre><li>Wait<br>a day</ol>", "1. Type\n\n  a\n    b\n\n2. Wait\n  a day"),
        ("<ul><li><pre> \n a\n\n  b</pre></ul>", "-  a\n\n    b"),
        ("<ul><li>Rates<table><tr><td>gold<td>5</table>a month</ul>", "- Rates\n\ngold | 5\n\n  a month"),
        ("<ul>Kinds<li>a</li>of all</ul>", "Kinds\n\n- a\n\nof all"),
        # A heading in a list has what is below it to itself.
        ("<ul><li>a<li><h2>B</h2><p>text</p><ul><li>b</ul><p>more</p><li>c<p>d</ul>", "- a\n\ntext\n\n- b\n\nmore\n\n- c\n\n  d"),
        # Ends that are left out, or are of nothing.
        ("<div><ul><li>a<ol><li>b</div><p>After", "- a\n\n  1. b\n\nAfter"),
        ("<ul><li>a<ol><li>b</ul><p>After", "- a\n\n  1. b\n\nAfter"),
        ("</ul></li></ol><ul></ol><li>a</div></dl><li>b</ul></ul>After", "- a\n\n- b\n\nAfter"),
        ("<li>a<p>b</li><li></li>c", "- a\n\nb\n\nc"),
        ("<ul><li><li><p></p><li>a</ul>", "- a"),
    ],
)
def test_lists_in_lists_and_blocks_in_items_are_indented(tmp_path: Path, page: str, said: str) -> None:
    assert text(tmp_path, page) == said


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<dl><dt>Wine</dt><dd>12 euros</dd><dt>Beer<dd>4 <b>euros</b></dl>", "Wine: 12 euros\n\nBeer: 4 euros"),
        ("<dl><dt>Wine<dt>Beer<dd>12 euros<dt>Tea<dd>hot<dd>cold</dl>", "Wine, Beer: 12 euros\n\nTea: hot\n\nTea: cold"),
        ("<dl><dt>Do you deliver?<dd>Yes.<dt>Price:<dd>5<dt>Why?<dt>How?<dd>So.</dl>", "Do you deliver? Yes.\n\nPrice: 5\n\nWhy? How? So."),
        ("<dl><div><dt><p>Wine</p></dt><dd><p>red</p><p>white</p></dd></div></dl><p>After", "Wine: red\n\nwhite\n\nAfter"),
        ("<dl><dt>Wines<dd><ul><li>red<li>white</ul><dt>Beer<dd><dl><dt>small<dd>3</dl></dl>", "Wines:\n\n- red\n\n- white\n\nBeer:\n\nsmall: 3"),
        ("<dl><dt>Sizes<dd><table><tr><td>S<td>3</table><dd><pre>a\n b</pre></dl>", "Sizes:\n\nS | 3\n\nSizes:\n\na\n b"),
        ("<ul><li><dl><dt>Wine<dd>12<dt>Beer<dd>4</dl></ul>", "- Wine: 12\n\n  Beer: 4"),
        # Nothing is said of a term that is not said of it.
        ("<dl><dt>Wine<dd></dd><dt>Beer<dd>4</dl>", "Wine\n\nBeer: 4"),
        ("<dl><dt>Wine<dd hidden>12<dt>Beer<dd>4<dt hidden>Tea<dd>3</dl>", "Wine\n\nBeer: 4\n\n3"),
        ("<dl><dt>Wine</dt>Prices<dd>12</dd>each<dd>3</dl><dd>4", "Wine\n\nPrices\n\n12\n\neach\n\n3\n\n4"),
        ("<div><dl><dt>Wine</div><p>After", "Wine\n\nAfter"),
        ("<dl><dt>Wine<h2>Head</h2><dd>12", "Wine\n\n12"),
        ("<dt>Wine<ul><li>a</ul>After", "Wine\n\n- a\n\nAfter"),
        (f"<dl><dt>{'long ' * 60}<dd>a<dd>b<dt>Tea<dd>c</dl>", f"{('long ' * 60).strip()}\n\na\n\nb\n\nTea: c"),
    ],
)
def test_terms_stand_before_what_is_said_of_them(tmp_path: Path, page: str, said: str) -> None:
    assert text(tmp_path, page) == said


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<p>It costs <del>20</del> <s>19</s> <strike>18</strike> 15 euros.</p>", "It costs 15 euros."),
        ("<p>One</p><del><p>Two</p><ul><li>three</ul></del><p>Four</p>", "One\n\nFour"),
        ("<ul><li>a <del>old<br>er</del><li><s>b <s>c</s> d</s></ul>", "- a"),
        ("<table><tr><td>Gold<td><del>7</del> 5<tr><td>Tin<td><s>3</s></table>", "Gold | 5\n\nTin |"),
        ("<p>It costs <span style='color: red; text-decoration: Line-Through red'>20 <span>or</span> 19</span> 15 euros.", "It costs 15 euros."),
        ("<p>It <b style=text-decoration-line:line-through>cost <br>20</b> costs <u style=text-decoration:underline>15</u>.", "It costs 15."),
        (
            "<p>It costs <b style='text-decoration:line-through;text-decoration:none'>15</b> <span style=text-decoration:line-through>or 20",
            "It costs 15 or 20",
        ),
        # Where it ends, other than where it began, and where nobody knows.
        ("<ul><li>a <del>b</ul></del><p>After", "- a\n\nAfter"),
        ("<div hidden>x <del>y</div>a</del> b <del><div hidden></del></div>c", "b\n\nc"),
        ("<p>a <del>b<p>c <del>d</del></s> e", "a b\n\nc e"),
    ],
)
def test_what_is_struck_out_is_left_out_of_its_paragraph(tmp_path: Path, page: str, said: str) -> None:
    assert text(tmp_path, page) == said


def test_a_heading_is_without_what_is_struck_out_in_it(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<h1>Fees <del>2023</del> 2024</h1><p>Five.<del><h2>Old</h2></del><p>Six.")
    assert {section.title for section in read(tmp_path / "a.html")} == {"Fees 2024"}


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("display:none", False),
        ("color: red; DISPLAY : None ;", False),
        ("display:none !important", False),
        ("visibility:\n hidden!IMPORTANT", False),
        ("/* x; */display:/**/none", False),
        ("display:block; display:none", False),
        ("display:none!important; display:block", False),
        ("display:none; display:block", True),
        ("--display:none", True),
        ("display:inline /* display:none", True),
        ("content:'display'; none", True),
        ("", True),
    ],
)
def test_a_style_may_hide(tmp_path: Path, style: str, shown: bool) -> None:
    page = f"""<p>Before</p><div style="{style}"><p>x</p></div><p>Half <span style="{style}">y</span> a line</p>
    <table><tr><td>1<td style="{style}">2</td><td>3</table><nav style="{style}">Home</nav><p>After"""
    half, row = ("x\n\nHalf y a line", "1 | 2 | 3") if shown else ("Half a line", "1 | 3")
    assert text(tmp_path, page) == f"Before\n\n{half}\n\n{row}\n\nAfter"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("<ol><li>x<li>y</ol>", "- x\n\n- y"),
        ("<ul><li>x<ul><li>y</ul></ul>", "- x\n\n- y"),
        ("<ul><li>x<p>y", "- x\n\ny"),
        ("<dl><dt>x<dd>y</dl>", "x\n\ny"),
    ],
)
def test_in_a_cell_lists_are_told_as_they_stand(tmp_path: Path, cell: str, said: str) -> None:
    page = f"<ul><li>Plan<table><tr><td>a<td>b<tr><td>{cell}</table></ul><p>After"
    assert text(tmp_path, page) == f"- Plan\n\na | b\n\n{said}\n\nAfter"


PARTS = (
    "<ul> </ul> <ol> <ol+start=3> </ol> <menu> </menu> <li> <li+value=7> <li+hidden> </li> <dl> </dl> <dt> <dt+hidden> </dt> <dd> <dd+hidden> </dd> "
    "<del> </del> <s> </s> <table> </table> <tr> </tr> <td> </td> <th> <div> </div> <p> </p> <pre> </pre> <h2> </h2> <br> <title> </title> <nav> "
    "</nav> <span+style=display:none> </span> <section+hidden> </section> <del/> <"
).split()


@pytest.mark.parametrize("seed", range(20))
def test_no_page_is_too_badly_made(tmp_path: Path, seed: int) -> None:
    made = random.Random(seed)
    for _ in range(50):
        words = [f"word{n}" for n in range(15)]
        page = " ".join(part for word in words for part in [*(made.choice(PARTS).replace("+", " ") for _ in range(3)), word])
        said = text(tmp_path, page)
        found = [word for word in said.replace(":", " ").replace(",", " ").split() if word.startswith("word")]
        assert all(found.count(word) <= 1 or "<dd" in page for word in words), page
        assert not [line for line in said.splitlines() if line.strip() in ("-", "1.")], page


def test_all_text_is_kept_however_lists_are_nested(tmp_path: Path) -> None:
    made = random.Random(5)
    left_out = ("hidden", "none", "nav", "del", "<s>", "title", "h2")
    shown = [part for part in PARTS if part != "<" and not any(of in part for of in left_out)]
    for _ in range(500):
        words = [f"word{n}" for n in range(15)]
        page = " ".join(part for word in words for part in [*(made.choice(shown).replace("+", " ") for _ in range(3)), word])
        said = text(tmp_path, page).replace(":", " ").replace(",", " ").replace(";", " ").split()
        assert not [word for word in words if word not in said], page


PIECES = ["<ol><li>x<br>y", "<ul><li><h2>x</h2>y", "<dl><dt>x<dd>", "<dt>x", "<del>x", "<pre> \n", "<div><ul><li>x</ol>"]


@pytest.mark.parametrize("piece", PIECES)
def test_no_list_takes_long_or_much(tmp_path: Path, piece: str) -> None:
    began = time.process_time()
    said = text(tmp_path, piece * 8_000 + "</ul></del></dl></div>" * 8_000)
    assert len(said) < 50 * 8_000
    assert time.process_time() - began < 15


def test_an_item_with_more_digits_has_a_dash(tmp_path: Path) -> None:
    assert text(tmp_path, "<p>Not insured:</p><ol start=99><li>Tyres</li><li>Fire</li></ol>") == "Not insured:\n\n99. Tyres\n\n- Fire"
