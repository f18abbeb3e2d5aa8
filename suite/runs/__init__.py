"""Runs: identity, launch, ledger, studies."""
