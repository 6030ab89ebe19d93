"""What answers prompts. One port (base.py), one adapter a file, or a package where it is large."""
