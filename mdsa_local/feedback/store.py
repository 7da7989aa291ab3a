"""The log of answers and the marks users give them, in one SQLite file that only its owner may read.

Every change is one transaction, so several processes may write and a stop at any moment leaves all of it as it was. What is removed is written
over with zeros (``secure_delete``) and no journal outlives a change.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdsa_local.domains.config import NAME, RESERVED
from mdsa_local.errors import InputError, StorageError, UnknownNameError, expected, nearest
from mdsa_local.jsonlines import folded
from mdsa_local.settings import MOST_ANSWERS, Settings
from mdsa_local.types import Answer

VERSION = 1
# How long a change waits for another process's.
WAIT_S = 10.0
# Shorter beginnings of an id are too easily another's.
LEAST_ID = 4
LAST = "last"
# What stands for a domain's name where a question belongs to none.
NOWHERE = "none"
# Of so many logged answers the domains are known to be some.
MANY = 1000
TABLES = ("answers", "marks")
SCHEMA = """
create table answers (id text primary key, at real not null, question text not null, answer text not null);
create table marks (id text primary key, at real not null, question text not null, answer text not null, mark text not null);
create index answers_by_time on answers (at);
"""
HINT = "Free some space, fix its permissions, or set MDSA_HOME to a writable folder."


@dataclass(frozen=True, slots=True)
class Said:
    """A cited passage as it was: ``source`` is its document."""

    source: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Logged:
    """An answer with its question. ``at``: seconds since 1970; ``domain`` None where it was refused for want of one; ``status`` as in
    :class:`~mdsa_local.types.Answer`."""

    id: str
    at: float
    question: str
    response: str
    domain: str | None
    confidence: float
    status: str
    model: str
    cited: tuple[Said, ...] = ()


@dataclass(frozen=True, slots=True)
class Mark:
    """What a user made of an answer.

    ``domain``: where the question belongs, None for nowhere; ``routed`` False: the user did not say, and of a wrong answer nothing follows.
    ``facts`` and ``sources``: what a right answer holds and cites, in the user's words.
    """

    answer: Logged
    at: float
    right: bool
    domain: str | None
    routed: bool
    note: str = ""
    facts: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    unanswerable: bool = False

    def belongs(self, domain: str | None) -> bool:
        """Whether its question is known to belong to ``domain``, or nowhere for :data:`NOWHERE`; to whichever for None."""
        return domain is None or (self.routed and domain == (self.domain or NOWHERE))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the ``--json`` form."""
        answer = self.answer
        return {
            "id": answer.id,
            "at": self.at,
            "right": self.right,
            "question": answer.question,
            "response": answer.response,
            "status": answer.status,
            "answered_as": answer.domain,
            "domain": self.domain,
            "domain_known": self.routed,
            "note": self.note,
            "facts": list(self.facts),
            "sources": list(self.sources),
            "unanswerable": self.unanswerable,
            "model": answer.model,
        }


def logged(answer: Answer, question: str) -> Logged:
    """What is kept of an answer. Raises :class:`InputError` for a question that is no text, or cannot be stored."""
    from mdsa_local.routing.encoder import clean_text

    clean_text(question, "the question")
    cited = tuple(Said(c.passage.source, c.passage.title, c.passage.text) for c in answer.citations)
    return Logged(answer.request_id, time.time(), question, answer.response, answer.domain, answer.confidence, answer.status, answer.model, cited)


