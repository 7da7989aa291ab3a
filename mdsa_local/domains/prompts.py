"""The words sent to a model: one layout for every backend, static parts first so that their key-value state can be reused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mdsa_local.errors import ContextOverflowError

NOT_FOUND = "The documents do not answer this."
LONG_QUESTION = 300
RULES = f"Answer only from the numbered passages and cite them like [1]. If they do not answer, say: {NOT_FOUND}"


def user_message(passages: Sequence[tuple[str, str]], question: str, numbers: Sequence[int] = ()) -> str:
    """The question, passages ``(title, text)`` with their ``numbers`` (from 1 when empty; a title once), and the question again.

    Read before the passages it tells a causal model what to look for in them (query-aware contextualisation, Liu et al. 2023). A question of
    more than ``LONG_QUESTION`` characters stands only once, after them.
    """
    asked = f"Question: {question}"
    shown, told = list[str](), set[int]()
    for number, (title, text) in zip(numbers or range(1, len(passages) + 1), passages, strict=True):
        shown.append(f"[{number}]\n{text}" if number in told else f"[{number}] {title}\n{text}")
        told.add(number)
    twice = bool(shown) and len(question) <= LONG_QUESTION
    return "\n\n".join([*([asked] if twice else []), *shown, asked])


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
        "Shorten the question, lower max_tokens of the domain, use a model with a longer context, or raise context_tokens.",
    )
