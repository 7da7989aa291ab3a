"""Keep the knowledge bases in step with the domains' folders: ``domains/<name>/knowledge`` and ``domains/_global/knowledge``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mdsa_local.knowledge.ingest import Report
from mdsa_local.settings import Settings, storage_error

if TYPE_CHECKING:
    from mdsa_local.knowledge.dual_rag import DualRAG

GLOBAL_FOLDER = "_global"


def folders(settings: Settings) -> Iterator[tuple[str | None, Path]]:
    """``(domain, folder of documents)``; the domain is None for what all share."""
    for parent in settings.domain_dirs:
        for folder in sorted(parent.glob("*/knowledge")):
            name = folder.parent.name
            if name == GLOBAL_FOLDER or (folder.parent / "domain.yaml").is_file():
                yield (None if name == GLOBAL_FOLDER else name), folder


def state(settings: Settings, fingerprint: str) -> str:
    """A digest of names, sizes and times of all documents and of the encoder; reads no document."""
    digest = hashlib.sha256(fingerprint.encode())
    for _, folder in folders(settings):
        for path in sorted(folder.rglob("*")):
            status = path.stat()
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def stamp(settings: Settings) -> Path:
    """The file that holds the :func:`state` last ingested."""
    return settings.knowledge_dir / "synced"


def pending(settings: Settings, fingerprint: str) -> bool:
    """Whether :func:`sync` has something to do. Costs a few milliseconds."""
    path = stamp(settings)
    return not path.is_file() or path.read_text(encoding="utf-8").strip() != state(settings, fingerprint)


def sync(rag: DualRAG, settings: Settings, fingerprint: str, progress: Callable[[str, int, int], None] | None = None) -> list[tuple[str, Report]]:
    """Ingest what is new or changed and drop what is gone; ``(knowledge base, report)`` for each folder. Raises :class:`StorageError`."""
    before = state(settings, fingerprint)
    done: list[tuple[str, Report]] = []
    for domain, group in _by_domain(folders(settings)):
        if rag.list_documents(domain):
            # Vectors of another encoder are made anew from the stored text first: a table never mixes two.
            rag.optimize(domain)
        done.append((domain or "global", rag.add_paths(group, domain, progress, follow_deletes=True)))
    try:
        settings.writable(settings.knowledge_dir)
        stamp(settings).write_text(before, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, stamp(settings)) from None
    return done


def _by_domain(found: Iterable[tuple[str | None, Path]]) -> list[tuple[str | None, list[Path]]]:
    grouped: dict[str | None, list[Path]] = {}
    for domain, folder in found:
        grouped.setdefault(domain, []).append(folder)
    return list(grouped.items())
