"""No request that fits the OpenAPI description, and none that does not, is a server error."""

import pytest
from hypothesis import HealthCheck, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")


def test_the_description_names_every_route(served):
    paths = served.client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {
        *("/search", "/uploads", "/caption", "/ask", "/media/{media}", "/jobs", "/v1/embeddings"),
        *("/healthz", "/metrics"),
    }


def test_nothing_that_is_sent_is_a_server_error(served):
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{served.url}openapi.json")
    num_requests = 0
    for operation in schema.get_all_operations():

        @settings(
            max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def ask(case) -> None:
            nonlocal num_requests
            num_requests += 1
            case.call_and_validate(checks=(not_a_server_error,))

        operation.ok().as_strategy()
        given(operation.ok())(ask)()
    assert num_requests > 100


def given(operation):
    import hypothesis

    return hypothesis.given(case=operation.as_strategy())
