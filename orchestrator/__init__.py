"""LLM orchestrator: submit a prompt, have an id at once, read the answer however you like.

Floors, each importing only those below it: the ground (errors, events, ids, config, job, stop,
session), words (answers, strict_json, wire, schemas, views, frames), ports and adapters (stores,
backends), the engine (runner), dispatch, rules (service), the composition root (bootstrap), and
the doors (body, web, server, cli).
"""

__version__ = "0.1.0"
