"""Trains a classifier of iris flowers and registers it as `iris@champion`.

    python examples/iris/train.py http://localhost:5000

The model is stored with skops, which holds no code: it is served without `allowCodeExecution`.
"""

from __future__ import annotations

import sys

import mlflow
import mlflow.sklearn
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main(tracking_uri: str) -> None:
    mlflow.set_tracking_uri(tracking_uri)
    iris = load_iris(as_frame=True)
    classifier = make_pipeline(StandardScaler(), LogisticRegression()).fit(iris.data, iris.target)
    with mlflow.start_run():
        info = mlflow.sklearn.log_model(
            classifier,
            name="model",
            serialization_format="skops",
            signature=infer_signature(iris.data, classifier.predict(iris.data)),
            input_example=iris.data.head(2),
            registered_model_name="iris",
        )
    mlflow.MlflowClient().set_registered_model_alias("iris", "champion", info.registered_model_version)
    print(f"iris@champion is version {info.registered_model_version}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/iris/train.py MLFLOW_SERVER, like http://localhost:5000")
    main(sys.argv[1])
