"""Without allowCodeExecution, nothing an artifact holds is run: neither what MLmodel admits to nor what it hides."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import yaml
from model_loading import models

from rayfleet_serving.model.errors import LoadError
from rayfleet_serving.model.flavors import load

TRACE = "payload-was-run"


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self) -> Any:
        return (os.makedirs, (self.trace,))


def pickled(trace: Path) -> bytes:
    return pickle.dumps(Payload(trace))


def torch_pickled(trace: Path) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(Payload(trace), buffer)
    return buffer.getvalue()


def copy(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = yaml.safe_load((path / "MLmodel").read_text())
    change(document["flavors"])
    (path / "MLmodel").write_text(yaml.safe_dump(document))


def rewrite_pt2(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    """Passes every record of a model's pt2 archive through `change(name, content)`."""
    archive = path / "data" / "model.pt2"
    source = zipfile.ZipFile(io.BytesIO(archive.read_bytes()))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))


def edit_program(path: Path, old: str, new: str) -> None:
    """Replaces text in the exported program of a pt2 archive; `old` must be there."""
    seen = []

    def change(name: str, content: bytes) -> bytes:
        if "/models/" not in name:
            return content
        seen.append(old.encode() in content)
        return content.replace(old.encode(), new.encode())

    rewrite_pt2(path, change)
    assert seen == [True]


def shell(trace: Path) -> str:
    return f"__import__('os').makedirs('{trace}')"


def pytorch_pickle(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pickle), path)
    (path / "data" / "model.pth").write_bytes(torch_pickled(trace))


def pytorch_pickle_called_pt2(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)
    (path / "data" / "model.pt2").write_bytes(torch_pickled(trace))


def pytorch_pickle_beside_pt2(path: Path, trace: Path, saved: Any) -> None:
    """MLflow prefers model.pth to model.pt2 whatever MLmodel says."""
    copy(saved(models.pytorch_pt2), path)
    (path / "data" / "model.pth").write_bytes(torch_pickled(trace))
    (path / "data" / "pickle_module_info.txt").write_text("pickle")


def pytorch_pt2_example_inputs(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)
    rewrite_pt2(path, lambda name, content: torch_pickled(trace) if name.endswith("model.pt") else content)


def pytorch_pt2_pickled_weight(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return torch_pickled(trace) if name.endswith("weight_0") else content

    rewrite_pt2(path, change)


def pytorch_pt2_expression(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)
    program = json.loads(_program(path))
    expression = next(text for text in _strings(program, "expr_str"))
    edit_program(path, json.dumps(expression), json.dumps(shell(trace)))


def pytorch_pt2_guard(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)
    edit_program(path, '"guards_code": []', f'"guards_code": [{json.dumps(shell(trace) + " or True")}]')


def pytorch_pt2_operator(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pytorch_pt2), path)
    edit_program(path, '"torch.ops.aten.relu.default"', '"torch.os.makedirs"')


def sklearn_pickle(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.sklearn_pickle_mixed), path)
    (path / "model.pkl").write_bytes(pickled(trace))


def sklearn_pickle_called_skops(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.sklearn_frame), path)
    (path / "model.skops").write_bytes(pickled(trace))


def sklearn_skops_with_its_own_trust(path: Path, trace: Path, saved: Any) -> None:
    """skops can name any function; MLmodel's list of trusted types would let it."""
    copy(saved(models.sklearn_frame), path)
    skops = path / "model.skops"
    source = zipfile.ZipFile(io.BytesIO(skops.read_bytes()))
    schema = json.loads(source.read("schema.json"))
    schema |= {"__class__": "makedirs", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1}
    schema["content"] = {"module_path": "os", "function": "makedirs"}
    with zipfile.ZipFile(skops, "w") as target:
        target.writestr("schema.json", json.dumps(schema))
    edit(path, lambda flavors: flavors["sklearn"].update(skops_trusted_types=["os.makedirs"]))


def xgboost_pickle(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.xgboost_booster), path)
    next(path.glob("model.*")).write_bytes(pickled(trace))


def xgboost_class(path: Path, trace: Path, saved: Any) -> None:
    """MLflow imports whatever module the class is said to be in."""
    copy(saved(models.xgboost_booster), path)
    edit(path, lambda flavors: flavors["xgboost"].update(model_class="antigravity.Booster2"))


def transformers_pickled_weights(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.transformers_text), path)
    (path / "model" / "model.safetensors").unlink()
    (path / "model" / "pytorch_model.bin").write_bytes(torch_pickled(trace))


def transformers_own_class(path: Path, trace: Path, saved: Any) -> None:
    """A class transformers does not have: MLflow then passes trust_remote_code=True."""
    copy(saved(models.transformers_text), path)
    code = f"import os\nos.makedirs({str(trace)!r})\nclass MyModel: pass\n"
    (path / "model" / "modeling_mine.py").write_text(code)
    config = json.loads((path / "model" / "config.json").read_text())
    config |= {"architectures": ["MyModel"], "auto_map": {"AutoModel": "modeling_mine.MyModel"}}
    (path / "model" / "config.json").write_text(json.dumps(config))
    edit(path, lambda flavors: flavors["transformers"].update(pipeline_model_type="MyModel"))


def pyfunc_pickle(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pyfunc_array), path)
    (path / "python_model.pkl").write_bytes(cloudpickle.dumps(Payload(trace)))


