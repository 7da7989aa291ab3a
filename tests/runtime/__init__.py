"""Tests of mdsa_local.runtime."""
