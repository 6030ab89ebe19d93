"""LLM orchestrator: submit a prompt, get an id at once, read the answer however you like.

The floors of the package, from the ground up. A module imports only from the floors below its own:

- ground: what all others speak of (errors, events, job, session) and settings; standard library
- words: what comes in and goes out as JSON (strict_json, schemas, answers, frames, views, wire)
- calls to addresses of others: net
- credentials: auth, and the counting behind limits
- ports and adapters: stores (memory or Redis) and backends, each with its port in base.py
- routing: which backend is asked, and what happens when it fails
- engine: runner, which runs one request from its route to its log
- dispatch: which process runs a request, and when
- rules: service, all that a door may ask
- root: bootstrap, which makes all of that of the settings
- doors: web, server, worker, cli

tests/test_architecture.py has each module's place, and holds them all to it.
"""

__version__ = "0.1.0"
