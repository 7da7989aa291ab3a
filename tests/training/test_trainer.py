"""A training that is interrupted goes on to the very same end; a checkpoint of another is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mdsa_local.domains.config import Generation
from mdsa_local.errors import InputError, StorageError
from mdsa_local.evaluation.questions import Case
from mdsa_local.runtime.backend import Message
from mdsa_local.runtime.gguf import read_gguf
from mdsa_local.runtime.llamacpp import LlamaCppBackend
from mdsa_local.training import curve, export_gguf, trainer
from mdsa_local.training.checkpoint import load
from mdsa_local.training.grounded import Templates
from mdsa_local.training.nano import Nano
from mdsa_local.training.recipe import Shape
from mdsa_local.training.tokenizer import learn, read, texts
from mdsa_local.training.trainer import Material, Progress
from mdsa_local.training.workshop import Workshop, opened
from tests.training.conftest import RECIPE
from tests.training.test_checkpoint import full_disk

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vocabulary(data: Path, templates: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer, as JSON."""
    with opened(tmp_path_factory.mktemp("vocabulary"), str(recipe)) as run:
        return str(learn(texts(data, Templates(templates), run.recipe), run.recipe.shape.vocabulary).to_str())


@contextmanager
def begun(folder: Path, recipe: Path, vocabulary: str) -> Iterator[Workshop]:
    with opened(folder, str(recipe)) as run:
        run.tokenizer.write_text(vocabulary, encoding="utf-8")
        yield run


