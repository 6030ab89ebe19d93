"""LLM orchestrator: submit a prompt, have an id at once, read the answer however you like.

Floors, each importing only those below it: the ground (errors, events, job, stop, config),
words (schemas, wire), ports and adapters (stores, backends), the engine (runner), dispatch,
rules (service), the composition root (bootstrap), and the doors (web, server, cli).
"""

__version__ = "0.1.0"
