from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mdsa_local.domains import asking, prompts, quoting
from mdsa_local.domains.config import DomainConfig, Generation
from mdsa_local.domains.prompts import NOT_FOUND
from mdsa_local.domains.quoting import Extract
from mdsa_local.domains.units import quotable
from mdsa_local.domains.units import units as units_of
from mdsa_local.errors import ConfigError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing.encoder import Encoder
from mdsa_local.runtime.backend import Message
from mdsa_local.settings import shipped
from mdsa_local.types import Passage, Turn
from mdsa_local.validation import facts, grounding
from mdsa_local.validation.judge import Weighing

FEES = "A replacement card costs $5. Say \"lost\" or 'stolen'.\nCards arrive in 4 days."
STEPS = "1. Open the app.\n2. Tap Cards. Wait a moment.\n3. Choose Freeze.\n\nA frozen card refuses every payment."


def test_a_list_of_steps_is_quoted_as_a_whole() -> None:
    assert units_of(STEPS) == ["1. Open the app.\n2. Tap Cards. Wait a moment.\n3. Choose Freeze.", "A frozen card refuses every payment."]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        # What stands deeper, on the next line, or before the step with the next number.
        ("1. Take the hose off.\n\n   Do not smoke.\n2. Open it.\n\n   Wait.\n\nIt is clean.", 1),
        ("1. Take it off.\nDo not smoke.\n2. Open it.\n\nIt is clean.", 1),
        ("1. Choose Cancel.\n\nNever choose Change. It cannot be undone.\n\n2. Confirm.\n\nWe refund you.", 1),
        ("1. Choose a size:\n   - small\n   - large\n2. Confirm.\n\nWe send it.", 1),
        # Another list, and code, are not of them.
        ("1. Open it.\n\nTo close it:\n\n1. Turn it.\n2. Wait.", 2),
        ("1. Write:\n\n```\nstart\n```\n\n2. Wait.", 2),
        ("To open it:\n1. Press it.\n2. Wait.\nTo close it:\n1. Turn it.\n2. Wait.", 2),
        ("1. Press it.\n2. Wait.\n\n**Close it**\n\n1. Turn it.", 2),
        # Nor are sections with a number.
        ("1. Scope\n\nThe terms hold.\n\n2. Deposit\n\nIt is $40.\n\n3. End\n\nYou may cancel.", 3),
    ],
)
def test_what_stands_between_steps_is_quoted_with_them(text: str, steps: int) -> None:
    found = [unit for unit in units_of(text) if re.search(r"^\d\. ", unit, re.MULTILINE)]
    assert len(found) == steps
    if steps == 1:
        assert text.startswith(found[0]) and text[len(found[0]) :].count("\n\n") == 1


def test_a_record_is_quoted_with_what_it_tells_of() -> None:
    rye, loaf = "Name: Rye; About: Dark. Contains gluten. Keeps.; Price: 4.20", "Name: Loaf; About: White. No gluten.; Price: 5"
    assert units_of(f"{rye}\n{loaf}\n\nNote: we bake daily. Come early.") == [rye, loaf, "Note: we bake daily.", "Come early."]
    assert Extract(0, rye).columns == {"Name", "About", "Price"}
    assert units_of("Open: Monday 9 to 5; Saturday: 10 to 2. Closed on Sunday. We swim.") == [
        "Open: Monday 9 to 5; Saturday: 10 to 2.",
        "Closed on Sunday.",
        "We swim.",
    ]


def test_what_goes_on_behind_a_long_line_is_quoted_in_one_line() -> None:
    lines = ["Children under ten years may be in the water without a grown-up only on", "Saturdays.", "The sauna is open."]
    assert units_of("\n".join(lines)) == [" ".join(lines[:2]), lines[2]]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("*Serves 4. Takes 50 minutes. Vegan.* Good.", ["Serves 4.", "Takes 50 minutes.", "Vegan.", "Good."]),
        ("It is **hot. Do not touch it**, ever. **Wait.**", ["It is **hot.", "Do not touch it**, ever.", "**Wait.**"]),
        ("- __Keep dry.\n  Keep cool.__\n- ***Rest.***", ["- Keep dry.", "Keep cool.", "- ***Rest.***"]),
        # Of a footnote, a product, a name and code.
        (
            "It is $5.*\n\n*Only today.\n\n3 * 4. Use __init__. Use\\_x. Now_",
            ["It is $5.*", "*Only today.", "3 * 4.", "Use __init__.", "Use\\_x.", "Now_"],
        ),
        ("```\n*a. B.*\n```", ["*a. B.*"]),
    ],
)
def test_no_half_of_emphasis_is_quoted_at_the_ends(text: str, units: list[str]) -> None:
    assert units_of(text) == units


def test_a_comment_is_not_quoted() -> None:
    assert units_of("It costs 5 euros.\n\n<!-- It is free for staff. Hush. -->\n\nIt takes a day.") == ["It costs 5 euros.", "It takes a day."]


def test_what_is_struck_through_is_not_quoted() -> None:
    text = "Adults take ~~two\ntablets~~ one. It is ~5 a day.\n\n~~It is free. Call us.~~\n\n[//]: # (It was $5. Hush.)\n\nThe end."
    assert units_of(text) == ["It is ~5 a day.", "The end."]
    assert units_of("| a | b |\n|---|---|\n| 1 | ~~2~~ |\n| 3 | 4 |") == ["| a | b |\n| 3 | 4 |"]
    assert units_of("~~~sh\necho a ~~b~~\n~~~") == ["echo a ~~b~~"]


def test_a_footnote_is_quoted_with_what_it_is_of() -> None:
    text = "It is free[^1]. Bags are blue. Returns cost $10[^b].\n\n[^1]: Only above $50.\n[^b]: Free for members,\n  and staff.\n[^c]: None."
    assert units_of(text) == [
        "It is free[^1].\n[^1]: Only above $50.",
        "Bags are blue.",
        "Returns cost $10[^b].\n[^b]: Free for members,\n  and staff.",
        "[^c]: None.",
    ]


def test_a_short_block_of_code_is_quoted_whole_below_what_leads_it_in() -> None:
    code = "```sh\nrun \\\n  --dry [1]\n```"
    assert units_of(f"To start it:\n\n{code}\n\nWait.") == [f"To start it:\n{code}", "Wait."]
    assert units_of(f"It is so.\n\n{code}") == ["It is so.", code]
    assert units_of("Never run this:\n\n```sql\nDROP x;\n```") == ["Never run this:\nDROP x;"]
    lines = [f"DROP x{n};" for n in range(13)]
    assert units_of("\n".join(["Never run this:", "```", *lines, "```"])) == [f"Never run this:\n{line}" for line in lines]
    assert units_of("\n".join(["Run this:", "```", *lines])) == [f"Run this:\n{lines[0]}", *lines[1:]]
    unit = quotable(f"To start it:\n\n{code}")[0]
    assert unit.readings == ["To start it:\nrun \\\n  --dry [1]", "run \\", "  --dry [1]"]
    assert Extract(1, unit.text, above=unit.above).quoted == f"To start it:\n{code}\n[2]"


