from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mdsa_local.errors import StorageError
from mdsa_local.training.curve import Log, draw, read


def line(step: int) -> dict[str, float | None]:
    led = 0.1 if step > 5 else None
    return {"step": step, "tokens": 1000 * step, "loss": 8 / (step + 1), "answer_loss": 7 / (step + 1), "lead_accuracy": led}


def test_going_on_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "loss.jsonl"
    log = Log(path, 0)
    for step in (10, 20, 30):
        log.add(line(step))
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "tok')
    again = Log(path, 20)
    assert [row["step"] for row in read(path)] == [10, 20]
    again.add(line(30))
    assert [row["step"] for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())] == [10, 20, 30]


def test_a_picture(tmp_path: Path) -> None:
    draw([line(step) for step in range(50)], tmp_path / "loss.png", {"pretrain": 20_000, "ground": 50_000})
    width, height = struct.unpack(">II", (tmp_path / "loss.png").read_bytes()[16:24])
    assert width > height > 300
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    with pytest.raises(StorageError):
        draw([line(1)], tmp_path / "none" / "loss.png")
