"""What is done around a model for `/predict`: images into arrays, scores into labels."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from rayfleet_operator.api import forms
from rayfleet_operator.api.base import ApiModel, Rule, each_once
from rayfleet_operator.api.patterns import CONTROL, path

Side = Annotated[int, Field(ge=1, le=8192)]
Shift = Annotated[float, Field(ge=-1_000_000, le=1_000_000, allow_inf_nan=False)]
Spread = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]


class ImageTransform(ApiModel):
    """How an uploaded image becomes the model's input: resize, then pixel * scale, then (x - mean) / std."""

    rules: ClassVar = (
        Rule(
            cel="(has(self.mean) ? size(self.mean) : 0) == (has(self.std) ? size(self.std) : 0)",
            check=lambda image: len(image.mean) == len(image.std),
            message="mean and std have different lengths",
            right="give one number of each per channel, or leave both out",
            field="std",
        ),
        Rule(
            cel="!has(self.mean) || size(self.mean) == 0"
            " || size(self.mean) == (has(self.mode) && self.mode == 'L' ? 1 : 3)",
            check=lambda image: len(image.mean) in (0, 1 if image.mode == "L" else 3),
            message="mean does not have one number per channel",
            right="3 numbers for mode RGB, 1 for mode L",
            field="mean",
        ),
    )

    resize: Annotated[list[Side], Field(min_length=2, max_length=2)]
    """Height and width in pixels, in this order."""
    mode: Literal["RGB", "L"] = "RGB"
    """Colour (RGB, 3 channels) or grey (L, 1 channel)."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of the model's axes: batch, channel, height, width."""
    scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1 / 255
    """Each pixel, 0 to 255, is multiplied by this first."""
    mean: Annotated[list[Shift], Field(max_length=3)] = Field(default_factory=list)
    """Subtracted from each channel after `scale`."""
    std: Annotated[list[Spread], Field(max_length=3)] = Field(default_factory=list)
    """Each channel is divided by this after `mean`; more than 0."""


class InputTransform(ApiModel):
    """What is done to a request of `/predict` before the model."""

    image: ImageTransform | None = None
    """Take an uploaded image as the model's one input."""


Label = Annotated[
    str,
    forms.text(
        rf"[^{CONTROL}]*[^ {CONTROL}][^{CONTROL}]*",
        what="a label that is not blank, on one line",
        example="tabby cat",
        max_length=256,
    ),
]


class ClassificationTransform(ApiModel):
    """How a vector of scores becomes labels with a confidence."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.labelsFile) || !has(self.labels) || size(self.labels) == 0",
            check=lambda classes: classes.labels_file is None or not classes.labels,
            message="labels and labelsFile exclude each other",
            right="keep one of them",
            field="labelsFile",
        ),
    )

    labels: Annotated[
        list[Label],
        Field(max_length=1000, json_schema_extra={"x-kubernetes-list-type": "set"}),
        AfterValidator(each_once),
    ] = Field(default_factory=list)
    """The classes' names in the order of the scores; no name twice. More than 1000: use `labelsFile`."""
    labels_file: Annotated[
        str | None,
        forms.text(
            path(),
            what="a relative path without . or .. parts",
            example="labels.txt",
            max_length=256,
        ),
    ] = None
    """A text file inside the model's artifacts, one name a line."""
    activation: Literal["Softmax", "Sigmoid", "None"] = "Softmax"
    """How scores become confidences; None when they already are."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    """How many of the best labels are answered."""


class OutputTransform(ApiModel):
    """What is done to the model's output before the answer of `/predict`."""

    classification: ClassificationTransform | None = None
    """Answer with labels and confidences."""


class Transform(ApiModel):
    """Work on the CPU around the model, for `/predict` only."""

    input: InputTransform = Field(default_factory=InputTransform)
    """Before the model."""
    output: OutputTransform = Field(default_factory=OutputTransform)
    """After the model."""
