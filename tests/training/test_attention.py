"""Attention in one node: graphs as optimum writes them, of small models of random weights, give what they gave."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from optimum.exporters.onnx import main_export
from transformers import AutoModel, BertConfig, DistilBertConfig, MPNetConfig, PreTrainedTokenizerFast, RobertaConfig

from mdsa_local.settings import shipped
from mdsa_local.training import attention
from mdsa_local.training.onnx_files import quantise, write_optimised

pytestmark = pytest.mark.filterwarnings("ignore")
LAYERS, HEADS = 2, 4
SHAPE: dict[str, Any] = {"vocab_size": 30522, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 48}
KINDS: dict[str, Callable[[], Any]] = {
    "bert": lambda: BertConfig(**SHAPE),
    # Positions are counted from the padding on.
    "roberta": lambda: RobertaConfig(**SHAPE, pad_token_id=1),
    "distilbert": lambda: DistilBertConfig(vocab_size=30522, dim=32, n_layers=LAYERS, n_heads=HEADS, hidden_dim=48),
    # The long row is longer than it takes.
    "short": lambda: BertConfig(**SHAPE, max_position_embeddings=64),
    # What two tokens' distance adds to their score is no matter of padding.
    "mpnet": lambda: MPNetConfig(**SHAPE),
}


def exported(kind: str, folder: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModel.from_config(KINDS[kind]())
    with torch.no_grad():
        for name, value in model.named_parameters():
            # As initialised, what a distance adds is next to nothing.
            if "relative_attention_bias" in name:
                value.mul_(100)
    model.eval().save_pretrained(folder / "torch")
    marks = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_file=str(shipped("models") / "tinybert/tokenizer.json"), **marks).save_pretrained(folder / "torch")
    main_export(str(folder / "torch"), output=folder / "onnx", task="feature-extraction", library_name="transformers", do_validation=False)
    return folder / "onnx/model.onnx"


def kinds_of_node(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def given(path: Path) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    mask = (np.arange(40) < np.array([40, 7, 1])[:, None]).astype(np.int64)
    feed = {"input_ids": np.random.default_rng(1).integers(100, 20_000, mask.shape) * mask, "attention_mask": mask}
    feed["token_type_ids"] = np.zeros_like(mask)
    found = session.run(None, {entry.name: feed[entry.name] for entry in session.get_inputs()})[0]
    return found[mask.astype(bool)]


def left_where_wrong(path: Path, done: Callable[[Path], bool], module: ModuleType, spoil: Callable[[Any], None], patch: pytest.MonkeyPatch) -> None:
    """What ``done`` does to a graph, once the rewriting of its ``module`` spoils each node behind it, is seen and not kept."""
    before, rewrite = path.read_bytes(), module.rewrite

    def wrong(model: Any) -> bool:
        rewritten: bool = rewrite(model)
        for node in model.graph.node:
            spoil(node)
        return rewritten

    patch.setattr(module, "rewrite", wrong)
    assert not done(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_node_and_gives_the_same(kind: str, tmp_path: Path) -> None:
    plain = exported(kind, tmp_path)
    path = Path(shutil.copyfile(plain, tmp_path / "fused.onnx"))
    assert attention.fuse(path)
    found = kinds_of_node(path)
    assert found["MultiHeadAttention"] == LAYERS and not found["Softmax"]
    wanted = given(plain)
    assert np.abs(wanted).max() > 0.5
    assert np.allclose(given(path), wanted, atol=1e-5)
    # As it ships: in eight bits, with onnxruntime's own passes behind it.
    quantise(path, tmp_path / "int8.onnx")
    write_optimised(tmp_path / "int8.onnx", tmp_path / "model.onnx")
    found = kinds_of_node(tmp_path / "model.onnx")
    assert found["MultiHeadAttention"] == LAYERS and not found["SkipLayerNormalization"]
    assert np.allclose(given(tmp_path / "model.onnx"), wanted, atol=0.15)


def test_distances_count_beside_padding(tmp_path: Path) -> None:
    path = exported("mpnet", tmp_path)
    assert attention.fuse(path)
    node = next(node for node in onnx.load(str(path)).graph.node if node.op_type == "MultiHeadAttention")
    # Neither bias nor mask of padding, but what the graph adds to the scores.
    assert list(node.input[3:5]) == ["", ""] and node.input[5]


def test_another_graph_is_left_as_it_is(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["given"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["given"], ["out"], axis=-1),
    ]
    ids, out = (
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["b", "s"]),
        helper.make_tensor_value_info("out", TensorProto.FLOAT, None),
    )
    path = tmp_path / "other.onnx"
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "other", [ids], [out]), opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path)
    )
    before = path.read_bytes()
    assert not attention.fuse(path)
    assert path.read_bytes() == before


def test_what_would_not_give_the_same_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported("bert", tmp_path)
    before, rewrite = path.read_bytes(), attention._rewrite

    def wrong(model: Any, by_mask: bool) -> bool:
        done = rewrite(model, by_mask)
        for node in model.graph.node:
            if node.op_type == "MultiHeadAttention":
                node.input[1] = node.input[0]
        return done

    monkeypatch.setattr(attention, "_rewrite", wrong)
    assert not attention.fuse(path)
    assert path.read_bytes() == before
