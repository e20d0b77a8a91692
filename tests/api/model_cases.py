"""Every rule of a ModelDeployment, good and bad."""

from __future__ import annotations

from .case import LEAVE_OUT, bad, case, good

HEX = "0123456789abcdef0123456789abcdef"

CPU, MEMORY, GPU, GPU_MEMORY = (f"spec.resources.{name}" for name in ("cpu", "memory", "gpu", "gpuMemory"))
WAIT, TIMEOUT, POLL = "spec.batching.maxWait", "spec.limits.requestTimeout", "spec.model.registry.pollInterval"
SECRET, CA = "spec.model.registry.secretName", "spec.model.registry.caConfigMapName"
BACK = "spec.model.registry.writeBack"
SIZE = "spec.limits.maxRequestBytes"
URI, TRACKING = "spec.model.uri", "spec.model.registry.trackingUri"
IMAGE = "spec.transform.input.image"
CLASSES = "spec.transform.output.classification"
RUN = {"spec__model__uri": f"runs:/{HEX}/model"}
THREE = [0.5, 0.4, 0.3]
ROLLOUT = "spec.rollout"
ANALYSIS = f"{ROLLOUT}.analysis"
STEPS = [{"weight": 10, "hold": "10m"}, {"weight": 50}]
CANARY, BLUE = {"spec__rollout__strategy": "Canary"}, {"spec__rollout__strategy": "BlueGreen"}
TRAFFIC = "spec.traffic"
B = {"name": "b", "uri": "models:/m/3"}
QUERIES, QUERY = f"{ANALYSIS}.queries", {"name": "a", "query": "up", "max": 1}
RATE = {**BLUE, "spec__rollout__analysis__errorRate": {"max": "1%"}}

