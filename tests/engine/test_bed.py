"""The bed itself: what the other engine tests take for granted."""

from __future__ import annotations

import ipaddress
import json

from tests.bed.components import Engine, Outcome, Registry

NEEDED = "sh bash cat mkfifo timeout chown date tee sed awk"


def test_the_base_image_runs_and_has_the_programs_that_an_entry_script_needs(engine: Engine, base_image: str) -> None:
    outcome = engine("run", "--rm", base_image, "sh", "-c", f"for name in {NEEDED}; do command -v $name; done")
    assert " ".join(line.rsplit("/")[-1] for line in outcome.stdout.split()) == NEEDED


def test_a_container_exit_code_comes_back(engine: Engine, base_image: str) -> None:
    assert engine("run", "--rm", base_image, "sh", "-c", "exit 42", check=False).code == 42


def test_a_container_takes_the_limits_of_a_training_job(engine: Engine, base_image: str) -> None:
    limits = ("--ulimit", "memlock=-1", "--ulimit", "stack=67108864", "--shm-size", "64m", "--init")
    shm = engine("run", "--rm", *limits, base_image, "df", "-k", "/dev/shm").stdout
    assert shm.splitlines()[-1].split()[1] == "65536"


def test_an_image_goes_to_the_plain_registry_and_comes_back(
    engine: Engine, registry: Registry, base_image: str
) -> None:
    name = f"{registry.address}/bed-{engine.name}:1"
    engine("tag", base_image, name)
    engine("push", name)
    engine("rmi", name)
    engine("pull", name)
    assert engine("run", "--rm", name, "echo", "back").stdout == "back\n"


def test_the_tls_registry_takes_an_image_after_a_login(engine: Engine, tls_registry: Registry, base_image: str) -> None:
    name = f"{tls_registry.address}/bed-{engine.name}:1"
    assert _login(engine, tls_registry, tls_registry.password).code == 0
    engine("tag", base_image, name)
    engine("push", name)
    engine("rmi", name)
    assert engine("pull", "--quiet", name).code == 0


def test_the_tls_registry_refuses_a_wrong_password(engine: Engine, tls_registry: Registry) -> None:
    refused = _login(engine, tls_registry, "wrong")
    assert refused.code != 0
    assert "401 Unauthorized" in refused.stderr or "invalid username/password" in refused.stderr


def test_the_tls_registry_refuses_who_has_not_logged_in(
    engine: Engine, tls_registry: Registry, base_image: str
) -> None:
    name = f"{tls_registry.address}/stranger-{engine.name}:1"
    engine("tag", base_image, name)
    assert engine("push", name, check=False).code != 0


def test_the_tls_registry_is_at_an_address_that_docker_verifies(engine: Engine, tls_registry: Registry) -> None:
    if engine.name != "docker":  # podman verifies what registries.conf doesn't exempt, whatever the address
        unknown = Engine(engine.name, {**engine.environment, "SSL_CERT_DIR": "/nonexistent"})
        assert "certificate" in _login(unknown, tls_registry, tls_registry.password).stderr
        return
    address = ipaddress.ip_address(tls_registry.address.split(":")[0])
    exempt = engine("info", "--format", "{{json .RegistryConfig.InsecureRegistryCIDRs}}").stdout
    assert not [net for net in json.loads(exempt) if address in ipaddress.ip_network(net)]


def _login(engine: Engine, registry: Registry, password: str) -> Outcome:
    words = ("login", "--username", registry.user, "--password-stdin", registry.address)
    return engine(*words, input=password, check=False)
