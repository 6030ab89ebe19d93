"""Calls to addresses that others name: to the public internet only, and bounded in every way."""
