from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.knowledge.lance import connect, storage_errors, use_few_cores

ROOT = Path(__file__).parents[2]


def run(script: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_loads_no_heavy_library() -> None:
    script = """
    import sys
    import mdsa_local.knowledge, mdsa_local.knowledge.dual_rag
    print([name for name in ("lancedb", "pyarrow", "numpy", "onnxruntime") if name in sys.modules])
    """
    assert run(script).strip() == "[]"


@pytest.mark.parametrize(("cores", "before", "after"), [(1, None, "1"), (2, None, "2"), (3, None, "3"), (4, None, None), (2, "1", "1")])
def test_lance_computes_on_all_of_few_cores(cores: int, before: str | None, after: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what the call sets is undone.
    monkeypatch.setenv("LANCE_CPU_THREADS", before or "")
    if before is None:
        monkeypatch.delenv("LANCE_CPU_THREADS")
    use_few_cores(cores)
    assert os.environ.get("LANCE_CPU_THREADS") == after


def test_everything_works_after_a_trimmed_import(tmp_path: Path) -> None:
    script = """
    import sys
    from pathlib import Path
    from mdsa_local.knowledge.lance import TRIM, import_lancedb
    lancedb = import_lancedb(trim=True)
    assert not {*TRIM.unused, *TRIM.later} & set(sys.modules), "loaded, or a placeholder stayed"
    assert not [name for name in sys.modules if name.startswith(f"{TRIM.unused[0]}.")]
    for package, needed in TRIM.providers.items():
        assert {name for name in sys.modules if name.startswith(f"{package}.")} == {f"{package}.{own}" for own in needed}
    assert import_lancedb() is lancedb
    from mdsa_local.knowledge.dual_rag import DualRAG
    from toy_embedder import ToyEmbedder
    folder = Path(sys.argv[1])
    (folder / "docs").mkdir()
    (folder / "docs/a.md").write_text("# Cards\\nA card is frozen in the app.")
    (folder / "docs/b.md").write_text("# Loans\\nA loan is repaid early.")
    rag = DualRAG(folder / "kb", ToyEmbedder())
    assert rag.add_paths([folder / "docs"], "finance").added == ("a.md", "b.md")
    rag.add_global_documents([{"content": "Support is open all day."}])
    assert rag.query("freeze my card", "finance")[0]["metadata"]["source"].endswith("a.md")
    (folder / "docs/a.md").unlink()
    assert rag.add_paths([folder / "docs"], "finance", follow_deletes=True).removed == ("a.md",)
    assert [d.document for d in rag.list_documents("finance")] == ["b.md"]
    rag.remove("b.md", "finance")
    again = DualRAG(folder / "kb", ToyEmbedder("other"))
    assert again.optimize() and again.query("support")
    import pyarrow.dataset, pyarrow.fs, lancedb.namespace
    import pyarrow.compute, lancedb.table
    assert lancedb.table.pc.sum is pyarrow.compute.sum
    assert pyarrow.dataset.Dataset.__module__ == "pyarrow._dataset"
    print("fine")
    """
    assert run(script, str(tmp_path)).strip() == "fine"


def test_a_folder_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text("not a folder")
    database = connect(tmp_path / "kb")
    with pytest.raises(StorageError, match="kb") as caught:
        database.open("global")
    assert "MDSA_HOME" in caught.value.hint
    with pytest.raises(StorageError), database.writing("global"):
        pass


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    database = connect(tmp_path / "kb")
    assert database.open("global") is None
    assert database.names() == ()
    assert not (tmp_path / "kb").exists()


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left", "Free some space"),
        (RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), /x/y.rs:1:2"), "os error 28", "Free some space"),
        (RuntimeError("lance error: file size is too small, /root/lance/utils.rs:172:20"), "too small$", "may be damaged"),
        (ValueError("no such column"), "no such column", "may be damaged"),
    ],
)
def test_errors_of_lancedb_are_storage_errors(error: Exception, message: str, hint: str) -> None:
    with pytest.raises(StorageError, match=message) as caught, storage_errors(Path("/kb"), "global"):
        raise error
    assert hint in caught.value.hint


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    database = connect(tmp_path)
    inside: list[int] = []
    most: list[int] = []

    def write() -> None:
        with database.writing("global"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_program_that_ends_while_lancedb_is_imported_says_nothing() -> None:
    code = "from mdsa_local.knowledge.lance import import_ahead\nimport_ahead()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("used", [True, False])
def test_a_process_forked_after_lancedb_was_used_is_told_so_at_once(tmp_path: Path, used: bool) -> None:
    script = """
    import faulthandler, multiprocessing, os, sys, warnings
    # LanceDB warns of the fork itself.
    warnings.simplefilter("ignore")
    from mdsa_local import MDSA, StorageError
    from mdsa_local.knowledge.dual_rag import DualRAG
    from mdsa_local.settings import Settings
    from toy_embedder import ToyEmbedder
    place, used = sys.argv[1], sys.argv[2] == "True"
    rag = DualRAG(place, ToyEmbedder())
    if used:
        rag.add_global_documents([{"content": "A card is frozen in the app."}])
        for _ in range(3):
            assert rag.query("card")
    else:
        import lancedb

    def tried(work):
        try:
            work()
        except StorageError as error:
            assert "was forked after" in str(error) and "spawn" in error.hint, error
            return "refused"
        return "done"

    def child(told):
        faulthandler.dump_traceback_later(20, exit=True)
        made = DualRAG(place, ToyEmbedder())
        asked = MDSA(settings=Settings(home=place + "/home"))
        works = [lambda: rag.add_global_documents([{"content": "A loan is repaid early."}])]
        works += [lambda one=one: one.query("card") for one in (rag, made)]
        works += [made.list_documents, made.domains, lambda: made.add_local_documents("finance", [{"content": "Support."}])]
        works += [lambda: asked.ask("How do I freeze my card?"), asked.prepare] if used else []
        told.send([tried(work) for work in works])
        for one in (rag, made, asked):
            one.close()

    for _ in range(2):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
        process.start()
        process.join(40)
        print(process.exitcode, *(ours.recv() if ours.poll() else ()))
    assert not used or rag.query("card")
    """
    refused = "0 " + " ".join(["refused"] * 8)
    done = "0 " + " ".join(["done"] * 6)
    assert run(script, str(tmp_path), str(used)).splitlines() == [refused if used else done] * 2