NEVER = "Never do the following:\n\n- Wash the tent in a machine.\n- Use bleach on the fabric. It is harsh.\n- Store the tent wet.\n\nDry it well."


@pytest.mark.parametrize(
    ("text", "units"),
    [
        (
            NEVER,
            [
                "Never do the following:\n- Wash the tent in a machine.",
                "Never do the following:\n- Use bleach on the fabric. It is harsh.",
                "Never do the following:\n- Store the tent wet.",
                "Dry it well.",
            ],
        ),
        # What denies leads in without a colon, and stays a sentence of its own.
        (
            "We do not pay for these.\n* Taxis\n* Fines",
            ["We do not pay for these.", "We do not pay for these.\n* Taxis", "We do not pay for these.\n* Fines"],
        ),
        ("We do not pay\n- for taxis\n- for fines", ["We do not pay\n- for taxis", "We do not pay\n- for fines"]),
        ("Not open\n\n- Sundays", ["Not open", "Not open\n- Sundays"]),
        ("Two ways are open.\n- By train.\n- By bus.", ["Two ways are open.", "- By train.", "- By bus."]),
        ("It never costs more.\n\n1. Open it.\n2. Close it.", ["It never costs more.", "1. Open it.\n2. Close it."]),
        ("Never:\n1. Iron it.\n2. Bleach it.\n\nFine.", ["Never:\n1. Iron it.\n2. Bleach it.", "Fine."]),
        (
            "**Never put on**\nthe tent:\n- liquids:\n  - bleach\n  - oil\n- heat\n\n- wax",
            [
                "**Never put on** the tent:\n- liquids:\n- bleach",
                "**Never put on** the tent:\n- liquids:\n- oil",
                "**Never put on** the tent:\n- heat",
                "**Never put on** the tent:\n- wax",
            ],
        ),
        # Items without a mark, or with another.
        ("Not covered:\nDamage by pets\nTheft\nCovered:\nFire", [f"Not covered:\n{x}" for x in ("Damage by pets", "Theft")] + ["Covered:\nFire"]),
        ("It does not pay for:\n– Teeth\n– Glasses", ["It does not pay for:\n– Teeth", "It does not pay for:\n– Glasses"]),
        ("Hours:\nWe open at ten.", ["We open at ten."]),
        ("Not free:\n- Towels\nThe kitchen closes at 10", ["Not free:\n- Towels", "The kitchen closes at 10"]),
        ("- Not free:\nTowels\nParking", ["- Not free:\nTowels", "- Not free:\nParking"]),
        ("Free:\n1. Breakfast\n2. Wi-Fi\nNot free:\n- Towels", ["Free:\n1. Breakfast\n2. Wi-Fi", "Not free:\n- Towels"]),
        # An item below another tells of that.
        ("- Cars\n  - small: 9\n- Bikes\n  - small: 3", ["- Cars", "- Cars\n- small: 9", "- Bikes", "- Bikes\n- small: 3"]),
        ("> We do not\n> pay.\n\n- Taxis", ["> We do not\n> pay.", "- Taxis"]),
        ("> We do not pay:\n> - Taxis", ["> We do not pay:\n> - Taxis"]),
        # A line in bold stands over it.
        ("Not here:\n- Fires\n**Allowed**\n- Dogs", ["Not here:\n- Fires", "**Allowed**", "**Allowed**\n- Dogs"]),
        # Steps behind items are of another list, but for what an item leads in; so are items behind steps, but not those between two.
        ("Never:\n- Iron it.\n- Bleach it.\n\n1. Wash it.\n2. Dry it.", ["Never:\n- Iron it.", "Never:\n- Bleach it.", "1. Wash it.\n2. Dry it."]),
        ("Never:\n- if damp:\n1. Iron it.\n2. Fold it.", ["Never:\n1. Iron it.\n2. Fold it."]),
        ("Never:\n1. Iron it.\n- hot\n- damp\n2. Bleach it.\n- Keep it.", ["Never:\n1. Iron it.\n- hot\n- damp\n2. Bleach it.", "- Keep it."]),
        # The next paragraph, and code, are no list.
        ("Never:\n- Iron it.\n\nNow wash.\n- By hand.", ["Never:\n- Iron it.", "Now wash.", "- By hand."]),
        ("```yaml\nsteps:\n- run: x\n```", ["```yaml\nsteps:\n- run: x\n```"]),
        ("Note: it floats.\nThe price is as follows:", ["Note: it floats."]),
    ],
)
def test_an_item_is_quoted_below_what_leads_it_in(text: str, units: list[str]) -> None:
    assert units_of(text) == units


def test_a_row_is_quoted_below_the_caption_of_its_table() -> None:
    table = "| City | Limit |\n|---|---|\n| Berlin | 135 |\n| Bonn | 120 |"
    for caption in ("Hotel limits per night:", "**Hotel limits**", "Table 2: Hotel limits"):
        rows = [unit for unit in quotable(f"We pay for hotels.\n\n{caption}\n\n{table}") if unit.above]
        assert [unit.text for unit in rows] == [f"{caption}\n| City | Limit |\n| {row} |" for row in ("Berlin | 135", "Bonn | 120")]
        extracts = [Extract(0, unit.text, above=unit.above) for unit in rows]
        assert {extract.heading for extract in extracts} == {f"{caption}\n| City | Limit |"}
        assert all(extract.columns == {"| City | Limit |"} for extract in extracts)
        grammar = quoting.constraints(extracts)["grammar"]
        assert "| Bonn | 120 | [1]" in grammar
    # What stands before it otherwise is no caption.
    assert units_of(f"We pay for hotels.\n\n{table}")[1] == "| City | Limit |\n| Berlin | 135 |"


def test_clauses_are_quoted_below_their_chapter() -> None:
    text = "2. Secrecy\n2.1 Each party keeps it.\n2.2 It lasts for five years.\n3. Rivals\n3.1 It lasts for nine months.\n§ 4 Fees\n4.1 None."
    assert units_of(text) == [
        *(f"2. Secrecy\n{clause}" for clause in ("2.1 Each party keeps it.", "2.2 It lasts for five years.")),
        "3. Rivals\n3.1 It lasts for nine months.",
        "§ 4 Fees\n4.1 None.",
    ]
    assert units_of("IV. Deposit\nA hundred euros are due.") == ["IV. Deposit\nA hundred euros are due."]


