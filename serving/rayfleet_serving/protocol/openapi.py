"""The OpenAPI document of a router, made from the signatures of the models it serves.

OpenAPI 3.1, whose schemas are plain JSON Schema: Swagger UI 5 shows it, schemathesis tests against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayfleet_serving.config import REQUEST_ID_HEADER, TIMEOUT_HEADER, VERSION_HEADER, Transform
from rayfleet_serving.protocol import examples, predict, schemas
from rayfleet_serving.protocol import expected as expectations
from rayfleet_serving.protocol.message import RequestError
from rayfleet_serving.signature import ModelMetadata

Json = dict[str, Any]

ABOUT = f"""\
Every answer carries `{REQUEST_ID_HEADER}` (yours, or a new one), and one that a model gave `{VERSION_HEADER}`.
`{TIMEOUT_HEADER}` shortens the time a request may take. Errors are `{{"error", "code", "field", "request_id"}}`;
`field` names what was wrong. 429, 503 and 504 come with `Retry-After`.
"""

ERRORS = {
    400: "The body is malformed, or is not what the model takes.",
    404: "No such model or path.",
    405: "Another method belongs to this path.",
    408: "The whole body was not there in time.",
    413: "The body or an image is too large.",
    415: "This content type is not taken here.",
    422: "The model itself raised on this input.",
    429: "Too many requests wait already; Retry-After says when to come back.",
    500: "The model or the router failed.",
    503: "The model is loading, or has no running replica; Retry-After says when to come back.",
    504: "The request ran out of time; Retry-After says when to come back.",
}
INFERENCE_ERRORS = tuple(ERRORS)
LOOKUP_ERRORS = (400, 404, 405, 500, 503)
IMAGE_TYPES = ("image/png", "image/jpeg")
IMAGE_FILE = {"type": "string", "format": "binary"}


def document(models: Mapping[str, ModelMetadata], transforms: Mapping[str, Transform], version: str) -> Json:
    """The OpenAPI 3.1 document.

    Args:
        models: metadata of the version that answers for each model, by the model's name in paths.
        transforms: by model; a model may have none.
        version: of rayfleet.
    """
    paths: Json = {}
    for name, meta in sorted(models.items()):
        paths |= _model_paths(name, meta, transforms.get(name, Transform()))
    if len(models) == 1:
        ((name, meta),) = models.items()
        paths["/invocations"] = {"post": _invocations(name, meta, "invocations")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "rayfleet", "version": version, "description": ABOUT},
        "tags": [{"name": name, "description": _about(meta)} for name, meta in sorted(models.items())]
        + [{"name": "server"}],
        "paths": paths | _server_paths(),
        "components": {
            "schemas": {"Error": _error_schema()},
            "responses": {f"Error{status}": _error(status) for status in ERRORS},
        },
    }


def _model_paths(name: str, meta: ModelMetadata, transform: Transform) -> Json:
    return {
        f"/{name}/predict": {"post": _predict(name, meta, transform)},
        f"/v2/models/{name}/infer": {"post": _infer(name, meta)},
        f"/{name}/invocations": {"post": _invocations(name, meta, f"{name}_invocations")},
        f"/v2/models/{name}": {
            "get": _get(name, f"{name}_metadata", "What the model takes and gives", _metadata_schema())
        },
        f"/v2/models/{name}/ready": {"get": _ready(name, f"{name}_ready", "Whether the model answers")},
    }


def _server_paths() -> Json:
    server = schemas.closed(
        {"name": {"type": "string"}, "version": {"type": "string"}, "extensions": {"type": "array"}},
        ["name", "version", "extensions"],
    )
    live = schemas.closed({"live": {"type": "boolean"}}, ["live"])
    return {
        "/v2": {"get": _get("server", "server_metadata", "What the server is", server)},
        "/v2/health/live": {"get": _get("server", "server_live", "Whether the server runs", live)},
        "/v2/health/ready": {"get": _ready("server", "server_ready", "Whether some model answers")},
    }


def _predict(name: str, meta: ModelMetadata, transform: Transform) -> Json:
    # JSON first: Swagger UI loses the example when a reader comes to it from a form.
    content = {"application/json": {"schema": schemas.predict(meta.signature)} | _example(meta, "predict")}
    if _takes_images(meta, transform):
        form = schemas.closed({"image": IMAGE_FILE | {"contentMediaType": "image/png"}}, ["image"])
        if meta.signature.params:
            form["properties"]["params"] = schemas.parameters(meta.signature)
        encoding = {"image": {"contentType": ", ".join(IMAGE_TYPES)}}
        content["multipart/form-data"] = {"schema": form, "encoding": encoding}
        content |= {media: {"schema": IMAGE_FILE} for media in IMAGE_TYPES}
    takes = " Or upload images: one as the body, or several as the files of a form." if len(content) > 1 else ""
    return _operation(
        name,
        f"{name}_predict",
        "Predict from plain JSON" + (" or images" if takes else ""),
        "Rows as `instances` or `inputs`, or alone. One row may come without the batch axis." + takes,
        content,
        schemas.predicted(transform),
    )


def _infer(name: str, meta: ModelMetadata) -> Json:
    content = {"application/json": {"schema": schemas.infer(meta.signature)} | _example(meta, "infer")}
    return _operation(
        name,
        f"{name}_infer",
        "Open Inference Protocol v2",
        "Data is flat in row-major order, or nested. Any number of rows. The binary tensor extension is not supported.",
        content,
        schemas.inferred(),
    )


def _invocations(name: str, meta: ModelMetadata, operation: str) -> Json:
    content = {"application/json": {"schema": schemas.invocations(meta.signature)} | _example(meta, "invocations")}
    return _operation(
        name,
        operation,
        "MLflow's scoring protocol",
        "One of `dataframe_split`, `dataframe_records`, `instances` and `inputs`. `inputs` also takes an object of "
        "arrays by input name, all with the same number of rows. `text/csv` with a header is taken as well.",
        content,
        schemas.closed({"predictions": {}}, ["predictions"]),
    )


def _operation(tag: str, operation: str, summary: str, about: str, content: Json, answer: Json) -> Json:
    return {
        "tags": [tag],
        "operationId": operation,
        "summary": summary,
        "description": about,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": _ok(answer, versioned=True)} | _errors(INFERENCE_ERRORS),
    }


def _get(tag: str, operation: str, summary: str, answer: Json) -> Json:
    responses = {"200": _ok(answer)} | _errors(LOOKUP_ERRORS)
    return {"tags": [tag], "operationId": operation, "summary": summary, "responses": responses}


def _ready(tag: str, operation: str, summary: str) -> Json:
    answer = schemas.closed({"ready": {"type": "boolean"}}, ["ready"])
    described = _get(tag, operation, summary, answer)
    described["responses"]["503"] = {"description": "Not ready.", "content": {"application/json": {"schema": answer}}}
    return described


def _ok(schema: Json, *, versioned: bool = False) -> Json:
    response: Json = {"description": "The answer.", "content": {"application/json": {"schema": schema}}}
    if versioned:
        version = {"description": "The model version that answered.", "schema": {"type": "string"}}
        response["headers"] = {VERSION_HEADER: version}
    return response


def _errors(statuses: tuple[int, ...]) -> Json:
    return {str(status): {"$ref": f"#/components/responses/Error{status}"} for status in statuses}


def _error(status: int) -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": ERRORS[status], "content": content}


def _error_schema() -> Json:
    return schemas.closed(
        {
            "error": {"type": "string", "description": "What happened, where, and what would be right."},
            "code": {"type": "string"},
            "field": {"type": ["string", "null"], "description": "JSON path, parameter or header at fault."},
            "request_id": {"type": "string"},
        },
        ["error", "code", "field", "request_id"],
    )


def _metadata_schema() -> Json:
    tensor = schemas.closed(
        {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "parameters": {"type": "object"},
        },
        ["name", "datatype", "shape"],
    )
    body: Json = {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": {"type": "array", "items": tensor},
        "outputs": {"type": "array", "items": tensor},
    }
    return schemas.closed(body, list(body))


def _example(meta: ModelMetadata, protocol: str) -> Json:
    example = examples.of(meta).get(protocol)
    return {} if example is None else {"example": example}


def _takes_images(meta: ModelMetadata, transform: Transform) -> bool:
    if transform.image is None:
        return False
    try:
        predict.image_input(expectations.of(meta.signature), transform.image)
    except RequestError:
        return False
    return True


def _about(meta: ModelMetadata) -> str:
    return f"{meta.flavor} model, version {meta.version}"