def pyfunc_pickle_unnamed(path: Path, trace: Path, saved: Any) -> None:
    """Nothing in MLmodel says pickle: the loader module alone leads to it."""
    pyfunc_pickle(path, trace, saved)
    edit(path, lambda flavors: flavors["python_function"].pop("python_model"))


def models_from_code(path: Path, trace: Path, saved: Any) -> None:
    copy(saved(models.pyfunc_array), path)
    (path / "model.py").write_text(f"import os\nos.makedirs({str(trace)!r})\n")
    edit(path, lambda flavors: flavors["python_function"].update(model_code_path="model.py"))


def code_paths(path: Path, trace: Path, saved: Any) -> None:
    """Code that stands in for a module the flavour imports."""
    copy(saved(models.sklearn_frame), path)
    (path / "code").mkdir()
    (path / "code" / "skops.py").write_text(f"import os\nos.makedirs({str(trace)!r})\n")
    edit(path, lambda flavors: [conf.update(code="code") for conf in flavors.values()])


HOSTILE = [
    pytorch_pickle,
    pytorch_pickle_called_pt2,
    pytorch_pickle_beside_pt2,
    pytorch_pt2_example_inputs,
    pytorch_pt2_pickled_weight,
    pytorch_pt2_expression,
    pytorch_pt2_guard,
    pytorch_pt2_operator,
    sklearn_pickle,
    sklearn_pickle_called_skops,
    sklearn_skops_with_its_own_trust,
    xgboost_pickle,
    xgboost_class,
    transformers_pickled_weights,
    transformers_own_class,
    pyfunc_pickle,
    pyfunc_pickle_unnamed,
    models_from_code,
    code_paths,
]
SAFE_FORMATS = {xgboost_pickle, xgboost_class, pytorch_pickle_called_pt2}
"""Refused because the file is not what its library reads; there is no code to allow."""


@pytest.mark.parametrize("build", HOSTILE, ids=lambda build: build.__name__)
def test_payload_is_not_run(build: Any, tmp_path: Path, saved: Any) -> None:
    trace = tmp_path / TRACE
    build(tmp_path / "model", trace, saved)
    with pytest.raises(LoadError) as refused:
        load(tmp_path / "model", allow_code_execution=False, gpu_memory_bytes=None)
    assert not trace.exists()
    if build not in SAFE_FORMATS:
        assert refused.value.reason == "CodeExecutionNotAllowed"
        assert "spec.model.allowCodeExecution: true" in refused.value.message


LIVE = [pytorch_pickle, pytorch_pt2_expression, sklearn_pickle, pyfunc_pickle, models_from_code]


LOAD_EACH = """
import contextlib, pathlib, sys
from rayfleet_serving.model.flavors import load
for path in sys.argv[1:]:
    with contextlib.suppress(Exception):
        load(pathlib.Path(path), allow_code_execution=True, gpu_memory_bytes=None)
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, saved: Any) -> Path:
    """A folder for each of the artifacts below, which another process has loaded."""
    root = tmp_path_factory.mktemp("live")
    for build in LIVE:
        (root / build.__name__).mkdir()
        build(root / build.__name__ / "model", root / build.__name__ / TRACE, saved)
    paths = [str(root / build.__name__ / "model") for build in LIVE]
    subprocess.run([sys.executable, "-c", LOAD_EACH, *paths], capture_output=True, cwd=root)
    return root


@pytest.mark.parametrize("build", LIVE, ids=lambda build: build.__name__)
def test_payload_is_live(build: Any, loaded: Path) -> None:
    """The same artifacts do run when code execution is allowed: the test above proves something."""
    assert (loaded / build.__name__ / TRACE).exists()


def test_path_out_of_the_model_is_refused(tmp_path: Path, saved: Any) -> None:
    path = copy(saved(models.sklearn_frame), tmp_path / "model")
    (tmp_path / "elsewhere.skops").write_bytes((path / "model.skops").read_bytes())
    edit(path, lambda flavors: flavors["sklearn"].update(pickled_model="../elsewhere.skops"))
    with pytest.raises(LoadError, match="points out of the model's directory"):
        load(path, allow_code_execution=False, gpu_memory_bytes=None)


def test_weights_on_the_hub_are_refused(tmp_path: Path, saved: Any) -> None:
    path = copy(saved(models.transformers_text), tmp_path / "model")
    edit(path, lambda flavors: flavors["transformers"].update(source_model_revision="0" * 40))
    for allow in (False, True):
        with pytest.raises(LoadError, match="save_pretrained=True") as refused:
            load(path, allow_code_execution=allow, gpu_memory_bytes=None)
        assert refused.value.reason == "UnsupportedFlavor"


def test_environment_is_put_back(saved: Any) -> None:
    before = dict(os.environ)
    load(saved(models.transformers_text), allow_code_execution=False, gpu_memory_bytes=None)
    load(saved(models.pyfunc_array), allow_code_execution=True, gpu_memory_bytes=None)
    assert dict(os.environ) == before


def _program(path: Path) -> bytes:
    with zipfile.ZipFile(path / "data" / "model.pt2") as archive:
        return archive.read(next(name for name in archive.namelist() if "/models/" in name))


def _strings(value: Any, key: str) -> list[str]:
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in ([v] if k == key else _strings(v, key))]
    return [s for v in value for s in _strings(v, key)] if isinstance(value, list) else []
