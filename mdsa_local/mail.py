"""Messages in a text, as mail programs write them: the lines that a message begins with, and an older one that it quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Span = tuple[int, int]

MOST_NAME_CHARS = 200
# What the name of a message begins with that another one holds.
QUOTED = "quoted: "
_END = r"(?:\r\n|\r|\n|\Z)"
_FROM, _SENT, _SUBJECT = (
    ("from", "von", "de"),
    ("date", "sent", "datum", "gesendet", "envoyé", "enviado", "fecha"),
    ("subject", "betreff", "objet", "asunto"),
)
_NAMES = "|".join((*_FROM, *_SENT, *_SUBJECT, "to", "an", "à", "para", "b?cc", "reply-to", "importance", "attachments?"))
_LINE = re.compile(rf"({_NAMES})[ \t]?:[ \t]*([^\r\n]*(?:(?:\r\n|\r|\n)[ \t]+\S[^\r\n]*)*){_END}", re.IGNORECASE)
_FIRST = re.compile(rf"(?:^|(?<=\ufeff))(?:{_NAMES})[ \t]?:", re.IGNORECASE | re.MULTILINE)
# What stands over a message that another one holds.
_OLDER = r"original message|ursprüngliche nachricht|message d'origine|mensaje original"
_OVER = re.compile(
    rf"^(?:-{{2,}}[ \t]*(?:({_OLDER})|(?:forwarded message|weitergeleitete nachricht|message transféré|mensaje reenviado))[ \t]*-{{2,}}"
    rf"|(_{{10,}}))[ \t]*(?:\r?\n[ \t]*){{0,2}}\Z",
    re.IGNORECASE | re.MULTILINE,
)
_OVER_CHARS = 200
# One that is not ended takes the rest of the line, which stays: it is looked through for an end once.
_ADDRESS = re.compile(r" ?(?:<[^>]*>|\[mailto:[^\]]*\])|((?:<|\[mailto:).*)", re.DOTALL)
# "On 3 May 2024 Peter Lund wrote:", and below it lines with marks before them.
_WROTE = re.compile(r"(?<!\w)(?:wrote|schrieb|a écrit|escribió)(?!\w)[^\r\n:]{0,80}:[ \t]*\r?\n(?:[ \t]*\r?\n)?(?=[ \t]{0,3}>)")
_OPENS = re.compile(r"(?:On|Am|Le|El)\s")
_SAID = re.compile(r"\S")
_MARKED = re.compile(r"(?:[ \t]{0,3}>[^\r\n]*(?:\r?\n|\Z)|[ \t]*\r?\n)+")
# "Dear Ms Berg," and "Hi all," above what is said, "Best," and who says so below it.
_GREETS = re.compile(
    r"(?:\A|(?<=\n\n))[ \t]*(?:dear|hi|hello|hey|hallo|liebe[rs]?|sehr geehrte[rs]?|guten (?:tag|morgen)|good (?:morning|afternoon|evening))(?!\w)"
    r"[^.!?:\n]{0,40},[ \t]*(?=\n|\Z)",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"(?:(?<=\n\n)|(?<=\n\n[ \t]))"
    r"(?:(?:with )?(?:(?:kind|best|warm|many) )?(?:regards|wishes|thanks)|best|cheers|thank you|(?:yours )?sincerely|yours (?:faithfully|truly)"
    r"|(?:mit )?(?:freundlichen|besten|herzlichen|vielen|lieben|viele|beste|liebe|herzliche) gr(?:ü|ue)(?:ß|ss)en?)"
    r"(?:,[ \t]*[^\W\d_][^.!?:|\n]{0,30}|[,.!]?)[ \t]*(?:\n[^.!?:|\n]{1,40}){0,3}(?=\n[ \t]*\n|\n*\Z)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Head:
    """The lines that a message begins with: where they stand, with the one over a message that another one holds, and what they say in short."""

    span: Span
    name: str


def heads(text: str) -> Iterator[Head]:
    """The heads of messages: lines of who wrote it, when, and on what, right below one another, with a blank line below."""
    end = 0
    for first in _FIRST.finditer(text):
        if first.start() < end:
            continue
        said, end = dict[str, str](), first.start()
        while line := _LINE.match(text, end):
            said.setdefault(line[1].casefold(), " ".join(_ADDRESS.sub(r"\1", line[2]).split()) or line[2].strip())
            end = line.end()
            if end == len(text):
                break
        who, when, what = (next((said[name] for name in names if name in said), None) for names in (_FROM, _SENT, _SUBJECT))
        if who and when and what is not None and not text[end : end + 1].strip():
            over = _OVER.search(text, max(0, first.start() - _OVER_CHARS), first.start())
            kind = "" if not over else QUOTED if over[1] or over[2] else "forwarded: "
            start = over.start() if over else first.start()
            yield Head((start, end), f"{kind}From {who}, {when}: {what}"[:MOST_NAME_CHARS].rstrip(": "))


def courtesies(text: str) -> list[Span]:
    """Where a message greets, and where it closes with who wrote it."""
    return [found.span() for kind in (_GREETS, _CLOSES) for found in kind.finditer(text)]


def messages(text: str) -> list[tuple[int, str]]:
    """Where each message begins, and what it is called: by its head; one that is quoted in another with that before it. What a message quotes and
    answers piece by piece is a part of it."""
    found = [(head.span[0], head.name) for head in heads(text)]
    starts = {start for start, _ in found}
    last = 0
    for wrote in _WROTE.finditer(text):
        start = text.rfind("\n", 0, wrote.start()) + 1
        before = text.rfind("\n", 0, max(0, start - 1)) + 1
        # The line may be broken.
        if not _OPENS.match(text, start) and _OPENS.match(text, before) and text[before:start].strip():
            start = before
        if start < last or text[start] == ">" or not (marked := _MARKED.match(text, wrote.end())):
            continue
        last = marked.end()
        following = _SAID.search(text, last)
        if following is None or following.start() in starts:
            who = " ".join(_ADDRESS.sub(r"\1", text[start : wrote.end()]).split())
            found.append((start, f"{QUOTED}{who.rstrip(':')}"[:MOST_NAME_CHARS]))
    return sorted(found)
