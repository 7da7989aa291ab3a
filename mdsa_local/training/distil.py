"""Distil a sentence encoder into a TinyBERT (4 layers, 312 wide, 12 heads, 1200 intermediate).

The student's mean-pooled output goes through one dense layer of 312; its target is the teacher's sentence embedding rotated to its 312
principal directions. Loss: one minus cosine, plus the squared difference of the two in-batch similarity matrices. Word and position
embeddings start as a PCA of the teacher's, so that words the texts never show keep the teacher's notion of them. A tenth of the
inputs carry a typing slip while the target is that of the clean text.

Sources: TinyBERT (Jiao et al. 2020) for the shape, Reimers & Gurevych 2020 for embedding distillation.

    python -m mdsa_local.training.distil --data DIR --teacher DIR --work DIR

``--work`` keeps the labels, the checkpoint (resumed when found) and the finished model, a sentence-transformers folder. Ends after ``--epochs``, or
after ``--minutes`` if these are over earlier; the learning rate falls to nothing towards whichever comes first.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoTokenizer, BertConfig, BertModel

from mdsa_local.durable import replacing
from mdsa_local.errors import InputError
from mdsa_local.training.checkpoint import device, keep, restore, resume
from mdsa_local.training.corpus import encoder_texts, with_typo
from mdsa_local.training.grounded import template_texts

WIDTH = 312
MAX_TOKENS = 160
# Texts whose labels are kept in one file, so that an interruption costs little.
PIECE = 65_536
# Lengths are padded to a multiple of it: fewer shapes, and a GPU likes them.
ROUND_TO = 8
TYPOS = 0.1
WARM = 300


class Tokens:
    """Tokenised texts, one after another on the device that trains."""

    def __init__(self, texts: Sequence[str], tokenizer: Any, most: int = MAX_TOKENS, kept: Path | None = None) -> None:
        """``kept`` names a file that holds them from run to run; without ``texts`` whatever is in it. Raises :class:`InputError` where it was made of
        others."""
        of = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        if kept and kept.exists():
            with np.load(kept) as found:
                if texts and "of" in found and str(found["of"]) != of:
                    raise InputError(
                        f"{kept}: made of other texts", "Give a new --work, or remove what is in this one: data or options have changed."
                    )
                self._place(found["lengths"], found["flat"])
            return
        rows = [
            row
            for at in range(0, len(texts), PIECE)
            for row in tokenizer(list(texts[at : at + PIECE]), truncation=True, max_length=most)["input_ids"]
        ]
        lengths, flat = np.array([len(row) for row in rows], dtype=np.int64), np.concatenate([np.array(row, dtype=np.int32) for row in rows])
        if kept:
            with replacing(kept) as partial, partial.open("wb") as file:
                np.savez(file, lengths=lengths, flat=flat, of=np.array(of))
        self._place(lengths, flat)

    def _place(self, lengths: np.ndarray, flat: np.ndarray) -> None:
        self.lengths = lengths
        self._starts = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)[:-1]])).to(device())
        self._counts = torch.from_numpy(lengths).to(device())
        self._flat = torch.from_numpy(flat).to(device())

    def batch(self, which: np.ndarray) -> tuple[Tensor, Tensor]:
        """``(ids, mask)`` of some of them, padded."""
        longest = -(-int(self.lengths[which].max()) // ROUND_TO) * ROUND_TO
        chosen = torch.from_numpy(which).to(device())
        at = torch.arange(longest, device=device())
        mask = at[None] < self._counts[chosen][:, None]
        ids = self._flat[(self._starts[chosen][:, None] + at).clamp(max=len(self._flat) - 1)] * mask
        return ids.long(), mask.long()


@contextmanager
def precision() -> Iterator[None]:
    """bfloat16 on a GPU, and on a CPU that multiplies it; float32 otherwise."""
    where = device().type
    on_cpu = where == "cpu" and _multiplies_bfloat16()
    # The CPU's own attention takes three quarters of a step to go back in bfloat16.
    attention = sdpa_kernel(SDPBackend.MATH) if on_cpu else nullcontext()
    with torch.autocast(where, torch.bfloat16, enabled=where == "cuda" or on_cpu), attention:
        yield


@cache
def _multiplies_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))


def label(tokens: Tokens, teacher_path: Path, work: Path) -> np.ndarray:
    """The teacher's embeddings, ``(n, d)`` float16, made in pieces that survive an interruption."""
    teacher = BertModel.from_pretrained(teacher_path, add_pooling_layer=False).to(device()).eval()
    parts, size = [], 4096 if device().type == "cuda" else 64
    for start in range(0, len(tokens.lengths), PIECE):
        path = work / f"labels_{start:08d}.npy"
        if not path.exists():
            began = time.time()
            rows = np.arange(start, min(start + PIECE, len(tokens.lengths)))
            order = rows[np.argsort(tokens.lengths[rows], kind="stable")]
            found = np.empty((len(rows), teacher.config.hidden_size), dtype=np.float16)
            for at in range(0, len(order), size):
                chosen = order[at : at + size]
                with torch.inference_mode(), precision():
                    ids, mask = tokens.batch(chosen)
                    hidden = teacher(input_ids=ids, attention_mask=mask).last_hidden_state
                found[chosen - start] = F.normalize(pooled(hidden.float(), mask), dim=-1).half().cpu().numpy()
            np.save(work / "part.npy", found)
            (work / "part.npy").replace(path)
            print(f"labelled {start + len(rows)} of {len(tokens.lengths)}, {len(rows) / (time.time() - began):.0f}/s", flush=True)
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


