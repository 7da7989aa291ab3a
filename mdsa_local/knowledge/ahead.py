"""The next piece of work made ready while one is being done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

T = TypeVar("T")

_END: Final = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order; the next one is made in another thread while one is used. An error in making one comes in its place."""
    left = iter(items)
    with ThreadPoolExecutor(1, "mdsa-ahead") as maker:
        coming = maker.submit(next, left, _END)
        while (item := coming.result()) is not _END:
            coming = maker.submit(next, left, _END)
            yield item  # type: ignore[misc]
