"""A runtime that says what a test tells it to: for control flow that no model can be made to take. Never used by the product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mdsa_local.domains.config import Generation
from mdsa_local.errors import MDSAError
from mdsa_local.runtime.backend import Finished, Message
from mdsa_local.runtime.stopping import unopened
from mdsa_local.settings import Settings

CONTEXT_TOKENS = 2000
SAYS: dict[str, str | MDSAError] = {}
HEARD: list[tuple[str, ...]] = []


@dataclass
class Scripted:
    """Writes ``SAYS[name]`` word by word, or raises it."""

    name: str
    closed: list[bool] = field(default_factory=list)

    @property
    def n_context_tokens(self) -> int:
        return CONTEXT_TOKENS

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.split()) for message in messages)

    def stream(self, messages: Sequence[Message], generation: Generation, *, deadline_s: float) -> Iterator[str | Finished]:
        HEARD.append(tuple(message.content for message in messages))
        said = SAYS[self.name]
        if isinstance(said, MDSAError):
            raise said
        words = said.split(" ")
        for number, word in enumerate(words):
            if number == generation.max_tokens:
                yield Finished("length", 1, number)
                return
            yield word if number == 0 else f" {word}"
        yield Finished("stop", 1, len(words), withdrawn=unopened(said))

    def close(self) -> None:
        self.closed.append(True)


def estimate_bytes(target: str, settings: Settings) -> int:
    return 1000


def open_backend(target: str, name: str, settings: Settings) -> Scripted:
    return Scripted(target)