@pytest.fixture(scope="module")
def whole(data: Path, templates: Path, recipe: Path, vocabulary: str, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A training without interruption; not to be changed by a test."""
    with begun(tmp_path_factory.mktemp("whole"), recipe, vocabulary) as run:
        for step in trainer.STEPS:
            trainer.train(run, step, Material(data, templates), CPU)
    return run


def losses(run: Workshop) -> dict[int, tuple[int, float, float]]:
    return {line["step"]: (line["tokens"], line["loss"], line["answer_loss"]) for line in curve.read(run.log)}


def test_it_learns(whole: Workshop) -> None:
    found = losses(whole)
    assert found[max(found)][2] < 0.9 * found[10][2]


def test_stopped_anywhere_it_goes_on_to_the_same_end(
    tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str, whole: Workshop
) -> None:
    with begun(tmp_path / "run", recipe, vocabulary) as run:
        for steps in (1, 6, 11):
            progress = trainer.train(run, "pretrain", Material(data, templates), CPU, steps=steps)
        assert progress.step == 18

        def die(progress: Progress) -> None:
            if progress.step == 25:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trainer.train(run, "pretrain", Material(data, templates), CPU, keep_every=4, tell=die)
        assert load(run.checkpoint("pretrain"))["progress"][0] == 24
        for step in trainer.STEPS:
            trainer.train(run, step, Material(data, templates), CPU)
    expected = losses(whole)
    assert {step: values for step, values in losses(run).items() if step in expected} == expected
    mine, theirs = (load(one.checkpoint("ground"))["model"] for one in (run, whole))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs), "to the bit"


def test_a_finished_step_is_not_trained_again(whole: Workshop, data: Path, templates: Path) -> None:
    before = whole.checkpoint("ground").read_bytes()
    progress = trainer.train(whole, "ground", Material(data, templates), CPU)
    assert progress.tokens >= progress.end
    assert whole.checkpoint("ground").read_bytes() == before


def test_a_full_disk_in_the_middle_leaves_the_last_checkpoint(tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str) -> None:
    with begun(tmp_path / "run", recipe, vocabulary) as run:
        trainer.train(run, "pretrain", Material(data, templates), CPU, steps=4)
        with full_disk(200_000), pytest.raises(StorageError, match=r"pretrain\.ckpt"):
            trainer.train(run, "pretrain", Material(data, templates), CPU, keep_every=3)
        assert load(run.checkpoint("pretrain"))["progress"][0] == 4
        assert trainer.train(run, "pretrain", Material(data, templates), CPU, steps=2).step == 6


def test_steps_come_in_order(tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str) -> None:
    with opened(tmp_path / "run", str(recipe)) as run:
        with pytest.raises(InputError) as raised:
            trainer.train(run, "ground", Material(data, templates), CPU)
        assert "mdsa train pretrain" in raised.value.hint
        with pytest.raises(InputError) as raised:
            trainer.train(run, "pretrain", Material(data, templates), CPU)
        assert "mdsa train tokenizer" in raised.value.hint
        run.tokenizer.write_text(vocabulary, encoding="utf-8")
        trainer.train(run, "pretrain", Material(data, templates), CPU, steps=2)
        with pytest.raises(InputError, match="pretraining has come to"):
            trainer.train(run, "ground", Material(data, templates), CPU)


def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str, whole: Workshop
) -> None:
    kept = whole.checkpoint("ground").read_bytes()

    def refused(changes: dict[str, Any], seed: int, said: str, at: Path = templates, words: str = vocabulary) -> None:
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        with opened(folder, str(path), seed=seed) as run:
            run.tokenizer.write_text(words, encoding="utf-8")
            run.checkpoint("ground").write_bytes(kept)
            with pytest.raises(InputError, match=said):
                trainer.train(run, "ground", Material(data, at), CPU)
            assert run.checkpoint("ground").read_bytes() == kept

    refused({"shape": {**RECIPE["shape"], "layers": 3}}, 0, "another recipe: shape")  # type: ignore[dict-item]
    refused({"rate": 1e-3}, 0, "another recipe: rate 0.002, now 0.001")
    refused({}, 1, "another seed: 0, now 1")
    other = tmp_path / "templates"
    other.mkdir()
    (other / "one.yaml").write_bytes((templates / "one.yaml").read_bytes())
    refused({}, 0, "another data, templates or evaluation set", other)
    refused({}, 0, r"another tokenizer\.json", words=vocabulary + " ")


def test_questions_too_near_to_the_evaluation_are_left_out(tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str) -> None:
    asked = ("what colour is the lighthouse", "how heavy is the windmill")
    cases = [Case(at, question, "support", (), ()) for at, question in enumerate(asked, 1)]
    with begun(tmp_path / "run", recipe, vocabulary) as run:
        made = trainer.Trainer(run, Material(data, templates, cases), CPU)
        tokenizer = read(run.tokenizer)
        seen = set()
        for share in (0.2, 0.3, 0.4, 0.7, 0.8, 0.9, 1.0) * 4:
            ids, *_ = made.feed.batch(share)
            seen |= {tokenizer.decode(row.tolist(), skip_special_tokens=True).lower() for row in ids}
        assert made.feed.dropped > 0
        assert not [text for text in seen for question in asked if question in text.rpartition("question")[2]]
        assert any("how heavy is the lighthouse" in text for text in seen), "others stay"


def test_all_questions_too_near_is_an_error(
    tmp_path: Path, data: Path, templates: Path, recipe: Path, vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with begun(tmp_path / "run", recipe, vocabulary) as run:
        made = trainer.Trainer(run, Material(data, templates), CPU)
        monkeypatch.setattr(made.feed._guard, "near", lambda texts: [True] * len(texts))
        with pytest.raises(InputError, match="too near to questions that judge"):
            made.feed.batch(0.9)


def test_the_exported_model_says_in_llama_cpp_what_it_says_in_torch(whole: Workshop) -> None:
    path = export_gguf.export(whole)
    small = export_gguf.quantize(whole)
    assert [read_gguf(file).quantization for file in (path, *small)] == ["F32", "Q8_0", "Q4_0"]
    card = yaml.safe_load((whole.model / "model.yaml").read_text(encoding="utf-8"))
    assert (card["default"], sorted(card["files"])) == ("int8", ["int4", "int8"])

    state = load(whole.checkpoint("ground"))
    model = Nano(Shape(**state["shape"]))
    model.load_state_dict(state["model"])
    tokenizer = read(whole.tokenizer)
    direct = export_gguf.write(export_gguf.tensors(model), model.shape, whole.tokenizer, whole.folder / "direct.gguf", "q8_0", "toy")
    assert direct.read_bytes() == small[0].read_bytes(), "by way of the F32 file nothing is lost"
    text = "how heavy is the windmill?"
    ids = tokenizer.encode(f"<|bos|><|user|>{text}<|end|><|assistant|>", add_special_tokens=False).ids
    backend = LlamaCppBackend(path, "toy", threads=1, gpu_layers=0)
    try:
        assert backend.count_tokens([Message("user", text)]) == len(ids)
        said = "".join(
            chunk
            for chunk in backend.stream([Message("user", text)], Generation(max_tokens=12, temperature=0.0), deadline_s=60)
            if isinstance(chunk, str)
        )
    finally:
        backend.close()
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()))
    expected = tokenizer.decode(ids[-12:], skip_special_tokens=False).partition("<|end|>")[0]
    assert said.strip() == expected.strip()


def test_quantised_weights_are_near(whole: Workshop) -> None:
    import gguf

    if not export_gguf.source(whole).exists():
        export_gguf.export(whole)
        export_gguf.quantize(whole)
    exact = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(export_gguf.source(whole)).tensors}
    for kind, most in (("q8_0", 0.01), ("q4_0", 0.12)):
        for tensor in gguf.GGUFReader(whole.model / f"toy-{kind}.gguf").tensors:
            near = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            error = np.linalg.norm(near - exact[tensor.name]) / np.linalg.norm(exact[tensor.name])
            assert error < (most if tensor.name != "token_embd.weight" else 0.01), (kind, tensor.name)


def test_export_and_quantize_say_what_comes_first(tmp_path: Path, recipe: Path) -> None:
    with opened(tmp_path / "run", str(recipe)) as run:
        with pytest.raises(InputError) as raised:
            export_gguf.export(run)
        assert "mdsa train ground" in raised.value.hint
        with pytest.raises(InputError) as raised:
            export_gguf.quantize(run)
        assert "mdsa train export" in raised.value.hint


def test_a_full_disk_while_exporting_leaves_no_half_file(whole: Workshop) -> None:
    path = export_gguf.export(whole)
    before = path.read_bytes()
    with full_disk(100_000), pytest.raises(StorageError):
        export_gguf.export(whole)
    assert path.read_bytes() == before
    assert not list(whole.model.glob("*.partial"))
