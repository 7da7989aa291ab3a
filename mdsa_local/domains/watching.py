"""Domains that change while the program runs: edited folders are read again, and a new model has to prove itself before it is used."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdsa_local.domains import asking, prompts
from mdsa_local.domains.config import DomainConfig
from mdsa_local.domains.registry import DomainRegistry, owners
from mdsa_local.errors import InputError, MDSAError, ModelError
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.manager import ModelManager
from mdsa_local.stoppable import Leash

logger = logging.getLogger(__name__)
POLL_S = 0.5
SMOKE_TOKENS = 4
# What failed is tried again after the first of these, then after twice as long each time, up to the second.
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 60.0
Stamp = tuple[tuple[Path, int, int], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an edited domain. ``applied`` False: the domain goes on as it was, ``message`` says why."""

    domain: str
    applied: bool
    message: str


@dataclass(frozen=True, slots=True)
class Failure:
    """An edit that was not taken over: what was told of it, and when it is tried again, on the clock of ``time.monotonic``."""

    message: str
    pause_s: float
    due: float


class DomainWatcher:
    """Looks twice a second at the files that define domains. Nothing but file times is read until one has changed, or what failed is tried again."""

    def __init__(
        self,
        folders: Sequence[Path],
        registry: DomainRegistry,
        manager: ModelManager,
        register: Callable[[DomainConfig], None],
        unregister: Callable[[str], None],
        default_model: str,
    ) -> None:
        """``default_model`` answers for domains without their own."""
        self._folders, self._registry, self._manager = folders, registry, manager
        self._register, self._unregister, self._default_model = register, unregister, default_model
        self._seen = self._stamps()
        self._failed: dict[str, Failure] = {}
        self._stop = threading.Event()
        self._trial = Leash()
        self.changes: list[Change] = []
        self._thread = threading.Thread(target=self._run, name="watch-domains", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking, and the model that is tried out, without waiting for it. Safe twice."""
        self._stop.set()
        self._trial.stop()

    def close(self) -> None:
        """Stop looking, and wait for the end of it. Safe twice."""
        self.stop()
        self._thread.join()

    def _stamps(self) -> dict[str, Stamp]:
        """Of each domain the files that define it."""
        found = {}
        for name, folder in owners(self._folders).items():
            files = [file for file in (folder / "domain.yaml", folder / "examples.yaml") if file.is_file()]
            found[name] = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
        return found

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                now = self._stamps()
            except OSError:
                # A file went between being listed and being looked at; the next look is soon.
                continue
            for name in sorted({*now, *self._seen, *self._failed}):
                edited = now.get(name) != self._seen.get(name)
                failure = None if edited else self._failed.get(name)
                if (edited or (failure and failure.due <= time.monotonic())) and not self._stop.is_set():
                    self._note(self._tried(name, now.get(name), failure), failure)
            self._seen = now

    def _note(self, change: Change | None, failure: Failure | None) -> None:
        # What was stopped in the middle is nobody's mistake, and what fails again as it did was told.
        if change is not None and not self._stop.is_set() and not (failure and change.message == failure.message):
            self.changes = [*self.changes[-99:], change]
            logger.log(logging.INFO if change.applied else logging.WARNING, "domain %s: %s", change.domain, change.message)

    def _tried(self, name: str, stamp: Stamp | None, failure: Failure | None) -> Change | None:
        """What became of a domain's files, taken over if that can be; ``failure``: of the last time, where they are as they were then."""
        before = self._registry.get(name) if name in self._registry else None
        self._failed.pop(name, None)
        try:
            return self._follow(name, stamp, before)
        except Exception as error:
            # Whatever it was: later edits are to be followed.
            told = error.told if isinstance(error, MDSAError) else f"{type(error).__name__}: {error}."
            kept = "it goes on as it was" if before else "it is not used"
            change = Change(name, False, f"{told} Until that is put right {kept}.")
            # A file may come, a server start, memory be free; what a domain asks for wrongly only an edit puts right.
            if not isinstance(error, InputError):
                pause_s = min(2 * failure.pause_s, LONGEST_PAUSE_S) if failure else FIRST_PAUSE_S
                self._failed[name] = Failure(change.message, pause_s, time.monotonic() + pause_s)
            return change

    def _follow(self, name: str, stamp: Stamp | None, before: DomainConfig | None) -> Change | None:
        """Take over what became of a domain's files. Raises whatever keeps them from being taken over."""
        if not stamp:
            if before is None or before.folder is None or before.folder.parent not in self._folders:
                return None
            self._unregister(name)
            return Change(name, True, "removed")
        domain = DomainConfig.read(stamp[0][0].parent)
        model = domain.model or self._default_model
        if before is not None and (before.model, before.sampling) == (domain.model, domain.sampling):
            self._register(domain)
            return Change(name, True, f"what was edited is taken over; {model} goes on answering")
        began = time.monotonic()
        self._prove(domain)
        self._register(domain)
        return Change(name, True, f"answers with {model} from now on; loaded and tried in {time.monotonic() - began:.1f} s")

    def _prove(self, domain: DomainConfig) -> None:
        """Load the model and let it write a few tokens as the domain would have it. Raises whatever keeps it from that."""
        reference = domain.model or self._default_model
        if self._manager.decoding(reference) == "quotes":
            asking.refuse_form(domain)
        # As questions are put: not every template takes a system message.
        asked = [Message("system", prompts.system_message(domain.system_prompt)), Message("user", prompts.user_message((), "Hello"))]
        generation = domain.sampling.model_copy(update={"max_tokens": SMOKE_TOKENS})
        # To its end, which with so few tokens mostly is that they are used up.
        if not list(self._trial.hold(self._manager.stream(reference, asked, generation))):
            raise ModelError(f"{reference} wrote nothing", "Use another model.")
