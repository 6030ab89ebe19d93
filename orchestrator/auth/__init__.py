"""Credentials: API keys, JSON web tokens, and whose they are."""
