"""What is said of the answers to copies of live requests."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from closed_loop import until
from data_path.mirrored import LIVE, V2, Scene, mirroring, raising
from protocol.bad_inputs import png

from rayfleet_serving.config import Classification, ImageInput, Transform
from rayfleet_serving.protocol.message import InferenceResult, RequestError
from rayfleet_serving.router import mirror


async def test_the_callers_answer_is_the_live_one_and_both_are_compared() -> None:
    scene = Scene(lambda array: array.sum(axis=1) + np.array([0.0, 0.5, 1.0]))
    assert await scene.ask([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]) == [3.0, 7.0, 11.0]
    await scene.ended(compared=1)
    assert scene.sample("rows_total") == 3
    assert scene.sample("differing_rows_total") == 2
    assert scene.sample("distance_total") == pytest.approx(0.5 * 3)
    assert scene.sample("request_duration_seconds_count") == 1


@pytest.mark.parametrize("classifies", ["live", "mirror", "neither"])
async def test_over_many_requests_the_share_is_what_numpy_finds(classifies: str) -> None:
    """Of what are no probabilities, the class only where a transform makes labels of it."""
    dice = np.random.default_rng(1)
    asked = [dice.normal(size=(int(rows), 2)) for rows in dice.integers(1, 9, 300)]
    weights, others = dice.normal(size=(2, 5)), dice.normal(size=(2, 5))
    others[:, 4] = weights[:, 4]
    labels = Transform(classification=Classification())
    routes = {
        name: row.model_copy(update={"transform": labels} if name == classifies else {})
        for name, row in (("live", LIVE), ("mirror", mirroring()))
    }
    scene = Scene(
        lambda array: array @ others,
        live=lambda array: array @ weights,
        route=routes["mirror"],
        live_route=routes["live"],
    )
    for first in range(0, 300, 50):
        await asyncio.gather(*(scene.ask(rows) for rows in asked[first : first + 50]))
        await scene.ended(compared=first + 50)
    table = np.concatenate(asked)
    one, other = table @ weights, table @ others
    classes = np.count_nonzero(one.argmax(1) != other.argmax(1))
    assert 0 < classes < len(table)
    assert scene.sample("rows_total") == len(table)
    assert scene.sample("differing_rows_total") == (len(table) if classifies == "neither" else classes)
    assert scene.sample("distance_total") / scene.sample("rows_total") == pytest.approx(np.abs(one - other).mean())


async def test_what_fails_with_both_says_nothing_about_the_mirror() -> None:
    error = RequestError(422, "ModelError", "unlucky")
    scene = Scene(raising(error), live=raising(error))
    with pytest.raises(RequestError, match="unlucky"):
        await scene.ask()
    await scene.ended(incomparable=1)


async def test_answers_of_other_shapes_are_counted_as_such() -> None:
    scene = Scene(lambda array: array)
    await scene.ask()
    await scene.ended(incomparable=1)
    assert scene.sample("rows_total") == 0


async def test_answers_that_cannot_be_compared_at_all_harm_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(live: InferenceResult, mirrored: InferenceResult, *, scores: bool) -> None:
        raise TypeError("what nobody thought of")

    monkeypatch.setattr(mirror, "compare", compare)
    scene = Scene()
    assert await scene.ask() == [3.0]
    await scene.ended(incomparable=1)


async def test_large_answers_are_compared_as_well() -> None:
    scene = Scene(lambda array: np.ones((len(array), 20_000)), live=lambda array: np.zeros((len(array), 20_000)))
    await scene.ask()
    await scene.ended(compared=1)
    assert scene.sample("distance_total") == 1.0


@pytest.mark.parametrize(("scale", "outcome"), [(0.5, "failed"), (1.0, "compared")])
async def test_images_are_compared_only_where_both_versions_read_them_alike(scale: float, outcome: str) -> None:
    def transform(scale: float) -> Transform:
        return Transform(image=ImageInput(height=1, width=2, mode="L", scale=scale))

    route = mirroring(transform=transform(scale))
    scene = Scene(route=route, live_route=LIVE.model_copy(update={"transform": transform(1.0)}))
    answer = await scene.post("/digits/predict", png((2, 1)), content_type="image/png")
    assert len(answer["predictions"]) == 1
    await scene.ended(**{outcome: 1})
    assert len(scene.shadow.copies.requests) == (outcome == "compared")
    await scene.ask()
    await until("what is no image is copied", lambda: scene.outcomes.get("compared") == 1 + (outcome == "compared"))


@pytest.mark.parametrize("name", ["", "beta"])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/models/digits/infer", {}),
        ("/v2/models/digits/infer", {"x_rayfleet_model_version": "1"}),
        ("/v2/models/digits/versions/1/infer", {}),
    ],
    ids=["nobody names it", "by header", "by path"],
)
async def test_whichever_version_answers_is_compared(name: str, path: str, headers: dict[str, str]) -> None:
    """Also one that `spec.traffic` names, and one that the request names."""
    scene = Scene(live_route=LIVE.model_copy(update={"name": name}))
    await scene.post(path, V2, **headers)
    await scene.ended(compared=1)
