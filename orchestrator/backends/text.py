"""The text of an answer while it comes in: bounded, and always fit to be encoded."""

from orchestrator.errors import UpstreamError

MAX_ANSWER_BYTES = 8 * 1024 * 1024

_LEAST_BYTES = 16


class AnswerText:
    """Counts an answer's pieces and mends what some servers break: a character cut in two.

    A server that thinks in UTF-16 may end a piece with the first half of a character and send
    the other half next; the half is held back until then. A half that stays alone becomes U+FFFD.
    """

    def __init__(self) -> None:
        self._size = 0
        self._half = ""

    def add(self, piece: str) -> str:
        """Return ``piece`` as it may go on, perhaps empty.

        Raises UpstreamError once the answer exceeds MAX_ANSWER_BYTES. A piece counts as at least
        16 bytes: so many single letters are no small answer to whoever keeps them.
        """
        if not piece:
            return ""
        if self._half or not piece.isascii():
            piece = self._mend(piece)
        self._size += max(len(piece.encode()), _LEAST_BYTES)
        if self._size > MAX_ANSWER_BYTES:
            raise UpstreamError(
                f"The answer exceeds {MAX_ANSWER_BYTES >> 20} MiB; set max_tokens to get a "
                "shorter one.",
                reason="too_large",
            )
        return piece

    def rest(self) -> str:
        """Return what was held back, once no more comes."""
        half, self._half = self._half, ""
        return "\N{REPLACEMENT CHARACTER}" if half else ""

    def _mend(self, piece: str) -> str:
        piece, self._half = self._half + piece, ""
        if "\ud800" <= piece[-1] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        return piece.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
