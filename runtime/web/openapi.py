"""The description of `POST /explain` that programs read, in OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from foldcam.runtime.contract.schema import Contract
from foldcam.runtime.model.drawing.style import MAP_NAMES
from foldcam.runtime.system.version import version
from foldcam.runtime.web.explainer import KINDS

_NUMBER_OR_NULL = {"type": ["number", "null"]}
_ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}


def openapi_document(contract: Contract) -> dict[str, Any]:
    """The document, as JSON values."""
    maps = tuple(each for each in MAP_NAMES if each in ("heatmap", *contract.optional_outputs))
    sentence = {"text/plain": {"schema": {"type": "string"}}}
    retry = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    picture = {"schema": {"type": "string", "format": "binary"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "foldcam",
            "version": version(),
            "description": "Answers for single pictures by the model of a run.",
        },
        "paths": {
            "/explain": {
                "post": {
                    "operationId": "explain",
                    "summary": "What the model says of a picture, and where it sees it.",
                    "security": [{"token": []}, {}],
                    "parameters": [
                        _parameter("as", KINDS, "The form of the answer, before Accept."),
                        _parameter("map", maps, "Which map; heatmap unless given."),
                        _parameter(
                            "embedding", ("true", "false"), "Whether JSON has the embedding."
                        ),
                    ],
                    "requestBody": {
                        "required": True,
                        "description": "The bytes of a JPEG, PNG, WebP, BMP, TIFF or another file "
                        "that foldcam reads; the content decides, not the type.",
                        "content": {"application/octet-stream": picture},
                    },
                    "responses": {
                        "200": {
                            "description": "The answer; Server-Timing has its parts.",
                            "content": {
                                "application/json": {"schema": _answer(maps)},
                                "image/png": picture,
                            },
                        },
                        "400": {"description": "The picture cannot be read, the model has no such "
                                "map, or the address asks for something else.",
                                "content": sentence},
                        "401": {"description": "The token is missing.", "content": sentence},
                        "403": {"description": "Another site's page asks.", "content": sentence},
                        "408": {"description": "It took too long to arrive.", "content": sentence},
                        "413": {"description": "The picture is too large.", "content": sentence},
                        "414": {"description": "The address is too long.", "content": sentence},
                        "421": {"description": "The host name is not ours.", "content": sentence},
                        "431": {"description": "The headers are too large.", "content": sentence},
                        "503": {"description": "Too many pictures wait, or the model failed.",
                                "headers": retry, "content": sentence},
                    },
                }
            }
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }  # fmt: skip


def _parameter(name: str, values: tuple[str, ...], description: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": list(values)}
    return {"name": name, "in": "query", "description": description, "schema": schema}


def _answer(maps: tuple[str, ...]) -> dict[str, Any]:
    """Of the JSON lines' fields those that every model gives, and the map."""
    neighbor = {
        "type": "object",
        "required": ["row"],
        "properties": {
            "row": {"type": "integer", "minimum": 0},
            "label": {"type": "string"},
            "similarity": _NUMBER_OR_NULL,
            "score": _NUMBER_OR_NULL,
        },
    }
    place = {name: {"type": "number"} for name in ("x", "y", "width", "height")}
    return {
        "type": "object",
        "required": ["answer", "width", "height", "neighbors", "hottest_region", "map"],
        "properties": {
            "answer": {"type": "string"},
            "width": {"type": "integer", "minimum": 1},
            "height": {"type": "integer", "minimum": 1},
            "neighbors": {"type": "array", "items": neighbor},
            "hottest_region": {"type": ["object", "null"]},
            "unknown": {"type": "boolean"},
            "estimate": _NUMBER_OR_NULL,
            "error": {"type": "string"},
            "embedding": {"type": ["array", "null"], "items": _NUMBER_OR_NULL},
            "map": {
                "type": "object",
                "required": ["name", "values", "place"],
                "properties": {
                    "name": {"enum": list(maps)},
                    "values": _ROWS,
                    "lower": _ROWS,
                    "place": {"type": "object", "required": [*place], "properties": place},
                },
            },
        },
    }
