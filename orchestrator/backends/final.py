"""The head of a final HTTP answer: interim ones before it are read past."""

from http.client import HTTPException, HTTPResponse, parse_headers

MOST_INTERIM = 100
"""A server that sends more interim answers than this never answers."""


class FinalResponse(HTTPResponse):
    """An HTTP answer after all interim ones.

    http.client knows 100 alone as interim. It takes 102 and 103 for the answer itself, and so the
    answer that follows them for that to the connection's next request.
    """

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                raise HTTPException("the server speaks another protocol from here")
            parse_headers(self.fp)
        raise HTTPException("the server announces an answer without end")