@pytest.mark.parametrize("greeting", ["Hi all,", "Dear Ms Berg,", "Sehr geehrte Frau Berg,"])
@pytest.mark.parametrize("closing", ["Best\nTomke", "Kind regards,\nTomke Lind\nOffice", "Cheers, Tomke", "Mit freundlichen Grüßen\nTomke"])
def test_greetings_and_closings_are_not_quoted(greeting: str, closing: str) -> None:
    assert units_of(f"{greeting}\n\nThe hall is closed on Friday.\n\n{closing}\n") == ["The hall is closed on Friday."]
    assert units_of(f"{closing.split()[0]} of all are dogs.\n\n{greeting} we are open.") != []


def test_what_has_a_line_with_a_number_over_it_is_quoted_below_that() -> None:
    text = "2. STORAGE\nKeep it dry. Do not freeze it.\nNot beside\n- gas\n- oil\n§ 3 Fees\n(1) None.\n\nThe end."
    assert [(unit.above, unit.own) for unit in quotable(text)] == [
        ("2. STORAGE", "Keep it dry."),
        ("2. STORAGE", "Do not freeze it."),
        ("Not beside", "- gas"),
        ("Not beside", "- oil"),
        ("§ 3 Fees", "(1) None."),
        ("", "The end."),
    ]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Can I cancel after the trial ends? No. It runs on.", ["Can I cancel after the trial ends? No. It runs on."]),
        ("**How long does shipping take?** 3 to 5 days.\n\nIs it free?", ["**How long does shipping take?** 3 to 5 days."]),
        ("Q: Who pays?\nA: The company pays. Always.", ["Q: Who pays?\nA: The company pays.", "Always."]),
        ("**Who pays?**\n\nThe company.", ["**Who pays?**\n\nThe company."]),
        # A bare "Yes" may be taken back by what is behind it.
        ("**Is it free?**\nYes. Below $5 you pay. Call us.", ["**Is it free?**\nYes. Below $5 you pay.", "Call us."]),
        ("Is it free?\n\n**No.** You pay.\n\nYes.\n\nCall us.", ["Is it free?\n\n**No.** You pay.", "Yes.", "Call us."]),
        ("Yes. Below $5 you pay. Call us.", ["Yes. Below $5 you pay.", "Call us."]),
        ("- Is it free? No. Pay us. Wait.\n- No. Why?", ["- Is it free? No. Pay us.", "Wait.", "- No."]),
        ("“Who pays?” The company.", ["“Who pays?” The company."]),
        ("Lost it? Stolen? Call us. We help.", ["Lost it? Stolen? Call us.", "We help."]),
        ("It stopped. Why? It ran dry. Fill it.", ["It stopped.", "Why? It ran dry.", "Fill it."]),
        ("1. Can I cancel? No.\n2. Who pays? The company.", ["1. Can I cancel? No.", "2. Who pays? The company."]),
        ("1. Is it red? Press it.\n2. Hold it.", ["1. Is it red? Press it.\n2. Hold it."]),
        ("- Can I cancel?\n  No.\n- Who pays?\n  We do.", ["- Can I cancel?\n  No.", "- Who pays?\n  We do."]),
        ("What is forbidden?\n- Bleach.\n- Heat.", ["What is forbidden?\n- Bleach.", "What is forbidden?\n- Heat."]),
        ("Look at it:\n- Is it dry?\n- Is it clean?", ["Look at it:\n- Is it dry?", "Look at it:\n- Is it clean?"]),
        ("- Is it dry?\n- Is it clean?", []),
        ("How do I start it?\n\n```sh\nMDSA=1 start\nstop\n```", ["How do I start it?\n```sh\nMDSA=1 start\nstop\n```"]),
        ("What is it?\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nThen.", ["| a | b |\n| 1 | 2 |", "Then."]),
        ("<details><summary>Who pays?</summary>\n\nThe firm.\n</details>", ["<details><summary>Who pays?</summary>\n\nThe firm."]),
        ('Press 1 to hear "Who is it?"', ['Press 1 to hear "Who is it?"']),
    ],
)
def test_a_question_is_quoted_with_what_follows_it(text: str, units: list[str]) -> None:
    assert units_of(text) == units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Trials have 5. Paid ones have 50. They can export.", ["Trials have 5.", "Paid ones have 50. They can export."]),
        ("Diving is allowed. Exception: the shallow pool.", ["Diving is allowed. Exception: the shallow pool."]),
        ("It can be hired any day. The only exception is Sunday.", ["It can be hired any day. The only exception is Sunday."]),
        ("Dogs may not swim. In July they rest. Cats may.", ["Dogs may not swim.", "In July they rest. Cats may."]),
        ("Smoke outside. Inside you must not.", ["Smoke outside. Inside you must not."]),
        ("All pay a deposit. Local clubs are exempt.", ["All pay a deposit. Local clubs are exempt."]),
        ("In July other hours apply. The sauna then opens at 17:00.", ["In July other hours apply. The sauna then opens at 17:00."]),
        ("Use the pool at\nany time.\nThis does not apply on Mondays.", ["Use the pool at\nany time.\nThis does not apply on Mondays."]),
        ("- Books are lent. They last.\n- Games. These cost.", ["- Books are lent. They last.", "- Games. These cost."]),
        ("Cancel seven days before. After that we keep half.", ["Cancel seven days before. After that we keep half."]),
        ("Faults are repaired. If that is not possible, you get another.", ["Faults are repaired. If that is not possible, you get another."]),
        ("The owner fetches it. You pay $9 for that.", ["The owner fetches it. You pay $9 for that."]),
        ("Books are lent. After that book we close.", ["Books are lent.", "After that book we close."]),
        # What a line is about is said at its beginning, where others have that too.
        (
            "Adults: 10 ml. Not more than\n40 ml. Rest.\n**Children:** 5 ml. No more.\n\nOld people: ask us. Wait.\nCall us.",
            ["Adults: 10 ml. Not more than\n40 ml. Rest.", "**Children:** 5 ml. No more.", "Old people: ask us. Wait.", "Call us."],
        ),
        ("- Express: $9. Takes a day.\n- Standard: $5. Takes five.", ["- Express: $9. Takes a day.", "- Standard: $5. Takes five."]),
        (
            "Term: to June. Break: in May. No lunch.\nTerm: to July. Break: in June.",
            ["Term: to June.", "Break: in May. No lunch.", "Term: to July.", "Break: in June."],
        ),
        (f"A: It is. {'It has ' * 30}end.\nB: Yes.", ["A: It is.", f"{'It has ' * 30}end.", "B: Yes."]),
        ("Note: we bake. Come early.\nWe rest.\nTip: eat. Rest.", ["Note: we bake.", "Come early.", "We rest.", "Tip: eat.", "Rest."]),
        # Neither the next paragraph nor what speaks for itself.
        ("Books are lent.\n\nThey last.", ["Books are lent.", "They last."]),
        ("Pay now. It is important to pay. This policy is ours.", ["Pay now.", "It is important to pay.", "This policy is ours."]),
        ("Books are lent. Then they go. But it rains.", ["Books are lent. Then they go.", "But it rains."]),
        (f"{'A word. ' * 20}{'It has ' * 25}end.", [*["A word."] * 19, f"A word. {'It has ' * 25}end."]),
        (f"A word. {'It has ' * 30}end.", ["A word.", f"{'It has ' * 30}end."]),
    ],
)
def test_a_sentence_that_goes_on_is_quoted_with_the_one_before_it(text: str, units: list[str]) -> None:
    assert units_of(text) == units


