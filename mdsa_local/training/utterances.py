"""Utterances of many domains, ten purposes each, all written for this project: what belongs together though it says quite different things.

``training/utterances/*.txt``, line by line: ``@ `` begins a domain, ``> `` describes it, ``# `` begins a purpose (an intent), and every other line is
an utterance of that purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mdsa_local.training.marked import files, marked

UTTERANCES = Path(__file__).parent / "utterances"
FORM = "'@ ' begins a domain, '> ' describes it, '# ' begins an intent; what stands below that are utterances."


@dataclass(slots=True)
class Domain:
    """A domain: its name, its description, and the utterances of each of its intents."""

    name: str
    description: str = ""
    intents: dict[str, list[str]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """What it is known by without examples: name, description, names of its intents."""
        return [text for text in (self.name, self.description, *self.intents) if text]


def read(folder: Path = UTTERANCES) -> dict[str, list[Domain]]:
    """The domains of each file, by its name; those of one file exclude one another. Raises :class:`InputError` that names file and line."""
    return {path.stem: list(parsed(lines, str(path))) for path, lines in files(folder)}


def parsed(lines: Sequence[str], name: str = "utterances") -> Iterator[Domain]:
    """The domains of one file's lines."""
    domain: Domain | None = None
    said: list[str] | None = None
    for line in marked(lines, name):
        if line.mark == "@" and line.rest:
            if domain:
                yield domain
            domain, said = Domain(line.rest), None
        elif line.mark == ">" and domain:
            domain.description = line.rest
        elif line.mark == "#" and domain and line.rest not in domain.intents:
            said = domain.intents[line.rest] = []
        elif line.mark not in {"@", ">", "#"} and said is not None:
            said.append(line.text)
        else:
            raise line.refused(FORM)
    if domain:
        yield domain
