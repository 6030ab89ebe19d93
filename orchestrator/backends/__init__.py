"""What answers prompts. One port (base.py), one adapter a file."""
