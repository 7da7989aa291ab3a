"""Front matter: the YAML between two lines ``---`` with which a Markdown file of Obsidian, Jekyll and others may begin."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mdsa_local.knowledge.loaders import MOST_TITLE_CHARS

# What is longer is none; a passage carries its values with it.
MOST_CHARS = 16_000
_FENCED = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)(?<=\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\r?\Z)", re.DOTALL)


class _Loader(yaml.BaseLoader):
    """Leaves every value as it is written, and takes no aliases, with which a few lines make gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As PyYAML does."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias")
        return super().compose_node(parent, index)


def front_matter(text: str) -> tuple[dict[str, Any], int] | None:
    """The values of the front matter with which ``text`` begins, strings and lists of strings, and where it ends; None where there is none, or where
    it is no YAML mapping without aliases. What is nested deeper is left out."""
    found = _FENCED.match(text[:MOST_CHARS])
    if found is None or found.end() == MOST_CHARS < len(text):
        return None
    try:
        values = yaml.load(found[1], _Loader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    if not isinstance(values, dict | None):
        return None
    told = {_clean(name): kept for name, value in (values or {}).items() if isinstance(name, str) and name and (kept := _kept(value))}
    return told, found.end()


def title(values: dict[str, Any]) -> str:
    """The document's title among these values, empty where it has none that could be one."""
    name = values.get("title")
    line = " ".join(name.split()) if isinstance(name, str) else ""
    return line if len(line) <= MOST_TITLE_CHARS else ""


def _kept(value: object) -> str | list[str] | None:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [_clean(item) for item in value if item]
    return None


def _clean(text: str) -> str:
    """Without lone halves of surrogate pairs, which YAML can spell and UTF-8 cannot."""
    return text.encode(errors="replace").decode()
