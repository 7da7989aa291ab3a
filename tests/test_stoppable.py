"""Streams that any thread may close."""

from __future__ import annotations

import threading
from collections.abc import Generator
from functools import partial

from mdsa_local.stoppable import Leash, Stoppable


def test_two_threads_close_one_stream_at_once() -> None:
    closing, go, failed = threading.Event(), threading.Event(), list[BaseException]()

    def steps(leash: Leash) -> Generator[int, None, None]:
        leash.check()
        try:
            yield 1
            yield 2
        finally:
            closing.set()
            go.wait(5)

    stream = Stoppable(steps)
    assert next(stream) == 1

    def close() -> None:
        try:
            stream.close()
        except BaseException as error:
            failed.append(error)

    first = threading.Thread(target=close)
    first.start()
    assert closing.wait(5)
    second = threading.Thread(target=close)
    second.start()
    second.join(5)
    go.set()
    first.join(5)
    assert not failed
    assert list(stream) == []


def test_what_is_closed_before_it_is_read_is_told_once() -> None:
    def steps(leash: Leash) -> Generator[int, None, None]:
        yield 1

    told = list[str]()
    for name, read in (("unread", False), ("read", True)):
        stream = Stoppable(steps, unread=partial(told.append, name))
        if read:
            next(stream)
        stream.close()
        stream.close()
    assert told == ["unread"]
