"""Request ids: UUIDv7 (RFC 9562), 48 bits of milliseconds and 74 random bits."""

import os
import re
import time

FORM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_id() -> str:
    """Return a new UUIDv7 in its canonical form."""
    at = f"{time.time_ns() // 1_000_000:012x}"
    random = os.urandom(10)
    digits, variant = random.hex(), "89ab"[random[9] & 3]
    return f"{at[:8]}-{at[8:]}-7{digits[:3]}-{variant}{digits[3:6]}-{digits[6:18]}"


def created_at(request_id: str) -> float | None:
    """Return when an id was made, in seconds since the epoch; None for what is no UUIDv7."""
    if not FORM.fullmatch(request_id):
        return None
    return int(request_id[:8] + request_id[9:13], 16) / 1000
