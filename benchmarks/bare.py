"""The least that answers: a WSGI app that reads the body and gives a constant back."""

BODY = (
    b'{"request_id":"00000000-0000-7000-8000-000000000000","status":"completed","result":"Hello"}'
)


def app(environ, start_response):
    """Answer anything with the same bytes."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))]
    start_response("200 OK", headers)
    return [BODY]
