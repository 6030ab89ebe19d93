"""What schemathesis checks beside its own checks: that no answer admits a fault of the service."""

import schemathesis

TOLD = {500: ("PROCESSING_FAILED",), 503: ("PIPELINE_UNAVAILABLE",)}
"""The errors past 499 that the service means: a request that failed, and no room for another."""


@schemathesis.check
def no_fault_of_the_service(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Hold that an answer past 499 is one that the service means."""
    if response.status_code >= 500:
        code = response.json()["error"]["code"]
        assert code in TOLD.get(response.status_code, ()), f"{response.status_code} {code}"
        if response.status_code == 503:
            assert int(response.headers["retry-after"][0]) >= 1
