"""`rayfleet predict MODEL FILE`: one JSON or image file to a model's `/predict`."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import click
import httpx

from rayfleet_operator.api.problems import harmless
from rayfleet_operator.cli import endpoint

CONTENT_TYPES = {
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}


@click.command()
@click.argument("model")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", metavar="URL", help="Where models answer; by default that of the running `rayfleet up`.")
@click.option("--port", type=click.IntRange(1, 65535), help="Which `rayfleet up`, where several run.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
def predict(model: str, file: Path, url: str | None, port: int | None, timeout: float) -> None:
    """Send one JSON or image file to a model and print its answer.

    MODEL is a ModelDeployment's name. Exits with 0 when the model answered, with 1 when it did not.
    """
    content_type = CONTENT_TYPES.get(file.suffix.lower())
    if content_type is None:
        known = ", ".join(CONTENT_TYPES)
        raise click.BadParameter(f"{file.name} is neither JSON nor an image; its name ends in one of {known}")
    target = f"{(url or endpoint.running_url(port)).rstrip('/')}/{quote(model, safe='')}/predict"
    try:
        answer = httpx.post(
            target,
            content=file.read_bytes(),
            headers={"Content-Type": content_type},
            timeout=timeout,
            trust_env=url is not None,
        )
    except httpx.TimeoutException as error:
        raise click.ClickException(f"{target} did not answer within {timeout:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = harmless(str(error)) or type(error).__name__
        raise click.ClickException(f"{target} cannot be reached: {why}") from error
    if not answer.is_success:
        raise click.ClickException(f"{target} answered {answer.status_code}: {harmless(endpoint.reason(answer))}")
    try:
        click.echo(_shown(answer.json()))
    except ValueError as error:
        raise click.ClickException(f"{target} did not answer in JSON; is it a rayfleet endpoint?") from error


def _shown(answer: object) -> str:
    """The answer as JSON in which what a terminal would obey is escaped, in JSON's way: a program may read it."""
    text = json.dumps(answer, indent=2, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
