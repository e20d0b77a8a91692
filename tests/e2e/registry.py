"""A real MLflow server in the cluster, and models in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.kubectl import Kubectl

NAMESPACE = "e2e-registry"
URI = f"http://mlflow.{NAMESPACE}.svc:5000"

REGISTER = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, numpy as np
from mlflow.models import infer_signature

name, kind, value, alias = sys.argv[1:]
mlflow.set_tracking_uri("http://127.0.0.1:5000")
inputs = np.zeros((2, 2))
signature = infer_signature(inputs, np.zeros(2))
with mlflow.start_run():
    if kind == "linear":
        from sklearn.linear_model import LinearRegression
        model = LinearRegression().fit(np.eye(4, 2), np.full(4, float(value)))
        info = mlflow.sklearn.log_model(model, name="model", signature=signature, serialization_format="skops",
                                        pip_requirements=["scikit-learn"], registered_model_name=name)
    else:
        class Broken(mlflow.pyfunc.PythonModel):
            calls = 0
            def load_context(self, context):
                if kind == "broken":
                    raise RuntimeError(value)
            def predict(self, context, model_input, params=None):
                self.calls += int(bool(model_input.any()))  # rows of zeros are what it is warmed up with
                if self.calls % int(value) == 0 and model_input.any():
                    raise ValueError("one in " + value)
                return np.full(len(model_input), float(value))
        info = mlflow.pyfunc.log_model(python_model=Broken(), name="model", signature=signature,
                                       pip_requirements=["numpy"], registered_model_name=name)
if alias:
    mlflow.MlflowClient().set_registered_model_alias(name, alias, info.registered_model_version)
print("REGISTERED", info.registered_model_version)
"""


@dataclass(frozen=True)
class Registry:
    kubectl: Kubectl

    def linear(self, name: str, answer: float, alias: str = "champion") -> str:
        """Register a model that answers `answer` to every row of two numbers, and point the alias at it; returns the
        version."""
        return self._register(name, "linear", str(answer), alias)

    def broken(self, name: str, says: str, alias: str = "champion") -> str:
        """Register a model that raises a RuntimeError as it is loaded; it needs allowCodeExecution."""
        return self._register(name, "broken", says, alias)

    def raising(self, name: str, one_in: int, alias: str = "champion") -> str:
        """Register a model that raises on one call of so many; it needs allowCodeExecution."""
        return self._register(name, "raising", str(one_in), alias)

    def _register(self, *arguments: str) -> str:
        out = self.kubectl(
            "exec", "-i", "-n", NAMESPACE, "deploy/mlflow", "--", "python", "-", *arguments, stdin=REGISTER, timeout=120
        )
        return out.rsplit("REGISTERED", 1)[1].strip()


def manifests(image: str) -> list[dict[str, Any]]:
    """MLflow with everything in its pod: it is forgotten with it."""
    labels = {"app": "mlflow"}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "mlflow", "namespace": NAMESPACE},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "enableServiceLinks": False,
                        "containers": [
                            {
                                "name": "mlflow",
                                "image": image,
                                "imagePullPolicy": "IfNotPresent",
                                "ports": [{"containerPort": 5000}],
                                "readinessProbe": {"httpGet": {"path": "/health", "port": 5000}, "periodSeconds": 1},
                                "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}},
                            }
                        ],
                    },
                },
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "mlflow", "namespace": NAMESPACE},
            "spec": {"selector": labels, "ports": [{"port": 5000}]},
        },
    ]
