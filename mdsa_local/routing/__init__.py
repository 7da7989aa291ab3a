"""Tier 1: which domain a question belongs to. In: text. Out: :class:`mdsa_local.types.Route`."""
