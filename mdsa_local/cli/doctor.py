"""``mdsa doctor``."""

from __future__ import annotations

import typer

from mdsa_local.cli.output import Json, bold, document, line


def doctor(as_json: Json = False) -> None:
    """Examine this machine and installation: what is there, what is wrong and how to mend it, what would serve better. Exit code 1 when something is
    wrong."""
    from dataclasses import asdict

    from mdsa_local.doctor import Finding, examine
    from mdsa_local.runtime.hardware import HardwareDetector
    from mdsa_local.settings import Settings

    settings, detector = Settings.load(), HardwareDetector()
    found: list[Finding] = []
    for finding in examine(settings, detector):
        found.append(finding)
        if not as_json:
            mark = {"ok": "ok  ", "note": "note", "problem": bold("BAD ")}[finding.level]
            line(f"{mark}  {finding.check:<10} {finding.message}")
            if finding.fix:
                line(f"{'':<17}-> {finding.fix}")
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        document({"healthy": not problems, "hardware": detector.get_summary(), "findings": [asdict(finding) for finding in found]})
    else:
        notes = sum(finding.level == "note" for finding in found)
        counts = [f"{count} {word}{'s' * (count != 1)}" for count, word in ((problems, "problem"), (notes, "note"))]
        line(f"\n{', '.join(counts)}" if problems or notes else "\nall is well")
    if problems:
        raise typer.Exit(1)
