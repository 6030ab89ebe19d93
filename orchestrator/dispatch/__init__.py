"""Who runs requests, and in which order. One port (base.py), one way of running a file."""
