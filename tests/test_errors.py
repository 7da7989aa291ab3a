"""Errors say what is known and what to do."""

from __future__ import annotations

from mdsa_local.errors import UnknownNameError


def test_few_known_names_are_all_told() -> None:
    error = UnknownNameError.among("domain", "finanse", ["support", "finance"])
    assert (str(error), error.hint) == ("unknown domain 'finanse'", "Did you mean 'finance'? Known: finance, support.")
    assert UnknownNameError.among("domain", "HR", ["hr", "sales"]).hint == "Did you mean 'hr'? Known: hr, sales."
    assert UnknownNameError.among("domain", "x", []).hint == "Known: none."


def test_of_many_known_names_the_most_alike_are_told() -> None:
    error = UnknownNameError.among("document", "notes/roof.md", [*(f"log/{n}.csv" for n in range(1400)), "notes/roof-2024.md", "notes/roof.txt"])
    assert error.hint.startswith("Did you mean 'notes/roof.txt'? Known: ") or error.hint.startswith("Did you mean 'notes/roof-2024.md'? Known: ")
    assert "notes/roof-2024.md, notes/roof.txt" in error.hint
    assert error.hint.endswith(" and 1392 more.")
    assert len(error.hint) < 300
