"""Credentials: API keys, JSON web tokens, and the callers that they stand for."""
