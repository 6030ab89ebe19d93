"""The heads of answers: none of a header's checks is lost with those that are spared."""

from types import SimpleNamespace

import pytest
from gunicorn.http.errors import InvalidResponseHeader

from orchestrator import headers
from orchestrator.head import Response

JSON = ("Content-Type", "application/json")
REQUEST = SimpleNamespace(method="GET", version=(1, 1))


def begun(*given: tuple[str, str]) -> Response:
    response = Response(REQUEST, None, SimpleNamespace())
    response.start_response("200 OK", list(given))
    return response


def test_every_header_of_an_answer_is_sent_once() -> None:
    given = [JSON, ("Content-Length", "2"), ("Location", "/x"), headers.NO_STORE, *headers.DATA]
    response = begun(*given)
    assert sorted(response.headers) == sorted(given)
    assert response.response_length == 2
    assert not response.chunked


def test_what_a_client_could_split_is_refused_beside_headers_that_stand() -> None:
    with pytest.raises(InvalidResponseHeader):
        begun(JSON, *headers.DATA, ("Location", "/x\r\nSet-Cookie: a=b"))


def test_a_header_that_only_begins_like_one_that_stands_is_looked_at() -> None:
    with pytest.raises(InvalidResponseHeader):
        begun(("Content-Type", "application/json\n"))
