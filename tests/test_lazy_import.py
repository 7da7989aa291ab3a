from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import mdsa_local
from mdsa_local.trimming import Trim, trimmed

HEAVY = ("onnxruntime", "llama_cpp", "lancedb", "pyarrow", "torch", "numpy", "pydantic", "tokenizers")


def loaded_by(code: str) -> list[str]:
    probe = f"import sys; {code}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True).stdout
    return out.splitlines()[-1].split()


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert loaded_by("import mdsa_local") == []


def test_importing_the_command_line_loads_no_heavy_library() -> None:
    assert loaded_by("import mdsa_local.cli.main; mdsa_local.cli.main.tree()") == []


def test_a_command_reads_no_other() -> None:
    code = "from mdsa_local.cli.main import tree; tree('ask'); print(*sorted(name for name in sys.modules if name.startswith('mdsa_local.cli.')))"
    out = subprocess.run([sys.executable, "-c", f"import sys; {code}"], check=True, capture_output=True, text=True).stdout
    assert out.split() == ["mdsa_local.cli.ask", "mdsa_local.cli.main", "mdsa_local.cli.output"]


def test_every_public_name_is_there() -> None:
    for name in mdsa_local.__all__:
        assert getattr(mdsa_local, name) is not None
    assert mdsa_local.MDSA is mdsa_local.TinyBERTOrchestrator


def test_type_checkers_of_users_are_told_that_it_is_typed() -> None:
    assert (files("mdsa_local") / "py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert not hasattr(mdsa_local, "Nonsense")


def test_trimming_does_not_touch_the_list_that_other_threads_look_through() -> None:
    looked_through, before = sys.meta_path, list(sys.meta_path)
    with trimmed(Trim()):
        assert sys.meta_path is not looked_through
        assert sys.meta_path[1:] == looked_through == before
    assert sys.meta_path == looked_through == before
