"""The contract between the control path and the data path.

The planner renders these models into a Serve config; the serving package reads them back. Nothing here imports
Ray, MLflow or numpy, so that the control path can use it in a slim image.

- `ModelArgs` are a model app's builder arguments: a changed byte restarts its replicas.
- `ModelUserConfig` is a model app's `user_config`: changed in place.
- `RouterArgs` are the router app's builder arguments; `TrafficTable` is its `user_config`, changed in place.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL_IMPORT_PATH = "rayfleet_serving.model.app:build"
ROUTER_IMPORT_PATH = "rayfleet_serving.router.app:build"
POLICY_IMPORT_PATH = "rayfleet_serving.autoscaling.policy:Policy"
"""What Serve asks how many replicas a model's application should have. It is part of what restarts replicas."""
ROUTER_POLICY_IMPORT_PATH = "rayfleet_serving.autoscaling.router_policy:RouterPolicy"
"""The same of the router's application."""
MIDDLEWARE_IMPORT_PATH = "rayfleet_serving.router.shortcut:middlewares"
"""For Serve's variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
MODEL_DEPLOYMENT = "model"
ROUTER_DEPLOYMENT = "router"
ROUTER_APP = "router"

TRAFFIC_PATH = "/rayfleet/traffic"
"""Where every router answers with the table each router replica holds; the control path reads it back here."""

VERSION_HEADER = "x-rayfleet-model-version"
"""In an answer, who gave it; in a request, who shall."""
REQUEST_ID_HEADER = "x-request-id"
TIMEOUT_HEADER = "x-rayfleet-timeout-seconds"
"""A deadline for one request; it can shorten the model's `requestTimeout`, never lengthen it.

Not Serve's own header, `x-request-timeout-seconds`: where Serve handles the request, it answers 408 to that itself,
without saying why."""

CREDENTIALS_DIR_VARIABLE = "RAYFLEET_CREDENTIALS_DIR"
"""Names the folder where a replica finds its model's credentials, one file for each; where it is not set, as with
`rayfleet up`, they are in the environment."""
CREDENTIAL = re.compile(r"(?!MLFLOW_TRACKING_URI$)(MLFLOW|AWS|AZURE|GOOGLE|S3)_[A-Z0-9_]+")
"""Variables that a model's Secret may set, whole names. Any other would decide about more than where its bytes come
from; the server's address is the ModelDeployment's to say."""
CA_FILE = "ca.crt"
"""The certificates, as PEM, by which the model's MLflow server is trusted."""


def credential_file(model: str, key: str) -> str:
    """The file of one credential of a model: `key` is a variable or `CA_FILE`. Names of models hold no dots."""
    return f"{model}.{key}"


class Contract(BaseModel):
    """Base of every contract type: unknown keys are refused, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelIdentity(Contract):
    """One immutable model version: what a URI resolved to."""

    version: str
    """What people call it: a registry version ("3"), a logged model's id ("m-…"), or a digest's first 12 hex digits."""
    model_id: str
    """Immutable key, and with its source the cache key: "m-<32 hex>" for MLflow models, "sha256-<64 hex>" otherwise."""
    artifact_uri: str
    """Where the bytes are: mlflow-artifacts:/…, s3://…, gs://…, or an absolute path."""
    digest: str | None = None
    """"sha256:<64 hex>" of the tree where it is known before the download (local paths); None where it is not."""


class ModelArgs(Contract):
    """Builder arguments of one model app: everything that must restart its replicas when it changes."""

    name: str
    """The ModelDeployment's name."""
    identity: ModelIdentity
    tracking_uri: str | None = None
    """MLflow server for mlflow-artifacts: URIs. Credentials never stand here."""
    allow_code_execution: bool = False
    """Whether the artifact may run code of its own when loaded: pickle, code_paths, models-from-code."""
    gpu_memory_bytes: int | None = None
    """Hard cap of GPU memory per replica, in bytes; None without a GPU."""
    credentials: bool = False
    """Whether the model has credentials of its own, to be waited for before a download where pods get them as files.
    What they are is not in here: new ones must not restart anything."""


class Batching(Contract):
    """Limits of one batch."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """Rows in one call of the model."""
    max_wait_s: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Longest time an idle device may wait for a fuller batch, where waiting is expected to pay. Seconds."""


STUCK_AFTER_S = 65.0
"""Of the default `requestTimeout`; see `stuck_after`."""