@pytest.mark.parametrize(
    ("title", "text", "section"),
    [
        ("Summer > Cancelled", "- Flea market", "Cancelled"),
        ("Changes > 3.2.0 (2024-02-20) > Removed", "- Windows 7", "3.2.0 (2024-02-20) > Removed"),
        ("Lease > 4. Rooms > Kitchen", "- Oven", "Kitchen"),
        ("Summer > Cancelled", "| Flea market | 7 May |", "Cancelled"),
        ("Summer > Cancelled", "Flea market, 7 June.", "Cancelled"),
        # A sentence, the document's title alone, a page; what another line leads in.
        ("Summer > Cancelled", "The flea market is on 7 May.", ""),
        ("Summer > Suspended", "Bicycles must be pushed.", ""),
        ("Summer", "- Flea market", ""),
        ("Summer > page 3", "- Flea market", ""),
        ("Summer > page 3 > Cancelled", "- Flea market", "Cancelled"),
        ("Summer > Cancelled [1]", "- Flea market", ""),
        ("Summer > Cancelled", "These:\n- Flea market", ""),
    ],
)
def test_what_nothing_leads_in_is_quoted_below_its_heading(title: str, text: str, section: str) -> None:
    text = f"| What | When |\n|---|---|\n{text}" if text.startswith("|") else text
    assert quotable(text)[-1].section(title) == section


def test_what_a_heading_denies_is_quoted_below_it(encoder: Encoder) -> None:
    rows = "| Cost | Note |\n|---|---|\n| Ferry | any |"
    passages = [("Travel > Not reimbursed", "- Taxis.\n- Fines."), ("Travel > Reimbursed", "- Trains.\n- Hotels."), ("Travel > Exclusions", rows)]
    found = {unit.own: unit for unit in quoting.shortlist("are taxis reimbursed?", passages, encoder.encode, 9)}
    assert found["- Taxis."].quoted == "Not reimbursed:\n- Taxis. [1]"
    assert found["- Trains."].quoted == "Reimbursed:\n- Trains. [2]"
    assert found["| Ferry | any |"].quoted == "Exclusions:\n| Cost | Note |\n| Ferry | any | [3]"
    assert found["- Taxis."].text == "- Taxis."
    # Sentences say themselves whether they deny.
    for title, text in (("Networks that do not work", "Hidden ones work."), ("Not reimbursed", "These we never pay:\n- Taxis.")):
        assert quotable(text)[0].section(title) == ""
    assert quotable("1. Call us.\n2. Wait.")[0].section("Not recognized > First steps") == ""
    assert quotable("1. Taxis.\n2. Fines.")[0].section("Costs > Not paid") == "Not paid"
    # What is no sentence says nothing, and a bare answer what was asked.
    assert quotable("Damage to tyres.")[0].section("Cars > Not insured") == "Not insured"
    for title, section in (("Faq > Do you deliver on Sundays?", "Do you deliver on Sundays?"), ("Faq > Deliveries", "")):
        assert [unit.section(title) for unit in quotable("No.\n\nNever. No, we rest. We rest on Sundays.")] == [section, section, section, ""]
    assert quotable("- Taxis.")[0].section("Not paid > In the city") == "Not paid"
    assert quotable("These:\n- Taxis.")[0].section("Why is it not paid?") == "Why is it not paid?"
    assert Extract(0, "- Taxis.", section="Why is it not paid?").quoted == "Why is it not paid?\n- Taxis. [1]"


def test_steps_that_are_not_all_stand_under_which_they_are(encoder: Encoder) -> None:
    text = "Wait for us.\n\n5. Call us.\n6. Sign it.\n\nThen.\n\n1. Another.\n2. List."
    title = "Claims > steps 5 to 6 of 9"
    found = {unit.own: unit for unit in quoting.shortlist("how do I claim?", [(title, text), ("Claims", text)], encoder.encode, 9)}
    assert found["Wait for us."].quoted == "Wait for us. [1]"
    assert found["5. Call us.\n6. Sign it."].quoted == "Steps 5 to 6 of 9:\n5. Call us.\n6. Sign it. [1]"
    some, other = quotable("5. Call us.\n6. Sign it.\n\nWait.\n\n1. Another.\n2. List.")[::2]
    assert (some.section(title), other.section(title)) == ("Steps 5 to 6 of 9", "")
    assert some.section("Claims > steps 4 to 6 of 2 to 9") == "Steps 4 to 6 of 2 to 9"
    assert some.section("Claims > Steps 5 to 6 of the ladder") == ""
    quoted = Extract(0, some.own, section=some.section("Not paid > step 6 of 6")).quoted
    assert quoted == "Step 6 of 6: Not paid:\n5. Call us.\n6. Sign it. [1]"
    passages = [Passage("claims.md#1", "claims.md", "x", "Not paid > steps 5 to 6 of 9", "5. Call us.\n6. Sign it.", 0, 1, 0.9)]
    for answer in (found["5. Call us.\n6. Sign it."].quoted, f"Steps 5 to 6 of 9: Not paid:\n{some.own} [1]"):
        assert all(claim.by is not None for claim in grounding.check(answer, passages, encoder.encode)), answer
    # What tells which they are is nothing that the document says.
    assert not all(claim.by is not None for claim in grounding.check("You have 9 days to call us. [1]", passages, encoder.encode))


DOINGS = (
    "Turn off the water at the main tap; turn off the electricity in rooms that are wet; take photographs of every damaged object; "
    "call our claims line within 48 hours; make a list of all that is damaged; throw nothing away before our assessor has come; "
    "ask two firms for written quotes for the repairs; send the quotes to us through the portal; sign the settlement within 30 days"
)
LONG = [f"{n}. {what.capitalize()}, and write down when you did so and who of you was there." for n, what in enumerate(DOINGS.split("; "), 1)]


