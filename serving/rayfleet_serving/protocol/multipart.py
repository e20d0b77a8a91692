"""The parts of a multipart/form-data body that is already in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from rayfleet_serving.protocol.errors import malformed
from rayfleet_serving.protocol.message import RequestError

MAX_PARTS = 256


@dataclass(slots=True)
class Part:
    """One part."""

    name: str
    """Form field."""
    filename: str | None
    """As the client gave it: for messages only, never a path. None for a text field."""
    content: bytes


@dataclass(slots=True)
class _Open:
    """The part being read."""

    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: bytes = b""
    content: bytearray = field(default_factory=bytearray)


def parse(body: bytes, content_type: str) -> list[Part]:
    """The parts of `body`, in order.

    Raises:
        RequestError: 400 for a missing boundary or a malformed or incomplete body; 413 over `MAX_PARTS` parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise malformed("The content type multipart/form-data has no boundary.")
    parts: list[Part] = []
    current = _Open()
    ended = False

    def begin() -> None:
        nonlocal current
        current = _Open()
        if len(parts) >= MAX_PARTS:
            raise RequestError(413, "TooManyParts", f"The form has more than {MAX_PARTS} parts.", field="body")

    def header_end() -> None:
        if bytes(current.header).lower() == b"content-disposition":
            current.disposition = bytes(current.value)
        current.header.clear()
        current.value.clear()

    def finish() -> None:
        options = parse_options_header(current.disposition)[1]
        if b"name" not in options:
            raise malformed(f"Part {len(parts) + 1} of the form has no name in a Content-Disposition header.")
        filename = options.get(b"filename")
        parts.append(
            Part(_text(options[b"name"]), None if filename is None else _text(filename), bytes(current.content))
        )

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begin,
                "on_header_field": lambda data, start, stop: current.header.extend(data[start:stop]),
                "on_header_value": lambda data, start, stop: current.value.extend(data[start:stop]),
                "on_header_end": header_end,
                "on_part_data": lambda data, start, stop: current.content.extend(data[start:stop]),
                "on_part_end": finish,
                "on_end": end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise malformed(f"The form is malformed: {error}.") from None
    if not ended:
        raise malformed("The form is incomplete: its closing boundary is missing.")
    return parts


def _text(value: bytes) -> str:
    return value.decode(errors="replace")[:120]
