"""A person opens /docs, tries each way to ask a model, and gets an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import mlflow.sklearn
import numpy as np
import pytest
from mlflow.models import infer_signature
from model_files import save_model, write_model
from PIL import Image
from rayfleet_up import RayfleetUp
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait
from sklearn.linear_model import LinearRegression

pytestmark = pytest.mark.browser

SECONDS = 30


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayfleetUp]:
    """Serves `table`, which takes two numbers, and `picture`, which takes images of 4 by 4 grey pixels."""
    served, models = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("models")
    write_model(served, "table", save_model(models / "table", 7))
    pixels = np.eye(16, dtype=np.float32)
    model = LinearRegression().fit(pixels, np.full(16, 7.0))
    signature = infer_signature(pixels, model.predict(pixels))
    mlflow.sklearn.save_model(model, models / "picture", signature=signature)
    image = {"input": {"image": {"resize": [4, 4], "mode": "L"}}}
    write_model(served, "picture", models / "picture", transform=image)
    with RayfleetUp([served], folder=tmp_path_factory.mktemp("up")) as up:
        up.wait_ready("table", "picture")
        yield up


@pytest.mark.parametrize("path", ["/table/predict", "/v2/models/table/infer", "/table/invocations"])
def test_try_it_out_with_the_example_as_it_stands(browser: Chrome, up: RayfleetUp, path: str) -> None:
    browser.get(f"{up.url}/docs")
    operation = _open(browser, path)

    _click(browser, operation, ".execute")

    assert _status(browser, operation) == "200"
    assert re.search(r"\[\s*7\s*\]", _find(browser, operation, ".live-responses-table .microlight").text)


def test_upload_of_an_image(browser: Chrome, up: RayfleetUp, tmp_path: Path) -> None:
    png = tmp_path / "grey.png"
    Image.new("L", (4, 4), 128).save(png)
    browser.get(f"{up.url}/docs")
    operation = _open(browser, "/picture/predict")
    media = _find(browser, operation, ".opblock-section-request-body .body-param-content-type select")
    Select(media).select_by_value("multipart/form-data")
    _find(browser, operation, "input[type=file]").send_keys(str(png))

    _click(browser, operation, ".execute")

    assert _status(browser, operation) == "200"


def test_page_loads_nothing_from_elsewhere(browser: Chrome, up: RayfleetUp) -> None:
    browser.get(f"{up.url}/docs")
    _find(browser, browser, ".opblock")
    urls = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert urls
    assert not [url for url in urls if not url.startswith((up.url, "data:"))]


def _open(browser: Chrome, path: str) -> WebElement:
    """Unfolds the POST operation at `path` and presses Try it out."""
    summary = _find(browser, browser, f'.opblock-post .opblock-summary-path[data-path="{path}"]')
    operation = summary.find_element(By.XPATH, "ancestor::div[contains(concat(' ', @class, ' '), ' opblock ')]")
    _click(browser, operation, ".opblock-summary-control")
    _click(browser, operation, ".try-out__btn")
    return operation


def _status(browser: Chrome, operation: WebElement) -> str:
    return _find(browser, operation, ".live-responses-table .response .response-col_status").text.split()[0]


def _find(browser: Chrome, within: Chrome | WebElement, selector: str) -> WebElement:
    """The first element that matches, once there is one."""
    found: list[WebElement] = WebDriverWait(browser, SECONDS).until(
        lambda _: within.find_elements(By.CSS_SELECTOR, selector), f"nothing matches {selector}"
    )
    return found[0]


def _click(browser: Chrome, within: WebElement, selector: str) -> None:
    element = _find(browser, within, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()