def test_a_long_list_of_steps_is_read_in_parts_and_quoted_to_its_end(product: TinyBERTOrchestrator) -> None:
    (unit,) = quotable("\n".join(LONG))
    assert "\n".join(unit.readings) == unit.text and len(unit.readings) == 3
    assert quotable(STEPS)[0].readings == [quotable(STEPS)[0].text]
    domain = DomainConfig(name="garden")
    question, passages = "How many firms do I ask for written quotes?", [("Making a claim", unit.text), ("Fees", FEES)]
    best = quoting.shortlist(question, passages, product.encoder.encode, judge=product.judge)[0]
    assert best.text == unit.text and best.judged is not None and product.judge is not None
    # What the judge cannot read to its end it does not hold to answer.
    assert best.judged > product.judge.scores([(question, f"Making a claim: {unit.text}")])[0] + 1
    short = Extract(1, "Cards arrive in 4 days.")
    # What has room by the tokenizer may be written in twice as many tokens, what has none is cut off.
    for most, room in ((256, 256), (20, 30), (12, 12)):
        limited = domain.model_copy(update={"generation": domain.generation.model_copy(update={"max_tokens": most})})
        with product.manager.lease(product.manager._names.target("nano")) as nano:
            asked, other = (asking.asked(nano, True, limited, question, passages, product.encoder.encode, [one]) for one in (best, short))
        assert product.manager.generate("nano", list(asked.messages), asked.generation) == f"{unit.text} [1]"
        assert other.generation.max_tokens == room


def test_what_follows_a_list_and_is_not_of_it_is_set_apart() -> None:
    never = [Extract(0, f"Never:\n- {what}", score=1.0, above="Never:") for what in ("Iron it.", "Bleach it.")]
    other, prose = Extract(1, "- Wash it.", score=1.0), Extract(1, "Dry it.", score=1.0)
    first, second, third, *rules = quoting.constraints([*never, other])["grammar"].removeprefix("root ::= ").replace("\n", " | ").split(" | ")
    assert first == r'q0 "\n" r1 "\n\n" a2'
    assert second == r'q1 "\n" r0 "\n\n" a2'
    assert third == r'a2 "\n\n" q0 "\n" r1'
    assert {r'q0 ::= "Never:\n- Iron it. [1]"', r'r1 ::= "- Bleach it. [1]"', r'a2 ::= "Wash it. [2]"'} <= set(rules)
    assert quoting.constraints([never[0], prose])["grammar"].startswith(r'root ::= q0 "\n\n" q1 | q1 "\n\n" q0')
    # A heading that the next one does not stand under ends the list too.
    below = Extract(2, "- Taxis.", score=1.0, section="Not paid")
    assert quoting.constraints([never[0], below])["grammar"].startswith(r'root ::= q0 "\n\n" q1 | q1 "\n\n" q0')


def test_an_item_without_another_before_or_behind_it_has_no_mark_of_a_list() -> None:
    prose, item, other = (
        Extract(0, "A card is free.", score=1.0),
        Extract(0, "- Express adds $12.", score=1.0),
        Extract(1, "- A tube is free.", score=1.0),
    )
    first, second, *rules = quoting.constraints([prose, item])["grammar"].removeprefix("root ::= ").replace("\n", " | ").split(" | ")
    assert (first, second) == ('q0 " " a1', 'a1 " " q0')
    assert 'a1 ::= "Express adds $12. [1]"' in rules
    assert quoting.constraints([item, other])["grammar"].startswith(r'root ::= q0 "\n" q1 | q1 "\n" q0')
    assert quoting.constraints([item])["grammar"].startswith("root ::= a0\n")
    for extracts in ([item], [prose, item], [item, other]):
        begins = [text for text, _ in quoting.constraints(extracts)["choices"]]
        assert begins == [extract.quoted if len(extracts) == 2 and other in extracts else extract.quoted.removeprefix("- ") for extract in extracts]


def test_a_short_list_that_is_asked_for_is_quoted_whole(encoder: Encoder) -> None:
    listed = "Bring:\n  - a torch. Not a big one.\n  - boots\n\n  - a cup"
    passages = [("Trip", f"{listed}\n\n1. Go.\n2. Wait."), ("Fees", "A cup costs 2 euros.")]

    def found(asked: str, *odds: float, text: str = listed) -> list[str]:
        told = dict(zip(("- a torch.", "- boots", "- a cup"), odds, strict=False))
        judge = Told({(asked, f"Trip: Bring:\n{item}"): odd for item, odd in told.items()} | {(asked, "Fees: A cup costs 2 euros."): 1.0})
        units = quoting.shortlist(asked, [("Trip", text), passages[1]], encoder.encode, judge=judge)
        assert units[0].judged == max(odds)
        return [unit.own for unit in (units[0], *(units[at] for at in quoting.company(units, 0)))]

    whole = "- a torch. Not a big one.\n- boots\n- a cup"
    assert found("What do I bring?", 1.0, 3.0, text=passages[0][1]) == [whole]
    assert found("What do I need?", 1.0, 2.0, 1.0) == [whole]
    # One item answers, or what is asked is not what the list tells.
    assert found("Do I bring boots?", -3.0, 3.0) == ["- boots"]
    assert found("Do I need boots?", 2.5, 3.0) == ["- boots", "- a torch."]
    assert found("What do I not bring?", 2.5, 3.0) == ["- boots", "- a torch."]
    assert found("What do I bring?", 2.5, 3.0, text=f"{listed}{' and' * 60}") == ["- boots", "- a torch."]
    quoted = Extract(0, f"Bring:\n{whole}", above="Bring:").quoted
    assert quoted == f"Bring:\n{whole} [1]"
    trip = [Passage("trip.md#1", "trip.md", "x", "Trip", passages[0][1], 0, 1, 0.9)]
    assert all(claim.by == 0 and claim.cited == (1,) for claim in grounding.check(quoted, trip, encoder.encode))


def test_items_of_one_list_stand_in_its_order() -> None:
    items = [Extract(0, f"Bring:\n- {what}", score=1.0, above="Bring:", place=place) for what, place in (("boots", 3), ("a cup", 5), ("a torch", 2))]
    found = quoting.constraints(items)
    assert found["grammar"].splitlines()[0] == r'root ::= q2 "\n" r0 "\n" r1'
    assert [begin for begin, _ in found["choices"]] == [items[2].quoted]
    other = Extract(1, "Wait.", score=1.0)
    assert quoting.constraints([items[0], other, items[2]])["grammar"].startswith('root ::= q2 "\\n" r0 "\\n\\n" q1 | q1 "\\n\\n" q2 "\\n" r0\n')


def test_items_of_one_list_do_not_say_the_same_for_what_leads_them_in(encoder: Encoder) -> None:
    text = "To open an account for a company in another country you need:\n- Passport.\n- Lease."
    found = quoting.shortlist("what do I need to open an account", [("", text)], encoder.encode)
    assert sorted(unit.own for unit in found) == ["- Lease.", "- Passport."]


def test_units_are_substrings_in_order_and_leave_out_nothing() -> None:
    for path in (shipped("domains") / "finance" / "knowledge").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        found = units_of(text)
        at = 0
        for unit in found:
            at = text.index(unit, at) + len(unit)
        assert "".join("".join(found).split()) == "".join(text.split())


