"""The chart's own files, as the tree has them."""

from __future__ import annotations

import json

import yaml
from helm_chart import CHART

CHART_YAML = yaml.safe_load((CHART / "Chart.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(VALUES_TEXT)
