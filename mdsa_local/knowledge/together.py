"""Knowledge bases of one database searched at the same time, and what was found in them ranked together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mdsa_local.errors import ConfigError, StorageError
from mdsa_local.knowledge.fusion import Hit, Ranked, Twins, order
from mdsa_local.knowledge.lance import storage_errors
from mdsa_local.knowledge.reading import Readable
from mdsa_local.knowledge.searching import AtHand, Found, Snapshot
from mdsa_local.validation import identifiers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mdsa_local.validation.identifiers import Names

# Passages whose text is read in case that some of the best have the same one.
SPARE = 3


def search_all(knowledge_bases: Iterable[Readable], vector: NDArray[np.float32] | None, text: str, k: int) -> list[Hit]:
    """The best ``k`` of knowledge bases in one database, see :func:`rank_all`."""
    return [ranked.hit for ranked in rank_all(knowledge_bases, vector, text, k, every=False) if ranked.twin_of is None][:k]


def rank_all(
    knowledge_bases: Iterable[Readable],
    vector: NDArray[np.float32] | None,
    text: str,
    k: int,
    where: str | None = None,
    floor: float | None = None,
    *,
    every: bool = True,
) -> list[Ranked]:
    """The candidates for the best ``k`` of knowledge bases in one database, searched at the same time, best first: ``every`` one, or as many as
    hold ``k`` different texts. Those with the text of a better one are still there. Where ``text`` names something (``A-25014``), those that have it,
    letter by letter, stand before all others.

    ``vector`` is ``(width,) float32, unit length``, or None to search by words alone. ``where``: see :meth:`Readable.find`. ``floor``: the
    least cosine of a candidate.
    """
    opened = _opened(knowledge_bases)
    if where is None and (searched := _at_hand(opened, vector, text, k)) is not None:
        return _ranked(searched, text, k, floor, every)
    if not opened:
        return []
    # What was found is still there when it is fetched.
    with opened[0].base.database.reading():
        return _ranked(_asked(opened, vector, text, k, where), text, k, floor, every)


def nearness(knowledge_bases: Iterable[Readable], vector: NDArray[np.float32], text: str) -> list[float | ConfigError | StorageError]:
    """For each of knowledge bases in one database, searched at the same time, the cosine of ``vector`` with what is nearest to it there, -1 where
    nothing is; or why it cannot be searched."""
    found: dict[Readable, list[Found] | BaseException] = {}
    waiting: list[_Opened] = []
    for base in knowledge_bases:
        try:
            found[base], opened = [], _opened([base])
            if (here := _at_hand(opened, vector, text, 1)) is not None:
                found[base] = here[0].found
            else:
                waiting += opened
        except (ConfigError, StorageError) as error:
            found[base] = error

    async def search(base: Readable, table: Any) -> list[Found]:
        with storage_errors(base.database.folder, base.name):
            # Many are looked at and few are searched: those would make room in memory for these.
            return (await base.search_now(table, vector, text, 1, hold=False))[1]

    async def search_every() -> list[list[Found] | BaseException]:
        return await asyncio.gather(*(search(*one) for one in waiting), return_exceptions=True)

    if waiting:
        asked = waiting[0].base.database.run(search_every())
        found |= {base: there for (base, _), there in zip(waiting, asked, strict=True)}
    near: list[float | ConfigError | StorageError] = []
    for there in found.values():
        if isinstance(there, BaseException) and not isinstance(there, ConfigError | StorageError):
            raise there
        near.append(there if isinstance(there, BaseException) else max((one.cosine for one in there), default=-1.0))
    return near


class _Opened(NamedTuple):
    """A knowledge base that has a table."""

    base: Readable
    table: Any


def _opened(knowledge_bases: Iterable[Readable]) -> list[_Opened]:
    return [_Opened(base, table) for base in knowledge_bases if (table := base.opened()) is not None]


def _at_hand(opened: Sequence[_Opened], vector: NDArray[np.float32] | None, text: str, k: int) -> list[_Searched] | None:
    """What is found in what this process has of all of them; None where LanceDB has to be asked."""
    known = [near for base, table in opened if (near := base.at_hand(table)) is not None]
    if not opened or len(known) < len(opened):
        return None
    return [_Searched(base, *one, base.find_at_hand(*one, vector, text, k)) for (base, _), one in zip(opened, known, strict=True)]


def _asked(opened: Sequence[_Opened], vector: NDArray[np.float32] | None, text: str, k: int, where: str | None) -> list[_Searched]:
    """What LanceDB finds in them."""

    async def search(base: Readable, table: Any) -> _Searched:
        at, found = await base.search_now(table, vector, text, k, where)
        return _Searched(base, at, None, found)

    async def search_every() -> list[_Searched]:
        return await asyncio.gather(*(search(*one) for one in opened))

    return opened[0].base.database.run(search_every())


@dataclass(frozen=True, slots=True)
class _Searched:
    """What was found in a knowledge base, as it was at a moment, and what is at hand of it if that is where it was found."""

    base: Readable
    at: Snapshot
    near: AtHand | None
    found: list[Found]


def _ranked(searched: Sequence[_Searched], text: str, k: int, floor: float | None, every: bool) -> list[Ranked]:
    flat = [(number, one) for number, of in enumerate(searched) for one in of.found if floor is None or one.cosine >= floor]
    placed = order([one for _, one in flat])
    if (names := identifiers.named(text)) is not None:
        naming = _naming(searched, flat, names)
        placed.sort(key=lambda entry: entry[0] not in naming)
    twins, ranked = Twins(), []
    missing = len(placed) if every else k
    while placed and missing > 0:
        wave, placed = placed[: missing + SPARE], placed[missing + SPARE :]
        rows = _stored(searched, [[flat[i][1].row for i, _, _ in wave if flat[i][0] == number] for number in range(len(searched))])
        for i, place, score in wave:
            number, one = flat[i]
            hit = searched[number].base.hit(rows[number][one.row], one)
            ranked.append(Ranked(hit, place, score, twins.of(hit.passage)))
            missing -= ranked[-1].twin_of is None
    return ranked


def _naming(searched: Sequence[_Searched], flat: Sequence[tuple[int, Found]], names: Names) -> set[int]:
    """The places in ``flat`` of what shares words with the question and has its names."""
    worded = [(place, number, one.row) for place, (number, one) in enumerate(flat) if one.lexical_rank is not None]
    rows = _stored(searched, [[row for _, of, row in worded if of == number] for number in range(len(searched))])
    return {place for place, number, row in worded if names.within("{title}\n{text}".format_map(rows[number][row]))}


def _stored(searched: Sequence[_Searched], rows: Sequence[Sequence[int]]) -> list[dict[int, dict[str, Any]]]:
    """What is stored in rows of each."""
    near = [of.near for of in searched if of.near is not None]
    if len(near) == len(searched):
        return [one.fetch(some) for one, some in zip(near, rows, strict=True)]

    async def read() -> list[dict[int, dict[str, Any]]]:
        return await asyncio.gather(*(of.base.stored(of.at, some) for of, some in zip(searched, rows, strict=True)))

    return searched[0].base.database.run(read())