def test_the_shortlist_keeps_the_nearest_in_order(encoder: Encoder) -> None:
    assert quoting.shortlist("what does a new card cost?", [("Freeze a card", STEPS), ("Fees", FEES)], encoder.encode, 1) == [
        Extract(1, "A replacement card costs $5.")
    ]
    found = quoting.shortlist("how do i freeze my card", [("Fees", FEES), ("Freeze a card", STEPS)], encoder.encode)
    assert found[0].passage == 1
    assert len(found) == 5
    assert quoting.shortlist("x", [("", ""), ("", "")], encoder.encode) == []


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("A refund to another bank takes 3 business days.", "An approved refund to another bank takes 3 business days.", True),
        ("A refund to another bank takes 3 business days.", "An approved refund to another bank takes 4 business days.", False),
        ("The cuff is waterproof.", "The cuff is not waterproof.", False),
        ("Open Cards.", "Open Cards and choose Freeze to stop all payments.", False),
        ("Go.", "Stop.", False),
        ("It is so.", "It is so.", False),
    ],
)
def test_units_that_say_the_same(one: str, other: str, alike: bool) -> None:
    assert quoting.same(facts.read(one), facts.read(other)) is alike


def test_the_shortlist_says_nothing_twice(encoder: Encoder) -> None:
    said = "A replacement card costs $5."
    found = quoting.shortlist("what does a new card cost", [("Fees", said), ("Cards", said + " Cards arrive in 4 days.")], encoder.encode)
    assert sorted(extract.text for extract in found) == [said, "Cards arrive in 4 days."]


def test_of_several_questions_each_has_its_nearest(encoder: Encoder) -> None:
    passages = [("Freeze a card", STEPS), ("Fees", FEES)]
    asked = "how do I freeze my card, and what does a replacement card cost?"
    found = quoting.shortlist(asked, passages, encoder.encode)
    leading = [extract.text for extract in found if extract.leads]
    assert sorted(leading) == [STEPS.partition("\n\n")[0], "A replacement card costs $5."]
    said = {found[0].text, *(found[at].text for at in quoting.company(found, 0))}
    assert said >= set(leading)
    assert not any(extract.leads for extract in quoting.shortlist("how do I freeze my card", passages, encoder.encode))
    assert quoting.shortlist(asked, passages, encoder.encode, 1) == found[:1]


class Told:
    """A judge that says what it was given, by question and text; -9 to all else."""

    weighing = Weighing((0.0, 1.0, 0.0, 0.0), nearness=0.0, same=4.0, other=1.5, least=0.0, sure=0.5)

    def __init__(self, told: dict[tuple[str, str], float]) -> None:
        self.told = told

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        return [self.told.get(pair, -9.0) for pair in pairs]


def test_of_rows_those_with_a_number_of_the_question_gain(encoder: Encoder) -> None:
    rows = "| Line | Last |\n|---|---|\n| N5 | 4:00 |\n| 5 | 23:40 |\n| 7 | 23:50 |"
    asked = "When does the last bus of line 5 leave?"
    told = {(asked, f"Buses: {unit}"): odds for unit, odds in zip(units_of(rows), (3.0, 2.0, 3.5), strict=True)}
    found = quoting.shortlist(asked, [("Buses", rows)], encoder.encode, judge=Told(told))
    assert [(unit.own, unit.score, unit.judged) for unit in found] == [
        ("| 5 | 23:40 |", 4.0, 2.0),
        ("| 7 | 23:50 |", 3.5, 3.5),
        ("| N5 | 4:00 |", 3.0, 3.0),
    ]


def test_a_heading_with_a_number_of_the_question_tells_what_stands_under_it(encoder: Encoder) -> None:
    """Whatever a judge makes of it, which cannot tell one number from another."""
    above = "Notes on Kestrel > "
    passages = [(f"{above}4.1.2 > Fixed", "- Crash on start."), (f"{above}4.2.0 > Fixed", "- Slow search."), (f"{above}4.2.0 > Removed", "- Import.")]

    def found(asked: str) -> list[tuple[str, float | None, float]]:
        units = quoting.shortlist(asked, passages, encoder.encode, judge=Told({(asked, f"{above}4.1.2 > Fixed: - Crash on start."): -3.0}))
        return sorted(((unit.own, unit.judged, unit.score) for unit in units), key=lambda told: -told[2])

    for asked in ("What was fixed in 4.2.0?", "What's fixed in Kestrel version 4.2.0?", "Which slow search was fixed in 4.2.0?"):
        assert found(asked) == [("- Slow search.", 2.0, 4.0), ("- Crash on start.", -3.0, -3.0), ("- Import.", -9.0, -7.0)]
    for asked in ("What was never fixed in 4.2.0?", "What was fixed in 4.3.0?", "What fixed price has 4.2.0?", "When was 4.2.0 fixed?"):
        assert all(judged is not None and judged < 0 for _, judged, _ in found(asked)), asked


def test_what_a_message_quotes_counts_less_than_what_it_says(encoder: Encoder) -> None:
    asked, new, old = "When is the party?", "The party is on 22 June.", "> The party is on 15 June."
    passages = [("mail > quoted: On 3 May Peter wrote", old), ("mail", new)]
    told = {(asked, f"{passages[0][0]}: {old}"): 3.0, (asked, f"mail: {new}"): 1.5}
    found = quoting.shortlist(asked, passages, encoder.encode, judge=Told(told))
    assert [(unit.text, unit.score) for unit in found] == [(new, 1.5), (old, 1.0)]


@pytest.mark.parametrize(
    ("other", "odds", "whole", "leads", "judged"),
    [
        (1.9, 3.0, -1.0, True, -1.0),
        (1.9, 2.9, -1.0, False, -1.0),
        (1.9, 3.9, -9.0, False, -9.0),
        (1.9, 4.0, -9.0, True, 4.0),
        (1.9, 4.0, 4.5, True, 4.5),
        (2.0, 2.0, -9.0, True, 2.0),
        (2.0, 1.9, -9.0, False, -9.0),
    ],
)
def test_a_unit_leads_for_a_part_if_it_surely_answers_it_or_nearly_the_whole_or_others_the_rest(
    encoder: Encoder, other: float, odds: float, whole: float, leads: bool, judged: float
) -> None:
    first, second = "How do I freeze my card", "what does a replacement card cost"
    asked, freeze, costs = f"{first}, and {second}?", "Open the app and choose Freeze.", "A replacement card costs $5."
    parts = quoting.divided(asked)
    assert len(parts) == 2
    judge = Told({(asked, freeze): 5.0, (asked, costs): whole, (parts[0], freeze): other, (parts[1], costs): odds})
    found = quoting.shortlist(asked, [("", freeze), ("", costs)], encoder.encode, judge=judge)
    assert [(one.text, one.leads, one.judged) for one in found] == [(freeze, True, 5.0), (costs, leads, judged)]
    assert quoting.company(found, 0) == ([1] if leads or whole > 4 else [])


