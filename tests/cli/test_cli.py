"""The command line as a user meets it: real processes, real exit codes."""

from __future__ import annotations

import ctypes
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from mdsa_local.__main__ import main
from mdsa_local.cli import ask, output
from mdsa_local.cli import main as command
from mdsa_local.cli.main import COMMANDS, run
from mdsa_local.errors import BackendError
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.types import Answer, Token, Verdict

Ran = subprocess.CompletedProcess[bytes]


def mdsa(*arguments: str | bytes, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Ran:
    return subprocess.run(
        [sys.executable, "-m", "mdsa_local", *arguments], input=stdin, capture_output=True, env={**os.environ, **(env or {})}, timeout=300
    )


def inside(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run in this process, which is quicker than a new one."""
    with pytest.raises(SystemExit) as ended:
        run(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_ask_prints_one_json_document(product: TinyBERTOrchestrator) -> None:
    ran = mdsa("ask", "My card was charged twice, how do I get my money back?", "--json")
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["domain"] == "finance"
    assert {"id", "source", "knowledge_base", "score", "text"} <= set(answer["citations"][0]) if answer["citations"] else True
    assert [stage["stage"] for stage in answer["trace"]] == ["route", "retrieve", "generate", "validate"]


def test_ask_for_people_shows_where_the_answer_comes_from(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "ask", "How", "much", "does", "a", "replacement", "debit", "card", "cost?")
    assert code == 0
    assert "domain finance, confidence" in out
    assert "model nano" in out
    assert "timings route" in out


def test_ask_for_people_says_why_as_json_does() -> None:
    reason = "nearest to what support is known by; unsure, below 0.50"
    verdict = Verdict("success", "It is. [1]", (), ())
    answer = Answer("id", "success", "It is. [1]", "support", 0.4, {}, "nano", 4, 1.0, (), verdict, (), reason=reason)
    assert ask.details(answer)[0] == f"domain support, confidence 0.40 ({reason})"
    lesser = replace(answer, status="degraded", reason="chosen by nearness alone: no judge\n")
    assert ask.details(lesser)[0] == "domain support, confidence 0.40, degraded (chosen by nearness alone: no judge\\n)"


@pytest.mark.parametrize(
    ("word", "typed"),
    [("a.md", "a.md"), ("a.md#0", '"a.md#0"'), ("my notes.md", '"my notes.md"'), ("it's", '"it\'s"'), ("$5", "'$5'"), ('"x"', "'\"x\"'")],
)
def test_words_of_commands_are_quoted_as_more_shells_read_them(word: str, typed: str) -> None:
    assert output.quoted(word) == typed
    assert shlex.split(typed) == [word]


def test_ask_names_the_domain_of_what_it_left_and_how_to_ask_there(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "ask", "My card's been stolen and the API answers with error 401")
    assert code == 0
    parts = {"finance": "My card's been stolen", "technical": "the API answers with error 401"}
    (line,) = (line for line in out.splitlines() if line.startswith("not asked: "))
    other = line.removeprefix("not asked: ").partition(",")[0]
    command = shlex.split(line.partition("ask it there: ")[2])
    assert command == ["mdsa", "ask", "--domain", other, parts[other]]
    code, out, _ = inside(capsys, *command[1:])
    assert code == 0
    assert f"domain {other}, confidence 1.00" in out
    assert "not asked" not in out


def test_route_abstains_on_the_weather_on_mars(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "route", "what's the weather on mars", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["domain"] is None
    assert found["abstained"]
    assert set(found) == {"domain", "confidence", "scores", "abstained", "reason", "small_talk", "parts", "context", "switched", "degraded", "ms"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ask", ""], 2, "empty"),
        (["ask", "x" * 100_000], 2, "100,000 characters"),
        (["ask", "what\x07"], 2, "U+0007"),
        (["ask", "atm limit", "--domain", "nope"], 4, "unknown domain 'nope'"),
        (["ask", "what is the atm limit", "--model", "nope"], 5, "unknown model 'nope'"),
        # No domain takes this one, and no model is asked.
        (["ask", "what's the weather on mars", "--model", "nope"], 5, "unknown model 'nope'"),
        (["ask", "what's the weather on mars", "--model", "/no/such/file.gguf"], 5, "no model file"),
        (["chat", "--model", "nope"], 5, "unknown model 'nope'"),
        (["eval", "answers", "--model", "nope"], 5, "unknown model 'nope'"),
        (["ask", "what is the atm limit", "--model", "what://x"], 4, "unknown model scheme 'what'"),
        (["ask", "what is the atm limit", "--model", "/no/such/file.gguf"], 5, "no model file"),
        (["kb", "add", "/no/such/folder"], 2, "no such file or folder"),
        # The system does not even look for a name as long as this one.
        (["ask", "what is the atm limit", "--model", f"/{'x' * 300}.gguf"], 5, "x" * 300),
        (["kb", "add", "x" * 300], 2, "x" * 300),
        (["kb", "list", "-d", "nope"], 4, "unknown domain"),
        (["kb", "remove", "nope.md"], 4, "unknown document"),
        (["router", "eval", "/no/such/file"], 2, "cannot be read"),
        (["bench", "nope"], 4, "unknown suite"),
        (["ask", "what is the atm limit", "--model", "~nosuchuser/x.gguf"], 2, "there is no such user"),
        (["models", "add", "~nosuchuser/x.gguf"], 2, "there is no such user"),
        (["models", "show", "~nosuchuser/x.gguf"], 2, "there is no such user"),
        (["router", "export", "--model", "x", "--out", "~nosuchuser/y"], 2, "there is no such user"),
        (["train", "router", "--data", "~nosuchuser/x.jsonl"], 2, "there is no such user"),
        (["bench", "generate", "--llama-server", "/nosuch"], 6, "/nosuch is no program"),
    ],
)
def test_bad_input_is_one_clear_error(
    product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    found, out, err = inside(capsys, *arguments)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    found, out, _ = inside(capsys, *arguments, "--json")
    envelope = json.loads(out)["error"]
    assert found == code
    assert said in envelope["message"]
    assert envelope["hint"]


def test_a_truncated_and_a_foreign_model_file(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = product.manager.resolve("nano")
    assert isinstance(whole, Path)
    for name, content, said in (("cut.gguf", whole.read_bytes()[:50_000], "truncated"), ("text.gguf", b"hello\n" * 100, "not a GGUF")):
        (tmp_path / name).write_bytes(content)
        code, _, err = inside(capsys, "ask", "what is the atm limit", "--model", str(tmp_path / name))
        assert code == 5
        assert said in err
        assert name in err


def test_ollama_not_running_says_how_to_start_it(product: TinyBERTOrchestrator) -> None:
    ran = mdsa("ask", "what is the atm limit", "--model", "ollama://llama3.2:1b", env={"OLLAMA_BASE_URL": "http://127.0.0.1:9"})
    assert ran.returncode == 6
    assert b"ollama serve" in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows passes arguments as UTF-16: there is no broken UTF-8 in them")
def test_broken_utf8_is_one_clear_error(product: TinyBERTOrchestrator) -> None:
    ran = mdsa(b"ask", b"caf\xe9 fees")
    assert ran.returncode == 2
    assert b"not valid UTF-8" in ran.stderr
    assert mdsa("ask", "-", stdin=b"caf\xe9 fees").returncode == 2


def test_malformed_yaml_names_file_and_key(product: TinyBERTOrchestrator, tmp_path: Path) -> None:
    made = tmp_path / "domains" / "garden"
    made.mkdir(parents=True)
    (made / "domain.yaml").write_text("colour: green\n")
    ran = mdsa("domains", "list", env={"MDSA_HOME": str(tmp_path)})
    assert ran.returncode == 3
    assert b"garden" in ran.stderr
    assert b"unknown key 'colour'" in ran.stderr


def test_a_home_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    ran = mdsa("ask", "what is the atm limit", env={"MDSA_HOME": str(tmp_path / "file" / "home")})
    assert ran.returncode == 7
    assert b"MDSA_HOME" in ran.stderr
    assert b"Traceback" not in ran.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "knowledge").mkdir()
    (tmp_path / "knowledge" / "synced").symlink_to("/dev/full")
    ran = mdsa("kb", "sync", env={"MDSA_HOME": str(tmp_path)})
    assert ran.returncode == 7
    assert b"No space left" in ran.stderr


def test_kb_add_list_search_remove(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "coffee.md").write_text("# Coffee machine\n\nThe coffee machine on floor 3 is cleaned every Thursday at 17:00.\n")
    (folder / "image.png").write_bytes(b"\x89PNG")
    code, out, err = inside(capsys, "kb", "add", str(folder), "--domain", "support")
    assert (code, "1 added" in out, "image.png" in err) == (0, True, True)
    code, out, _ = inside(capsys, "kb", "add", str(folder), "--domain", "support", "--json")
    assert json.loads(out)["unchanged"] == 1
    code, out, _ = inside(capsys, "kb", "search", "when is the coffee machine cleaned", "-d", "support", "-k", "1", "--json")
    assert "Thursday" in json.loads(out)[0]["text"]
    code, out, _ = inside(capsys, "kb", "search", "when is the coffee machine cleaned", "-d", "finance", "--json")
    assert "Thursday" not in out
    _, out, _ = inside(capsys, "kb", "list", "-d", "support", "--json")
    document = next(row["document"] for row in json.loads(out) if row["source"].endswith("coffee.md"))
    assert inside(capsys, "kb", "remove", document, "-d", "support")[0] == 0
    _, out, _ = inside(capsys, "kb", "search", "when is the coffee machine cleaned", "-d", "support", "--json")
    assert "Thursday" not in out


def test_sync_is_quiet_when_nothing_changed(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    assert inside(capsys, "kb", "sync") == (0, "knowledge bases are up to date\n", "")


def test_router_eval(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rows = [("how do i dispute a charge", "finance"), ("what is a normal blood pressure", "medical"), ("how far away is the moon", None)]
    file = tmp_path / "set.jsonl"
    file.write_text("".join(json.dumps({"text": text, "domain": domain}) + "\n" for text, domain in rows))
    _, out, _ = inside(capsys, "router", "eval", str(file), "--json")
    result = json.loads(out)
    assert set(result) == {"n", "accuracy", "oos_auroc", "oos_recall", "ece", "coverage", "p50_ms", "p99_ms", "reliability", "confusion"}
    assert (result["n"], result["accuracy"]) == (3, 1.0)
    file.write_text('{"text": "x"}\n')
    code, _, err = inside(capsys, "router", "eval", str(file))
    assert (code, "line 1" in err) == (2, True)


def test_usage_errors_keep_the_promise_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inside(capsys, "ask", "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "input"
    assert "Missing argument" in err


def test_welcome_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert "mdsa ask" in inside(capsys)[1]
    assert inside(capsys, "--version")[1].startswith("mdsa_local ")
    shown = inside(capsys, "--help")[1]
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert "Show which domain" in inside(capsys, "route", "--help")[1]
    code, _, err = inside(capsys, "aks")
    assert code == 2
    assert "No such command 'aks'" in err


OFFLINE = """
import sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
        raise RuntimeError(f"network: {event} {arguments}")
sys.addaudithook(guard)
from mdsa_local.cli.main import run
run(["ask", "How much does a replacement debit card cost?", "--json"])
"""


def test_answering_opens_no_socket(product: TinyBERTOrchestrator) -> None:
    ran = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["domain"] == "finance"


def test_the_tour_answers_cites_and_declines(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "tour", "--json")
    assert code == 0
    *domains, nowhere, unanswered, both = json.loads(out)
    told = {"finance": '"Charged twice"', "medical": "4,000 mg", "support": "24 months", "technical": "120 requests"}
    for answer, (domain, fact) in zip(domains, told.items(), strict=True):
        assert (answer["domain"], answer["status"]) == (domain, "success")
        assert fact in answer["response"]
        assert f"[{answer['citations'][0]['number']}]" in answer["response"]
    assert (nowhere["domain"], nowhere["status"]) == (None, "abstained")
    assert (unanswered["domain"], unanswered["status"]) == ("finance", "not_found")
    assert {citation["knowledge_base"] for citation in both["citations"]} == {"global", both["domain"]}


def test_interrupted_while_it_is_still_read(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "mdsa_local.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "mdsa_local.cli.main", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_a_console_of_windows_is_told_to_take_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def mode(handle: ctypes.c_void_p, into: Any) -> bool:
        into._obj.value = 3
        return handle.value == 11

    console = Mock(GetStdHandle=lambda stream: -stream, GetConsoleMode=mode)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: console, raising=False)
    command.show_escapes()
    console.SetConsoleMode.assert_not_called()
    monkeypatch.setattr(command, "sys", SimpleNamespace(platform="win32"))
    command.show_escapes()
    [told] = console.SetConsoleMode.call_args_list
    assert (told.args[0].value, told.args[1]) == (11, 7)


GONE = """
import sys
from types import SimpleNamespace
from mdsa_local.cli import main
class Gone:
    encoding, isatty = "utf-8", lambda self: False
    def write(self, text): raise OSError(22, "Invalid argument")
    flush = lambda self: None
main.sys = SimpleNamespace(platform="win32", stdout=Gone(), stderr=sys.stderr, argv=sys.argv, exit=sys.exit)
main.show_escapes = lambda: None
sys.stdout = Gone()
main.run(["domains", "list"])
"""


def test_on_windows_nothing_is_said_to_who_has_gone(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", GONE], env={**os.environ, "MDSA_HOME": str(tmp_path)}, capture_output=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, b"", b"")


def test_on_windows_the_system_itself_ends_an_interrupted_program(monkeypatch: pytest.MonkeyPatch) -> None:
    # A program that was started in the background is told to ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for system, by_system in (("linux", False), ("darwin", False), ("win32", True)):
            monkeypatch.setattr(output, "sys", SimpleNamespace(platform=system))
            with output.interrupted_at_once():
                assert (signal.getsignal(signal.SIGINT) is signal.SIG_DFL) == by_system
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
@pytest.mark.parametrize("after_s", [0.2, 0.5, 0.8, 1.1])
@pytest.mark.parametrize("command", [["ask"], ["kb", "search"]])
def test_an_interrupted_question_ends_at_once(product: TinyBERTOrchestrator, command: list[str], after_s: float) -> None:
    asked = [sys.executable, "-m", "mdsa_local", *command, "how much can I withdraw per day"]
    started = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(after_s)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=30)
    assert b"internal error" not in told
    # On a quick machine it may have been through, on a busy one Python may not have begun with us.
    assert started.returncode in (0, 1, 130, -signal.SIGINT)


CONVERSATION = b"how long is the warranty on a device?\nand on batteries?\n\n/new\n/what\n/set top_k 0\n/?\n\x01\ncaf\xe9\nhi\n/bye now\nnever read\n"


def test_a_conversation_goes_on_from_what_was_asked(product: TinyBERTOrchestrator) -> None:
    ran = mdsa("chat", stdin=CONVERSATION)
    assert ran.returncode == 0, ran.stderr
    said = ran.stdout.decode()
    assert "24 months" in said
    assert "Batteries are covered for 6 months. [1]" in said
    assert "I answer questions from documents." in said
    assert said.count("timings") == 3
    assert b"unknown command /what\n" in ran.stderr and b"unknown command /set\n" in ran.stderr and ran.stderr.count(b"/help  this") == 3
    assert b"control character" in ran.stderr and b"not valid UTF-8" in ran.stderr


def test_a_conversation_ends_by_each_word_for_it(
    product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in ("exit", "Quit", "/exit", "/quit", "/bye"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(f"{word}\nnever read\n"))
        assert inside(capsys, "chat") == (0, "", "")


def test_a_conversation_outlives_an_interrupt_that_came_late(
    product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed: Iterator[str | BaseException] = iter(["how long is the warranty on a device?", KeyboardInterrupt(), "and on batteries?", EOFError()])

    def read(_: str) -> str:
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)
    code, out, err = inside(capsys, "chat")
    assert (code, err) == (0, "Ctrl-D or /bye ends the conversation\n")
    assert "Batteries are covered for 6 months. [1]" in out


def test_a_question_that_was_stopped_is_one_to_go_on_from(
    product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    leant_on: list[list[str]] = []

    def stopped(_: object, text: str, domain: object, asked: list[str]) -> None:
        leant_on.append([*asked])
        raise KeyboardInterrupt

    typed = iter(["how long is the warranty on a device?", "and on batteries?", "what is in /etc/fstab?", "/etc/fstab", "/bye"])
    monkeypatch.setattr(sys, "stdin", Mock(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda _: next(typed))
    monkeypatch.setattr("mdsa_local.cli.chat.show", stopped)
    code, _, err = inside(capsys, "chat")
    assert (code, err) == (0, "stopped\n" * 4)
    assert leant_on[-1] == ["how long is the warranty on a device?", "and on batteries?", "what is in /etc/fstab?"]


def test_a_conversation_in_json_is_a_line_an_answer(product: TinyBERTOrchestrator) -> None:
    ran = mdsa("chat", "--json", "-d", "support", stdin=CONVERSATION)
    assert ran.returncode == 0, ran.stderr
    first, second, wrong, broken, _ = (json.loads(row) for row in ran.stdout.splitlines())
    assert "24 months" in first["response"] and "6 months" in second["response"]
    assert "control character" in wrong["error"]["message"] and "not valid UTF-8" in broken["error"]["message"]


def test_a_question_after_another(product: TinyBERTOrchestrator) -> None:
    ran = mdsa("ask", "and on straps?", "--after", "how long is the warranty on a device?", "--after", "and on batteries?", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "12 months" in json.loads(ran.stdout)["response"]


def test_an_error_stands_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    class BreaksOff:
        @contextmanager
        def stream(self, *_: object, **__: object) -> Iterator[Iterator[Token]]:
            def events() -> Iterator[Token]:
                yield Token("You can withdraw")
                raise BackendError("the stream broke off")

            yield events()

    with pytest.raises(BackendError):
        ask.show(cast(TinyBERTOrchestrator, BreaksOff()), "how much", None)
    assert capsys.readouterr().out == "You can withdraw\n"


def test_what_the_system_refuses_names_the_path(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "tree", Mock(side_effect=PermissionError(13, "Permission denied", "locked/c.md")))
    code, out, err = inside(capsys, "doctor")
    assert (code, out) == (7, "")
    assert err == "error: locked/c.md: Permission denied\n  Check the path, and the permissions of its folders.\n"


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_output_that_the_disk_does_not_take_is_told(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-m", "mdsa_local", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 7
    assert "No space left" in ended.stderr and "internal error" not in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("end", [">/dev/full", ">&-", "2>/dev/full", "2>&-", "| true"])
@pytest.mark.parametrize("flag", ["", "--json"])
def test_an_error_that_cannot_be_told_still_has_its_code(end: str, flag: str) -> None:
    command = f'"{sys.executable}" -m mdsa_local route "" {flag} {end}; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr and "internal error" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirection")
def test_what_is_done_for_nobody_is_done(tmp_path: Path) -> None:
    ended = subprocess.run(["bash", "-c", f'"{sys.executable}" -m mdsa_local --version >&-'], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_bench_stress_says_that_a_third_is_cancelled_on_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inside(capsys, "bench", "stress", "--seconds", "1", "--callers", "2")
    assert code == 0, err
    assert "a third is cancelled on purpose" in next(row for row in out.splitlines() if row.startswith("answers"))
