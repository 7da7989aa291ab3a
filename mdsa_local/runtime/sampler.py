"""Choosing the next token of an answer, by llama.cpp's own samplers."""

from __future__ import annotations

import ctypes
import secrets
from typing import Any

from mdsa_local.domains.config import Generation
from mdsa_local.errors import InputError
from mdsa_local.runtime.native import Context

PENALTY_WINDOW_TOKENS = 64


class Sampler:
    """llama.cpp's own samplers for one answer: logit bias, penalties over its last 64 tokens, top-k, top-p, min-p, temperature, draw; grammar.

    Where nothing but the likeliest token is wanted, numpy finds it: 0.03 to 0.07 ms with 152k tokens, 0.2 to 0.4 ms through the chain.
    A grammar is asked about the token drawn, and about all tokens only when it forbids that one: asking about all 152k takes milliseconds.
    """

    def __init__(self, context: Context, generation: Generation) -> None:
        self._context, self._lib, self._vocab = context, context.lib, context.model.vocab
        self._check_biases(generation)
        self._grammar = self._open_grammar(generation.grammar) if generation.grammar else None
        stages = [*self._adjustments(generation), *self._draw(generation)]
        self._simple = len(stages) == 1 and generation.temperature == 0.0
        self._chain = self._lib.llama_sampler_chain_init(self._lib.llama_sampler_chain_default_params())
        for stage in stages:
            self._lib.llama_sampler_chain_add(self._chain, stage)

    def _open_grammar(self, text: str) -> Any:
        grammar = self._lib.llama_sampler_init_grammar(self._vocab, text.encode(), b"root")
        if not grammar:
            raise InputError("the grammar is not valid GBNF", "Fix `grammar` in the generation settings.")
        return grammar

    def _check_biases(self, generation: Generation) -> None:
        size = self._context.model.vocabulary_size
        if outside := [token for token, _ in generation.logit_bias if token >= size]:
            raise InputError(f"logit_bias: there is no token {outside[0]}", f"The model's tokens are 0 to {size - 1}.")

    def _adjustments(self, generation: Generation) -> list[Any]:
        lib, size, stages = self._lib, self._context.model.vocabulary_size, []
        biases = generation.logit_bias
        if biases:
            array = (lib.llama_logit_bias * len(biases))(*(lib.llama_logit_bias(token, bias) for token, bias in biases))
            stages.append(lib.llama_sampler_init_logit_bias(size, len(biases), array))
        penalties = generation.repeat_penalty, generation.frequency_penalty, generation.presence_penalty
        if penalties != (1.0, 0.0, 0.0):
            stages.append(lib.llama_sampler_init_penalties(size, PENALTY_WINDOW_TOKENS, *penalties))
        return stages

    def _draw(self, generation: Generation) -> list[Any]:
        lib = self._lib
        if generation.temperature == 0.0:
            return [lib.llama_sampler_init_greedy()]
        # The largest seed means "take a random one" to llama.cpp.
        seed = secrets.randbits(31) if generation.seed is None else generation.seed % lib.LLAMA_DEFAULT_SEED
        return [
            lib.llama_sampler_init_top_k(min(generation.top_k, 2**31 - 1)),
            lib.llama_sampler_init_top_p(generation.top_p, 1),
            lib.llama_sampler_init_min_p(generation.min_p, 1),
            lib.llama_sampler_init_temp(generation.temperature),
            lib.llama_sampler_init_dist(seed),
        ]

    def sample(self, row: int) -> int:
        """Choose the token behind row ``row`` of the last batch, and take it for the next of the answer. Raises as :meth:`accept`."""
        if self._grammar is None and not self._simple:
            return int(self._lib.llama_sampler_sample(self._chain, self._context.handle, row))
        token = int(self._context.logits(row).argmax()) if self._simple else self._apply(self._context.candidates(row))
        if self._grammar is not None:
            if not self._allowed(token):
                array = self._context.candidates(row)
                self._lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
                token = self._apply(array)
            self.accept(token)
        return token

    def _apply(self, array: Any) -> int:
        self._lib.llama_sampler_apply(self._chain, ctypes.byref(array))
        return int(array.data[array.selected].id)

    def _allowed(self, token: int) -> bool:
        one = self._lib.llama_token_data(token, 1.0, 0.0)
        array = self._lib.llama_token_data_array(ctypes.pointer(one), 1, -1, False)
        self._lib.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return bool(one.logit != float("-inf"))

    def accept(self, token: int) -> None:
        """Take ``token`` for sampled: grammar and penalties go on behind it. Raises :class:`InputError` where the grammar does not allow it."""
        if self._grammar is not None:
            # llama.cpp would end the process.
            if not self._allowed(token):
                written = self._context.model.piece(token).decode("utf-8", "replace")
                raise InputError(
                    f"the grammar does not allow the answer to go on with {written!r}",
                    "Make each of `choices` a beginning that `grammar` allows, of characters that the model can write.",
                )
            self._lib.llama_sampler_accept(self._grammar, token)
        self._lib.llama_sampler_accept(self._chain, token)

    def close(self) -> None:
        """Free the samplers; safe twice."""
        if self._grammar is not None:
            self._lib.llama_sampler_free(self._grammar)
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
        self._grammar = self._chain = None
