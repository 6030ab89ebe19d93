"""Request ids: UUIDv7 (RFC 9562), 48 bits of milliseconds and 74 random bits."""

import os
import re
import time

FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7 in its canonical form."""
    random = int.from_bytes(os.urandom(10)) & ((1 << 74) - 1)
    value = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | (random >> 62) << 64
    digits = f"{value | 0b10 << 62 | random & ((1 << 62) - 1):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def created_at(request_id: str) -> float | None:
    """Return when an id was made, in seconds since the epoch; None for what is no UUIDv7."""
    if not FORM.fullmatch(request_id):
        return None
    return int(request_id[:8] + request_id[9:13], 16) / 1000
