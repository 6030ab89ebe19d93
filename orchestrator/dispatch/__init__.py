"""Which process runs a request, and when. The port is base.py; each way of running has its file."""
