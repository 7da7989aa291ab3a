"""``mdsa kb`` and what the commands share: printing, reading questions and label files, measuring."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mdsa_local.cli import bench, bench_retrieve, output
from mdsa_local.cli.router import read_pairs
from mdsa_local.errors import InputError, StorageError
from mdsa_local.knowledge import check, ingest
from mdsa_local.knowledge.dual_rag import DualRAG
from mdsa_local.knowledge.store import Entry, KnowledgeBase
from mdsa_local.routing.encoder import Encoder
from mdsa_local.settings import Settings
from tests.cli.test_cli import inside
from tests.knowledge.s3 import BUCKET, serving


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home whose only domain is a garden."""
    monkeypatch.setenv("MDSA_HOME", str(tmp_path))
    monkeypatch.setattr(Settings, "domain_dirs", property(lambda self: (self.home / "domains",)))
    knowledge = tmp_path / "domains" / "garden" / "knowledge"
    knowledge.mkdir(parents=True)
    (knowledge.parent / "domain.yaml").write_text("description: Plants\n")
    (knowledge / "roses.md").write_text("# Roses\n\nRoses are pruned in March.\n")
    yield tmp_path


def test_when_nothing_could_be_added_json_is_the_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [home / "a.png", home / "b.png"]
    for path in bad:
        path.write_bytes(b"PNG")
    code, out, _ = inside(capsys, "kb", "add", *map(str, bad), "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (2, "input")
    assert "a.png: not a supported type" in error["message"]
    assert "1 more failed" in error["message"]
    code, out, err = inside(capsys, "kb", "add", str(bad[0]))
    assert (code, out, "a.png" in err) == (2, "", True)


def test_without_the_encoder_nothing_is_added_or_embedded_again(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "notes.md").write_text("The shed key hangs behind the door.\n")
    monkeypatch.setenv("MDSA_ENCODER", "nowhere")
    for command in (["add", str(home / "notes.md"), "--json"], ["sync", "--json"]):
        code, out, _ = inside(capsys, "kb", *command)
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (5, "model") and "nothing was stored" in error["message"] and "'nowhere'" in error["message"]
    monkeypatch.delenv("MDSA_ENCODER")
    assert inside(capsys, "kb", "add", str(home / "notes.md"))[0] == 0


def test_a_file_that_may_not_be_read_is_one_of_permissions(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    (home / "notes.md").write_text("The shed key hangs behind the door.\n")
    # Root may read everything.
    monkeypatch.setattr(ingest, "fingerprint", refuse)
    code, out, _ = inside(capsys, "kb", "add", str(home / "notes.md"), "--json")
    error = json.loads(out)["error"]
    assert (code, error["hint"]) == (2, "Fix its permissions.") and "Permission denied" in error["message"]


def test_a_refused_file_is_told_by_the_exit_code_after_the_others_were_added(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = home / "docs"
    docs.mkdir()
    (docs / "notes.md").write_text("The shed key hangs behind the door.\n")
    (docs / "photo.png").write_bytes(b"PNG")
    code, out, err = inside(capsys, "kb", "add", str(docs))
    assert (code, out) == (0, "global: 1 added, 0 changed, 0 unchanged, 1 not read\n") and "photo.png: not a supported type" in err
    (docs / "broken.md").write_bytes(b"\xff\xfe\xff")
    (docs / "more.md").write_text("The rake is in the shed.\n")
    code, out, err = inside(capsys, "kb", "add", str(docs))
    assert (code, out) == (2, "global: 1 added, 0 changed, 1 unchanged, 2 not read\n") and "broken.md" in err and "photo.png" in err
    code, out, _ = inside(capsys, "kb", "add", str(docs), "--json")
    assert (code, json.loads(out)["unchanged"], len(json.loads(out)["failed"])) == (2, 2, 2)
    # Who names a file wants it.
    (docs / "broken.md").unlink()
    assert inside(capsys, "kb", "add", str(docs), str(docs / "photo.png"))[0] == 2
    assert inside(capsys, "kb", "add", str(docs))[0] == 0
    listed = inside(capsys, "kb", "list", "-d", "global", "--json")[1]
    assert [entry["document"] for entry in json.loads(listed)] == ["more.md", "notes.md"]
    for command in (("search", "shed"), ("check",), ("optimize",), ("show", "notes.md#0")):
        assert inside(capsys, "kb", *command, "-d", "global")[0] == 0
    (docs / "more.md").unlink()
    assert inside(capsys, "kb", "add", str(docs))[1] == "global: 0 added, 0 changed, 1 unchanged, 1 not read\n"
    assert inside(capsys, "kb", "add", str(docs), "--follow-deletes")[1] == "global: 0 added, 0 changed, 1 unchanged, 1 removed, 1 not read\n"


def test_a_refused_file_of_a_domain_is_told_by_the_exit_code_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "domains" / "garden" / "knowledge"
    (folder / "photo.png").write_bytes(b"PNG")
    assert inside(capsys, "kb", "sync")[0] == 0
    (folder / "broken.md").write_bytes(b"\xff\xfe\xff")
    code, out, err = inside(capsys, "kb", "sync")
    assert (code, out) == (2, "garden: 0 added, 0 changed, 0 removed, 1 unchanged, 2 not read\n") and "broken.md" in err
    code, out, _ = inside(capsys, "kb", "sync", "--json")
    assert (code, len(json.loads(out)["garden"]["failed"])) == (2, 2)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_what_is_passed_over_in_a_folder_is_told_and_no_failure(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = home / "docs"
    docs.mkdir()
    (home / "diary.md").write_text("Secret.\n")
    (docs / "diary.md").symlink_to(home / "diary.md")
    (docs / "gone.md").symlink_to(docs / "nowhere.md")
    (docs / "~$letter.docx").write_bytes(b"\x05Tom")
    (docs / "empty.json").touch()
    (docs / "photo.png").write_bytes(b"PNG")
    code, out, err = inside(capsys, "kb", "add", str(docs))
    assert (code, out) == (0, "global: 0 added, 0 changed, 0 unchanged, 5 not read\n")
    assert f"not followed: {docs}/diary.md leads out of the folder, so it has to be named itself\n" in err and err.count("\n") == 5
    assert inside(capsys, "kb", "add", str(docs / "empty.json"))[0] == 2
    assert inside(capsys, "kb", "add", str(docs / "diary.md"))[:2] == (0, "global: 1 added, 0 changed, 0 unchanged\n")


def test_a_folder_that_has_lost_all_its_documents_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = home / "docs"
    docs.mkdir()
    for name in ("a b.md", "c.md"):
        (docs / name).write_text(f"The shed of {name}.\n")
    inside(capsys, "kb", "add", str(docs), "-d", "garden")
    for path in docs.iterdir():
        path.unlink()
    code, out, err = inside(capsys, "kb", "add", str(docs), "-d", "garden", "--follow-deletes")
    assert (code, out) == (2, "garden: 0 added, 0 changed, 0 unchanged, 0 removed\n")
    assert f"none of them was removed: {docs}: 2" in err and 'mdsa kb remove "a b.md" c.md -d garden' in err
    code, out, _ = inside(capsys, "kb", "add", str(docs), "-d", "garden", "--follow-deletes", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "input")
    assert len(json.loads(inside(capsys, "kb", "list", "-d", "garden", "--json")[1])) == 3
    assert inside(capsys, "kb", "remove", "a b.md", "c.md", "-d", "garden")[0] == 0


def test_repair_removes_nothing_of_a_folder_that_has_lost_all(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = home / "docs"
    docs.mkdir()
    for name in ("a b.md", "c.md", "d.md", "e.md"):
        (docs / name).write_text(f"The shed of {name}.\n")
    (home / "note.md").write_text("The key of the shed.\n")
    inside(capsys, "kb", "add", str(docs), str(home / "note.md"), "-d", "garden")
    inside(capsys, "kb", "add", str(docs))
    shutil.rmtree(docs)
    (home / "note.md").unlink()
    code, out, err = inside(capsys, "kb", "check")
    assert (code, out.count("its file is gone"), f"none of them was removed: {docs}: 4" in err) == (1, 9, True)
    code, out, err = inside(capsys, "kb", "check", "--repair", "-d", "garden")
    assert (code, out.count("repaired"), "note.md" in next(row for row in out.splitlines() if "repaired" in row)) == (1, 1, True)
    assert 'mdsa kb remove "a b.md" c.md d.md ... -d garden' in err and "mdsa kb check --repair --even-all -d garden" in err
    code, out, err = inside(capsys, "kb", "check", "--repair", "--json")
    assert (code, [(problem["repaired"], problem["kept"]) for problem in json.loads(out)]) == (1, [("", str(docs))] * 8)
    assert err.count("Is the disk there?") == 2
    assert inside(capsys, "kb", "check", "--repair", "--even-all", "-d", "garden")[0] == 0
    assert inside(capsys, "kb", "check", "-d", "garden")[0] == 0
    assert {row["knowledge_base"] for row in json.loads(inside(capsys, "kb", "list", "--json")[1]) if "docs" in row["source"]} == {"global"}


def test_a_line_that_cannot_be_used_is_a_warning(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "a.jsonl").write_text('{"text": "The shed."}\n{"te\n')
    code, out, err = inside(capsys, "kb", "add", str(home / "a.jsonl"))
    assert (code, out) == (0, "global: 1 added, 0 changed, 0 unchanged\n") and "a.jsonl: line 2: not valid JSON" in err
    (home / "a.jsonl").write_text('{"text": "The shed."}\n5\n')
    told = json.loads(inside(capsys, "kb", "add", str(home / "a.jsonl"), "--json")[1])
    assert told["remarks"] == [{"path": str(home / "a.jsonl"), "remark": "line 2: no JSON object: passed over"}]


@pytest.mark.parametrize("command", [["check"], ["list"], ["list", "--json"], ["search", "roses"]])
def test_a_home_that_can_be_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MDSA_HOME", str(tmp_path / "file"))
    code, out, err = inside(capsys, "kb", *command)
    assert code == StorageError.exit_code
    assert "Not a directory" in out + err


def test_empty_knowledge_bases_say_how_to_fill_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "domains/garden/knowledge/roses.md").unlink()
    for command in (["list"], ["list", "-d", "garden"], ["search", "roses"]):
        code, out, err = inside(capsys, "kb", *command)
        assert (code, out, "mdsa kb add" in err) == (0, "", True)
        code, out, _ = inside(capsys, "kb", *command, "--json")
        assert (code, json.loads(out)) == (0, [])


@pytest.mark.parametrize(
    "command",
    [
        ["list", "-d", "garden"],
        ["search", "when are roses pruned", "-d", "garden"],
        ["why", "when are roses pruned", "--doc", "roses.md", "-d", "garden"],
        ["show", "roses.md#0", "-d", "garden"],
    ],
)
def test_the_domains_folders_are_followed_first(home: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    roses = home / "domains/garden/knowledge/roses.md"
    code, out, _ = inside(capsys, "kb", *command, "--json")
    assert (code, "roses.md" in json.dumps(json.loads(out))) == (0, True)
    stamp = home / "knowledge/synced"
    written = stamp.stat().st_mtime_ns
    assert inside(capsys, "kb", *command)[0] == 0
    assert stamp.stat().st_mtime_ns == written, "once is enough"
    roses.with_name("tulips.md").write_text("# Tulips\n\nTulips are planted in October.\n")
    (home / "domains/garden/knowledge/bad.md").write_bytes(b"\0")
    code, _, err = inside(capsys, "kb", *command)
    assert (code, "bad.md: is binary" in err) == (0, command[0] != "show")
    rows = json.loads(inside(capsys, "kb", "list", "--json")[1])
    assert [row["document"] for row in rows] == ["roses.md", "tulips.md"]


def test_a_home_that_cannot_be_written_is_told_and_listed(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise StorageError("the disk is read-only", "Mount it otherwise.")

    with monkeypatch.context() as patched:
        patched.setattr("mdsa_local.knowledge.sync.sync", refused)
        code, out, err = inside(capsys, "kb", "list")
        assert (code, out, "not followed: the disk is read-only" in err) == (0, "", True)
        assert inside(capsys, "kb", "search", "roses", "-d", "garden")[0] == StorageError.exit_code
    inside(capsys, "kb", "sync")
    (home / "domains/garden/knowledge/tulips.md").write_text("# Tulips\n\nTulips are planted in October.\n")
    monkeypatch.setattr("mdsa_local.knowledge.sync.sync", refused)
    code, out, err = inside(capsys, "kb", "search", "roses", "-d", "garden", "--json")
    assert (code, [found["id"] for found in json.loads(out)]) == (0, ["roses.md#0"])


def test_a_document_that_follows_a_file_is_not_removed(home: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "notes.md").write_text("# Notes\n\nThe shed key hangs behind the door.\n")
    inside(capsys, "kb", "sync")
    inside(capsys, "kb", "add", str(home / "notes.md"), "-d", "garden")
    code, out, _ = inside(capsys, "kb", "remove", "notes.md", "roses.md", "-d", "garden", "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (2, "input")
    assert str(home / "domains" / "garden" / "knowledge" / "roses.md") in error["hint"]
    assert [row["document"] for row in json.loads(inside(capsys, "kb", "list", "--json")[1])] == ["notes.md", "roses.md"]
    assert inside(capsys, "kb", "remove", "notes.md", "notes.md", "-d", "garden")[:2] == (0, "garden: 1 removed\n")
    text = {"content": "Roses like the sun.", "metadata": {"id": "sun", "source": str(home / "domains" / "garden" / "knowledge" / "roses.md")}}
    DualRAG(home / "knowledge", encoder).add_local_documents("garden", [text])
    assert inside(capsys, "kb", "remove", "sun", "-d", "garden")[0] == 0, "a text with the path of a file does not follow that"
    shutil.rmtree(home / "domains" / "garden" / "knowledge")
    assert inside(capsys, "kb", "remove", "roses.md", "-d", "garden")[0] == 0


def test_optimize_tells_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside(capsys, "kb", "sync")
    code, out, _ = inside(capsys, "kb", "optimize", "--json")
    assert (code, {"knowledge_base": "garden", "embedded_again": False} in json.loads(out)) == (0, True)


PRINT = "from mdsa_local.cli.output import document, line; document({'text': 'caf\\xe9 \\u2192 \\udce9'}); line('\\u2192 \\udce9')"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_and_text_on_any_stdout(encoding: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding}, timeout=60)
    assert ran.returncode == 0, ran.stderr
    printed, _, text = ran.stdout.decode("utf-8").partition("}")
    assert json.loads(printed + "}") == {"text": "caf\xe9 \u2192 \udce9"}
    assert text.strip() == ("\u2192 ?" if encoding == "utf-8" else "? ?")


def test_json_on_utf8_stays_readable(capsys: pytest.CaptureFixture[str]) -> None:
    output.document(["caf\xe9"])
    assert "caf\xe9" in capsys.readouterr().out


def test_standard_input_is_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("caf\xe9?".encode()), encoding="cp1252"))
    assert output.joined(["-"]) == "caf\xe9?"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="cp1252"))
    with pytest.raises(InputError, match="not valid UTF-8"):
        output.joined(["-"])


def test_the_time_left_starts_again_with_each_knowledge_base(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr("mdsa_local.cli.output.time.monotonic", lambda: clock["now"])
    tell = output.progress("adding")
    for now, done in ((0.0, 0), (100.0, 100), (100.0, 0), (110.0, 10)):
        clock["now"] = now
        tell("file", done, 100)
    assert capsys.readouterr().err.splitlines() == ["adding: 100 of 100 files", "adding: 10 of 100 files, 90 s left"]


def test_pairs_may_hold_any_line_separator_but_a_newline(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_bytes('{"text": "a\u2028b\x85c", "domain": null}\r\n\n{"text": "d", "domain": "finance"}\n'.encode())
    assert read_pairs(file) == [("a\u2028b\x85c", None), ("d", "finance")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"text": 5, "domain": null}', "key 'text': expected a string"),
        ('{"text": "a", "domain": 5}', "key 'domain': expected a string or null"),
        ('{"text": "a"}', "missing key 'domain'"),
        ('["a", "finance"]', "expected an object, found list"),
        ("{", "Expecting property name"),
    ],
)
def test_a_bad_pair_is_named_by_its_line(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"text": "a", "domain": "finance"}\n' + row + "\n")
    with pytest.raises(InputError, match="line 2: ") as caught:
        read_pairs(file)
    assert said in str(caught.value)


def test_first_output_and_peak_memory_of_a_process() -> None:
    # More than a pipe holds, so that a reader who stopped would block it; 64 MB that are free again before the end.
    code = "import time; print('x', flush=True); time.sleep(0.3); b = b'x' * 64_000_000; del b; time.sleep(0.1); print('y' * 1_000_000)"
    first_ms, peak_mb = bench._first_output("-c", code)
    assert first_ms > 0
    assert 64 < peak_mb < 500
    with pytest.raises(subprocess.CalledProcessError):
        bench._first_output("-c", "raise SystemExit(3)")


def test_search_explains_why_tells_and_show_opens(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside(capsys, "kb", "sync")
    code, out, _ = inside(capsys, "kb", "search", "When are roses pruned?", "-d", "garden", "--explain", "--json")
    [found] = json.loads(out)
    assert (code, found["id"], found["explain"]["vector_rank"], found["explain"]["words_rank"]) == (0, "roses.md#0", 1, 1)
    code, out, _ = inside(capsys, "kb", "search", "When are roses pruned?", "-d", "garden", "--explain")
    assert (code, "number 1 by vector" in out) == (0, True)
    for condition, expected in (("kind=md", ["roses.md#0"]), ("document=roses*", ["roses.md#0"]), ("kind=pdf", [])):
        code, out, _ = inside(capsys, "kb", "search", "When are roses pruned?", "-d", "garden", "--where", condition, "--json")
        assert (code, [found["id"] for found in json.loads(out)]) == (0, expected)
    code, out, _ = inside(capsys, "kb", "search", "Roses?", "-d", "garden", "--where", "author=x", "--json")
    assert code != 0 and "source" in out
    code, out, _ = inside(capsys, "kb", "why", "When are roses pruned?", "--doc", "roses.md", "-d", "garden", "--json")
    told = json.loads(out)
    assert (code, told["returned_rank"], told["matched"], told["pushed_out_by"]) == (0, 1, ["roses", "pruned"], [])
    code, out, _ = inside(capsys, "kb", "why", "When?", "--doc", "roses.md", "-d", "garden")
    assert (code, out.splitlines()[0]) == (0, "roses.md (garden): returned, as number 1")
    code, out, _ = inside(capsys, "kb", "why", "When?", "--doc", "tulips.md", "-d", "garden", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (4, "unknown_name")
    code, out, _ = inside(capsys, "kb", "show", "roses.md#0", "-d", "garden", "--json")
    shown = json.loads(out)
    assert (code, shown["state"], shown["before"] + shown["text"] + shown["after"]) == (0, "unchanged", "# Roses\n\nRoses are pruned in March.\n")
    code, out, _ = inside(capsys, "kb", "show", "roses.md#0", "-d", "garden")
    assert (code, out.splitlines()[1:]) == (0, ["# Roses", ">>>", "Roses are pruned in March.", "<<<"])


def test_a_document_cannot_send_commands_to_the_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "\x1b[2Jbad.md").write_text("# T\x1b]0;owned\x07\n\nThe \x1b[31mred\x9b0m text.\n")
    inside(capsys, "kb", "add", str(home / "\x1b[2Jbad.md"), "-d", "garden")
    name = "\x1b[2Jbad.md"
    commands = (
        ["list"],
        ["search", "red text", "-d", "garden", "--explain"],
        ["why", "red", "--doc", name, "-d", "garden"],
        ["show", f"{name}#0", "-d", "garden"],
    )
    for command in commands:
        code, out, err = inside(capsys, "kb", *command)
        assert (code, "bad.md" in out) == (0, True)
        assert not {"\x1b", "\x07", "\x9b"} & set(out + err)
    (home / "domains/garden/knowledge/shed.md").write_text("# Shed\n\nThe key of the shed hangs behind the \x1b[31mblue\x9b0m door.\n")
    code, out, _ = inside(capsys, "ask", "where does the key of the shed hang?", "-d", "garden")
    assert (code, "blue" in out, {"\x1b", "\x07", "\x9b"} & set(out)) == (0, True, set())


def test_a_name_stands_on_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "new\nline\x1b\u2028.md"
    (home / name).write_text("The red shed.\n")
    (home / "bad\n.md").write_bytes(b"\0")
    shown = "new\\nline\\x1b\\u2028.md"
    code, _, err = inside(capsys, "kb", "add", str(home / name), str(home / "bad\n.md"), "-d", "garden")
    assert (code, "bad\\n.md: is binary" in err) == (2, True)
    assert shown in inside(capsys, "kb", "list", "-d", "garden")[1]
    for command in (["search", "red shed"], ["why", "red", "--doc", name], ["show", f"{name}#0"]):
        assert shown in inside(capsys, "kb", *command, "-d", "garden")[1].splitlines()[0], command
    error = inside(capsys, "kb", "remove", "new", "-d", "garden")[2]
    assert shown in error and "\x1b" not in error
    (home / name).unlink()
    assert shown in inside(capsys, "kb", "check")[1]


def test_a_home_in_quotes_is_found(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    (home / "notes.md").write_text("The shed.\n")
    assert inside(capsys, "kb", "add", "~/notes.md")[:2] == (0, "global: 1 added, 0 changed, 0 unchanged\n")
    assert "no such file or folder" in inside(capsys, "kb", "add", "~/nothing.md")[2]


def test_an_empty_search_says_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = inside(capsys, "kb", "search", " ")
    assert (code, err) == (2, "error: the question is empty\n  Ask something, in words.\n")


def test_eval_without_documents_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roses = home / "domains/garden/knowledge/roses.md"
    text = roses.read_text()
    roses.unlink()
    file = home / "set.jsonl"
    file.write_text('{"question": "When are roses pruned?", "relevant": ["roses.md"]}\n')
    code, out, _ = inside(capsys, "kb", "eval", str(file), "-d", "garden", "--json")
    assert (code, json.loads(out)["error"]["message"]) == (2, "the domain garden has no documents, so nothing can be measured")
    assert "the shared knowledge base has no documents" in inside(capsys, "kb", "eval", str(file))[2]
    # What all domains share is searched, too.
    (home / "notes.md").write_text("# Notes\n\nThe shed key hangs behind the door.\n")
    inside(capsys, "kb", "add", str(home / "notes.md"))
    assert inside(capsys, "kb", "eval", str(file), "-d", "garden")[0] == 2
    (home / "shared.jsonl").write_text('{"question": "Where is the key?", "relevant": ["notes.md"]}\n')
    assert inside(capsys, "kb", "eval", str(home / "shared.jsonl"), "-d", "garden")[0] == 0
    roses.write_text(text)
    code, out, _ = inside(capsys, "kb", "eval", str(file), "-d", "garden", "--json")
    assert (code, json.loads(out)["recall_at_5"]) == (0, 1.0)


def test_eval_measures_and_names_bad_lines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = home / "set.jsonl"
    file.write_text('{"question": "When are roses pruned?", "relevant": ["roses.md"]}\n\n{"question": "Tulips?", "relevant": ["tulips.md"]}\n')
    code, out, err = inside(capsys, "kb", "eval", str(file), "-d", "garden", "--json")
    quality = json.loads(out)
    assert (code, quality["n"], quality["recall_at_5"], quality["ndcg_at_10"]) == (0, 2, 0.5, 0.5)
    assert set(quality) == {"n", "recall_at_5", "ndcg_at_10", "p50_ms", "p99_ms"}
    assert 0 < quality["p50_ms"] <= quality["p99_ms"]
    assert "tulips.md" in err
    assert "recall_at_5" in inside(capsys, "kb", "eval", str(file), "-d", "garden")[1]
    file.write_text('{"question": "When are roses pruned?", "relevant": ["roses.md"]}\n', encoding="utf-8-sig")
    assert inside(capsys, "kb", "eval", str(file), "-d", "garden")[0] == 0, "Windows begins a file with a mark"
    for bad in ('{"question": "x"}', '{"question": "x", "relevant": []}', '{"question": 1, "relevant": ["a"]}', "[]", "{"):
        file.write_text('{"question": "x", "relevant": ["roses.md"]}\n' + bad)
        code, out, _ = inside(capsys, "kb", "eval", str(file), "--json")
        assert (code, "line 2" in json.loads(out)["error"]["message"]) == (2, True)


def test_check_tells_and_repairs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "notes.md").write_text("The shed key hangs behind the door.\n")
    inside(capsys, "kb", "add", str(home / "notes.md"), "-d", "garden")
    assert inside(capsys, "kb", "check")[:2] == (0, "nothing is wrong\n")
    (home / "notes.md").unlink()
    code, out, _ = inside(capsys, "kb", "check", "--json")
    [problem] = json.loads(out)
    assert (code, problem["knowledge_base"], problem["kind"], problem["document"]) == (1, "garden", "missing", "notes.md")
    assert "mdsa kb check --repair" in inside(capsys, "kb", "check")[2]
    code, out, _ = inside(capsys, "kb", "check", "--repair")
    assert (code, "notes.md" in out and "repaired: removed" in out) == (0, True)
    assert json.loads(inside(capsys, "kb", "check", "--json")[1]) == []


def test_check_is_not_told_to_repair_what_cannot_be_read(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    for name in ("a b.md", "c.md"):
        (home / name).write_text(f"The shed of {name}.\n")
    inside(capsys, "kb", "add", str(home / "a b.md"), "-d", "garden")
    inside(capsys, "kb", "add", str(home / "c.md"))
    (home / "c.md").write_text("The shed of another.\n")
    err = inside(capsys, "kb", "check")[2]
    assert "kb check --repair" in err and "cannot be read" not in err
    with monkeypatch.context() as patched:
        # Root may read everything.
        patched.setattr(check, "fingerprint", refuse)
        for repair in ([], ["--repair"]):
            code, out, err = inside(capsys, "kb", "check", "-d", "garden", *repair)
            assert (code, "Permission denied" in out, "--repair" in err) == (1, True, False)
            assert 'make it readable, or remove it: mdsa kb remove "a b.md" ' in err and err.rstrip().endswith("-d garden")
    (home / "a b.md").write_text("")
    err = inside(capsys, "kb", "check")[2]
    assert "kb check --repair" in err and 'mdsa kb remove "a b.md" -d garden' in err


def test_even_all_alone_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "kb", "check", "--even-all", "--json")
    assert (code, json.loads(out)["error"]["hint"]) == (2, "Add --repair.")


def test_bench_retrieve_gives_its_names(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("mdsa_local.cli.bench_retrieve.SIZES", {"1k": 60, "10k": 80, "100k": 100})
    monkeypatch.setattr("mdsa_local.cli.bench_retrieve.INGESTED", 20)
    code, out, _ = inside(capsys, "bench", "retrieve", "--runs", "1", "--json")
    results = {row["name"]: row for row in json.loads(out)["results"]}
    assert code == 0
    assert {"hybrid_1k", "hybrid_10k", "hybrid_100k", "index_recall_100k", "copy_recall_100k", "ingest"} <= results.keys()
    assert all(row["ours"] > 0 and row["baseline"] > 0 for row in results.values())
    assert results["ingest"]["better"] == "higher"
    # No approximate index for so few.
    assert results["index_recall_100k"]["ours"] == results["copy_recall_100k"]["ours"] == 1


def test_bench_draws_vectors_as_near_to_questions_as_real_ones_are() -> None:
    encoder = Encoder.load()
    drawn = bench_retrieve._Drawn(encoder).encode([""] * 20_000)
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(1, abs=1e-5)
    cosines = np.sort(encoder.encode(bench_retrieve._questions()[:100]) @ drawn.T)[:, ::-1]
    # Among 20,000 real passages, answers and sentences, to 500 questions: 0.56 and 0.42; of vectors without any structure 0.22 and 0.17.
    assert 0.5 < np.median(cosines[:, 0]) < 0.7
    assert 0.35 < np.median(cosines[:, 29]) < 0.5


def test_export_and_import(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(home / "backup.mdsa")
    code, _, err = inside(capsys, "kb", "export", file)
    assert code == 2 and "no knowledge base to export" in err
    inside(capsys, "kb", "sync")
    inside(capsys, "kb", "add", str(home / "domains/garden/knowledge/roses.md"))
    code, out, _ = inside(capsys, "kb", "export", file, "--json")
    rows = [{"knowledge_base": name, "documents": 1, "passages": 1, "embedded_again": False} for name in ("global", "garden")]
    assert (code, json.loads(out)) == (0, rows)
    code, _, err = inside(capsys, "kb", "import", file)
    assert code == 2 and "--replace" in err
    code, out, _ = inside(capsys, "kb", "import", file, "--replace", "-d", "garden")
    assert (code, out) == (0, "garden: 1 documents, 1 passages imported\n")
    code, out, _ = inside(capsys, "kb", "import", file, "--replace", "-d", "global", "--json")
    assert (code, json.loads(out)) == (0, rows[:1])
    code, out, _ = inside(capsys, "kb", "search", "when are roses pruned", "-d", "garden", "--json")
    assert json.loads(out)[0]["source"].endswith("roses.md")
    code, out, _ = inside(capsys, "kb", "export", file, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "input")


def test_knowledge_bases_on_an_s3_server(home: Path) -> None:
    """In processes of their own, as they are started: the trimmed import of LanceDB is for folders only."""
    (home / "notes.md").write_text("# Notes\n\nThe shed key hangs behind the door.\n")
    with serving() as options:
        environment = os.environ | {"MDSA_HOME": str(home), "MDSA_KNOWLEDGE_URI": f"s3://{BUCKET}/cli", "PYTHONPATH": str(Path(__file__).parents[2])}
        environment["MDSA_KNOWLEDGE_STORAGE_OPTIONS"] = json.dumps(options)

        def said(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "mdsa_local", "kb", *command, "--json"], capture_output=True, env=environment, timeout=240, check=False
            )
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout.decode()

        assert json.loads(said("add", str(home / "notes.md")))["added"] == 1
        assert json.loads(said("search", "where is the shed key"))[0]["source"].endswith("notes.md")
    assert not (home / "knowledge").exists()


def test_what_is_left_of_a_domain_that_is_gone_can_be_seen_and_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note = home / "note.md"
    note.write_text("# Note\n\nThe shed is locked at nine.\n")
    assert inside(capsys, "kb", "add", str(note), "-d", "garden")[0] == 0
    (home / "domains" / "garden").rename(home / "domains" / "yard")
    code, out, err = inside(capsys, "kb", "list", "-d", "garden")
    assert (code, "note.md" in out) == (0, True)
    assert "no domain is called garden" in err
    assert inside(capsys, "kb", "remove", "note.md", "-d", "garden")[0] == 0
    assert "note.md" not in inside(capsys, "kb", "list")[1]
    # Nothing is asked or added there.
    for command in (("search", "shed", "-d", "garden"), ("add", str(note), "-d", "garden")):
        assert inside(capsys, "kb", *command)[0] == 4


def test_there_is_no_tour_without_the_shipped_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MDSA_HOME", str(tmp_path))
    monkeypatch.setenv("MDSA_SHIPPED_DOMAINS", "false")
    code, _, err = inside(capsys, "tour")
    assert (code, "shipped_domains" in err) == (2, True)


@pytest.mark.parametrize(("trouble", "code"), [(KeyboardInterrupt(), 130), (StorageError("the disk is full", "Free some space."), 7)])
def test_what_is_broken_off_says_what_stays_and_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trouble: BaseException, code: int
) -> None:
    monkeypatch.setattr(ingest, "COMMIT_CHUNKS", 4)
    docs = home / "docs"
    docs.mkdir()
    for number in range(10):
        (docs / f"{number}.md").write_text(f"Key number {number} hangs behind the door.\n")
    write, calls = KnowledgeBase.add, list[int]()

    def add(base: KnowledgeBase, entries: list[Entry], **how: bool) -> dict[str, str]:
        calls.append(len(entries))
        if len(calls) == 2:
            raise trouble
        return write(base, entries, **how)

    with monkeypatch.context() as failing:
        failing.setattr(KnowledgeBase, "add", add)
        ended, out, err = inside(capsys, "kb", "add", str(docs))
    assert (ended, out) == (code, "")
    assert "4 passages are stored and stay; the same command again goes on from there" in err
    assert inside(capsys, "kb", "add", str(docs))[:2] == (0, "global: 6 added, 0 changed, 4 unchanged\n")


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), StorageError("the disk is read-only", "Mount it otherwise.")])
def test_where_nothing_was_stored_it_starts_again(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, trouble: BaseException
) -> None:
    (home / "a.md").write_text("The key.\n")

    def add(*_: object, **how: bool) -> None:
        raise trouble

    monkeypatch.setattr(KnowledgeBase, "add", add)
    err = inside(capsys, "kb", "add", str(home / "a.md"))[2]
    assert "nothing is stored; the same command starts again" in err and "goes on" not in err
