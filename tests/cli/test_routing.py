"""``mdsa route``, ``mdsa router`` and ``mdsa domains`` as a user meets them."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from mdsa_local.cli import bench
from mdsa_local.cli.router import contradictions, labelled, read_pairs
from mdsa_local.jsonlines import folded
from mdsa_local.orchestrator import TinyBERTOrchestrator
from mdsa_local.routing import plots
from tests.cli.test_cli import inside
from tests.conftest import json_lines

LINES = [
    {"text": "my card was charged twice", "domain": "finance"},
    {"text": "is 38 a fever", "domain": "medical"},
    {"text": "where is my parcel", "domain": "support"},
    {"text": "webhook signature fails", "domain": "technical"},
    {"text": "best pizza in town", "domain": None},
    {"text": "sing me a song", "domain": None},
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return json_lines(tmp_path / "questions.jsonl", LINES)


@pytest.fixture
def own(product: TinyBERTOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("MDSA_HOME", str(home))
    return home


def test_explain_shows_what_decided(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "route", "--explain", "my", "card", "was", "charged", "twice")
    assert code == 0
    assert out.startswith("finance")
    assert "cosine" in out
    assert "evidence " in out
    assert ", ask " in out
    code, out, _ = inside(capsys, "route", "--explain", "--json", "what's the weather on mars")
    told = json.loads(out)
    assert told["domain"] is None
    assert told["reason"]
    assert set(told["thresholds"]) == {"accept", "ask", "per_domain"}
    assert {"domain", "text", "kind", "similarity"} == set(told["near"][0])


def test_control_characters_of_domains_are_shown_escaped(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_SHIPPED_DOMAINS", "false")
    for name, other in (("red", "blue"), ("blue", "red")):
        (own / "domains" / name).mkdir(parents=True)
        known = {"domain.yaml": {"title": f"{name} \x1b[31m"}, "examples.yaml": [f"all about {other} \x1b[31m", f"{name} paint"]}
        for file, holds in known.items():
            (own / "domains" / name / file).write_text(json.dumps(holds), encoding="utf-8")
    for command in (("route", "--explain", "all about red"), ("domains", "check"), ("domains", "list")):
        code, out, err = inside(capsys, *command)
        assert (code, "\x1b" in out, "\\x1b[31m" in out) == (0, False, True), (command, out, err)


def test_thresholds_that_were_set_hold_in_a_trial_fit(
    product: TinyBERTOrchestrator, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def coverage() -> float:
        return float(json.loads(inside(capsys, "router", "eval", str(questions), "--fit", str(questions), "--json")[1])["coverage"])

    assert coverage() > 0
    monkeypatch.setenv("MDSA_USE_REASONING_THRESHOLD", "1.0")
    monkeypatch.setenv("MDSA_CONFIDENCE_THRESHOLD", "1.0")
    assert coverage() == 0


def test_after_reads_the_previous_message(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "route", "--json", "--after", "how much paracetamol can i take in a day", "and for children?")
    found = json.loads(out)
    assert code == 0
    assert (found["domain"], found["context"], found["switched"]) == ("medical", "with_previous", False)
    # Of several the last that names its topic.
    before = ("--after", "where is my parcel?", "--after", "how much paracetamol can i take in a day", "--after", "thanks!")
    code, out, _ = inside(capsys, "route", "--json", *before, "and for children?")
    assert (code, json.loads(out)["domain"]) == (0, "medical")


def test_fit_is_used_from_then_on(own: Path, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = inside(capsys, "router", "fit", str(questions), "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["out_of_scope"] == 2
    assert Path(report["file"]).is_file()
    code, out, _ = inside(capsys, "route", "--explain", "--json", "where is my parcel")
    assert json.loads(out)["head_weight"] == report["head_weight"]
    Path(report["file"]).write_bytes(b"broken")
    code, out, _ = inside(capsys, "route", "--json", "where is my parcel")
    assert code == 0
    assert json.loads(out)["domain"] == "support"


def test_a_line_of_the_file_goes_before_an_example(
    product: TinyBERTOrchestrator, own: Path, questions: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = product.registry.get("finance").examples[0]
    with questions.open("a", encoding="utf-8") as more:
        more.write("\n" + json.dumps({"text": example.upper(), "domain": None}))
    code, _, err = inside(capsys, "router", "fit", str(questions))
    assert code == 0, err
    assert f"one question is given for more than one domain, and the file's word goes: {folded(example)!r} for finance, none" in err
    assert "each learns it" not in err
    assert json.loads(inside(capsys, "route", "--json", example)[1])["domain"] is None


def test_what_cannot_be_written_is_told_before_the_fit(
    own: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "router.npz").mkdir(parents=True)
    monkeypatch.setattr("mdsa_local.routing.router.IntentRouter.fit", None)
    code, _, err = inside(capsys, "router", "fit", str(questions))
    assert code == 7 and "cannot write" in err and "router.npz" in err


def test_fit_on_an_unknown_domain_is_one_clear_error(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "hello", "domain": "fianance"}\n', encoding="utf-8")
    code, _, err = inside(capsys, "router", "fit", str(path))
    assert code == 4
    assert "Did you mean 'finance'?" in err
    assert str(path) in err


def test_without_the_encoder_nothing_is_fitted_and_a_route_says_so(
    own: Path, questions: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = own / "router.npz"
    own.mkdir()
    learned.write_bytes(b"of months")
    monkeypatch.setenv("MDSA_ENCODER", str(own / "gone"))
    code, _, err = inside(capsys, "router", "fit", str(questions))
    assert code == 3
    assert "without its encoder" in err
    assert learned.read_bytes() == b"of months"
    assert "degraded: by words alone, no encoder" in inside(capsys, "route", "where is my parcel")[1]
    assert "no encoder" in json.loads(inside(capsys, "route", "where is my parcel", "--json")[1])["degraded"]


def test_none_in_quotes_is_not_taken_for_out_of_scope(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "hello", "domain": null}\n{"text": "sing a song", "domain": "none"}\n', encoding="utf-8")
    for command in (("router", "fit"), ("router", "eval"), ("train", "router", "--data")):
        code, _, err = inside(capsys, *command, str(path))
        assert code == 2
        assert "lines.jsonl, line 2: key 'domain' is 'none'" in err
        assert "write null" in err
    assert read_pairs(path, labelled) == [("hello", None), ("sing a song", "none")]


def test_what_is_given_for_two_domains_is_told(product: TinyBERTOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contradictions([("A b", "x"), ("a  B", None), ("c", "x"), ("c", "x")]) == {"a b": ("x", "none")}
    path = tmp_path / "lines.jsonl"
    lines = [("Gribble  sideways", "finance"), ("gribble sideways", "medical"), ("is 38 a fever", "medical")]
    path.write_text("".join(json.dumps({"text": text, "domain": domain}) + "\n" for text, domain in lines), encoding="utf-8")
    _, _, err = inside(capsys, "router", "eval", str(path))
    assert "warning: one question is given for more than one domain, so it cannot be right each time: 'gribble sideways' for finance, medical" in err


def test_eval_says_what_the_router_has_seen(product: TinyBERTOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    example = next(domain for domain in product.registry if domain.name == "finance").examples[0]
    lines = [(example.upper(), "finance"), ("is the gribble sideways", "technical")]
    path.write_text("".join(json.dumps({"text": text, "domain": domain}) + "\n" for text, domain in lines), encoding="utf-8")
    code, _, err = inside(capsys, "router", "eval", str(path), "--json")
    assert (code, err) == (0, "warning: 1 of 2 questions are among those that the router learned from, so the figures flatter it\n")
    _, _, err = inside(capsys, "router", "eval", str(path), "--fit", str(path))
    assert "warning: 2 of 2 questions are among those" in err
    assert "more than one domain" not in err
    with path.open("a", encoding="utf-8") as more:
        more.write(json.dumps({"text": "is the gribble sideways", "domain": None}) + "\n")
    _, _, err = inside(capsys, "router", "eval", str(path), "--fit", str(path))
    assert "more than one domain, and each learns it: 'is the gribble sideways' for technical, none" in err


def test_eval_draws_a_picture(product: TinyBERTOrchestrator, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "router.png"
    code, out, err = inside(capsys, "router", "eval", str(questions), "--plot", str(picture))
    assert code == 0, err
    assert "true \\ routed" in out
    content = picture.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG")
    assert min(width, height) > 400


def test_a_picture_that_cannot_be_written_is_told_before_anything_is_measured(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdsa_local.routing.evaluation.evaluate", lambda *_: pytest.fail("measured"))
    code, _, err = inside(capsys, "router", "eval", str(questions), "--plot", str(tmp_path / "missing" / "router.png"))
    assert code == 7
    assert "cannot write" in err


def test_without_matplotlib_the_error_says_how_to_get_it(
    product: TinyBERTOrchestrator, questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plots.draw is not None
    code, _, err = inside(capsys, "router", "eval", str(questions), "--plot", str(tmp_path / "router.png"))
    assert code == 3
    assert "mdsa-local[plots]" in err


def test_eval_tells_of_domains_that_are_not_there(product: TinyBERTOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "my card was charged twice", "domain": "fianance"}\n', encoding="utf-8")
    code, out, err = inside(capsys, "router", "eval", str(path), "--json")
    assert code == 0
    assert json.loads(out)["accuracy"] == 0
    assert "'fianance' (1)" in err
    assert "Known: finance" in err
    # Its questions are counted in the table for people, too.
    code, out, _ = inside(capsys, "router", "eval", str(path))
    assert out.splitlines()[-1].split() == ["fianance", "1", "0", "0", "0", "0"]


def test_bench_measures_beside_the_bare_session(
    product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MANY_DOMAINS", 3)
    code, out, err = inside(capsys, "bench", "route", "--runs", "1", "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["results"]}
    assert {"route_p50", "route_p99", "route_batch", "route_p50_200_domains"} <= set(rows)
    for name in ("route_p50", "route_p99", "route_batch", "route_p50_200_domains"):
        row = rows[name]
        assert row["ratio"] == pytest.approx(row["ours"] / row["baseline"], rel=0.01)
    assert rows["route_p50"]["ours"] <= rows["route_p99"]["ours"]
    assert rows["route_batch"]["better"] == "higher"


def test_domains_check(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = inside(capsys, "domains", "check", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["examples"] > 300
    assert len(found["collisions"]) == sum(pair["examples"] for pair in found["overlaps"])
    assert all(0 < pair["examples"] <= pair["of"] for pair in found["overlaps"])
    code, out, _ = inside(capsys, "domains", "check")
    assert "lie nearer to another domain" in out
    assert out.endswith(f"\nand {len(found['collisions']) - 20} more, less far off; --json has all\n")


def test_domains_check_counts_what_was_learned(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_SHIPPED_DOMAINS", "false")
    for name, description in (("garden", "Plants and soil."), ("kitchen", "Cooking and baking."), ("bare", "Music.")):
        (own / "domains" / name).mkdir(parents=True)
        (own / "domains" / name / "domain.yaml").write_text(f"description: {description}\n")
    with TinyBERTOrchestrator() as front:
        front.router.fit(
            [(text, "garden") for text in ("when to prune roses", "how to bake bread", "is compost good for soil")]
            + [(text, "kitchen") for text in ("how long to bake bread", "how to bake a cake", "what oven for bread")]
        )
        front.router.save(front.settings.router_file, front.registry)
    found = json.loads(inside(capsys, "domains", "check", "--json")[1])
    assert (found["examples"], found["without_examples"]) == (6, ["bare"])
    assert {"domain": "garden", "other": "kitchen", "examples": 1, "of": 3} in found["overlaps"]
    assert "of 6 examples lie nearer" in inside(capsys, "domains", "check")[1]


def test_no_domain_at_all_is_told(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDSA_SHIPPED_DOMAINS", "false")
    code, out, _ = inside(capsys, "domains", "list")
    assert (code, out) == (0, f"There is no domain: put a folder with a domain.yaml into {own / 'domains'}, or set shipped_domains to true.\n")
    assert inside(capsys, "domains", "list", "--json")[1] == "[]\n"


def test_domains_list_names_the_model_that_answers(product: TinyBERTOrchestrator, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = inside(capsys, "domains", "list", "--json")
    assert {row["model"] for row in json.loads(out)} == {"nano"}
