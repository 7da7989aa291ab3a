"""Making the judge, and the encoder, by one command: which steps it runs, what it leaves out when it goes on, and the odds it keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import _making
import make_encoder
import make_judge

CARD = "name: judge\nweighing: {odds: [0.0, 1.0, 0.0, 0.0], nearness: 3.0}\n# odds: [1] stay\n"


def test_a_step_is_a_module_run(capsys: pytest.CaptureFixture[str]) -> None:
    said = _making.step("documentation", "--help", settings={"COLUMNS": "90"})
    assert "usage: documentation.py" in said
    assert capsys.readouterr().out == f"$ -m mdsa_local.training.documentation --help\n{said}"
    with pytest.raises(SystemExit) as ended:
        _making.step("documentation", "--nonsense")
    assert ended.value.code == 2


def test_an_error_of_a_step_is_a_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _making.step("judge", "draw", "--data", tmp_path, "--encoder", _making.ROOT / "models/tinybert", "--pool", tmp_path / "groups.npz")
    told = capfd.readouterr().err
    assert (ended.value.code, "Traceback" in told) == (2, False)
    assert told.startswith("drawing groups\n") and "error: " in told and "docs/training.md has all sets" in told


def test_a_folder_that_is_not_there_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", str(tmp_path), "--work", str(tmp_path / "work")]
    for script, option in ((make_judge, "--start"), (make_encoder, "--teacher")):
        monkeypatch.setattr(sys, "argv", ["make.py", *common, option, str(tmp_path / "none")])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == 2
        assert f"{option} {tmp_path / 'none'}: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_odds_are_put_into_the_card() -> None:
    said = "odds: (-0.7, 0.404, 2.163, -1.317)\nfrom 0.1 on: declines 2% of the answerable\n"
    assert make_judge.with_odds(CARD, said) == CARD.replace("[0.0, 1.0, 0.0, 0.0]", "[-0.7, 0.404, 2.163, -1.317]")
    with pytest.raises(SystemExit, match="no odds"):
        make_judge.with_odds(CARD, "WEIGHTS = (1.0, 2.0, 3.0)\n")


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps themselves are tested with their modules; here is what they are told."""
    work, out, ran = tmp_path / "work", tmp_path / "out", list[tuple[str, ...]]()

    def step(*arguments: object, settings: dict[str, str] | None = None) -> str:
        ran.append(tuple(map(str, arguments)))
        if settings:
            assert settings["MDSA_JUDGE"] == str(out)
            assert settings["MDSA_HOME"] == str(work / "home")
        return "odds: (1.0, 2.0, 3.0, 4.0)\n"

    monkeypatch.setattr(make_judge, "step", step)
    given = ["make_judge.py", "--data", str(tmp_path), "--start", str(tmp_path), "--work", str(work), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    out.mkdir()

    def left() -> list[str]:
        ran.clear()
        (out / "model.yaml").write_text(CARD, encoding="utf-8")
        make_judge.main()
        assert "odds: [1.0, 2.0, 3.0, 4.0]" in (out / "model.yaml").read_text(encoding="utf-8")
        return [f"{module} {first}" for module, first, *_ in ran]

    steps = ["judge draw", "judge train", "export_judge --judge", "answerable --questions"]
    assert left() == steps
    assert "--most" in ran[1]
    (work / "groups.npz").touch()
    assert left() == steps[1:]
    (work / "judge").mkdir()
    assert left() == steps[2:]


def test_an_encoder_is_made_in_three_runs_or_a_part_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work, out, ran = tmp_path / "work", tmp_path / "out", dict[str, list[str]]()

    def step(module: str, *arguments: object, settings: dict[str, str] | None = None) -> str:
        ran[module] = list(map(str, arguments))
        assert (settings is not None) == (module in ("distil", "contrast", "gather"))
        return 'calibration: {"scope": 0.1}\n'

    monkeypatch.setattr(make_encoder, "step", step)
    out.mkdir()
    for name in ("model.onnx", "model.onnx_data", "tokenizer.json"):
        (out / name).write_bytes(b"of the export")
    given = ["make_encoder.py", "--data", str(tmp_path), "--teacher", str(tmp_path), "--work", str(work), "--out", str(out)]

    def made(*more: str) -> list[str]:
        ran.clear()
        monkeypatch.setattr(sys, "argv", [*given, *more])
        make_encoder.main()
        assert 'calibration: {"scope": 0.1}' in (out / "model.yaml").read_text(encoding="utf-8")
        return list(ran)

    def asked(module: str, option: str) -> str:
        return ran[module][ran[module].index(option) + 1]

    steps = ["distil", "contrast", "gather", "export_encoder", "calibrate", "report"]
    assert made() == steps
    assert [asked("distil", "--most"), asked("contrast", "--steps"), asked("gather", "--steps")] == ["250000", "450", "700"]
    made("--part", "0.1")
    assert [asked("distil", "--most"), asked("contrast", "--steps"), asked("gather", "--steps")] == ["25000", "45", "70"]
    (work / "first" / "student").mkdir(parents=True)
    assert made("--on", "gpu") == steps[1:]
    assert (asked("contrast", "--steps"), asked("gather", "--start")) == ("380", str(work / "second"))
    for part in ("0", "1.5"):
        with pytest.raises(SystemExit):
            made("--part", part)
        assert f"--part {float(part)}: more than 0, at most 1" in capsys.readouterr().err
