from __future__ import annotations

import time
from pathlib import Path

import pytest

from mdsa_local.knowledge.loaders.html import read


def said(folder: Path, page: str) -> list[str]:
    (folder / "page.html").write_text(page)
    return [line for section in read(folder / "page.html") for line in section.text.splitlines() if line]


@pytest.mark.parametrize(
    ("chrome", "kept"),
    [
        ("<nav><ul><li>Home<li>Prices</ul></nav>", []),
        ("<div role='Navigation'><div>Home</div><p>Prices</div>", []),
        ("<form role=search><p>Search</form>", []),
        ("<header><a href=/>Shop</a> since 1990</header>", []),
        ("<header><h1>Boilers</h1><nav>Home</nav><p>By Tom</header>", ["By Tom"]),
        ("<div role=banner><p>Shop</div>", []),
        ("<header><h2>Shop</h2><p>since 1990</header>", []),
        ("<section><header><h2>Part</h2><p>of all</header></section>", ["of all"]),
        ("<article><header><p>By Tom</header>Body<footer>Checked in May</footer></article>", ["By Tom", "Body", "Checked in May"]),
        ("<blockquote>Said<footer>Tom</footer></blockquote>", ["Said", "Tom"]),
        ("<main><p>Body<footer>All rights</footer></main>", ["Body"]),
        ("<aside>Read also</aside>", []),
        ("<aside role=note>Take care</aside>", ["Take care"]),
        ("<div id=CookieBar><div>We bake</div><button>OK</button></div>", []),
        ("<div class='x consent-box'>We ask</div><section class=cookies>We bake</section>", []),
        ("<section id=cookies><h2 id=cookies-2>Cookies</h2>Bake them</section>", ["Bake them"]),
        ("<main><div class=cookie-recipe>Bake them</div></main>", ["Bake them"]),
        ("<div hidden>no</div><div aria-hidden=true>no</div>", []),
        ("<ul><li><a href=a>Home</a><li><a href=b><b>Prices</b></a> |</ul>", []),
        ("<ul><li><a href=a>Home</a><ul><li><a href=b>One</a></li><li><a href=c>Two</a></li></ul></li><li><a href=d>Prices</a></li></ul>", []),
        ("<ul><li><a href=a>Home</a>: begin<li><a href=b>Prices</a></ul>", ["- Home: begin", "- Prices"]),
        ("<ul><li><a href=a>Home</a><li>Prices</ul>", ["- Home", "- Prices"]),
        ("<ul><li><a href=a>The form</a></ul>", ["- The form"]),
        ("<ul><li><a href=' TEL:+4930123'>030 123</a><li><a href=mailto:a@b.example>a@b.example</a></ul>", ["- 030 123", "- a@b.example"]),
        ("<ul><li><a href=a>The form</a><li><a href=mailto:a@b.example>a@b.example</a></ul>", ["- The form", "- a@b.example"]),
        # Nobody knows where it ends.
        ("<nav>Home<p>Prices", ["Home", "Prices"]),
        ("<div><nav>Home</div><p>Prices", ["Home", "Prices"]),
    ],
)
def test_what_is_no_content_is_left_out(tmp_path: Path, chrome: str, kept: list[str]) -> None:
    assert said(tmp_path, f"<body class=cookies-on><p>Before</p>{chrome}") == ["Before", *kept]
    if "Nobody" not in chrome and not chrome.endswith("Prices"):
        assert said(tmp_path, f"<p>Before</p>{chrome}<p>After</p>") == ["Before", *kept, "After"]


@pytest.mark.parametrize(
    ("page", "kept"),
    [
        ("<nav>Home</nav><ul><li><a href=a>One</a><li><a href=b>Two</a></ul>", ["- One", "- Two"]),
        ("<nav>Home</nav><footer>Prices</footer>", ["Home", "Prices"]),
        ("<div class=cookie-page>All of it</div>", ["All of it"]),
    ],
)
def test_unless_that_would_leave_nothing(tmp_path: Path, page: str, kept: list[str]) -> None:
    assert said(tmp_path, page) == kept


def test_no_nesting_takes_long(tmp_path: Path) -> None:
    began = time.monotonic()
    assert said(tmp_path, "<ul><li><div class=cookie>" * 20_000 + "<p>Text.")[-1].endswith("- Text.")
    assert time.monotonic() - began < 20