def pooled(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's tokens: ``(n, length, d)`` and ``(n, length)`` to ``(n, d)``."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def embed(student: BertModel, dense: torch.nn.Linear, ids: Tensor, mask: Tensor) -> Tensor:
    """Unit vectors ``(n, 312)`` of a padded batch."""
    with precision():
        hidden = student(input_ids=ids, attention_mask=mask).last_hidden_state
    return F.normalize(dense(pooled(hidden.float(), mask)), dim=-1)


def resumed(teacher_path: Path, start: Path | None, checkpoint: Path, rate: float) -> tuple[BertModel, torch.nn.Linear, torch.optim.Optimizer, int]:
    """Student, dense layer, optimiser and step: of ``checkpoint`` when there is one, else weights of the run in ``start``, else fresh."""
    student, dense = fresh_student(teacher_path)
    student.to(device())
    dense.to(device())
    optimiser = torch.optim.AdamW([*student.parameters(), *dense.parameters()], lr=rate, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    step = resume(checkpoint, student=student, dense=dense, optimiser=optimiser)
    if start and not checkpoint.exists():
        restore(start, student=student, dense=dense)
    return student, dense, optimiser, step


def departure(out: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """How far unit vectors ``(n, d)`` are from the teacher's, each and among one another; and their mean cosine."""
    cosine = (out * target).sum(-1).mean()
    return (1 - cosine) + 4 * ((out @ out.T - target @ target.T) ** 2).mean(), cosine


def batches(lengths: np.ndarray, size: int, rng: random.Random) -> list[np.ndarray]:
    """Batches of texts of like length, in random order; ``size`` counts texts of 32 tokens or fewer, fewer when longer."""
    order = np.argsort(lengths + 4 * np.random.default_rng(rng.randrange(2**32)).random(len(lengths)))
    out, start = [], 0
    while start < len(order):
        longest = max(32, int(lengths[order[min(start + size, len(order)) - 1]]))
        take = max(24, size * 32 // longest)
        out.append(order[start : start + take])
        start += take
    rng.shuffle(out)
    return out


class Schedule:
    """How much of a training is done, by steps and by the clock, and the learning rate that goes with it."""

    def __init__(self, rate: float, steps: int, warm: int, minutes: float) -> None:
        self._rate, self._steps, self._warm, self._seconds = rate, steps, max(1, warm), 60 * minutes
        self._began = time.monotonic()

    def done(self, step: int) -> float:
        """0 at the beginning, 1 or more at the end."""
        by_clock = (time.monotonic() - self._began) / self._seconds if self._seconds else 0.0
        return max(step / self._steps, by_clock)

    def set(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Give ``optimiser`` the rate for ``step``."""
        for group in optimiser.param_groups:
            group["lr"] = self._rate * min(1.0, (step + 1) / self._warm) * max(0.02, 1 - self.done(step))


def first_texts(data: Path, seed: int, most: int) -> list[str]:
    """The texts to distil by, ``most`` of them if it is not 0: all public ones, and questions and facts of the templates."""
    rng = random.Random(seed)
    texts = sorted({*encoder_texts(data, seed), *template_texts(seed)})
    rng.shuffle(texts)
    return texts[:most] if most else texts


def train(texts: list[str], teacher_path: Path, work: Path, epochs: int, size: int, rate: float, seed: int, minutes: float = 0.0) -> None:
    """Run or resume the distillation; leaves ``work/student`` as a sentence-transformers folder."""
    tokenizer = AutoTokenizer.from_pretrained(teacher_path)
    tokens = Tokens(texts, tokenizer, kept=work / "tokens.npz")
    targets = projected(label(tokens, teacher_path, work), work)
    held_out = np.arange(0, len(texts), 100)
    kept = np.setdiff1d(np.arange(len(texts)), held_out)
    torch.manual_seed(seed)
    checkpoint = work / "distil.pt"
    student, dense, optimiser, step = resumed(teacher_path, None, checkpoint, rate)
    per_epoch = batches(tokens.lengths[kept], size, random.Random(seed))
    plan = Schedule(rate, epochs * len(per_epoch), min(WARM, epochs * len(per_epoch) // 10), minutes)

    def held_out_cosine() -> float:
        with torch.inference_mode():
            cosines = [
                (embed(student, dense, *tokens.batch(rows)) * targets[torch.from_numpy(rows)].to(device()).float()).sum(-1)
                for rows in np.array_split(held_out, -(-len(held_out) // 256))
            ]
            return float(torch.cat(cosines).mean())

    began, first, epoch = time.time(), step, -1
    while plan.done(step) < 1:
        if step // len(per_epoch) != epoch:
            epoch = step // len(per_epoch)
            rng = random.Random(seed * 1_000_003 + epoch)
            order = batches(tokens.lengths[kept], size, rng)
            # Of each batch its last texts are replaced by what slips of the keyboard make of them.
            cut = [len(batch) - int(TYPOS * len(batch)) for batch in order]
            slipped = np.concatenate([kept[batch[at:]] for batch, at in zip(order, cut, strict=True)])
            slips = Tokens([with_typo(texts[i], rng) for i in slipped], tokenizer)
            where = np.cumsum([0, *(len(batch) - at for batch, at in zip(order, cut, strict=True))])
        at = step % len(per_epoch)
        if at >= len(order):
            step += 1
            continue
        plan.set(optimiser, step)
        rows = kept[order[at]]
        span = np.arange(where[at], where[at + 1])
        out = embed(student, dense, *tokens.batch(rows[: cut[at]]))
        if len(span):
            out = torch.cat([out, embed(student, dense, *slips.batch(span))])
        target = targets[torch.from_numpy(rows)].to(device()).float()
        loss, cosine = departure(out, target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*student.parameters(), *dense.parameters()], 1.0)
        optimiser.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step} epoch {epoch} cosine {cosine.item():.4f} {(time.time() - began) / (step - first) * 1000:.0f} ms/step", flush=True)
        if step % 1000 == 0:
            keep(checkpoint, step, student=student, dense=dense, optimiser=optimiser)
    print(f"step {step} held-out cosine {held_out_cosine():.4f}", flush=True)
    keep(checkpoint, step, student=student, dense=dense, optimiser=optimiser)
    finish(student, dense, tokenizer, work)


def projected(labels: np.ndarray, work: Path) -> Tensor:
    """The teacher's vectors ``(n, 384)`` in their 312 principal directions, unit, float16."""
    path = work / "basis.npy"
    if not path.exists():
        basis, share = principal(labels[:: max(1, len(labels) // 100_000)].astype(np.float32), WIDTH)
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, basis)
        print(f"{len(labels)} texts; {WIDTH} directions keep {float(share):.4f} of the teacher", flush=True)
    basis = torch.from_numpy(np.load(path))
    return torch.cat([F.normalize(torch.from_numpy(part.astype(np.float32)) @ basis, dim=-1).half() for part in np.array_split(labels, 32)])


def finish(student: BertModel, dense: torch.nn.Linear, tokenizer: object, work: Path) -> None:
    """Write ``work/student``, the sentence-transformers folder that optimum exports."""
    bert = work / "bert"
    student.cpu().eval().save_pretrained(bert)
    tokenizer.save_pretrained(bert)  # type: ignore[attr-defined]
    # Slow to import, and needed here alone.
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    layer = Dense(WIDTH, WIDTH, activation_function=torch.nn.Identity())
    layer.linear.load_state_dict(dense.cpu().state_dict())
    modules = [Transformer(str(bert), max_seq_length=256), Pooling(WIDTH, "mean"), layer, Normalize()]
    # Under its name it is whole: whoever goes on looks for the folder.
    partial, student_folder = work / "student.partial", work / "student"
    shutil.rmtree(partial, ignore_errors=True)
    SentenceTransformer(modules=modules, device="cpu").save(str(partial))
    shutil.rmtree(student_folder, ignore_errors=True)
    partial.rename(student_folder)
    print(f"written: {student_folder}", flush=True)


def begun(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a run of the encoder, with those that each has: ``--seed``, and ``--threads``, which is set; the folder ``--work`` is made."""
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for torch's choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    return args


def main() -> None:
    """Command line of the distillation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public data sets")
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the sentence-transformers teacher")
    parser.add_argument("--work", type=Path, required=True, help="folder for labels, checkpoints and the result")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: after the epochs")
    parser.add_argument("--batch", type=int, default=0, help="texts of 32 tokens in a batch; 0: 2048 on a GPU, 128 on a CPU")
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--most", type=int, default=0, help="use so many of the texts; 0: all")
    args = begun(parser)
    texts = first_texts(args.data, args.seed, args.most)
    size = args.batch or (2048 if device().type == "cuda" else 128)
    train(texts, args.teacher, args.work, args.epochs, size, args.rate, args.seed, args.minutes)


if __name__ == "__main__":
    from mdsa_local.cli.output import ended

    ended(main)
