"""docker-compose.yml is sound, and what it would run in containers runs as processes."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from retrograd.local.servers import free_port, postgres, valkey

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("retrograd:")]
LONG_RUNNING = [name for name in SERVICES if name != "migrate"]
ENVIRONMENT = {
    "POSTGRES_PASSWORD": "postgres0password",
    "REDIS_PASSWORD": "redis0password",
    "RETROGRAD_API_KEY": "rg_" + "k" * 40,
}


def interpolate(value, environment):
    """What compose makes of `$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""
    if isinstance(value, dict):
        return {key: interpolate(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def replaced(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, operator, operand = match["name"], match["operator"], match["operand"]
        if found := environment.get(name):
            return found
        if operator == ":-":
            return operand
        raise KeyError(f"{name}: {operand}")

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?P<operator>:[-?])?(?P<operand>[^}]*)\}", replaced, value)


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_every_service_is_watched_and_waits_for_what_it_needs():
    for name in LONG_RUNNING:
        healthcheck = SERVICES[name]["healthcheck"]
        assert {"test", "interval", "timeout", "retries"} <= healthcheck.keys(), name
        assert "curl" not in str(healthcheck["test"]), name
        assert SERVICES[name]["restart"] == "unless-stopped", name
    for name in set(OURS) - {"migrate"}:
        conditions = {needed: how["condition"] for needed, how in SERVICES[name]["depends_on"].items()}
        assert conditions == {
            "postgres": "service_healthy",
            "redis": "service_healthy",
            "migrate": "service_completed_successfully",
        }, name
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_no_secret_stands_in_the_file_and_none_has_a_default():
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search("PASSWORD|KEY|AUTH|(DATABASE|BROKER)_URL", name):
                assert re.search(r"\$\{\w+:\?[^}]+\}", value), name
    for missing in ENVIRONMENT:
        partial = {name: value for name, value in ENVIRONMENT.items() if name != missing}
        with pytest.raises(KeyError, match=missing):
            interpolate(SERVICES, partial)


def test_every_setting_reaches_our_containers_and_stands_in_the_docs():
    for name in OURS:
        assert SERVICES[name]["env_file"] == [{"path": "retrograd.env", "required": False}], name
    page = (ROOT / "docs/reference/settings.md").read_text()
    written = subprocess.run(
        [sys.executable, "-m", "core.config"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert page == written.stdout, "run: python -m core.config > docs/reference/settings.md"


def test_only_the_api_is_published_on_loopback_unless_told_otherwise():
    services = interpolate(SERVICES, ENVIRONMENT)
    assert [name for name, service in services.items() if "ports" in service] == ["api"]
    assert services["api"]["ports"] == ["127.0.0.1:8000:8000"]


def test_our_containers_have_no_rights():
    for name in OURS:
        service = SERVICES[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert int(service["user"].split(":")[0]) > 0, name
        assert all(mount.endswith(":ro") for mount in service.get("volumes", []) if ":/data" in mount), name


def test_images_are_pinned_and_volumes_declared():
    for name, service in SERVICES.items():
        assert re.fullmatch(r"\w+:\d+\.\d+(\.\d+)?(-\w+)?", service["image"]), name
        named = {mount.split(":")[0] for mount in service.get("volumes", []) if mount[0] not in "$./"}
        assert named <= COMPOSE["volumes"].keys(), name


def test_uploaded_data_are_shared_by_all_that_handle_them():
    services = interpolate(SERVICES, ENVIRONMENT)
    for name in ("api", "worker", "worker-gpu", "janitor"):
        assert services[name]["environment"]["RETROGRAD_STORAGE_URL"] == "/storage", name
        assert "storage:/storage" in services[name]["volumes"], name
    assert services["api"]["environment"]["TMPDIR"] == "/storage"  # /tmp is memory
    assert "-o retrograd -g retrograd /storage" in (ROOT / "Dockerfile").read_text()


def test_the_gpu_worker_is_a_worker_with_a_gpu():
    gpu, cpu = SERVICES["worker-gpu"], SERVICES["worker"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["RETROGRAD_QUEUE"] == "gpu"
    assert gpu["build"]["args"] == {"EXTRA": "cuda13"}
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    for same in ("command", "healthcheck", "stop_grace_period", "depends_on"):
        assert gpu[same] == cpu[same]


def test_the_image_is_built_from_pinned_things_that_exist():
    lines = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).splitlines()
    instructions = [line.split() for line in lines if line and line[0] not in "# \t"]
    bases = [words[1] for words in instructions if words[0] == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for words in instructions:
        if words[0] == "COPY" and not words[1].startswith("--from"):
            for source in words[1:-1]:
                assert list(ROOT.glob(source)), source
                assert source in allowed, source
    assert [words for words in instructions if words[0] == "USER"] == [["USER", SERVICES["api"]["user"]]]


class Deployment:
    """The services' own commands and environments, with addresses of servers on this machine."""

    def __init__(self, folder: Path, database: str, broker: str) -> None:
        self.folder = folder
        self.port = free_port()
        services = interpolate(SERVICES, ENVIRONMENT)
        url = services["api"]["environment"]["RETROGRAD_DATABASE_URL"]
        self._places = {
            url: database,
            services["api"]["environment"]["RETROGRAD_BROKER_URL"]: broker,
            "0.0.0.0": "127.0.0.1",
            "127.0.0.1:8000": f"127.0.0.1:{self.port}",
            "/data": str(folder),
            "/storage": str(folder / "storage"),
        }
        self._services = services
        self.running: dict[str, psutil.Popen] = {}

    def _here(self, text: str) -> str:
        if text == "8000":
            return str(self.port)
        if text == "python":
            return sys.executable
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text

    def _environment(self, name: str) -> dict[str, str]:
        here = {key: self._here(value) for key, value in self._services[name]["environment"].items()}
        image = {"PATH": str(Path(sys.executable).parent) + ":/usr/bin:/bin", "PYTHONSAFEPATH": "1"}
        own_tmp = {"HOME": str(self.folder), "TMPDIR": str(self.folder)}  # as each container has
        return image | here | own_tmp

    def start(self, name: str) -> psutil.Popen:
        command = [self._here(word) for word in self._services[name]["command"]]
        with (self.folder / f"{name}.log").open("w") as log:
            process = psutil.Popen(
                command, env=self._environment(name), cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )
        self.running[name] = process
        return process

    def healthy(self, name: str) -> bool:
        how, *command = self._services[name]["healthcheck"]["test"]
        assert how == "CMD"
        check = subprocess.run(
            [self._here(word) for word in command],
            env=self._environment(name),
            cwd=self.folder,
            capture_output=True,
            timeout=seconds(self._services[name]["healthcheck"]["timeout"]),
        )
        return check.returncode == 0

    def wait_healthy(self, name: str) -> None:
        deadline = time.monotonic() + seconds(self._services[name]["healthcheck"]["start_period"])
        while not self.healthy(name):
            log = (self.folder / f"{name}.log").read_text()
            assert self.running[name].poll() is None, f"{name} ended: {log}"
            assert time.monotonic() < deadline, f"{name} is not healthy: {log}"

    def kill(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                for descendant in process.children(recursive=True):
                    descendant.kill()
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    with postgres(folder / "postgres") as database, valkey(folder / "valkey") as broker:
        deployment = Deployment(folder, database.url(), broker.url)
        try:
            yield deployment
        finally:
            deployment.kill()


def test_services_run_become_healthy_and_stop_on_sigterm(deployment):
    assert deployment.start("migrate").wait(60) == 0
    for name in ("api", "worker", "janitor"):
        deployment.start(name)
    for name in ("api", "worker", "janitor"):
        deployment.wait_healthy(name)
    descendants = [
        one
        for process in deployment.running.values()
        if process.is_running()
        for one in process.children(recursive=True)
    ]
    for name in ("api", "worker", "janitor"):
        process = deployment.running[name]
        process.send_signal(signal.SIGTERM)
        process.wait(seconds(SERVICES[name]["stop_grace_period"]))
    _, alive = psutil.wait_procs(descendants, timeout=5)
    assert not alive, [one.cmdline() for one in alive]
