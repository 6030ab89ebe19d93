"""Where requests, their event logs and sessions live. One port (base.py), one store a file."""
