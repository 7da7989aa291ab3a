"""How good answers are: a set of questions with their facts and sources, run through the whole pipeline and judged by rules."""
