"""Whatever fits the OpenAPI document, or just misses it, is answered as the document says, and never by a crash."""

import json

import pytest
import schemathesis
from conftest import PROMPT
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serving import write_document

import unweave
from unweave.server.app import create_app
from unweave.server.library import open_library
from unweave.server.live import Live
from unweave.server.state import Server

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]

EXAMPLES = 10


@pytest.fixture(scope="module")
def api(tiny, tmp_path_factory):
    """The document of a server with a model, a graph of it and one of another tool."""
    folder = tmp_path_factory.mktemp("api")
    unweave.attribute(tiny(), PROMPT, max_features=20).save(folder / "a.graph.safetensors")
    write_document(folder / "b.json")
    server = Server(open_library([folder]), Live(tiny()))
    job = server.jobs.start(lambda report: {"slug": "a"})
    loaded = schemathesis.openapi.from_asgi("/api/openapi.json", create_app(server), headers={"Host": "127.0.0.1"})
    for path in loaded.raw_schema["paths"].values():  # an `anyOf` with any text would be simplified to any text
        for operation in path.values():
            for parameter in operation.get("parameters", []):
                if parameter["name"] in ("slug", "a", "b"):
                    parameter["schema"] = {"enum": ["a", "b", "nothing"]}
                if parameter["name"] in ("node", "target", "source"):
                    parameter["schema"] = {"enum": [0, 3, 10**6]}
                if parameter["name"] == "job":
                    parameter["schema"] = {"enum": [job.id, "nothing"]}
    return loaded, {"X-Unweave-Token": server.token, "Host": "127.0.0.1"}


OPERATIONS = [
    ("/api/graphs", "GET"), ("/api/graphs", "POST"), ("/api/graphs/{slug}", "GET"), ("/api/graphs/{slug}/edges", "GET"),
    ("/api/graphs/{slug}/features/{layer}/{index}", "GET"), ("/api/graphs/{slug}/neuronpedia.json", "GET"),
    ("/api/graphs/{slug}/export.html", "GET"),
    ("/api/graphs/{slug}/annotations", "GET"), ("/api/graphs/{slug}/annotations", "PUT"),
    ("/api/graphs/{slug}/steer", "POST"), ("/api/compare", "GET"),
    ("/api/trace", "POST"), ("/api/graphs/{slug}/explanation", "GET"),
    ("/api/graphs/{slug}/explain", "POST"), ("/api/graphs/{slug}/explanation/off", "POST"),
    ("/api/graphs/{slug}/routes", "GET"), ("/api/graphs/{slug}/heads", "GET"),
    ("/api/graphs/{slug}/heads/{layer}/{head}", "GET"),
    ("/api/graphs/{slug}/study", "GET"), ("/api/jobs", "GET"),
    ("/api/jobs/{job}/events", "GET"), ("/api/jobs/{job}", "DELETE"),
]  # fmt: skip


def test_every_address_is_asked(api):
    documented = {
        (path, method.upper()) for path, operations in api[0].raw_schema["paths"].items() for method in operations
    }
    assert documented == set(OPERATIONS)


TAKES_ANYTHING = [OPERATIONS[5], OPERATIONS[7], OPERATIONS[12], *OPERATIONS[-4:]]
"""Addresses whose requests can hardly be malformed."""
RARELY_DONE = [OPERATIONS[place] for place in (1, 8, 9, 11, 13, 14, 15, 16, 17, 18)]
"""Addresses that want a whole graph file, a right revision, a feature of the graph, a prompt of known token ids, or a
graph that is explained."""
ASKED = [
    (*operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode == GenerationMode.POSITIVE or operation not in TAKES_ANYTHING
]


@pytest.mark.parametrize(("path", "method", "mode"), ASKED)
def test_every_request_is_answered_as_documented(api, path, method, mode):
    loaded, headers = api
    met = set()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
    @given(case=loaded[path][method].as_strategy(generation_mode=mode))
    def ask(case):
        answer = case.call(headers={**(case.headers or {}), **headers})
        case.validate_response(answer, checks=CHECKS)
        met.add(answer.status_code)
        if answer.status_code >= 400:
            assert isinstance(json.loads(answer.content)["error"], str)

    ask()
    if mode == GenerationMode.POSITIVE and (path, method) not in RARELY_DONE:
        assert 200 in met, met  # a graph that exists was met, not refusals alone
