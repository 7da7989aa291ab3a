"""The next piece of work made ready while one is being done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, TypeVar

from mdsa_local.threads import Threads

T = TypeVar("T")

_END: Final = object()


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order; the next one is made in another thread while one is used. An error in making one comes in its place."""
    make = partial(next, iter(items), _END)
    with Threads(1, "mdsa-ahead") as maker:
        coming = maker.submit(make)
        while (item := coming.result()) is not _END:
            coming = maker.submit(make)
            yield item
