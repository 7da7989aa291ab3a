"""What the README shows is what there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from mdsa_local.cli.main import run, tree
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md")))
BLOCKS = re.findall(r"```python\n(.*?)```", README + DOCS, re.DOTALL)
COMMANDS = sorted(
    set(
        re.findall(
            r"\bmdsa ((?:kb |router |domains |models |eval |feedback |train )?[a-z]+)\b",
            "\n".join(re.findall(r"`mdsa [^`]*`|^mdsa .*$", README + DOCS, re.MULTILINE)),
        )
    )
)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_its_python_runs(block: str, product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run([*command.split(), "--help"])
    assert not ended.value.code, capsys.readouterr().err


def test_its_options_exist() -> None:
    shown = re.findall(r"^mdsa .*$", README + DOCS, re.MULTILINE) + re.findall(r"`(mdsa [^`]*)`", (README + DOCS).replace("\n", " "))
    checked = 0
    for line in shown:
        words = shlex.split(line, comments=True)[1:]
        command: Any = get_command(tree())
        while words and words[0] in getattr(command, "commands", ()):
            command = command.commands[words.pop(0)]
        known = {"--help", *(option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts))}
        for option in (word for word in words if re.fullmatch(r"-[a-zA-Z]|--[a-z][a-z-]*", word)):
            checked += 1
            assert option in known, line
    assert checked > 50


def test_every_command_and_setting_is_in_it() -> None:
    assert {f"models {name}" for name in ("list", "show", "fit", "pull", "add", "rm", "quantize")} | {"doctor"} <= set(COMMANDS)
    assert {f"train {name}" for name in ("tokenizer", "pretrain", "ground", "export", "quantize", "evaluate", "nano")} <= set(COMMANDS)
    wanted = {"ask", "route", "tour", "kb add", "kb list", "kb search", "kb sync", "router eval", "router export", "domains list", "bench"}
    wanted |= {"train adapter", "train router"} | {f"feedback {name}" for name in ("right", "wrong", "list", "recent", "export", "remove")}
    assert wanted <= set(COMMANDS)
    for name in Settings.model_fields:
        assert f"`{name}`" in README or name == "home", name


def test_every_settings_default_is_right() -> None:
    for name, default in re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", README, re.MULTILINE):
        assert str(Settings.model_fields[name].default).removesuffix(".0") == default.strip(), name
