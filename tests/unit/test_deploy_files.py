"""The files for deployment name only what exists: commands that parse, modules and files that are there."""

from __future__ import annotations

import configparser
import fnmatch
import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import celery
import check_jsonschema
import kubernetes_validate
import pytest
import typer.main
import yaml
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner

from stbass.cli.commands import cli
from stbass.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = sorted(name for name, service in SERVICES.items() if service["image"] == "stbass")


def dockerfile_words(instruction: str) -> list[list[str]]:
    """The words of every such instruction of the Dockerfile, continued lines joined."""
    lines = DOCKERFILE.replace("\\\n", " ").splitlines()
    return [line.split()[1:] for line in lines if line.startswith(f"{instruction} ")]


def check_stbass(arguments: list[str]) -> None:
    group: Any = typer.main.get_command(cli)
    name, *rest = arguments
    command = group.commands[name]
    command.make_context(name, rest)  # raises if the options don't parse


def check_celery(arguments: list[str]) -> None:
    # What comes before the subcommand is Celery's own, but for -A, which names a module of ours.
    names = [word for word in arguments if word in celery_command.commands]
    assert names, f"no Celery command among {arguments}"
    if "-A" in arguments:
        module = importlib.import_module(arguments[arguments.index("-A") + 1])
        assert isinstance(module.app, celery.Celery)


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None
        return
    assert (ROOT / arguments[0]).is_file()
    assert arguments[0].split("/")[0] in {words[0] for words in dockerfile_words("COPY")}, "not in the image"


CHECKS = {"stbass": check_stbass, "celery": check_celery, "python": check_python}


def test_there_are_the_services_that_a_fleet_needs() -> None:
    assert {"redis", "worker-anthropic", "worker-local-8080", "flower", "producer"} <= set(SERVICES)
    assert SERVICES["redis"]["healthcheck"]["test"][-1] == "ping"
    assert "--appendonly" in SERVICES["redis"]["command"]
    assert SERVICES["redis"]["volumes"][0].split(":")[0] in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_the_command_of_a_service_parses_and_names_what_exists(name: str) -> None:
    program, *arguments = SERVICES[name]["command"]
    CHECKS[program](arguments)


def test_a_command_that_does_not_parse_would_be_noticed() -> None:
    with pytest.raises(KeyError):
        check_stbass(["labour", "-e", "anthropic"])
    with pytest.raises(Exception, match="endpoint"):
        check_stbass(["worker"])
    with pytest.raises(Exception, match="no-such-option"):
        check_stbass(["worker", "-e", "anthropic", "--no-such-option"])


def test_flower_is_called_as_celery_calls_its_commands() -> None:
    check_celery(SERVICES["flower"]["command"][1:])


@pytest.mark.parametrize("endpoint", ["anthropic", "local:8080"])
def test_there_is_a_worker_service_per_endpoint(endpoint: str) -> None:
    command = SERVICES[f"worker-{endpoint.replace(':', '-')}"]["command"]
    assert command == ["stbass", "worker", "-A", "celery_app", "-e", endpoint]


@pytest.mark.parametrize("name", OURS)
def test_what_a_service_is_set_to_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = SERVICES[name].get("environment", {})
    for key, value in environment.items():
        monkeypatch.setenv(key, re.sub(r"\$\{[^:}]+:-([^}]*)\}", r"\1", value))
    settings = Settings.from_environment()
    if environment:
        assert settings.broker_url.split("/")[2].split(":")[0] in SERVICES


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_depends_on_services_that_exist_and_have_the_health_that_is_asked_for(name: str) -> None:
    depends_on = SERVICES[name].get("depends_on", {})
    for other in depends_on:
        assert other in SERVICES
        if isinstance(depends_on, dict) and depends_on[other]["condition"] == "service_healthy":
            assert "test" in SERVICES[other]["healthcheck"]


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_image_runs_as_a_user_of_its_own_and_tells_its_health() -> None:
    [user] = dockerfile_words("USER")
    assert user[0] not in ("root", "0")
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("\nCMD ")
    [health] = dockerfile_words("HEALTHCHECK")
    check_stbass(health[health.index("CMD") + 2 :])
    [command] = dockerfile_words("CMD")
    program, *arguments = [word.strip('[]",') for word in command]
    CHECKS[program](arguments)


def test_the_image_has_extras_that_exist_and_those_that_its_files_need() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [install] = [" ".join(words) for words in dockerfile_words("RUN") if "install" in words]
    extras = re.findall(r'"\.\[([\w,]+)\]"', install)[0].split(",")
    assert set(extras) <= set(known)
    assert "celery" in extras
    # The examples that are models in YAML files.
    assert not any((ROOT / "examples").glob("*.yaml")) or "dataflow" in extras


def test_what_the_image_copies_exists_and_is_not_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = [word for words in dockerfile_words("COPY") if not words[0].startswith("--") for word in words[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert any(line.startswith("!") and fnmatch.fnmatch(source, line[1:]) for line in ignored)


# Schemas -----------------------------------------------------------------------------------------

DEPLOY = ROOT / "deploy"
MANIFESTS: list[Any] = [
    pytest.param(manifest, id=f"{path.stem}-{manifest['kind']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text())
]


def of_kind(kind: str) -> dict[str, Any]:
    [found] = [case.values[0] for case in MANIFESTS if case.values[0]["kind"] == kind]
    assert isinstance(found, dict)
    return found


def test_compose_accepts_its_file() -> None:
    arguments = ["--builtin-schema", "vendor.compose-spec", str(ROOT / "docker-compose.yml")]
    done = CliRunner().invoke(check_jsonschema.main, arguments)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_kubernetes_accepts_its_files(manifest: dict[str, Any]) -> None:
    if manifest["apiVersion"].startswith("keda.sh/"):
        return  # Of KEDA, which brings its schema itself.
    kubernetes_validate.validate(manifest, "1.31", strict=True)


def test_a_wrong_file_would_be_noticed() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**of_kind("Deployment"), "spec": {"replicas": "many"}}, "1.31", strict=True)


def test_keda_scales_the_workers_by_the_queue_that_they_consume(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled, deployment = of_kind("ScaledObject")["spec"], of_kind("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    [worker] = pod["containers"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    [trigger] = scaled["triggers"]
    assert trigger["type"] == "redis"
    [endpoint] = [each["value"] for each in worker["env"] if each["name"] == "ENDPOINT"]
    assert trigger["metadata"]["listName"] == endpoint
    assert worker["readinessProbe"]["exec"]["command"][-1] == endpoint
    check_stbass(worker["args"][1:])
    check_stbass(worker["readinessProbe"]["exec"]["command"][1:])
    # and a pod that is taken away has the time that its worker wants
    for name, value in of_kind("ConfigMap")["data"].items():
        monkeypatch.setenv(name, value)
    assert pod["terminationGracePeriodSeconds"] > Settings.from_environment().grace
    assert "noeviction" in of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_unit_of_systemd_starts_a_worker_and_lets_it_end() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "systemd" / "stbass-worker@.service")
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert program.endswith("/bin/stbass")
    check_stbass(arguments)
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings.model_fields["grace"].default
