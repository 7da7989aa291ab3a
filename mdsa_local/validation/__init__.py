"""Tier 2: does the draft hold? In: question, draft, passages. Out: :class:`mdsa_local.types.Verdict`. Cheapest checks first."""
