"""What a reference to a model stands for: found once, looked up again where it cannot be loaded, and its file checked once as it is."""

from __future__ import annotations

from pathlib import Path

from mdsa_local.runtime.backend import Reference, parse_reference
from mdsa_local.runtime.catalog import ModelFile, at, find, verify
from mdsa_local.runtime.gguf import stamp
from mdsa_local.runtime.slots import Target
from mdsa_local.settings import Settings


class Names:
    """Targets by their references. Safe from any thread: two that look up one name at once find the same."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[Reference, Target] = {}
        # With size and time of change as they were then.
        self._verified: set[tuple[ModelFile, tuple[int, int] | None]] = set()

    def target(self, ref: str) -> Target:
        """What ``ref`` names. Raises :class:`ModelNotFoundError` for an unknown name, :class:`UnknownNameError` for an unknown scheme."""
        reference = parse_reference(ref)
        if reference.scheme == "gguf":
            reference = Reference("gguf", str(Path(reference.target).resolve()))
        elif reference.scheme != "name":
            return Target(reference.scheme, reference.target, reference.target)
        # Kept, because reading every model.yaml takes milliseconds and this is on the path of each request.
        if (known := self._known.get(reference)) is None:
            known = self._known[reference] = self._looked_up(reference)
        return known

    def again(self, target: Target) -> Target:
        """What the reference of a target that cannot be loaded stands for now: a file may have been added or pulled since. Raises as
        :meth:`target`."""
        if target.asked is None:
            return target
        found = self._known[target.asked] = self._looked_up(target.asked)
        return found

    def verify(self, target: Target) -> None:
        """Check a listed file against its checksum, unless it was and has not changed since. Raises :class:`ModelFileError`."""
        if target.file and (seen := (target.file, stamp(target.file.path))) not in self._verified:
            verify(target.file, self._settings.home / "cache" / "verified")
            self._verified.add(seen)

    def _looked_up(self, reference: Reference) -> Target:
        """The file of a name or path, as things are now."""
        if reference.scheme == "name":
            file = find(reference.target, self._settings.model_dirs)
            return Target("gguf", str(file.path.resolve()), file.name, reference, file)
        path = Path(reference.target)
        return Target("gguf", reference.target, path.stem, reference, at(path))