class Feedback:
    """Marks and, where the setting ``answer_log`` says so, the answers they are given to. Safe from any thread and process."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()

    @property
    def path(self) -> Path:
        """The file; absent until something is kept."""
        return self.settings.home / "feedback.db"

    def record(self, answer: Answer, question: str) -> None:
        """Log an answer, and forget the oldest beyond the setting ``answer_log``; nothing happens where that is 0. Raises :class:`StorageError`."""
        if not self.settings.answer_log:
            return
        found = logged(answer, question)
        with self._changing() as db:
            db.execute("insert or replace into answers values (?, ?, ?, ?)", (found.id, found.at, question, _packed(found)))
            db.execute(
                "delete from answers where id in (select id from answers order by at desc, rowid desc limit -1 offset ?)", (self.settings.answer_log,)
            )

    def recent(self, limit: int = 20) -> list[Logged]:
        """The answers logged last, the newest first; at most ``limit``. Raises :class:`InputError` for what is no number of them."""
        if not isinstance(limit, int) or isinstance(limit, bool) or not 0 <= limit <= MOST_ANSWERS:
            raise InputError(f"limit is {limit!r:.60}", f"Give how many there are to be at most, 0 to {MOST_ANSWERS}.")
        return [_unpacked(row) for row in self._newest(limit)]

    def _newest(self, limit: int) -> list[Sequence[Any]]:
        with self._reading() as db:
            return db.execute("select id, at, question, answer from answers order by at desc, rowid desc limit ?", (limit,)).fetchall() if db else []

    def find(self, id: str) -> Logged:
        """A logged or marked answer by its id, a beginning of it that no other has, or ``last``.

        Raises :class:`UnknownNameError`, and :class:`InputError` where several begin so.
        """
        return _unpacked(self._row(id))

    def _row(self, id: str) -> Sequence[Any]:
        """The columns of an answer, which may be damaged."""
        expected(id, str, "the id of an answer", f"Pass it as text, or {LAST!r}.")
        _storable([id], "the ids of answers")
        if id == LAST:
            if found := self._newest(1):
                return found[0]
            raise self._unknown(id)
        if len(id) < LEAST_ID:
            raise InputError(f"{id!r} is too short for the id of an answer", f"Give at least {LEAST_ID} characters of it, or {LAST!r}.")
        begin, end = id, id + "\uffff"
        query = "select id, at, question, answer from {} where id between ? and ?"
        with self._reading() as db:
            rows = [row for name in TABLES for row in db.execute(query.format(name), (begin, end))] if db else []
        known = {found[0]: found for found in rows}
        if len(known) > 1 and id not in known:
            raise InputError(f"{len(known)} answers have an id that begins with {id}", "Give more of it.")
        if not known:
            raise self._unknown(id)
        row: Sequence[Any] = known.get(id) or next(iter(known.values()))
        return row

    def mark(
        self,
        answer: str | Answer,
        right: bool,
        *,
        question: str = "",
        domain: str | None = None,
        out_of_scope: bool = False,
        note: str = "",
        facts: Sequence[str] = (),
        sources: Sequence[str] = (),
        unanswerable: bool = False,
    ) -> Mark:
        """Keep what a user makes of an answer: its id in the log, or the :class:`Answer` itself with its ``question``. A second mark replaces it.

        ``domain``: where a wrongly routed question belongs; ``out_of_scope``: nowhere; ``unanswerable``: it should have been refused, since the
        documents do not answer it. Raises :class:`InputError`, :class:`UnknownNameError` for an unknown answer and for a domain that is none but is
        written much like one (others may be known to a program alone), :class:`StorageError`.
        """
        expected(right, bool, "right", "Pass True or False.")
        expected(answer, str | Answer, "the answer", f"Pass an Answer, its id, or {LAST!r}.")
        expected(domain, str | None, "the domain", "Pass the name of one, or None.")
        expected(note, str, "the note", "Pass a text; an empty one for none.")
        facts, sources = _texts(facts, "facts"), _texts(sources, "sources")
        _storable([note, *facts, *sources], "what is kept of the answer")
        if isinstance(answer, Answer):
            about = logged(answer, question)
            if not question.strip():
                raise InputError("the question of the answer is missing", "Pass question=..., an answer does not hold it.")
        else:
            about = self.find(answer)
        self._check_domain(domain, answer)
        _agree(right, domain, out_of_scope, facts, sources, unanswerable, about)
        routed = right or domain is not None or out_of_scope
        belongs = None if out_of_scope else (domain or (about.domain if right else None))
        made = Mark(about, time.time(), right, belongs, routed, note, facts, sources, unanswerable)
        said = {key: value for key, value in made.to_dict().items() if key in ("right", "domain", "note", "facts", "sources", "unanswerable")}
        with self._changing() as db:
            db.execute(
                "insert or replace into marks values (?, ?, ?, ?, ?)",
                (about.id, made.at, about.question, _packed(about), json.dumps({**said, "routed": routed})),
            )
        return made

    def marks(self, *, right: bool | None = None, domain: str | None = None) -> list[Mark]:
        """All marks, the oldest first; of right or wrong answers, of questions that belong to a domain, or to none for ``none``. Raises
        :class:`StorageError`."""
        with self._reading() as db:
            found = db.execute("select id, at, question, answer, mark from marks order by at, rowid").fetchall() if db else []
        made = [_mark(row) for row in found]
        return [mark for mark in made if right in (None, mark.right) and mark.belongs(domain)]

    def questions(self, ids: str | Sequence[str] = (), *, everything: bool = False) -> list[str]:
        """Of the questions that :meth:`remove` would remove those that a router may have learned: that a mark says where they belong, and none that
        stays does. Raises :class:`UnknownNameError`."""
        chosen, given = self._chosen(ids, everything)
        with self._reading() as db:
            if db is None:
                return []
            staying, going = (
                [str(row[0]) for row in db.execute(f"select question, mark from marks where {which}", given) if _routing(row[1])]
                for which in (f"not ({chosen})", chosen)
            )
        kept = {folded(question) for question in staying}
        return [question for question in dict.fromkeys(going) if folded(question) not in kept]

    def remove(self, ids: str | Sequence[str] = (), *, everything: bool = False) -> list[str]:
        """Remove answers by id, one or several, with their marks, or everything; of each its question. No copy of them stays in the file.

        Raises :class:`UnknownNameError` before anything is removed. What a router has learned from them is
        :func:`mdsa_local.routing.learning.forget`'s to undo.
        """
        chosen, given = self._chosen(ids, everything)
        if not self.path.is_file():
            return []
        with self._changing() as db:
            gone = _questions(db, chosen, given)
            for name in TABLES:
                db.execute(f"delete from {name} where {chosen}", given)
        return gone

    def _chosen(self, ids: str | Sequence[str], everything: bool) -> tuple[str, tuple[str, ...]]:
        """A condition for the answers of these ids, or for all, and its parameters."""
        # One that is damaged can be removed, too.
        wanted = tuple(str(self._row(id)[0]) for id in ([ids] if isinstance(ids, str) else ids))
        return ("1", ()) if everything else (f"id in ({', '.join('?' * len(wanted))})", wanted)

    def _check_domain(self, name: str | None, answer: str | Answer) -> None:
        """Raise :class:`UnknownNameError` for what cannot be a domain's name, or is near one that is known and is none itself."""
        if name is None:
            return
        if name == NOWHERE:
            raise InputError(f"{NOWHERE!r} is no domain", "Pass out_of_scope=True for a question that belongs to none.")
        folders = [path.parent.name for place in self.settings.domain_dirs for path in place.glob("*/domain.yaml")]
        answered = [found.domain for found in self.recent(MANY) if found.domain]
        known = {*folders, *answered, *(answer.scores if isinstance(answer, Answer) else ())}
        if name not in known and (nearest(name, known) or name in RESERVED or not NAME.fullmatch(name)):
            raise UnknownNameError.among("domain", name, known)

    def _unknown(self, id: str) -> UnknownNameError:
        newest = [str(row[0]) for row in self._newest(5)]
        error = UnknownNameError.among("answer", id, newest)
        if not self.settings.answer_log:
            error.hint = "Answers are not logged: set answer_log: 1000 in config.yaml, then ask again."
        elif not newest:
            error.hint = "No answer is in the log: ask a question first."
        return error

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """The file as it is, or None where there is none yet."""
        if not self.path.is_file():
            yield None
            return
        with self._told(), closing(self._open()) as db:
            yield db

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing."""
        self.settings.writable(self.settings.home)
        with self._told():
            # Made before SQLite makes it, so that it is never readable to others, not for a moment.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(self._open()) as db:
                db.execute("begin immediate")
                try:
                    yield db
                except BaseException:
                    db.rollback()
                    raise
                db.commit()

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        try:
            # With a write-ahead log, what was deleted would stay in that.
            for setting in ("secure_delete = on", "journal_mode = delete", "synchronous = normal"):
                db.execute(f"pragma {setting}")
            version = db.execute("pragma user_version").fetchone()[0]
            if version == 0:
                db.execute("begin immediate")
                # Another process may have been quicker.
                if db.execute("pragma user_version").fetchone()[0] == 0:
                    for statement in SCHEMA.strip().split(";\n"):
                        db.execute(statement)
                    db.execute(f"pragma user_version = {VERSION}")
                db.commit()
            elif version != VERSION:
                raise StorageError(f"{self.path}: made by another version ({version}) of the product", "Use that version, or move the file away.")
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's and the system's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self.path}: {error}", HINT) from None
        except sqlite3.DatabaseError as error:
            raise StorageError(f"{self.path}: {error}", "The file is damaged: move it away, or restore it from a copy.") from None
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}", HINT) from None


def _routing(mark: Any) -> bool:
    """Whether a mark, as it is kept, says where its question belongs; one that is damaged may have."""
    try:
        return json.loads(mark)["routed"] is not False
    except (ValueError, TypeError, KeyError):
        return True


def _questions(db: sqlite3.Connection, chosen: str, given: tuple[str, ...]) -> list[str]:
    """Of each answer its question."""
    return list({id: question for name in TABLES for id, question in db.execute(f"select id, question from {name} where {chosen}", given)}.values())


def _texts(given: Sequence[str], what: str) -> tuple[str, ...]:
    """The texts of a list of them. Raises :class:`InputError` for what is none: of a text by itself each letter would be one."""
    hint = "Pass a list of texts, an empty one for none."
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InputError(f"{what} cannot be {type(given).__name__} {given!r:.60}", hint)
    made = tuple(given)
    for text in made:
        expected(text, str, f"one of the {what}", hint)
    return made


def _storable(texts: list[str], what: str) -> None:
    """Raise :class:`InputError` for a text that holds half a character: it could never be written to a file."""
    from mdsa_local.routing.encoder import clean_texts

    clean_texts(texts, what)


def _agree(
    right: bool, domain: str | None, out_of_scope: bool, facts: Sequence[str], sources: Sequence[str], unanswerable: bool, about: Logged
) -> None:
    """Raise :class:`InputError` for what contradicts itself."""
    if domain is not None and out_of_scope:
        raise InputError("a question belongs to a domain or to none, not both", "Give one of the two.")
    if right and (out_of_scope or unanswerable or (domain is not None and domain != about.domain)):
        raise InputError("a right answer needs no correction", "Mark it wrong, with what would have been right.")
    if right and about.status in ("not_found", "abstained") and (facts or sources):
        raise InputError("the answer said that nothing answers, so it holds no facts", "Mark it wrong, with the facts.")
    if unanswerable and (facts or sources):
        raise InputError("what the documents do not answer has neither facts nor sources", "Give facts and sources, or unanswerable, not both.")
    if any(not said.strip() for said in (*facts, *sources)):
        raise InputError("a fact or a source is empty", "Say what a right answer holds and which document says so.")
    if bool(facts) != bool(sources) and not right:
        raise InputError("facts and sources go together", "Say what a right answer holds and which document says so.")


def _packed(found: Logged) -> str:
    """All of an answer but what has a column of its own."""
    return json.dumps(
        {
            "response": found.response,
            "domain": found.domain,
            "confidence": found.confidence,
            "status": found.status,
            "model": found.model,
            "cited": [[said.source, said.title, said.text] for said in found.cited],
        }
    )


def _unpacked(row: Sequence[Any]) -> Logged:
    try:
        kept = json.loads(row[3])
        cited = tuple(Said(*said) for said in kept.pop("cited"))
        return Logged(row[0], row[1], row[2], cited=cited, **kept)
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"feedback.db: the entry {row[0]} is damaged: {error}", f"Remove it: mdsa feedback remove {row[0]}") from None


def _mark(row: Sequence[Any]) -> Mark:
    try:
        said = json.loads(row[4])
        facts, sources = tuple(said.pop("facts")), tuple(said.pop("sources"))
        return Mark(_unpacked(row), row[1], facts=facts, sources=sources, **said)
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"feedback.db: the mark {row[0]} is damaged: {error}", f"Remove it: mdsa feedback remove {row[0]}") from None
