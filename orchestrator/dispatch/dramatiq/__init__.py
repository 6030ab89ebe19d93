"""Requests carried to worker processes by Dramatiq on Redis: ids only, the store is the truth."""