STUCK_AFTER_LEAST_S = 60.0
"""A first call of a new shape may compile. A replica that ends while it does would compile anew in the next one."""


def stuck_after(request_timeout_s: float) -> float:
    """Seconds after which a call of the model is taken for one that never ends. Whoever waited for it has been answered
    504 in half that time, and a model that only now and then takes too long is left alone."""
    return max(STUCK_AFTER_LEAST_S, 2 * request_timeout_s + 5)


class Autoscaling(Contract):
    """What the number of a version's replicas follows; the bounds and the delays are Serve's own."""

    target_ongoing_requests: Annotated[float, Field(gt=0)] = 50.0
    """Requests of each replica that wait or are under way."""
    percentile: Annotated[int, Field(ge=50, le=99)] = 99
    """Percent of the requests that must be answered within `latency_s`."""
    latency_s: Annotated[float | None, Field(gt=0)] = None
    """Longest time at this percentile, in seconds. None: latency asks for nothing."""
    upscale_step: Annotated[int | None, Field(ge=1)] = None
    """Most replicas started at a time. None: as many as are needed."""
    downscale_step: Annotated[int | None, Field(ge=1)] = None
    """Most replicas stopped at a time. None: all that are too many."""


class ModelUserConfig(Contract):
    """`user_config` of one model app."""

    batching: Batching = Batching()
    # Left out where it is the default: a replica of an older image refuses a field that it does not know.
    stuck_after_s: Annotated[float, Field(gt=0, exclude_if=lambda seconds: seconds == STUCK_AFTER_S)] = STUCK_AFTER_S
    """A replica whose model has computed for so long without an end is replaced. Seconds."""
    # Left out where there is none: a replica of an older image knows no such field.
    autoscaling: Annotated[Autoscaling | None, Field(exclude_if=lambda scaling: scaling is None)] = None
    """None: the number of replicas is fixed."""


