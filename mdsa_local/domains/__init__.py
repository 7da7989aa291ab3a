"""Domains: their configuration, registry, prompts and execution."""
