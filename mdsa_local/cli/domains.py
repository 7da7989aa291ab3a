"""``mdsa domains``."""

from __future__ import annotations

from collections import Counter

import typer

from mdsa_local.cli.output import Json, document, escaped, line, table

# More collisions than these are no help to people.
SHOWN = 20
SAID = {"name", "title", "description", "keywords"}
app = typer.Typer(no_args_is_help=True, help="The domains there are.")


@app.callback()
def _group() -> None:
    """The domains there are."""


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the domains: shipped ones and those in $MDSA_HOME/domains."""
    from mdsa_local.domains.registry import DomainRegistry
    from mdsa_local.settings import Settings
    from mdsa_local.unclaimed import none_at_all

    settings = Settings.load()
    found, default = list(DomainRegistry.from_folders(settings.domain_dirs)), settings.default_model
    if as_json:
        told = ({**d.model_dump(mode="json", include=SAID), "model": d.model or default, "examples": len(d.examples)} for d in found)
        document([row | {"folder": str(d.folder)} for row, d in zip(told, found, strict=True)])
        return
    if not found:
        line(none_at_all(settings))
        return
    table([(d.name, escaped(d.title), escaped(d.model or default), str(len(d.examples))) for d in found], ("name", "title", "model", "examples"))


@app.command("check")
def check(as_json: Json = False) -> None:
    """Show which domains overlap: examples that, left out, would be taken for another domain's."""
    from mdsa_local.orchestrator import TinyBERTOrchestrator

    with TinyBERTOrchestrator() as orchestrator:
        found = orchestrator.router.collisions()
        sizes = orchestrator.router.examples
    bare, total = [name for name, size in sizes.items() if not size], sum(sizes.values())
    pairs = Counter((c.domain, c.other) for c in found)
    if as_json:
        collisions = [{"domain": c.domain, "text": c.text, "other": c.other, "own": round(c.own, 4), "others": round(c.others, 4)} for c in found]
        overlaps = [{"domain": a, "other": b, "examples": n, "of": sizes[a]} for (a, b), n in pairs.most_common()]
        document({"examples": total, "overlaps": overlaps, "collisions": collisions, "without_examples": bare})
        return
    for name in bare:
        line(f"{name}: no examples, so nothing can be checked; add a few to examples.yaml in its folder")
    if not found:
        line(f"no overlap among {total} examples")
        return
    line(f"{len(found)} of {total} examples lie nearer to another domain:")
    table([(a, b, f"{n} of {sizes[a]}") for (a, b), n in pairs.most_common()], ("domain", "taken for", "examples"))
    line()
    table(
        [(c.domain, c.other, f"{c.own:.2f}", f"{c.others:.2f}", escaped(c.text)) for c in found[:SHOWN]],
        ("domain", "taken for", "own", "other", "example"),
    )
    if len(found) > SHOWN:
        line(f"and {len(found) - SHOWN} more, less far off; --json has all")
