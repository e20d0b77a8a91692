"""What the Dockerfile says agrees with the code and the project."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from rayfleet_serving import environment

ROOT = Path(__file__).parents[2]
TEXT = re.sub(r"\\\n\s*", "", "".join(line for line in (ROOT / "Dockerfile").open() if not line.startswith("#")))
STAGES = {
    (found := re.match(r"FROM (\S+) AS (\S+)\n", stage))[2]: stage  # type: ignore[index]
    for stage in re.split(r"(?m)^(?=FROM )", TEXT)[1:]
}
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def instructions(stage: str, name: str) -> list[str]:
    return re.findall(rf"(?m)^{name} (.*)$", STAGES[stage])


def test_the_serving_image_sets_serves_variables() -> None:
    found = dict(pair.split("=", 1) for line in instructions("serving", "ENV") for pair in shlex.split(line))
    assert found == dict(environment.IMAGE)


def test_local_mode_has_all_that_serve_reads_in_the_image() -> None:
    assert environment.SERVE.items() <= environment.IMAGE.items()


def test_images_run_as_a_numbered_user_who_is_not_root() -> None:
    assert instructions("operator", "USER")[-1] == "65532:65532"
    assert instructions("serving", "USER")[-1] == "1000:1000"
    assert instructions("operator", "ENTRYPOINT") == ['["rayfleet", "operator"]']


def test_what_is_installed_is_pinned_and_compiled() -> None:
    installs = re.findall(r"pip --python \S+ install ([^&\n]*)", TEXT)
    assert len(installs) == 4
    assert all("-c constraints.txt" in line or "--no-deps" in line for line in installs)
    assert "--no-compile" not in TEXT


def test_every_extra_is_one_of_the_project() -> None:
    (default,) = instructions("build-serving", "ARG")
    extras = default.removeprefix("EXTRAS=").split(",")
    assert {*extras, "operator", "serving"} <= set(EXTRAS)


def test_the_operators_image_needs_no_stage_of_the_serving_image() -> None:
    """Without BuildKit every stage above the target is built."""
    order = list(STAGES)
    assert order.index("operator") < order.index("build-serving")


def test_the_result_is_copied_from_the_build_and_nothing_else_is() -> None:
    """Certificates and package lists lie in the build stages alone."""
    for stage in ("base", "operator", "serving"):
        copies = instructions(stage, "COPY")
        assert copies == ([] if stage == "base" else [f"--from=build-{stage} /opt/rayfleet /opt/rayfleet"])
        assert not instructions(stage, "ADD")


def test_docker_needs_no_buildkit() -> None:
    assert not re.search(r"--mount|<<|# *syntax|--chmod|--link", (ROOT / "Dockerfile").read_text())


def test_exactly_what_is_copied_is_sent_to_docker() -> None:
    copied = {part.rstrip("*") for copy in re.findall(r"(?m)^COPY (?!--from)(.*)$", TEXT) for part in copy.split()[:-1]}
    text = (ROOT / ".dockerignore").read_text()
    first, *lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert first == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_the_command_for_haproxy_can_be_run_by_every_user(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "haproxy"
    command = [sys.executable, "-m", environment.__name__, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(folder / "haproxy")
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "haproxy": 0o755,
        "408.http": 0o644,
    }
    shown = subprocess.run([folder / "haproxy", "-v"], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("HAProxy version")
    assert environment.IMAGE["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(environment.IMAGE_FOLDER / "haproxy")


def test_the_command_is_made_for_a_folder_only() -> None:
    ran = subprocess.run([sys.executable, "-m", environment.__name__], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.strip()) == (1, "usage: python -m rayfleet_serving.environment FOLDER")
