from __future__ import annotations

import pytest

from mdsa_local.validation.identifiers import Names, named


@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("what is queue_limit?", Names(("queue_limit",), True)),
        ("What does the `keep_alive_s` setting do?", Names(("keep_alive_s",), True)),
        ("--force", Names(("--force",), True)),
        ("what does the option --follow-deletes mean", Names(("--follow-deletes",), True)),
        ("what's BusyError?", Names(("BusyError",), True)),
        ("what is retry_after_s()?", Names(("retry_after_s",), True)),
        ("what does error E401 mean?", Names(("E401",), True)),
        ("what is readers.lock for?", Names(("readers.lock",), True)),
        ("what are max_body and max_age?", Names(("max_body", "max_age"), True)),
        ("what is the default of queue_limit?", Names(("queue_limit",), False)),
        ("who wrote --force and E401?", Names(("--force",), False)),
        ("status of order A-25014", Names(("A-25014",), False)),
        ("boiler error F.28", Names(("F.28",), False)),
        ("what is F.28?", Names(("F.28",), True)),
        ("who insures K-5520-991?", Names(("K-5520-991",), False)),
        ("is covid-19 covered?", None),
        # A brand, a vitamin or a site may stand in many sentences that tell nothing.
        ("can I pay with PayPal?", None),
        ("how much B12 should I take?", None),
        ("is there news on example.com?", None),
        ("what is a queue limit?", None),
        ("how much is 5kg of it", None),
        ("well-known facts - all of them", None),
        ("what is it?", None),
        ("", None),
    ],
)
def test_what_a_question_names(question: str, names: Names | None) -> None:
    assert named(question) == names


def test_a_text_has_a_name_letter_by_letter() -> None:
    limit, force = Names(("queue_limit",), True), Names(("--force",), True)
    assert limit.within("Set `Queue_Limit` to 8.") and limit.opens("`queue_limit` | 64 | requests")
    assert not limit.within("queue_limits, my_queue_limit and queue_limit_s") and not limit.opens("Set queue_limit to 8.")
    assert force.within("use [--force] for it") and not force.within("use --force-all or ---force")
    assert (
        Names(("F28",), True).within("shows F.28") and Names(("A-25014",), True).opens("a25014: sent") and not Names(("F.28",), True).within("F.280")
    )
    both = Names(("max_body", "max_age"), False)
    assert both.within("max_age is as max_body") and not both.within("max_age is short")
