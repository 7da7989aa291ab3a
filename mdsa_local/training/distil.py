"""Distil a sentence encoder into a TinyBERT (4 layers, 312 wide, 12 heads, 1200 intermediate).

The student's mean-pooled output goes through one dense layer of 312; its target is the teacher's sentence embedding rotated to its 312
principal directions. Loss: one minus cosine, plus the squared difference of the two in-batch similarity matrices. Word and position
embeddings start as a PCA of the teacher's, so that words the texts never show keep the teacher's notion of them. A tenth of the
inputs carry a typing slip while the target is that of the clean text.

Sources: TinyBERT (Jiao et al. 2020) for the shape, Reimers & Gurevych 2020 for embedding distillation.

    python -m mdsa_local.training.distil --data DIR --teacher DIR --work DIR
    python -m mdsa_local.training.distil --data DIR --teacher DIR --work DIR2 --start DIR --epochs 3 --rate 3e-4

``--work`` keeps the labelled texts, the checkpoint (resumed when found) and the finished model, a sentence-transformers folder.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel

from mdsa_local.training.checkpoint import device, load, save
from mdsa_local.training.corpus import distillation_texts, with_typo
from mdsa_local.training.grounded import template_texts

WIDTH = 312
MAX_TOKENS = 128


def label(texts: list[str], teacher_path: Path, work: Path) -> np.ndarray:
    """The teacher's embeddings, ``(n, d)`` float16, made in pieces of 8192 that survive an interruption."""
    teacher = SentenceTransformer(str(teacher_path), device=str(device()))
    teacher.max_seq_length = MAX_TOKENS
    parts = []
    for start in range(0, len(texts), 8192):
        path = work / f"labels_{start:07d}.npy"
        if not path.exists():
            began = time.time()
            vectors = teacher.encode(texts[start : start + 8192], batch_size=64, normalize_embeddings=True)
            np.save(work / "part.npy", vectors.astype(np.float16))
            (work / "part.npy").replace(path)
            print(f"labelled {start + len(vectors)} of {len(texts)}, {len(vectors) / (time.time() - began):.0f}/s", flush=True)
        parts.append(np.load(path))
    return np.concatenate(parts)


