"""How a model's answer is got from servers that fail: one port (base.py), one concept a file."""
