"""Which words a knowledge base has never heard of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mdsa_local.knowledge.lance import storage_errors

if TYPE_CHECKING:
    from mdsa_local.knowledge.store import KnowledgeBase


def unknown(knowledge_bases: Sequence[KnowledgeBase], words: Iterable[str]) -> set[str]:
    """Those of ``words`` that no passage of the knowledge bases, which are in one database, contains: case, accents and endings aside.

    Words that the word index leaves out, such as "the", are unknown to it; leave them out before.
    """
    asked = list(dict.fromkeys(words))
    opened: list[tuple[KnowledgeBase, Any]] = []
    for base in knowledge_bases:
        table = base.opened()
        if table is not None and (near := base.at_hand(table)) and (held := near[1].words):
            asked = [word for word in asked if not any(token in held.terms for token in held.tokenize(word))]
        elif table is not None:
            opened.append((base, table))
    if not opened or not asked:
        return set(asked)

    async def mentioned(base: KnowledgeBase, table: Any, word: str) -> bool:
        from lancedb.query import MatchQuery

        with storage_errors(base.database.folder, base.name):
            query = table.query().nearest_to_text(MatchQuery(word, "searchable")).select(["id", "_score"]).limit(1)
            return bool((await query.to_arrow()).num_rows)

    async def look() -> list[bool]:
        return await asyncio.gather(*(mentioned(base, table, word) for word in asked for base, table in opened))

    found = opened[0][0].database.run(look())
    width = len(opened)
    return {word for at, word in enumerate(asked) if not any(found[at * width : (at + 1) * width])}