def principal(matrix: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``(d, width)`` leading right singular vectors of ``matrix``, and the share of its energy they keep."""
    values, vectors = np.linalg.eigh(matrix.T.astype(np.float64) @ matrix.astype(np.float64))
    order = np.argsort(values)[::-1][:width]
    return vectors[:, order].astype(np.float32), values[order].sum() / values.sum()


def fresh_student(teacher_path: Path) -> tuple[BertModel, torch.nn.Linear]:
    """A TinyBERT whose embeddings are the teacher's, reduced."""
    teacher = BertModel.from_pretrained(teacher_path)
    config = BertConfig(
        vocab_size=teacher.config.vocab_size,
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=12,
        intermediate_size=1200,
        max_position_embeddings=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    student = BertModel(config, add_pooling_layer=False)
    words = teacher.embeddings.word_embeddings.weight.detach().numpy()
    centred = words - words.mean(0)
    basis, _ = principal(centred, WIDTH)
    with torch.no_grad():
        for name in ("word_embeddings", "position_embeddings"):
            table = getattr(teacher.embeddings, name).weight.detach().numpy()
            getattr(student.embeddings, name).weight.copy_(torch.from_numpy((table - table.mean(0)) @ basis))
    dense = torch.nn.Linear(WIDTH, WIDTH)
    torch.nn.init.orthogonal_(dense.weight)
    torch.nn.init.zeros_(dense.bias)
    return student, dense


def embed(student: BertModel, dense: torch.nn.Linear, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Unit vectors ``(n, 312)`` of a padded batch."""
    hidden = student(input_ids=ids, attention_mask=mask).last_hidden_state
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return F.normalize(dense((hidden * weight).sum(1) / weight.sum(1)), dim=-1)


def resumed(teacher_path: Path, start: Path | None, checkpoint: Path, rate: float) -> tuple[BertModel, torch.nn.Linear, torch.optim.Optimizer, int]:
    """Student, dense layer, optimiser and step: of ``checkpoint`` when there is one, else weights of the run in ``start``, else fresh."""
    student, dense = fresh_student(teacher_path)
    found = checkpoint if checkpoint.exists() else start
    state = load(found) if found else None
    if state:
        student.load_state_dict(state["student"])
        dense.load_state_dict(state["dense"])
    student.to(device())
    dense.to(device())
    optimiser = torch.optim.AdamW([*student.parameters(), *dense.parameters()], lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    if not state or found != checkpoint:
        return student, dense, optimiser, 0
    optimiser.load_state_dict(state["optimiser"])
    print(f"resumed at step {state['step']}", flush=True)
    return student, dense, optimiser, state["step"]


def keep(student: BertModel, dense: torch.nn.Linear, optimiser: torch.optim.Optimizer, step: int, checkpoint: Path) -> None:
    """Write what :func:`resumed` reads."""
    save({"student": student.state_dict(), "dense": dense.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, checkpoint)


def departure(out: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far unit vectors ``(n, d)`` are from the teacher's, each and among one another; and their mean cosine."""
    cosine = (out * target).sum(-1).mean()
    return (1 - cosine) + 4 * ((out @ out.T - target @ target.T) ** 2).mean(), cosine


def batches(lengths: np.ndarray, size: int, rng: random.Random) -> list[np.ndarray]:
    """Batches of texts of like length, in random order; ``size`` counts texts of 32 tokens or fewer, fewer when longer."""
    order = np.array(sorted(range(len(lengths)), key=lambda i: lengths[i] + 4 * rng.random()))
    out, start = [], 0
    while start < len(order):
        longest = max(32, int(lengths[order[min(start + size, len(order)) - 1]]))
        take = max(24, size * 32 // longest)
        out.append(order[start : start + take])
        start += take
    rng.shuffle(out)
    return out


def train(
    texts: list[str], targets: torch.Tensor, teacher_path: Path, work: Path, start: Path | None, epochs: int, size: int, rate: float, seed: int
) -> None:
    """Run or resume the distillation, from scratch or from the run in ``start``; leaves ``work/student`` as a sentence-transformers folder."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    ids = [row[:MAX_TOKENS] for row in tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]]
    lengths = np.array([len(row) for row in ids])
    held = set(range(0, len(texts), 100))
    kept = np.array([i for i in range(len(texts)) if i not in held])
    held_out = sorted(held)
    torch.manual_seed(seed)
    checkpoint = work / "distil.pt"
    student, dense, optimiser, step = resumed(teacher_path, start / "distil.pt" if start else None, checkpoint, rate)
    plan = [(epoch, batch) for epoch in range(epochs) for batch in batches(lengths[kept], size, random.Random(seed + epoch))]

    def pad(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(map(len, rows))
        block = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            block[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        return block.to(device()), mask.to(device())

    def held_out_cosine() -> float:
        with torch.inference_mode():
            cosines = []
            for start in range(0, len(held_out), 64):
                rows = held_out[start : start + 64]
                out = embed(student, dense, *pad([ids[i] for i in rows]))
                cosines.append((out * targets[rows].to(device())).sum(-1))
            return float(torch.cat(cosines).mean())

    began, first, running = time.time(), step, 0.0
    while step < len(plan):
        epoch, batch = plan[step]
        rng = random.Random(seed * 1_000_003 + step)
        scale = min(1.0, (step + 1) / 300) * max(0.02, 1 - step / len(plan))
        for group in optimiser.param_groups:
            group["lr"] = rate * scale
        rows = kept[batch]
        inputs = [ids[i] for i in rows]
        slips = [j for j in range(len(rows)) if rng.random() < 0.1]
        if slips:
            again = tokenizer([with_typo(texts[rows[j]], rng) for j in slips], truncation=True, max_length=MAX_TOKENS)["input_ids"]
            for j, row in zip(slips, again, strict=True):
                inputs[j] = row
        out = embed(student, dense, *pad(inputs))
        target = targets[rows].to(device())
        loss, cosine = departure(out, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*student.parameters(), *dense.parameters()], 1.0)
        optimiser.step()
        step += 1
        running = 0.98 * running + 0.02 * float(cosine)
        if step % 100 == 0:
            print(
                f"step {step}/{len(plan)} epoch {epoch} cosine {running:.4f} {(time.time() - began) / (step - first) * 1000:.0f} ms/step", flush=True
            )
        if step % 500 == 0 or step == len(plan):
            print(f"step {step} held-out cosine {held_out_cosine():.4f}", flush=True)
            keep(student, dense, optimiser, step, checkpoint)
    finish(student, dense, tokenizer, work)


def finish(student: BertModel, dense: torch.nn.Linear, tokenizer: object, work: Path) -> None:
    """Write ``work/student``, the sentence-transformers folder that optimum exports."""
    bert = work / "bert"
    student.cpu().eval().save_pretrained(bert)
    tokenizer.save_pretrained(bert)  # type: ignore[attr-defined]
    layer = Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity())
    layer.linear.load_state_dict(dense.cpu().state_dict())
    modules = [Transformer(str(bert), max_seq_length=256), Pooling(WIDTH, "mean"), layer, Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(work / "student"))
    print(f"written: {work / 'student'}", flush=True)


def main() -> None:
    """Command line of the distillation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the sentence-transformers teacher")
    parser.add_argument("--work", type=Path, required=True, help="folder for labels, checkpoints and the result")
    parser.add_argument("--start", type=Path, help="folder of a finished first run: go on from it with questions and facts of help centres")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sampled texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "texts.json").write_text(json.dumps({"scale": args.scale}))
    texts = template_texts(args.data, args.seed) if args.start else distillation_texts(args.data, args.seed, args.scale)
    labels = label(texts, args.teacher, args.work).astype(np.float32)
    if args.start:
        basis = np.load(args.start / "basis.npy")
    else:
        basis, share = principal(labels, WIDTH)
        print(f"{len(texts)} texts; {WIDTH} directions keep {share:.4f} of the teacher", flush=True)
    np.save(args.work / "basis.npy", basis)
    targets = F.normalize(torch.from_numpy(labels @ basis), dim=-1)
    train(texts, targets, args.teacher, args.work, args.start, args.epochs, args.batch, args.rate, args.seed)


if __name__ == "__main__":
    main()