class ImageInput(Contract):
    """How an uploaded image becomes a tensor."""

    height: Annotated[int, Field(ge=1, le=8192)]
    width: Annotated[int, Field(ge=1, le=8192)]
    mode: Literal["RGB", "L"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 1 / 255
    """Each pixel (0..255) is multiplied by this before mean and std."""
    mean: list[float] = []
    std: list[float] = []


class Classification(Contract):
    """How a score vector becomes labels: softmax (or none), the `top_k` best with their confidence."""

    labels: list[str] = []
    labels_file: str | None = None
    """A text file inside the model's artifacts, one label a line."""
    activation: Literal["Softmax", "Sigmoid", "None"] = "Softmax"
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5


class Transform(Contract):
    """CPU work around the model, done by the router, for `/predict` only."""

    image: ImageInput | None = None
    classification: Classification | None = None


class Limits(Contract):
    """What one model accepts."""

    max_ongoing_requests: Annotated[int, Field(ge=1)] = 100
    """Requests handed to one replica of the model at a time."""
    max_queued_requests: Annotated[int, Field(ge=0)] = 400
    """Requests that may wait in one router; one more is answered 429."""
    request_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    max_request_bytes: Annotated[int, Field(ge=1)] = 16 * 1024 * 1024


class VersionRoute(Contract):
    """One live version of a model."""

    app: str
    """Serve application that runs it."""
    version: str
    model_id: str
    weight: Annotated[int, Field(ge=0, le=100)]
    """Percent of the model's requests."""
    leaving: bool = False
    """It is on its way out: it answers what it has, and takes no new request, not even one that asks for it."""
    # Left out where they say nothing: a router of an older image knows no such fields.
    name: Annotated[str, Field(exclude_if=lambda name: not name)] = ""
    """What its people call it, where it stands in `spec.traffic`; "" for the version that the model's URI means."""
    other_names: Annotated[list[str], Field(exclude_if=lambda names: not names)] = []
    """Names in `spec.traffic` that mean it as well: it can be asked for by them, too."""
    place: Annotated[int, Field(ge=0, exclude_if=lambda place: not place)] = 0
    """Of those that have a share by name, the number of this one; callers are laid out by it."""
    lost: Annotated[str, Field(exclude_if=lambda lost: not lost)] = ""
    """Since when it has had no share because nothing reached it; "" while it has one, or never had. RFC 3339."""
    mirror: Annotated[int, Field(ge=0, le=100, exclude_if=lambda share: not share)] = 0
    """Percent of the requests that other versions answer of which it gets a copy; what it answers is compared and
    thrown away."""
    sleeps: Annotated[bool, Field(exclude_if=lambda sleeps: not sleeps)] = False
    """It may have no replica while nobody asks: requests then wait, and wake it. So they wait for one that sleeps no
    more, until its first replica runs."""
    max_batch_size: Annotated[int, Field(ge=1)] = 32
    transform: Transform = Transform()
    """Each version has its own: the one before keeps the labels that it was trained with."""


class RolloutMark(Contract):
    """Where a model's rollout stands.

    It stands in the row, beside the weights that were decided with it, so that both are one write: whoever is killed
    between two writes leaves nothing half decided. Routers read nothing of it but that it is there.
    """

    stable: str
    """Application of the version that had the requests when it began."""
    candidate: str
    """Application of the version that should have them."""
    began: str
    """When the candidate was first wanted. RFC 3339."""
    stage: int = -1
    """Index into the strategy's stages; -1 until the candidate can be reached."""
    since: str = ""
    """When every router was seen to hold this stage's weights; "" until then. RFC 3339."""
    ended: str = ""
    """Why the candidate was given up, as one CamelCase word; "" while it was not."""
    why: str = ""
    """The same for people, with the numbers that decided."""
    rules: str = ""
    """Digest of what the candidate was given up by; a candidate is tried again under other rules."""
    lost: str = ""
    """Since when nothing of the candidate answers or, once it was given up, of the stable version; "" while something
    does. RFC 3339."""


class Sticky(Contract):
    """What tells the callers of a model apart, one of the two: whoever it names stays with one version."""

    header: str | None = None
    """Name of a request header, in lower case."""
    cookie: str | None = None
    """Name of a cookie."""


class Target(Contract):
    """How long a model's requests may take."""

    percentile: Annotated[int, Field(ge=1, le=99)] = 99
    """Percent of the requests that must be answered in time."""
    seconds: Annotated[float, Field(gt=0)]


class ModelRoute(Contract):
    """One model as the router sees it. Weights sum to 100; a model that waits for its first version has none."""

    versions: list[VersionRoute]
    limits: Limits = Limits()
    # Left out where there is none: a router of an older image knows no such field.
    rollout: Annotated[RolloutMark | None, Field(exclude_if=lambda mark: mark is None)] = None
    sticky: Annotated[Sticky | None, Field(exclude_if=lambda sticky: sticky is None)] = None
    predictions: Annotated[bool, Field(exclude_if=lambda count: not count)] = False
    """Whether predictions are counted in the window, too."""
    look_back_s: Annotated[float | None, Field(gt=0, exclude_if=lambda period: period is None)] = None
    """How long the time is, in seconds, whose load routers tell the replicas; None where their number is fixed."""
    priority: Annotated[int, Field(ge=-1000, le=1000, exclude_if=lambda priority: not priority)] = 0
    """While a model is pressed, those of a lower one on the same GPU or machine yield to it."""
    target: Annotated[Target | None, Field(exclude_if=lambda target: target is None)] = None
    """A model is pressed when it does not keep to this. None: when its requests wait for half of their time."""

    @property
    def window(self) -> str:
        """Names the time in which these weights hold, for routers to count in; "" where nothing is to be counted.

        It goes with stage and weights and not with every change of the row: counting goes on while `since` is noted,
        and while versions that `spec.traffic` names come and go.
        """
        if self.rollout is None or self.rollout.ended or self.rollout.stage < 0:
            return ""
        own = [version for version in self.versions if not version.leaving and not version.name]
        shares = ",".join(f"{version.app}={version.weight}" for version in own)
        more = "/predictions" if self.predictions else ""
        return f"{self.rollout.candidate}/{self.rollout.began}/{self.rollout.stage}/{shares}{more}"

    def digest(self) -> str:
        """Tells two rows apart."""
        return _digest(self)


class TrafficTable(Contract):
    """`user_config` of the router app: which versions answer for each model, and by how much."""

    models: dict[str, ModelRoute] = {}
    routers: Annotated[int, Field(ge=1)] = 2
    """Router replicas that share each model's ongoing-request budget, at the least; how many there are, routers see for
    themselves."""

    def digest(self) -> str:
        """Tells two tables apart."""
        return _digest(self)


def _digest(contract: Contract) -> str:
    """First 16 hex digits of sha256 over the canonical JSON."""
    text = json.dumps(contract.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RouterArgs(Contract):
    """Builder arguments of the router app."""


class WindowCount(Contract):
    """What one router replica has answered for one version since its window began."""

    window: str
    """`ModelRoute.window`."""
    requests: Annotated[int, Field(ge=0)] = 0
    """Answers, but for those that tell nothing of the version: 4xx other than 422 and 429."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Of these, 422 (the model raised), 429 (it was too slow for what came) and 5xx."""
    latency: dict[int, int] = {}
    """Requests by the index of their bucket, see `latency_bucket`. Failed ones are in it (who waits for an error
    waits), and those whose callers left before there was an answer, with the time until then."""
    predictions: Annotated[dict[str, int], Field(exclude_if=lambda counts: not counts)] = {}
    """Answers by what was predicted for one row of each, taken by chance; see `router.decisions` for the keys. Empty
    where `ModelRoute.predictions` does not ask for them."""


WINDOW_FIRST_S = 0.0005
"""Upper bound of the first latency bucket of a window."""
WINDOW_RATIO = 1.05
"""Of the bounds of two buckets that follow each other: a percentile is known to 5 %."""
WINDOW_BUCKETS = 288
"""They reach to ten minutes; the last one holds what is longer."""
_LOG_RATIO = math.log(WINDOW_RATIO)


def latency_bucket(seconds: float) -> int:
    """The bucket of a window that counts a request of this length: the first one whose bound is not below it."""
    if seconds <= WINDOW_FIRST_S:
        return 0
    return min(math.ceil(math.log(seconds / WINDOW_FIRST_S) / _LOG_RATIO), WINDOW_BUCKETS - 1)


def latency_bound(bucket: int) -> float:
    """Upper bound of a bucket, in seconds."""
    return WINDOW_FIRST_S * WINDOW_RATIO**bucket


NUMBER_RATIO = 1.05
"""Of the bounds of two buckets of predicted numbers that follow each other: predictions that differ by less than 5 %
may be counted as the same."""
NUMBER_SMALLEST = 1e-9
"""Numbers nearer to zero are counted as zero."""
NUMBER_LARGEST = 1e12
"""Numbers further from zero are counted as this one."""
_LOG_NUMBER_RATIO = math.log(NUMBER_RATIO)


def number_bucket(value: float) -> int:
    """The bucket of a predicted number, above and below zero alike; 0 near zero alone. Not for NaN."""
    size = min(abs(value), NUMBER_LARGEST)
    if size < NUMBER_SMALLEST:
        return 0
    step = math.floor(math.log(size / NUMBER_SMALLEST) / _LOG_NUMBER_RATIO) + 1
    return step if value > 0 else -step


NAMELESS = "?"
"""What predictions are counted under that have no name, such as null or an image. They cannot be told apart, and are
counted all the same: a version that answers so where another one gives classes is not like it."""


class VersionTrouble(Contract):
    """What ails the replicas of a version, for people."""

    reason: str
    """One CamelCase word: "OutOfMemory", "Stuck" or "ReplicasDie"."""
    message: str


class Wanted(Contract):
    """How many replicas a version needs by its load, as they say themselves."""

    replicas: Annotated[int, Field(ge=0)]
    """Before bounds, steps and delays."""
    reason: str
    """For people, like "p99 312 ms > 200 ms"."""


class RouterVersionState(Contract):
    """What one router replica knows about one live version."""

    ready: bool
    """It has the model's metadata, and sees running replicas or may wake one."""
    ongoing: int
    """Requests handed to the model and not yet answered."""
    queued: int
    count: WindowCount | None = None
    """Of the window that it counts in; None where it counts in none."""
    # Left out where there is none: an operator of an older release knows no such field.
    troubles: Annotated[list[VersionTrouble], Field(exclude_if=lambda troubles: not troubles)] = []
    """What its replicas say of themselves, those included that ended a few minutes ago: the newest first, and of each
    reason one."""
    wanted: Annotated[Wanted | None, Field(exclude_if=lambda wanted: wanted is None)] = None
    """What the replicas told it last; None where their number is fixed, or none has told for some seconds."""


class RouterState(Contract):
    """One router replica's answer at `TRAFFIC_PATH`."""

    replica: str
    table: str
    """`TrafficTable.digest()` of the table it holds; "" before the first."""
    models: dict[str, str]
    """`ModelRoute.digest()` of each row it holds, by model."""
    versions: dict[str, RouterVersionState]
    """By Serve application name."""


class TrafficReport(Contract):
    """Body of `GET /rayfleet/traffic`: one entry for each router replica that answered, sorted by replica."""

    routers: list[RouterState]
