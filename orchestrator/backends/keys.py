"""A provider's key: in no text that goes out."""


def without_key(text: str, key: str | None) -> str:
    """Return ``text`` with stars for the key."""
    return text.replace(key, "***") if key else text
