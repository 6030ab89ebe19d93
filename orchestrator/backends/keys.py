"""A provider's key: fit for a header, and in no text that goes out."""

from orchestrator.errors import ConfigError


def check_key(key: str | None, variable: str) -> None:
    """Raise ConfigError, which names ``variable``, where no header can carry the key."""
    if key and not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{variable} has characters that no key has; set it again.")


def without_key(text: str, key: str | None) -> str:
    """Return ``text`` with stars for the key."""
    return text.replace(key, "***") if key else text
