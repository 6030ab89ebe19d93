"""The models that answer prompts. The port is base.py; each adapter has its file or package."""
