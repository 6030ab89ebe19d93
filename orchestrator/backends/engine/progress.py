"""Shows how far a download is: as a bar on a terminal, elsewhere as a line now and then."""

import sys
import time

_BAR_CHARACTERS = 30
_REDRAW_S = 0.2
_LINE_S = 10.0


def megabytes(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:,.1f} MB"


class Progress:
    """Tells stderr about a file of ``size`` bytes of which ``start`` are here already."""

    def __init__(self, start: int, size: int) -> None:
        self._start = start
        self._size = size
        self._terminal = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()

    def begin(self, name: str, host: str) -> None:
        """Say what comes and how large it is, before it does."""
        here = f", of which {megabytes(self._start)} are here" if self._start else ""
        _tell(f"Downloading {name} from {host}: {megabytes(self._size)}{here}.\n")

    def at(self, count: int) -> None:
        """Note that ``count`` bytes are here."""
        now = time.monotonic()
        if now - self._shown < (_REDRAW_S if self._terminal else _LINE_S) and count < self._size:
            return
        self._shown = now
        share = count / self._size
        rate = (count - self._start) / max(now - self._began, 0.001)
        said = f"{share:4.0%} of {megabytes(self._size)}, {megabytes(round(rate))}/s"
        if self._terminal:
            bar = "#" * round(share * _BAR_CHARACTERS)
            _tell(f"\r[{bar:<{_BAR_CHARACTERS}}] {said}  ")
        else:
            _tell(f"{said}\n")

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._terminal:
            _tell("\n")


def _tell(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
