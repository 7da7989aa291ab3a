"""Reading without a mask: graphs as optimum writes them, of small models of random weights, give for rows of one length what they gave."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from optimum.exporters.onnx import main_export
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from mdsa_local.training import unmasked
from mdsa_local.training.attention import fuse
from mdsa_local.training.onnx_files import keep_only, quantise, write_optimised
from mdsa_local.training.unmasked import unmask

from .test_attention import KINDS, LAYERS, exported, kinds_of_node, left_where_wrong

pytestmark = pytest.mark.filterwarnings("ignore")


def inputs(path: Path) -> set[str]:
    return {entry.name for entry in onnx.load(str(path), load_external_data=False).graph.input}


def given(path: Path) -> NDArray[np.float32]:
    """What a graph gives for three rows of one length."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(1).integers(100, 20_000, (3, 24))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    found: NDArray[np.float32] = session.run(None, {entry.name: feed[entry.name] for entry in session.get_inputs()})[0]
    return found


def pooled(folder: Path, mode: str) -> Path:
    """A sentence encoder with one vector a text."""
    exported("bert", folder)
    transformer = Transformer(str(folder / "torch"))
    model = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=mode), Normalize()], device="cpu")
    model.save(str(folder / "sentence"), create_model_card=False)
    main_export(str(folder / "sentence"), output=folder / "out", task="feature-extraction", library_name="sentence_transformers", do_validation=False)
    keep_only(folder / "out/model.onnx", "sentence_embedding")
    return folder / "out/model.onnx"


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"mpnet"}))
def test_token_vectors_stay_the_same(kind: str, tmp_path: Path) -> None:
    path = exported(kind, tmp_path)
    wanted = given(path)
    assert fuse(path) and unmask(path)
    assert inputs(path) <= {"input_ids", "token_type_ids"}
    assert np.allclose(given(path), wanted, atol=1e-5)


def test_sentence_vectors_stay_the_same(tmp_path: Path) -> None:
    path = pooled(tmp_path, "mean")
    wanted = given(path)
    assert fuse(path) and unmask(path)
    assert inputs(path) <= {"input_ids", "token_type_ids"}
    assert np.allclose(given(path), wanted, atol=1e-5)
    quantise(path, tmp_path / "int8.onnx")
    write_optimised(tmp_path / "int8.onnx", tmp_path / "model.onnx")
    assert kinds_of_node(tmp_path / "model.onnx")["MultiHeadAttention"] == LAYERS
    assert (np.sum(given(tmp_path / "model.onnx") * wanted, axis=1) > 0.99).all()


def test_who_reads_the_mask_otherwise_keeps_it(tmp_path: Path) -> None:
    # Distances between tokens are added to the scores with it; the first token is looked for behind padding on the left.
    for path in (exported("mpnet", tmp_path / "distances"), pooled(tmp_path / "first", "cls"), pooled(tmp_path / "largest", "max")):
        assert fuse(path)
        before = path.read_bytes()
        assert not unmask(path)
        assert path.read_bytes() == before


def test_a_graph_without_a_mask_is_left(tmp_path: Path) -> None:
    path = exported("bert", tmp_path)
    assert fuse(path) and unmask(path)
    before = path.read_bytes()
    assert not unmask(path)
    assert path.read_bytes() == before


def test_attention_in_many_nodes_is_left(tmp_path: Path) -> None:
    path = exported("bert", tmp_path)
    before = path.read_bytes()
    assert not unmask(path)
    assert path.read_bytes() == before


def test_what_would_not_give_the_same_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported("bert", tmp_path)
    assert fuse(path)

    def spoil(node: Any) -> None:
        if node.op_type == "MultiHeadAttention":
            node.input[1] = node.input[0]

    left_where_wrong(path, unmask, unmasked, spoil, monkeypatch)


def test_one_that_is_too_large_for_one_file_is_left(tmp_path: Path) -> None:
    path = exported("bert", tmp_path)
    shutil.copyfile(path, f"{path}_data")
    assert not unmask(path)
