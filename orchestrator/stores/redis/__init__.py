"""The store that several processes share: one Redis, and a Lua script for each transition."""