@pytest.mark.parametrize(
    ("question", "parts"),
    [
        ("How much is it? How long does it take?", ["How much is it", "How long does it take"]),
        (
            "my card was stolen: which number do I call, and when is support open",
            ["my card was stolen: which number do I call", "when is support open"],
        ),
        ("typed my pin wrong too often, how do i get it working again", []),
        ("What does it cost?", []),
        ("one thing and another, " * 9, []),
    ],
)
def test_parts_are_what_is_asked_not_what_happened_before(question: str, parts: list[str]) -> None:
    assert quoting.divided(question) == parts


def test_more_is_quoted_of_the_document_that_answers() -> None:
    told = [("a.md", 0, 5.0), ("a.md", 1, 2.0), ("b.md", 2, 4.0), ("b.md", 3, 3.0)]
    near = [Extract(passage, str(passage), score=score, beside=(4.0, 1.5), document=document) for document, passage, score in told]
    assert quoting.company(near, 0) == [1, 2]
    unknown = [replace(extract, document="") for extract in near]
    assert quoting.company(unknown, 0) == [2]


def test_a_row_is_quoted_beside_another_only_if_it_answers_as_well() -> None:
    rows = [
        Extract(0, f"policy: {name}; renewal: 2026-{month}", score=score, beside=(4.0, 1.5), document="a.csv")
        for name, month, score in (("Car", 11, 5.0), ("Legal", 9, 4.6), ("Bicycle", 5, 4.0))
    ]
    assert quoting.company(rows, 0) == [1]
    assert quoting.company([rows[0], replace(rows[2], leads=True)], 0) == [1]
    assert quoting.constraints(rows[:2])["grammar"].splitlines()[0] == r'root ::= q0 "\n" q1 | q1 "\n" q0'
    # Prose with a colon, or steps, are no records; neither are rows of different tables rows of one.
    assert {Extract(0, text).columns for text in ("Note: it floats.", "1. Open: turn.\n2. Close: press.", "a: b; and so on")} == {frozenset()}
    other = Extract(0, "boat: Libelle; seats: 1", score=4.0, beside=(4.0, 1.5), document="a.csv")
    assert quoting.company([rows[0], other], 0) == [1]


def test_no_more_is_quoted_than_the_answer_has_room_for() -> None:
    near = [Extract(0, text, score=1.0) for text in ("A.", "B.", "C.")]
    assert quoting.company(near, 0, [40, 40, 40], 144) == [1, 2]
    assert quoting.company(near, 0, [40, 40, 40], 143) == [1]
    assert quoting.company(near, 2, [140, 40, 40], 143) == []


def test_a_title_tells_what_a_sentence_is_about(encoder: Encoder) -> None:
    passages = [("Blue hub", "It costs $90."), ("Green lamp", "It costs $30.")]
    assert quoting.shortlist("price of the green lamp", passages, encoder.encode, 1) == [Extract(1, "It costs $30.")]
    assert quoting.shortlist("price of the blue hub", passages, encoder.encode, 1) == [Extract(0, "It costs $90.")]


def test_strings_are_escaped_for_the_grammar() -> None:
    assert quoting.literal('a "b" \\ c\nd') == '"a \\"b\\" \\\\ c\\nd"'
    assert quoting.constraints([])["grammar"] == ""


def test_what_is_about_as_near_is_quoted_beside_the_first() -> None:
    told = [(0, "A.", 0.8), (0, "B.", 0.7), (1, "C.", 0.78), (1, "D.", 0.7), (0, "E.", 0.66), (0, "F.", 0.5)]
    near = [Extract(passage, text, score=score) for passage, text, score in told]
    assert quoting.company(near, 0) == [1, 2]
    assert quoting.company(near, 2) == [0, 3]
    assert quoting.company(near[:1], 0) == []
    assert quoting.constraints(near[:3])["grammar"].splitlines()[0] == 'root ::= q0 " " q1 " " q2 | q1 " " q0 " " q2 | q2 " " q0'


