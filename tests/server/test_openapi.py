"""The OpenAPI document, and what a fuzzer makes of it."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from server.conftest import Client, as_npy, draw_volume


@pytest.fixture(scope="module")
def schema(shared: Client) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{shared.base_url}/openapi.json")


def test_the_document_describes_every_route_with_its_refusals(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == {
        "/v1/health": {"get"},
        "/v1/version": {"get"},
        "/v1/models": {"get"},
        "/v1/jobs": {"post"},
        "/v1/jobs/{job_id}": {"get", "delete"},
        "/v1/jobs/{job_id}/events": {"get"},
        "/v1/jobs/{job_id}/heatmap": {"get"},
        "/v1/jobs/{job_id}/result": {"get"},
    }
    assert {"202", "401", "408", "413", "422", "429", "507"} <= set(paths["/v1/jobs"]["post"]["responses"])


def test_a_fuzzer_finds_no_fault_of_the_server(client: Client, schema: schemathesis.BaseSchema) -> None:
    done = client.submit(as_npy(draw_volume())).json()["id"]
    client.wait(done)
    found: list[int] = []
    for outcome in schema.get_all_operations():
        operation = outcome.ok()

        @settings(
            max_examples=25, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: schemathesis.Case) -> None:
            if "job_id" in (case.path_parameters or {}) and len(found) % 2 and case.method != "DELETE":
                case.path_parameters["job_id"] = done
            answer = case.call()
            found.append(answer.status_code)
            assert answer.status_code < 500, (case.as_curl_command(), answer.content)
            assert b"Traceback" not in answer.content

        given(case=operation.as_strategy())(ask)()
    assert {200, 404, 422} <= set(found)
    job = client.submit(as_npy(draw_volume())).json()["id"]
    assert client.wait(job)["state"] == "done"
