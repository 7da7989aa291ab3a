"""Whether what a sentence claims agrees with what another says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container

from mdsa_local.validation.facts import UP_TO, Bound, Facts, value
from mdsa_local.validation.vocabulary import CEILINGS, OPPOSITE_PREFIXES, OPPOSITES, PERIODS

# After stem(), behind a number: "twice a day".
TIMES = "tim"
# A clause moved to the front leaves half in order.
ORDER_ENOUGH = 0.5


def agree(claim: Facts, source: Facts, title: Facts) -> bool:
    """Whether no number, negation, limit, word or order of ``claim`` speaks against ``source``; numbers may also stand in the title.

    What ``claim`` lacks in ``source`` and finds in a title that denies it ("Not reimbursed") is denied.
    """
    if any(negation.clause & (claim.words - source.words) for negation in title.negations):
        source = source.under(title.negations)
    checks = (_same_periods, _same_negations, _same_limits, _same_modals, _same_order, _same_clause)
    return _same_numbers(claim, source, title) and not opposed(claim.words, source.words) and all(check(claim, source) for check in checks)


def opposed(claim: frozenset[str], source: frozenset[str]) -> bool:
    """Whether a word that only the claim has is the opposite of one that only the source has: allowed and prohibited, valid and invalid."""
    new, left = claim - source, source - claim
    return any(OPPOSITES.get(word, frozenset()) & left or _prefixed(word, left) or any(_prefixed(other, {word}) for other in left) for word in new)


def _prefixed(word: str, others: Container[str]) -> bool:
    """Whether one of ``others`` is ``word`` without "un" or the like."""
    return any(word.startswith(prefix) and len(word) > len(prefix) + 3 and word[len(prefix) :] in others for prefix in OPPOSITE_PREFIXES)


def _touch(one: Bound, other: Bound) -> bool:
    return not one.scope or not other.scope or bool(one.scope & other.scope)


def _is_number(said: Bound, known: Bound, often: bool) -> bool:
    """Whether the two are one; where the source says how ``often``, the claim says it of nothing else."""
    if often and said.of == TIMES != known.of:
        return False
    if said.kind != known.kind and not ((said.unit or known.unit) and value(said.kind) == value(known.kind)):
        return False
    if said.edge and known.edge and (said.edge == "begin") != (known.edge == "begin"):
        return False
    if said.unit != known.unit:
        return not said.unit and not said.scope
    return bool(said.unit) or _touch(said, known)


def _same_numbers(claim: Facts, source: Facts, title: Facts) -> bool:
    """Every number of the claim is in the source; those of one unit stand in the same order, so that two prices cannot change places.

    Of a range both ends are told, "one bag" is not said of two bags, and what is done daily is done once a day.
    """
    at: Counter[str] = Counter()
    kinds = {said.kind for said in claim.numbers}
    often = any(known.of == TIMES for known in source.numbers)
    for said in claim.numbers:
        found = next((i for i in range(at[said.unit], len(source.numbers)) if _is_number(said, source.numbers[i], often)), None)
        if found is not None:
            known = source.numbers[found]
            if known.end not in ("", "0", *kinds) and not said.end and (said.unit or said.of == known.of != ""):
                return False
            at[said.unit] = found + 1
        elif not (said.kind == "1" and (said.of in source.ones or (said.of == TIMES and not often))) and not any(
            said.kind == known.kind and said.unit == known.unit for known in title.numbers
        ):
            return False
    return not any(known.of in claim.ones - source.ones and known.kind != "1" for known in source.numbers)


def _same_periods(claim: Facts, source: Facts) -> bool:
    """What is told a month is not told a year: no period is named in place of another one."""
    said, known = ({PERIODS[word] for word in told.words & PERIODS.keys()} for told in (claim, source))
    return said <= known or known <= said


def _same_negations(claim: Facts, source: Facts) -> bool:
    if len(claim.negations) != len(source.negations):
        return False
    pairs = zip(claim.negations, source.negations, strict=True)
    return all(said.kind == known.kind and _touch(said, known) and not _moved(said, known, source) for said, known in pairs)


def _moved(said: Bound, known: Bound, source: Facts) -> bool:
    """Whether the claim denies what the source says outside of what it denies, and leaves out some of that: not with water, with food."""
    return bool((said.scope & source.words) - known.clause and known.scope - said.clause)


def _same_modals(claim: Facts, source: Facts) -> bool:
    """What may be need not be, and the other way round; what should be may at least be. What must not be is no matter of what must."""
    for said in claim.modals:
        denied = said.kind.endswith(" not")
        touched = {known.kind for known in source.modals if _touch(said, known) and known.kind.endswith(" not") == denied}
        if touched and said.kind not in touched and not (said.kind == "may" and "should" in touched):
            return False
    return True


def _same_clause(claim: Facts, source: Facts) -> bool:
    """No number of a clause is told of what another clause, built alike, tells with another number: "Basic costs $3 and Plus costs $6"."""
    kinds = {said.kind for said in claim.numbers}
    for said in claim.numbers:
        holding = [clause for clause in source.clauses if (said.kind, said.unit) in clause.numbers]
        if len(holding) != 1:
            continue
        (own,) = holding
        for other in source.clauses:
            rival = other is not own and any(unit == said.unit and kind not in kinds for kind, unit in other.numbers)
            alike = bool(own.frame & other.frame)
            if rival and (alike or own.near):
                mine, theirs = own.subject - other.subject, other.subject - own.subject
                # "Basic costs $3 and Plus $6": the verb is of both.
                mine = mine if alike or len(mine) == 1 else mine - {own.near}
                if mine and theirs & claim.words and not mine & claim.words:
                    return False
    return True


def _same_limits(claim: Facts, source: Facts) -> bool:
    """No limit is made up, and none is left out whose object the claim holds: "less than 4 g" is not "4 g"."""
    content = set(claim.sequence)
    if not all(any(_is_limit(said, known) for known in source.limits) or _in_other_words(said, source) for said in claim.limits):
        return False
    needed = Counter(limit.kind for limit in source.limits if limit.scope and limit.scope <= content and not _in_other_words(limit, claim))
    if needed[UP_TO]:
        needed["at most"] += needed.pop(UP_TO)
    return needed <= Counter("at most" if limit.kind == UP_TO else limit.kind for limit in claim.limits)


def _is_limit(said: Bound, known: Bound) -> bool:
    return (said.kind == known.kind or {said.kind, known.kind} == {UP_TO, "at most"}) and _touch(said, known)


def _in_other_words(limit: Bound, other: Facts) -> bool:
    """Whether ``other`` says in its own way that it is "until" then ("from 3 to 5"), or "up to" so much: "may take 5", "the limit is 5", "4 to 5"."""
    if limit.kind == "until":
        return any(number.edge == "end" and number.kind in limit.scope for number in other.numbers)
    return limit.kind == UP_TO and (
        any(modal.kind == "may" for modal in other.modals)
        or bool(CEILINGS & other.words)
        or any(number.end and number.kind in limit.scope for number in other.numbers)
    )


def _same_order(claim: Facts, source: Facts) -> bool:
    """Half of what both say comes in the same order (longest common subsequence): "A pays B" is not "B pays A"."""
    shared = [item for item in claim.sequence if item in source.sequence]
    row = [0] * (len(source.sequence) + 1)
    for item in shared:
        diagonal = 0
        for at, other in enumerate(source.sequence, 1):
            diagonal, row[at] = row[at], diagonal + 1 if item == other else max(row[at], row[at - 1])
    return row[-1] >= ORDER_ENOUGH * len(shared)