@pytest.mark.parametrize("question", ["what does a new card cost", "how do i freeze my card", "who is the king of france", "asdf"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_shipped_model_can_write_nothing_but_quotations(product: TinyBERTOrchestrator, question: str, temperature: float) -> None:
    passages = [FEES, STEPS]
    extracts = [Extract(number, unit) for number, text in enumerate(passages) for unit in units_of(text)]
    generation = Generation(max_tokens=200, temperature=temperature, seed=1, **quoting.constraints(extracts))
    shown = [(("Fees", "Freeze a card")[extract.passage], extract.text) for extract in extracts]
    user = prompts.user_message(shown, question, [extract.passage + 1 for extract in extracts])
    said = product.manager.generate("nano", [Message("user", user)], generation)
    if said != NOT_FOUND:
        pieces = re.findall(r"(.+?) \[(\d)\](?:[ \n]|$)", said, re.DOTALL)
        assert "".join(f"{text} [{number}] " for text, number in pieces).split() == said.split()
        assert all(text in units_of(passages[int(number) - 1]) for text, number in pieces)
    assert product.manager.decoding("nano") == "quotes"


def test_the_odds_of_a_choice_count_beside_the_models_opinion(product: TinyBERTOrchestrator) -> None:
    extracts = [Extract(0, unit) for unit in units_of(FEES)]
    messages = [Message("user", prompts.user_message([("Fees", extract.text) for extract in extracts], "what does a new card cost?", [1, 1, 1]))]
    grammar = quoting.constraints(extracts)["grammar"]
    for wanted in extracts:
        choices = tuple((extract.quoted, 1000.0 if extract == wanted else 0.0) for extract in extracts)
        said = product.manager.generate("nano", messages, Generation(grammar=grammar, choices=choices))
        assert said.startswith(wanted.quoted)
        short = product.manager.generate("nano", messages, Generation(grammar=grammar, choices=choices, max_tokens=3))
        assert wanted.quoted.startswith(short)


def test_a_turn_is_not_answered_with_what_was_said_before(encoder: Encoder) -> None:
    turn = Turn("What does standard delivery cost?", "and express?")
    before, wanted, other = "Standard delivery costs $4.", "Express delivery costs $9.", "Parcels are blue."
    together = turn.together
    told = {(together, before): 3.0, (together, wanted): 2.0, (turn.message, wanted): 0.5, (turn.message, before): -1.0, (turn.previous, before): 5.0}
    judge, passages = Told({**told, (turn.previous, wanted): -2.0}), [("", f"{before} {wanted} {other}")]
    plain = quoting.shortlist(together, passages, encoder.encode, judge=judge)
    assert plain[0].text == before
    found = quoting.shortlist(together, passages, encoder.encode, judge=judge, turn=turn)
    assert [unit.text for unit in found[:2]] == [wanted, before]
    assert [unit.judged for unit in found[:2]] == pytest.approx([0.4 * 2.0 + 0.6 * 0.5 + 1, 0.4 * 3.0 - 0.6 + 1])


def test_a_row_is_quoted_below_the_names_of_its_columns() -> None:
    table = "| Job | Nm |\n|---|:-:|\n| Wheel bolts | 120 |\n| Oil plug | 30 |"
    assert units_of(f"Bolts.\n\n{table}\n\nDry. Clean.") == [
        "Bolts.",
        "| Job | Nm |\n| Wheel bolts | 120 |",
        "| Job | Nm |\n| Oil plug | 30 |",
        "Dry.",
        "Clean.",
    ]
    assert units_of("Job | Nm\n--|--\nPlug | 30") == ["Job | Nm\nPlug | 30"]
    assert units_of("|---|\n| a |") == ["| a |"]
    told = "| Plan | Note |\n|---|---|\n| Basic | Call us. We help. |\n| Pro | 9 EUR |\n\nUse a | b in a shell. Next."
    assert units_of(told) == [
        "| Plan | Note |\n| Basic | Call us. We help. |",
        "| Plan | Note |\n| Pro | 9 EUR |",
        "Use a | b in a shell.",
        "Next.",
    ]


def test_the_names_of_columns_are_said_once() -> None:
    row, other = "| Boat | Price |\n| Canoe | 55 |", "| Boat | Price |\n| Kayak | 25 |"
    extracts = [Extract(0, text, score=1.0) for text in (row, other, "All float.")]
    assert (
        quoting.constraints(extracts)["grammar"].splitlines()[0].startswith(r'root ::= q0 "\n" r1 "\n" q2 | q1 "\n" r0 "\n" q2 | q2 "\n" q0 "\n" r1')
    )
    assert r'r1 ::= "| Kayak | 25 | [1]"' in quoting.constraints(extracts)["grammar"].splitlines()
    steps = Extract(0, "1. Open it.\n2. Close it.")
    assert steps.heading == "" and steps.row == steps.quoted


def test_who_asks_for_a_name_is_told_what_has_it(encoder: Encoder) -> None:
    """Whatever a judge makes of it, which cannot read such names."""
    limit, row = "One more than `queue_limit` is refused.", "| Setting | Default |\n| `queue_limit` | 64 |"
    passages = [("", f"{limit} Nobody waits for ever. Parcels are blue."), ("", "| Setting | Default |\n|---|---|\n| `queue_limit` | 64 |")]
    told = {(question, limit): odds for question, odds in (("what is queue_limit?", -4.0), ("who sets queue_limit?", -3.0))}
    judge = Told(told | {("what is queue_limit?", "Nobody waits for ever."): 1.0, ("who sets queue_limit?", row): -6.0})
    found = quoting.shortlist("what is queue_limit?", passages, encoder.encode, judge=judge)
    assert [(unit.text, unit.judged) for unit in found[:2]] == [(row, 3.0), (limit, 2.0)]
    found = quoting.shortlist("who sets queue_limit?", passages, encoder.encode, judge=judge)
    assert {unit.text: unit.judged for unit in found if unit.text in (limit, row)} == {limit: -1.0, row: -4.0}


def test_a_form_that_quotations_cannot_have_is_told(product: TinyBERTOrchestrator) -> None:
    domain = DomainConfig(name="garden", generation={"json_schema": {"type": "object"}})
    with product.manager.lease(product.manager._names.target("nano")) as nano, pytest.raises(ConfigError, match=r"garden only quotes .* json_schema"):
        asking.asked(nano, True, domain, "what does a new card cost?", [("Fees", FEES)], product.encoder.encode)


TABLE = "| Course | Day |\n|---|---|\n| Yoga | Monday |\n| | Thursday |\n| Dance | Friday |\n|  | Total: 3 |"


def test_a_row_that_begins_blank_is_quoted_below_those_that_say_what_it_is_of() -> None:
    told = [unit.own for unit in quotable(TABLE)]
    assert told[1] == "| Course | Day |\n| Yoga | Monday |\n| | Thursday |"
    assert told[3] == "| Course | Day |\n|  | Total: 3 |"
    assert [unit.own for unit in quotable(TABLE.replace("Dance", "Yoga"))][1] == "| Course | Day |\n| | Thursday |"
    assert len(quotable(TABLE.replace("Yoga", "~~Yoga~~"))) == 2
    assert [unit.own for unit in quotable("| A | B | x |\n| | | y |\n| | C | 2 |")][1:] == ["| A | B | x |\n| | | y |", "| A | B | x |\n| | C | 2 |"]


def test_a_row_is_not_quoted_beside_itself(encoder: Encoder) -> None:
    passages = [("Courses", TABLE), ("Hall", "The hall is closed.")]
    one, both = "| Course | Day |\n| Yoga | Monday |", "| Course | Day |\n| Yoga | Monday |\n| | Thursday |"

    def found(asked: str, alone: float, together: float) -> list[tuple[str, float]]:
        told = {(asked, f"Courses: {one}"): alone, (asked, f"Courses: {both}"): together, (asked, "Hall: The hall is closed."): -1.0}
        return [(unit.text, unit.score) for unit in quoting.shortlist(asked, passages, encoder.encode, judge=Told(told)) if unit.score > -2]

    assert found("When is yoga?", 5.0, 4.0) == [(both, 5.0), ("The hall is closed.", -1.0)]
    assert found("When is yoga?", 4.0, 5.0) == [(both, 5.0), ("The hall is closed.", -1.0)]
    assert found("Is yoga on Mondays?", 5.0, 0.5) == [(one, 5.0), (both, 0.5), ("The hall is closed.", -1.0)]


def test_blank_names_of_columns_are_not_quoted(encoder: Encoder) -> None:
    table = "| | |\n|---|---|\n| Rent | 400 |\n| Heating | 90 |"
    rows = [Extract(0, text, score=1.0) for text in units_of(table)]
    rent, heating = rows
    assert (rent.quoted, rent.columns == heating.columns) == ("| Rent | 400 | [1]", True)
    assert replace(rent, section="Costs").quoted == "Costs:\n| Rent | 400 | [1]"
    assert quoting.constraints(rows)["grammar"].startswith(r'root ::= q0 "\n" q1')
    passages = [Passage("flat.md#1", "flat.md", "x", "Flat", table, 0, 1, 0.9)]
    assert all(claim.quoted for claim in grounding.check(f"{rent.quoted}\n{heating.quoted}", passages, encoder.encode))


def test_what_a_message_begins_with_is_no_answer() -> None:
    head = "From: Ann\nTo: All\nDate: 3 May 2024\nSubject: Party\n\n"
    assert [unit.own for unit in quotable(f"{head}It is in June.")] == ["It is in June."]
    assert [unit.own for unit in quotable(f"Hi.\n\n-----Original Message-----\n{head}In June.")] == ["Hi.", "In June."]
    assert len(quotable("From: Oslo\nTo: Paris\nDate: 3 May\n\nBy plane.")) == 4
