"""No request that fits the OpenAPI description is a server error."""

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra dev")


def test_the_description_names_every_route(served):
    paths = served.client.get("/openapi.json").json()["paths"]
    assert set(paths) >= {
        *("/search", "/uploads", "/caption", "/ask", "/media/{media}", "/jobs", "/v1/embeddings"),
        *("/healthz", "/metrics"),
    }


def test_nothing_that_may_be_sent_is_a_server_error(served):
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{served.url.rstrip('/')}/openapi.json")
    quick = settings(
        max_examples=6, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    operations = [found.ok() for found in schema.get_all_operations()]
    statuses: list[int] = []

    def ask(case) -> None:
        response = case.call_and_validate(checks=(not_a_server_error,))
        statuses.append(response.status_code)

    for operation in operations:
        quick(given(case=operation.as_strategy())(ask))()
    assert len(statuses) > 3 * len(operations)
    assert {200, 404} <= set(statuses)
    assert max(statuses) < 500
