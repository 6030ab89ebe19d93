"""What the OpenAPI document says before its operations: the ideas, and the codes of errors."""

from orchestrator.web.openapi.parts import table

CODES = {
    "`INVALID_REQUEST` 400": "Something breaks a rule; `details.fields` says which field and which "
    "rule. With 426 it is the kind of connection.",
    "`UNAUTHORIZED` 401": "Credentials are needed here, and good ones.",
    "`FORBIDDEN` 403": "You may not do this.",
    "`NOT_FOUND` 404": "There is no such thing, and as far as is known there never was.",
    "`RESULT_EXPIRED` 404": "The request is older than results are kept.",
    "`METHOD_NOT_ALLOWED` 405": "The address has no such method; `Allow` says which it has.",
    "`NOT_ACCEPTABLE` 406": "The `Accept` header allows no form that the answer has.",
    "`CANCELLED` 409": "The request was cancelled, so it has no result.",
    "`IN_PROGRESS` 409": "The request still runs; this needs one that has ended.",
    "`SESSION_BUSY` 409": "The session runs another request, and you asked not to wait.",
    "`PAYLOAD_TOO_LARGE` 413": "The body is too large.",
    "`UNSUPPORTED_MEDIA_TYPE` 415": "The body is of a type that is not understood.",
    "`IDEMPOTENCY_KEY_REUSED` 422": "The key came before with another body.",
    "`RATE_LIMITED` 429": "You have used up what you may have; ask again after `Retry-After` "
    "seconds. Over a WebSocket also: it follows 32 requests already.",
    "`INTERNAL` 500": "The server has a fault.",
    "`PROCESSING_FAILED` 500": "The request failed; `details.cause` says why.",
    "`PIPELINE_UNAVAILABLE` 503": "No capacity now; try again after `Retry-After` seconds.",
}

CAUSES = {
    "`UPSTREAM_ERROR`": "The model's server can't be reached, or doesn't answer as it should.",
    "`UPSTREAM_TIMEOUT`": "The model's server stayed silent for too long.",
    "`UPSTREAM_REJECTED`": "The model's server refused the input; the message quotes its reason.",
    "`UPSTREAM_TRUNCATED`": "The answer broke off before its end.",
    "`DEADLINE_EXCEEDED`": "The request's own time limit ran out, in the `queue` or in the `run`.",
    "`WORKER_LOST`": "Whoever ran the request died, three times.",
    "`SHUTDOWN`": "The server stopped before the request could end.",
    "`PIPELINE_UNAVAILABLE`": "The server's memory was full while the answer grew.",
    "`INTERNAL`": "The server has a fault.",
}

WAYS = {
    "The id now, the answer later": "`POST /infer`, then `GET /result`.",
    "The answer in one call": "`POST /infer` with `Prefer: wait=60`.",
    "Each token as it comes": "`POST /infer` with `Accept: text/event-stream`.",
    "The same again, after a lost connection": "`GET /stream`, from where you were.",
    "Many requests over one connection": "The WebSocket at `/ws`.",
}

DESCRIPTION = f"""\
Submit a prompt, have an id at once, read the answer however you like: poll for it, wait for it, \
or watch it come token by token.

{table(("You want", "You use"), WAYS)}

Answers may get new fields, and errors new codes; those there are stay as they are.

## Errors

Every answer that is no success has one form: `{{"error": {{"code", "message", "details"}}}}`. \
The code is for programs, and the message says what to do. Beyond what the operations list, an \
address answers 405 to a method that it hasn't, 426 to a WebSocket handshake that isn't meant for \
it, and 400 to what is no HTTP.

{table(("Code", "What it means"), CODES)}

## Limits

Where calls are limited, each answer says how many you may make (`X-RateLimit-Limit`), how many \
are left (`X-RateLimit-Remaining`), and when there are more (`X-RateLimit-Reset`, in seconds since \
the epoch). Past a limit the answer is 429 with `Retry-After`; over a WebSocket an `error` with \
`retry_after`. Calls that are refused so don't count.

## Why a request fails

A failed request has its cause in the `error_code` of its status, and in the `details.cause` of \
its result.

{table(("Cause", "What happened"), CAUSES)}"""

TAGS = {
    "Submit and poll": (
        "A prompt becomes a request. It has an id at once, and runs whether or not anyone waits."
    ),
    "Watch": (
        "Each request has one log of events, and each event its place in it, `seq`. Streams, "
        "sockets and the events page are views of that log: begin anywhere, resume anywhere, as "
        "often as you like, for as long as the result is kept."
    ),
    "Look back": "Requests are kept for a while after their end.",
    "Converse": (
        "A session is a conversation: the turns that ended well are told to the model before the "
        "next prompt. Two requests of one session never run at once, unless one is submitted with "
        '`"on_busy": "parallel"`.'
    ),
    "Service": "What there is, and whether it is well.",
}