MODELS = [
    *good("metadata.name", "a", "a" * 40, "net-3d", "head-svc", "a-serve-svc-b", "a-1"),
    *bad("metadata.name", "a" * 41, "", "A", "3d-net", "a_b", "-a", "a-", "a.b", "a\n", "a-serve-svc", "a-b-head-svc"),
    *good("spec.fleet", "vision", "a" * 40, "a-head-svc"),
    *bad("spec.fleet", "a" * 41, "", "Vision", "3d", "a.b", 3),
    *good("spec.replicas", 1, 1000, None),
    *bad("spec.replicas", 0, 1001, -1, "2", True, 1.5),
    # model
    *good(URI, "models:/m/3", "models:/m@champion", "models:/ResNet 50/Production", "models:/m/Staging",
          "models:/m/Archived", "models:/m/latest", f"models:/m-{HEX}", f"runs:/{HEX}/model", f"runs:/{HEX}/a/b",
          "s3://bucket/path", "gs://bucket/path", "az://box/path", "abfs://box/path", "abfss://box@account/path",
          "file:///models/a", "/models/a", "models:/main.vision.resnet/12", "models:/модель/1",
          "models:/a@b@champion", "/models/my model/.v1/", "s3://bucket/a/b/", "/a..b/..c",
          "models:/a\u00a0b/1", "/a\u00adb", "s3://bucket/a\u3000", "gs://a_b.c/d", "az://$web/a", "/a%00", "file:///a%20b"),
    *bad(URI, "", "models:/m", "models://m/3", "models:/m/three", "models:/m/production", "models:/m/3/x", "models:/m@",
         "models:/m@a b", "models:/ m/3", "models:/m/12345678901", "s3://bucket/a//b", "s3://[/a",
         "s3://bucket/../b", "s3://user:word@bucket/a", "s3://bucket/a?b", "/models/../a", "/models/a ", "/", "//a",
         "models:/a:b/3", "runs:/abc/model", f"runs:/{HEX}", "s3://bucket", "s3:///path",
         "file://models/a", "models/a", "./a", "http://a/b", "models:/m/3\n", "/a\nb", 3, "/" + "a" * 1024,
         "models:/a\x85b/1", "/a\x9b", "s3://b\u2100/a", "s3://{bucket}/a", "file:///a%00", "file:///a/b%00c/d"),
    case(URI, LEAVE_OUT, bad=True),
    case("spec.model", LEAVE_OUT, bad=True),
    *bad(URI, None),
    *bad("spec.model", "models:/m/3", []),
    *good("spec.model.registry", {}, {"pollInterval": "1m"}),
    *good("spec.model.registry", {}, spec__model__uri=f"runs:/{HEX}/model"),
    *bad("spec.model.registry", {}, {"pollInterval": "30s"}, spec__model__uri="s3://bucket/path"),
    *bad("spec.model.registry", {}, spec__model__uri="/models/a"),
    *good(TRACKING, "http://mlflow.ml:5000", "https://mlflow.example.com/base/path"),
    *bad(TRACKING, "mlflow.ml:5000", "ftp://a", "http://user:word@a", "http://a?token=b", "http://", "sqlite:///a.db",
         "http://a\vb", "http://a/\v", "http://a b", "http://a/\x00"),
    *good(POLL, "1s", "30s", "24h", "1m30s", "1.5h", "24h0.0000000001s"),
    *bad(POLL, "0s", "999ms", "24h1s", "30", 30, "", "-1s", "1d", "30 s", "PT30S"),
    *good(SECRET, "a", "mlflow.token-1", "a" * 253),
    *good(SECRET, "mlflow", **{**RUN, "spec__model__registry__trackingUri": "http://mlflow:5000"}),
    *bad(SECRET, "", "a" * 254, "MLflow", "a_b", "-a", "a.", "a..b", "a/b", 1, {"name": "a"}),
    *good(CA, "a", "mlflow.ca-1", "1", "a" * 253),
    *good(CA, "mlflow-ca", spec__model__registry__trackingUri="https://mlflow:5000"),
    *bad(CA, "", "a" * 254, "CA", "a_b", "a-", ".a", 1),
    *bad(CA, "mlflow-ca", spec__model__registry__trackingUri="http://mlflow:5000"),
    # A registry that is never asked has no use for a Secret or an authority.
    *[case("spec.model.registry", {name: "a"}, bad="spec.model.registry", spec__model__uri=uri)
      for name in ("secretName", "caConfigMapName") for uri in ("s3://bucket/path", "/models/a", "file:///models/a")],
    *good(BACK, {"alias": "live"}, {"tag": "rayfleet.live"}, {"alias": "Champion", "tag": "a"}, None,
          spec__model__uri="models:/m@champion"),
    *good(BACK, {"alias": "live"}, spec__model__uri="models:/m/3"),
    *good(BACK, {"alias": "live"}, spec__model__uri="models:/m@alive"),
    *bad(BACK, "live", [], 3),
    *[case(BACK, each, bad=f"{BACK}.alias") for each in ({}, {"alias": None})],
    *[case(BACK, {"alias": "live"}, bad=True, spec__model__uri=uri)
      for uri in (f"runs:/{HEX}/model", f"models:/m-{HEX}")],
    case(BACK, {"tag": "live"}, bad="spec.model.registry", spec__model__uri="s3://bucket/path@live"),
    *good(f"{BACK}.alias", "l", "a_b-1", "latest2", "v", "v1a", "1", "-", "a" * 255),
    *bad(f"{BACK}.alias", "", "a" * 256, "a b", "a.b", "ä", "a@b", "latest", "LaTest", "v1", "V20", 1, "live\n"),
    case(f"{BACK}.alias", "live", bad=True, spec__model__uri="models:/m@live"),
    case(f"{BACK}.alias", "live", bad=True, spec__model__uri="models:/a@b@live"),
    *good(f"{BACK}.tag", "a", "_", "rayfleet.live", "a-b_c.d", "latest", "a" * 250),
    *bad(f"{BACK}.tag", "", "a" * 251, ".a", "-a", "a/b", "a b", "a:b", 1, True, "a\n"),
    *good("spec.model.allowCodeExecution", True, False),
    *bad("spec.model.allowCodeExecution", "yes", 1),
    # resources
    *good(CPU, "1", "0.5", "500m", "999", "0.0001", "1.5", 1, 999),
    *bad(CPU, "0", 0, "0.0", "1000", 1000, "0.00001", "-1", "1k", "one", "", "0m", "1.", 0.5, True),
    *good(MEMORY, "1M", "4Gi", "1.5Gi", "0.5Gi", "16384Mi", "4194304Ki", "9.99Ti", "1000000", 1_000_000),
    *bad(MEMORY, "4", 4, "999999", 999_999, "0Gi", "4GB", "4gi", "4 Gi", "10Ti", "1e9", "-4Gi", "", 1.5),
    *good(GPU, "0.33", "1", "2", "99", "250m", 1, 4, "0.50"),
    *bad(GPU, "0", 0, "1.5", "1500m", "0.0", "100", 100, 0.33, "half", "-1", "0.00001"),
    *good(GPU_MEMORY, "6Gi", 1 << 30, spec__resources__gpu="0.33"),
    *bad(GPU_MEMORY, "6", spec__resources__gpu="0.33"),
    *bad(GPU_MEMORY, "6Gi"),
    # batching and limits
    *good("spec.batching.maxBatchSize", 1, 4096),
    *bad("spec.batching.maxBatchSize", 0, 4097, "32", 32.5),
    *good(WAIT, "0s", "5ms", "1s", "0.5s", "1000ms", "1.0000000001s", "1000.0000001ms"),
    *bad(WAIT, "1001ms", "1m", "5", 5, "5us", "999999999999h"),
    *good("spec.limits.maxOngoingRequests", 1, 100_000),
    *bad("spec.limits.maxOngoingRequests", 0, 100_001),
    *good("spec.limits.maxQueuedRequests", 0, 100_000),
    *bad("spec.limits.maxQueuedRequests", -1, 100_001),
    *good(TIMEOUT, "1ms", "30s", "1h", "59m60s", "1h0.0000000009s"),
    *bad(TIMEOUT, "0s", "0.5ms", "61m", "1h1ms", "forever"),
    *good(SIZE, "1Ki", "16Mi", "1.5Mi", "0.5Mi", "1Gi", "1024Mi", "100M", "1024", 1024, 1 << 30, "1073741824"),
    *bad(SIZE, "1023", 1023, "1025Mi", "2Gi", (1 << 30) + 1, "1073741825", "16MB", "0", 0, "", "1k", 1024.5),
    # transform
    *good(f"{IMAGE}.resize", [224, 224], [1, 8192]),
    *bad(f"{IMAGE}.resize", [], [224], [1, 2, 3], 224),
    *[case(f"{IMAGE}.resize", value, bad=f"{IMAGE}.resize[0]") for value in ([0, 1], [8193, 1], ["1", 1], [1.5, 1])],
    case(IMAGE, {}, bad=f"{IMAGE}.resize"),
    *good(f"{IMAGE}.mode", "RGB", "L", spec__transform__input__image__resize=[8, 8]),
    *bad(f"{IMAGE}.mode", "rgb", "RGBA", spec__transform__input__image__resize=[8, 8]),
    *good(f"{IMAGE}.layout", "NCHW", "NHWC", spec__transform__input__image__resize=[8, 8]),
    *bad(f"{IMAGE}.layout", "CHW", spec__transform__input__image__resize=[8, 8]),
    *good(f"{IMAGE}.scale", 1, 0.1, 1000, spec__transform__input__image__resize=[8, 8]),
    *bad(f"{IMAGE}.scale", 0, -1, 1000.5, "1", spec__transform__input__image__resize=[8, 8]),
    *good(IMAGE, {"resize": [8, 8], "mean": THREE, "std": THREE}, {"resize": [8, 8], "mean": [], "std": []},
          {"resize": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]},
          {"resize": [8, 8], "mode": "L", "mean": [0.5], "std": [0.5]}),
    *[case(IMAGE, {"resize": [8, 8], **value}, bad=f"{IMAGE}.{field}") for field, value in (
        ("std", {"mean": THREE}), ("std", {"std": THREE}), ("std", {"mean": THREE, "std": [1.0]}),
        ("mean", {"mean": [0.5], "std": [0.5]}), ("mean", {"mode": "L", "mean": THREE, "std": THREE}),
        ("mean", {"mean": [0.5, 0.5], "std": [0.5, 0.5]}),
        ("std[1]", {"mean": THREE, "std": [1, 0, 1]}), ("std[0]", {"mean": THREE, "std": [-1, 1, 1]}),
        ("mean[2]", {"mean": [0, 0, 1e7], "std": THREE}),
        ("mean", {"mean": [0] * 4, "std": THREE}),
    )],
    *good(CLASSES, {}, {"labels": ["cat", "dog"]}, {"labelsFile": "labels.txt"},
          {"labelsFile": "a/b.txt", "labels": []}),
    *[case(CLASSES, {"labels": ["cat"], "labelsFile": "labels.txt"}, bad=f"{CLASSES}.labelsFile")],
    *good(f"{CLASSES}.labels", [], ["a"], [str(number) for number in range(1000)], ["x" * 256], [" a "],
          ["\u00a0", "猫"], ["猫" * 256]),
    *[case(f"{CLASSES}.labels", value, bad=f"{CLASSES}.labels[{at}]")
      for value, at in ((["a", "a"], 1), (["a", "b", "c", "b"], 3))],
    *bad(f"{CLASSES}.labels", [str(number) for number in range(1001)], "a"),
    *[case(f"{CLASSES}.labels", ["a", value], bad=f"{CLASSES}.labels[1]")
      for value in ("", "  ", "x" * 257, "b\nc", "\v", "b\vc", "\t", "b\x1b[2J", 1, None)],
    *good(f"{CLASSES}.labelsFile", "labels.txt", "a/b/c.txt", ".labels", "a..b"),
    *bad(f"{CLASSES}.labelsFile", "", "/labels.txt", "../labels.txt", "a/../b", "a/..", ".", "a//b", "a/", "a\n",
         "a/b "),
    *good(f"{CLASSES}.activation", "Softmax", "Sigmoid", "None"),
    *bad(f"{CLASSES}.activation", "softmax", "Tanh"),
    *good(f"{CLASSES}.topK", 1, 1000),
    *bad(f"{CLASSES}.topK", 0, 1001),
    # rollout
    *good(ROLLOUT, {}, {"strategy": "Immediate"}, {"strategy": "BlueGreen"}, {"strategy": "Canary", "steps": STEPS},
          {"strategy": "Immediate", "steps": []}, {"paused": False}, {"strategy": "Canary",
          "steps": [{"weight": 99}, {"weight": 1}]},
          {"strategy": "BlueGreen", "previewHold": "1s", "scaleDownDelay": "0s", "progressDeadline": "10s",
           "onFailure": "Pause", "paused": True, "analysis": {"errorRate": {"max": "1%"}}}),
    *[case(ROLLOUT, value, bad=f"{ROLLOUT}.{field}") for field, value in (
        ("steps", {"strategy": "Canary"}), ("steps", {"strategy": "Canary", "steps": []}), ("steps", {"steps": STEPS}),
        ("steps", {"strategy": "BlueGreen", "steps": STEPS}),
        ("steps", {"strategy": "Canary", "steps": [{"weight": 5}, {"weight": 9}, {"weight": 5}]}),
        ("previewHold", {"strategy": "Canary", "steps": STEPS, "previewHold": "1m"}),
        ("previewHold", {"previewHold": "1m"}),
        ("strategy", {"analysis": {"errorRate": {"max": "1%"}}}), ("strategy", {"scaleDownDelay": "1m"}),
        ("strategy", {"progressDeadline": "1m"}), ("strategy", {"onFailure": "Pause"}), ("strategy", {"paused": True}),
    )],
    *bad(f"{ROLLOUT}.strategy", "canary", "Recreate", 1),
    *good(f"{ROLLOUT}.steps", [{"weight": weight, "hold": "168h"} for weight in range(1, 21)], **CANARY),
    *bad(f"{ROLLOUT}.steps", [{"weight": weight} for weight in range(1, 22)], {"weight": 1}, "a", **CANARY),
    *[case(f"{ROLLOUT}.steps", [{"weight": 1}, value], bad=f"{ROLLOUT}.steps[1].{field}", **CANARY)
      for field, value in (
        ("weight", {}), ("weight", {"weight": 0}), ("weight", {"weight": 100}), ("weight", {"weight": "5"}),
        ("weight", {"weight": 5.5}), ("hold", {"weight": 5, "hold": "999ms"}), ("hold", {"weight": 5, "hold": "169h"}),
        ("hold", {"weight": 5, "hold": 60}), ("hold", {"weight": 5, "hold": "1d"}),
        ("hold", {"weight": 5, "hold": "0" * 16 + "1s"}), ("pause", {"weight": 5, "pause": {}}),
    )],
    *[case(f"{ROLLOUT}.steps", [{"weight": 1}, value], bad=f"{ROLLOUT}.steps[1]", **CANARY) for value in (1, "a", [])],
    *[each for field in ("previewHold", "scaleDownDelay", "progressDeadline")
      for each in good(f"{ROLLOUT}.{field}", "10s", "24h", **BLUE)],
    *[each for field in ("previewHold", "scaleDownDelay", "progressDeadline")
      for each in bad(f"{ROLLOUT}.{field}", "169h", "1d", 10, "0" * 16 + "1s", **BLUE)],
    *bad(f"{ROLLOUT}.previewHold", "999ms", **BLUE),
    *bad(f"{ROLLOUT}.progressDeadline", "9s", "25h", **BLUE),
    *good(f"{ROLLOUT}.sticky", {"header": "X-User-Id"}, {"cookie": "session_1"}, spec__rollout__steps=STEPS, **CANARY),
    *[case(f"{ROLLOUT}.sticky", value, bad=f"{ROLLOUT}.sticky.{field}", spec__rollout__steps=STEPS, **CANARY)
      for field, value in (("header", {}), ("header", {"header": "a", "cookie": "b"}), ("header", {"header": ""}),
                           ("header", {"header": "a b"}), ("header", {"header": "a" * 129}), ("header", {"header": 1}),
                           ("cookie", {"cookie": "a;b"}), ("cookie", {"cookie": "a" * 129}),
                           ("cookie", {"cookie": 1}))],
    *bad(f"{ROLLOUT}.sticky", "x-user", 1, spec__rollout__steps=STEPS, **CANARY),
    *bad(f"{ROLLOUT}.sticky", {"header": "a"}, **BLUE),
    *bad(f"{ROLLOUT}.onFailure", "rollback", True, **BLUE),
    *bad(f"{ROLLOUT}.paused", "yes", 1, **BLUE),
    *good(f"{ANALYSIS}.errorRate.max", "0%", "1%", "0.125%", "99.9%", "100%", "100.0%", **BLUE),
    *bad(f"{ANALYSIS}.errorRate.max", "1", 1, "101%", "-1%", "1 %", "%", "1.%", "01%", "0.1234%", "", **BLUE),
    case(f"{ANALYSIS}.errorRate", {}, bad=f"{ANALYSIS}.errorRate.max", **BLUE),
    *good(f"{ANALYSIS}.predictions.maxDistance", 0.01, 0.2, 0.99, **BLUE),
    *bad(f"{ANALYSIS}.predictions.maxDistance", 0, 0.009, 1, 1.5, -0.1, "0.2", **BLUE),
    *bad(f"{ANALYSIS}.predictions", 1, "a", **BLUE),
    case(f"{ANALYSIS}.predictions", {}, bad=f"{ANALYSIS}.predictions.maxDistance", **BLUE),
    case(ANALYSIS, {}, bad=f"{ANALYSIS}.errorRate", **BLUE),
    case(f"{ANALYSIS}.latency", {}, bad=f"{ANALYSIS}.latency.max", **BLUE),
    *bad(ANALYSIS, "a", 1, [], **BLUE),
    *bad(f"{ANALYSIS}.errorRate", "1%", **BLUE),
    *bad(f"{ANALYSIS}.errorRate.max", "0.0000001%", **BLUE),
    *bad(f"{ANALYSIS}.latency", "1s", 1, **BLUE),
    *good(f"{ANALYSIS}.latency", {"max": "250ms"}, {"maxRatioToStable": 1},
          {"percentile": 50, "maxRatioToStable": 1.25},
          {"percentile": 99, "max": "1h", "maxRatioToStable": 100}, **BLUE),
    *[case(f"{ANALYSIS}.latency", {"max": "1s", field: value}, bad=f"{ANALYSIS}.latency.{field}", **BLUE)
      for field, value in (("percentile", 49), ("percentile", 100), ("percentile", "99"), ("maxRatioToStable", 0.5),
                           ("maxRatioToStable", 101), ("maxRatioToStable", "2"), ("max", "0s"), ("max", "61m"),
                           ("max", 1), ("max", "1d"), ("max", "0" * 16 + "1s"))],
    *good(QUERIES, [QUERY], [{**QUERY, "name": f"error-budget-{number}"} for number in range(10)],
          [{"name": "1", "query": "a", "min": -0.5}], [{**QUERY, "min": 1}], [{**QUERY, "min": -1e15, "max": 10**15}],
          [{**QUERY, "query": "rate(a{n='{{namespace}}',m='{{model}}',v=~'{{candidate}}|{{stable}}'}[{{window}}])"}],
          *([{**QUERY, "query": text}] for text in ("a{b='}}'}", "{a='b'}\n  or {b='{'} > {", "ü" * 4096)), **BLUE),
    case(QUERIES, [], bad=f"{ANALYSIS}.errorRate", **BLUE),
    *good(QUERIES, [], **RATE),
    *bad(QUERIES, [{**QUERY, "name": f"a{number}"} for number in range(11)], QUERY, "up", **BLUE),
    case(QUERIES, [QUERY, {**QUERY, "query": "down"}], bad=f"{QUERIES}[1]", **BLUE),
    *[case(QUERIES, [QUERY, value], bad=f"{QUERIES}[1]", **BLUE) for value in ("up", 1, [])],
    *[case(QUERIES, [QUERY, {"name": "b", "query": "up", "max": 1, **value}], bad=f"{QUERIES}[1].{field}", **BLUE)
      for field, value in (
        ("name", {"name": ""}), ("name", {"name": "A"}), ("name", {"name": "a.b"}), ("name", {"name": "a" * 64}),
        ("name", {"name": 1}), ("name", {"name": "predictions"}), ("query", {"query": ""}),
        ("query", {"query": 1}), ("query", {"query": "a" * 4097}),
        ("query", {"query": "a{b='{{version}}'}"}), ("query", {"query": "a{b='{{ stable }}'}"}),
        ("query", {"query": "a{b='{{Stable}}'}"}), ("query", {"query": "{{"}), ("query", {"query": "a\n{{stable}\n}"}),
        ("query", {"query": "{{{stable}}}"}), ("query", {"query": "{{stable}} {{}}"}),
        ("min", {"min": 2}), ("min", {"min": 1.001}), ("min", {"min": "0"}), ("min", {"min": -1.1e15}),
        ("min", {"min": 1.1e15}), ("max", {"max": "1"}), ("max", {"max": -1.1e15}), ("max", {"max": 1.1e15}),
        ("max", {"max": True}), ("threshold", {"threshold": 1}),
    )],
    *[case(QUERIES, [{key: each for key, each in QUERY.items() if key != field}], bad=f"{QUERIES}[0].{field}", **BLUE)
      for field in QUERY],
    *good(f"{ANALYSIS}.minRequests", 1, 1_000_000, **RATE),
    *bad(f"{ANALYSIS}.minRequests", 0, 1_000_001, "100", **RATE),
    # what is of another type, and what is too long to be looked at
    *bad("spec", "a", [], 1),
    *[each for path in ("model.registry", "resources", "batching", "limits", "transform", "transform.input", IMAGE[5:],
                        "transform.output", CLASSES[5:], "rollout")
      for each in bad(f"spec.{path}", "a", ["a"], 1)],
    *[each for path in (TRACKING, TIMEOUT, f"{CLASSES}.labelsFile", f"{CLASSES}.activation", "spec.fleet")
      for each in bad(path, 1, True, ["a"])],
    *[each for path in ("spec.limits.maxOngoingRequests", "spec.limits.maxQueuedRequests", f"{CLASSES}.topK")
      for each in bad(path, "1", 1.5, True, [1])],
    *[case(IMAGE, {"resize": [8, 8], name: value}, bad=f"{IMAGE}.{name}")
      for name in ("mode", "layout", "mean", "std") for value in (1, "a", {"a": 1})],
    *[case(IMAGE, {"resize": [8, 8], **beside, name: [0.5, value, 0.5]}, bad=f"{IMAGE}.{name}[1]")
      for name, beside in (("mean", {"std": THREE}), ("std", {"mean": THREE})) for value in ("0", True, -1e7, 1e7)],
    case(IMAGE, {"resize": [8, 8], "mean": THREE, "std": [1] * 4}, bad=f"{IMAGE}.std"),
    *[each for path in (WAIT, TIMEOUT, POLL) for each in bad(path, "0" * 20 + "1s")],
    *bad(TRACKING, "http://" + "a" * 1024),
    *bad(f"{CLASSES}.labelsFile", "a" * 257),
    *[each for path in (CPU, GPU) for each in bad(path, "1.00000000")],
    *[each for path in (MEMORY, SIZE) for each in bad(path, "0" * 16 + "1M")],
    *bad(MEMORY, 10**13),
    *bad(GPU_MEMORY, 999_999, 10**13, "0" * 16 + "1G", True, spec__resources__gpu="0.33"),
    # traffic
    *good(TRAFFIC, {"versions": [B]}, {"versions": [{**B, "weight": 0}]}, {"versions": [{**B, "weight": 99}]},
          {"versions": [{**B, "mirror": 1}, {"name": "c-1", "uri": "s3://b/m", "weight": 50, "replicas": 2}]},
          {"versions": [{**B, "weight": 0, "mirror": 100}]},
          {"versions": [{**B, "name": "a" * 40, "weight": 1}], "sticky": {"header": "x-user"}},
          {"versions": [{**B, "name": "7a"}, {**B, "name": "m-" + "0a" * 15}]},
          {"versions": [{**B, "name": f"v{number}", "weight": 12} for number in range(8)], "sticky": {"cookie": "s"}},
          None),
    *[case(TRAFFIC, value, bad=f"{TRAFFIC}{field}") for field, value in (
        ("", 1), ("", []), (".versions", {}), (".versions", {"versions": []}), (".versions", {"versions": "b"}),
        (".versions", {"versions": [{**B, "name": f"v{number}"} for number in range(9)]}),
        (".versions", {"versions": [B, B]}), (".versions[1]", {"versions": [B, 1]}),
        (".versions", {"versions": [{**B, "weight": 60}, {**B, "name": "c", "weight": 40}]}),
        (".sticky", {"versions": [B], "sticky": {"header": "a"}}),
        (".sticky", {"versions": [{**B, "mirror": 9}], "sticky": {"cookie": "a"}}),
    )],
    *[case(f"{TRAFFIC}.versions", [{**B, **value}], bad=f"{TRAFFIC}.versions[0].{field}") for field, value in (
        ("name", {"name": ""}), ("name", {"name": "B"}), ("name", {"name": "a_b"}), ("name", {"name": "a" * 41}),
        ("name", {"name": 1}), ("name", {"name": "7"}), ("name", {"name": "m-" + "0a" * 16}),
        ("uri", {"uri": "models:/m"}), ("uri", {"uri": 3}), ("uri", {"uri": "/" + "a" * 1024}),
        ("uri", {"uri": ""}), ("uri", {"uri": "file:///a%00"}), ("weight", {"weight": -1}), ("weight", {"weight": 100}),
        ("weight", {"weight": "5"}), ("weight", {"weight": 1.5}), ("mirror", {"mirror": 0}),
        ("mirror", {"mirror": 101}), ("mirror", {"mirror": "5"}), ("mirror", {"weight": 5, "mirror": 5}),
        ("replicas", {"replicas": 0}), ("replicas", {"replicas": 1001}), ("replicas", {"replicas": "1"}),
    )],
    case(f"{TRAFFIC}.versions", [{"uri": "models:/m/3"}], bad=f"{TRAFFIC}.versions[0].name"),
    case(f"{TRAFFIC}.versions", [{"name": "b"}], bad=f"{TRAFFIC}.versions[0].uri"),
    *[case(f"{TRAFFIC}.sticky", value, bad=f"{TRAFFIC}.sticky{field}", spec__traffic__versions=[{**B, "weight": 5}])
      for field, value in ((".header", {}), (".header", {"header": "a", "cookie": "b"}), (".header", {"header": ""}),
                           (".header", {"header": "a b"}), (".header", {"header": "a" * 129}),
                           (".header", {"header": 1}), (".cookie", {"cookie": "a;b"}), ("", 1),
                           (".cookie", {"cookie": "a" * 129}), (".cookie", {"cookie": ""}),
                           (".cookie", {"cookie": 1}))],
    *good(TRAFFIC, {"versions": [{**B, "mirror": 5}]}, **BLUE),
    case(TRAFFIC, {"versions": [{**B, "weight": 5}]}, bad=TRAFFIC, **BLUE),
    case(TRAFFIC, {"versions": [{**B, "weight": 5}]}, bad=TRAFFIC, spec__rollout__steps=STEPS, **CANARY),
    # what is no field
    *bad("spec.autoscaling", {"minReplicas": 1}),
    *bad("spec.batching.maxBatchsize", 32),
    *bad("spec.batching.max_batch_size", 32),
]  # fmt: skip
