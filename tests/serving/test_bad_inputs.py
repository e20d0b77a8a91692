"""The table of bad inputs over HTTP: what the decoders refuse, a running router refuses with the same words."""

from __future__ import annotations

import httpx
import pytest
from protocol.bad_inputs import BAD_INPUTS, BadInput

from .conftest import Zoo


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: f"{bad.protocol} {bad.name}".replace("/", "."))
def test_refused(client: httpx.Client, bad: BadInput) -> None:
    headers = {"content-type": bad.content_type} if bad.content_type else {}
    response = client.post(bad.path, content=bad.body, headers=headers)
    assert response.status_code == bad.status, response.text
    error = response.json()
    for word in bad.words:
        assert word.lower() in error["error"].lower()
    if bad.field is not None:
        assert error["field"] == bad.field
    assert response.headers["x-request-id"] == error["request_id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "word"),
    [
        ("POST", "/v2/models/nobody/infer", 404, "nobody"),
        ("POST", "/nobody/predict", 404, "nobody"),
        ("POST", "/nobody/invocations", 404, "nobody"),
        ("POST", "/invocations", 404, "exactly one model"),
        ("POST", "/v2/models/digits/versions/99/infer", 404, "99"),
        ("GET", "/v2/models/nobody", 404, "nobody"),
        ("GET", "/no/such/page", 404, "/no/such/page"),
        ("GET", "/digits/predict", 405, "POST"),
        ("DELETE", "/v2/models/digits", 405, "GET"),
        ("POST", "/v2", 405, "GET"),
        ("GET", "/docs/../../etc/passwd", 404, ""),
        ("GET", "/%00/%ff", 404, ""),
    ],
)
def test_wrong_addresses(client: httpx.Client, method: str, path: str, status: int, word: str) -> None:
    response = client.request(method, path, content=b"{}" if method == "POST" else None)
    assert response.status_code == status, response.text
    assert word in response.json()["error"]
    assert (status == 405) == ("allow" in response.headers)


def test_a_request_id_is_echoed_once(zoo: Zoo, client: httpx.Client) -> None:
    response = client.get("/v2", headers={"x-request-id": "mine-1"})
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert len(client.get("/v2").headers.get_list("x-request-id")) == 1


@pytest.mark.parametrize("given", ["x" * 200, "caf\xe9"])
def test_a_request_id_that_is_none_is_replaced(zoo: Zoo, client: httpx.Client, given: str) -> None:
    response = client.post("/picky/predict", content=b"{", headers={"x-request-id": given.encode("latin-1")})
    (used,) = response.headers.get_list("x-request-id")
    assert used == response.json()["request_id"]
    assert used.isalnum()
    assert len(used) == 32
