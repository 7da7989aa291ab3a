"""The words sent to a model: one layout for every backend, static parts first so that their key-value state can be reused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mdsa_local.errors import ContextOverflowError

NOT_FOUND = "The documents do not answer this."
RULES = f"Answer only from the numbered passages and cite them like [1]. If they do not answer, say: {NOT_FOUND}"


def user_message(passages: Sequence[tuple[str, str]], question: str) -> str:
    """Numbered passages ``(title, text)``, then the question."""
    shown = [f"[{number}] {title}\n{text}" for number, (title, text) in enumerate(passages, 1)]
    return "\n\n".join([*shown, f"Question: {question}"])


def system_message(system_prompt: str) -> str:
    """A domain's system prompt followed by the rules every answer keeps."""
    return f"{system_prompt}\n{RULES}".strip()


def fit(count: Callable[[Sequence[tuple[str, str]]], int], passages: Sequence[tuple[str, str]], n_context: int, max_tokens: int) -> tuple[int, int]:
    """``(passages kept, prompt tokens)``: how many of the ranked passages fit beside the answer.

    ``count`` gives the tokens of the whole prompt with these passages. Passages go from the last; what must stay is the question, the
    system prompt, and room for the answer. Raises :class:`ContextOverflowError` when that alone is too much.
    """
    room = n_context - max_tokens
    for kept in range(len(passages), -1, -1):
        tokens = count(passages[:kept])
        if tokens <= room and (kept or not passages):
            return kept, tokens
    raise ContextOverflowError(
        f"the question and system prompt need {tokens} tokens and the answer {max_tokens}, "
        f"but the model's context is {n_context}" + (", and not one passage fits beside them" if tokens <= room else ""),
        "Shorten the question, lower max_tokens of the domain, or use a model with a longer context.",
    )
