"""Where requests, their event logs and sessions are kept: the port is base.py."""
