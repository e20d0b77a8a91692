"""How the operator bears many fleets: `python -m bench.fleets [--fleets 50] [--models 10] [--minutes 10]`.

A real etcd, API server and MLflow server; `tests/ray_stand_in.py` for KubeRay and Ray. Told are the time until every
model is Ready, requests to the API server by verb and per object, CPU time and memory of the operator at rest, and the
same after a restart. Everything shares one machine, so times are those of the whole, not of the operator alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cluster.binaries import module_folder  # noqa: E402
from cluster.control_plane import ControlPlane  # noqa: E402

METRICS_PORT = 18090
NAMESPACE = "fleets"
DEFAULTS = {
    "image": "rayfleet-serving:bench",
    "rayVersion": "2.60.0",
    "workerGroups": [{"name": "workers", "minReplicas": 2, "cpu": "16", "memory": "16Gi"}],
}


@contextmanager
def _process(*command: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), **environ}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def _operator(kubeconfig: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    defaults = folder / "defaults.yaml"
    defaults.write_text(yaml.safe_dump(DEFAULTS))
    with _process(
        str(Path(sys.executable).with_name("rayfleet")),
        "operator",
        KUBECONFIG=str(kubeconfig),
        RAYFLEET_FLEET_DEFAULTS=str(defaults),
        RAYFLEET_OPERATOR_NAMESPACE=NAMESPACE,
        RAYFLEET_METRICS_PORT=str(METRICS_PORT),
        RAYFLEET_HEALTH_PORT="0",
        RAYFLEET_LOG_LEVEL="WARNING",
    ) as process:
        yield process


def _metric(name: str, **labels: str) -> float:
    """The sum over every series of this name with these labels; 0 while the operator does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return 0.0
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if re.match(rf"{name}(\{{|\s)", line)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(each in line for each in wanted))


def _usage(pid: int) -> tuple[float, float]:
    """CPU seconds and resident MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return ticks / os.sysconf("SC_CLK_TCK"), resident / 2**20


def _objects(fleets: int, models: int, server: str) -> Iterator[dict[str, object]]:
    for number in range(fleets):
        fleet = f"fleet-{number:03}"
        yield {
            "apiVersion": "rayfleet.io/v1alpha1",
            "kind": "ModelFleet",
            "metadata": {"name": fleet, "namespace": NAMESPACE},
            "spec": {},
        }
        for each in range(models):
            yield {
                "apiVersion": "rayfleet.io/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": f"{fleet}-m{each:02}", "namespace": NAMESPACE},
                "spec": {
                    "fleet": fleet,
                    "model": {"uri": "models:/shared@champion", "registry": {"trackingUri": server}},
                    "resources": {"cpu": "0.5"},
                },
            }


def _ready(control_plane: ControlPlane) -> int:
    path = '{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    told = control_plane.kubectl("get", "md", "-n", NAMESPACE, "-o", f"jsonpath={path}")
    return told.split().count("True")


def _until(what: str, done: int, control_plane: ControlPlane, seconds: float) -> float:
    began = time.monotonic()
    while (ready := _ready(control_plane)) < done:
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: {ready} of {done} after {seconds:.0f} s")
        click.echo(f"  {ready} of {done} models are Ready after {time.monotonic() - began:.0f} s", err=True)
        time.sleep(2)
    return time.monotonic() - began


def _requests() -> dict[str, float]:
    return {method: _metric("rest_client_requests_total", method=method) for method in ("GET", "PATCH", "POST", "PUT")}


def _told(title: str, requests: dict[str, float], objects: int, seconds: float) -> None:
    parts = ", ".join(f"{method} {count:.0f} ({count / objects:.2f} an object)" for method, count in requests.items())
    click.echo(f"{title}: {sum(requests.values()) / seconds:.1f} requests/s; {parts}")


@click.command()
@click.option("--fleets", default=50, show_default=True)
@click.option("--models", default=10, show_default=True, help="In each fleet.")
@click.option("--minutes", default=10.0, show_default=True, help="How long to look at the operator at rest.")
def main(fleets: int, models: int, minutes: float) -> None:
    """Measure the operator with many fleets."""
    from mlflow_server import MlflowServer, free_port

    total, objects = fleets * models, fleets * (models + 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = MlflowServer(folder / "mlflow", free_port())
        server.folder.mkdir()
        server.start()
        try:
            _register(server.uri)
            with ControlPlane(folder / "control-plane") as control_plane:
                crds = [
                    *(ROOT / "crds").glob("*.yaml"),
                    *(module_folder("kuberay-operator") / "config/crd/bases").glob("*.yaml"),
                ]
                control_plane.kubectl.apply("\n---\n".join(file.read_text() for file in sorted(crds)))
                control_plane.kubectl("create", "namespace", NAMESPACE)
                control_plane.kubectl("create", "serviceaccount", "default", "-n", NAMESPACE)
                control_plane.kubectl.apply(_objects(fleets, models, server.uri))
                with _process(sys.executable, "-m", "ray_stand_in", str(control_plane.kubeconfig)) as stand_in:
                    assert stand_in.stdout is not None
                    stand_in.stdout.readline()
                    _measure(control_plane, folder, total, objects, minutes)
        finally:
            server.stop()


def _measure(control_plane: ControlPlane, folder: Path, total: int, objects: int, minutes: float) -> None:
    with _operator(control_plane.kubeconfig, folder) as operator:
        took = _until("converged", total, control_plane, 1800)
        cpu, resident = _usage(operator.pid)
        what = f"{total} models in {objects - total} fleets"
        click.echo(f"{what}: all Ready after {took:.0f} s; {cpu:.1f} s of CPU, {resident:.0f} MiB")
        _told("until then", _requests(), objects, took)
        time.sleep(30)
        before, requests, began = _usage(operator.pid)[0], _requests(), time.monotonic()
        time.sleep(minutes * 60)
        seconds = time.monotonic() - began
        cpu, resident = _usage(operator.pid)
        now = _requests()
        click.echo(
            f"at rest for {seconds / 60:.1f} min: {100 * (cpu - before) / seconds:.1f} % of a core, {resident:.0f} MiB"
        )
        _told("at rest", {method: now[method] - requests[method] for method in now}, objects, seconds)
    with _operator(control_plane.kubeconfig, folder) as operator:
        began = time.monotonic()
        while _metric("controller_runtime_reconcile_total") < objects - total:
            if time.monotonic() - began > 600:
                raise TimeoutError("not every fleet was looked at after the restart")
            time.sleep(0.5)
        seconds = time.monotonic() - began
        cpu, resident = _usage(operator.pid)
        click.echo(f"restarted: every fleet looked at after {seconds:.0f} s; {cpu:.1f} s of CPU, {resident:.0f} MiB")
        _told("until then", _requests(), objects, seconds)


def _register(uri: str) -> None:
    script = (
        "import mlflow, numpy as np\n"
        "from mlflow.models import infer_signature\n"
        "from sklearn.linear_model import LinearRegression\n"
        "model = LinearRegression().fit(np.eye(2), np.ones(2))\n"
        "with mlflow.start_run():\n"
        "    info = mlflow.sklearn.log_model(model, name='model', registered_model_name='shared',\n"
        "        signature=infer_signature(np.eye(2), np.ones(2)), pip_requirements=['scikit-learn'])\n"
        "mlflow.MlflowClient().set_registered_model_alias('shared', 'champion', info.registered_model_version)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "MLFLOW_TRACKING_URI": uri}, check=True)


if __name__ == "__main__":
    main()
