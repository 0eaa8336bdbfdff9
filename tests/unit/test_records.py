"""What records derive from their fields."""

from __future__ import annotations

import pytest

from madengine.records import GpuSample, Image, Model, repository

DIGEST = f"sha256:{'a' * 64}"
ID = f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ubuntu", "ubuntu"),
        ("ubuntu:22.04", "ubuntu"),
        ("localhost:5000/a", "localhost:5000/a"),
        ("localhost:5000/a:1", "localhost:5000/a"),
        (f"localhost:5000/team/a@{DIGEST}", "localhost:5000/team/a"),
        (f"org/a:1@{DIGEST}", "org/a"),
        ("[::1]:5000/a:1", "[::1]:5000/a"),
    ],
)
def test_a_repository_is_the_name_without_tag_and_digest(name: str, expected: str) -> None:
    assert repository(name) == expected


@pytest.mark.parametrize(
    ("names", "pinned", "reference"),
    [
        ({}, "", "ci-a"),
        ({"image_id": ID}, "", ID),
        ({"registry_image": "reg:5000/ci-a"}, "", "reg:5000/ci-a"),
        ({"image_id": ID, "registry_image": "reg:5000/ci-a"}, "", ID),
        ({"registry_digest": DIGEST}, "", "ci-a"),
        (
            {"image_id": ID, "registry_image": "reg:5000/ci-a", "registry_digest": DIGEST},
            f"reg:5000/ci-a@{DIGEST}",
            f"reg:5000/ci-a@{DIGEST}",
        ),
        (
            {"registry_image": "docker.io/org/repo:ci-a", "registry_digest": DIGEST},
            f"docker.io/org/repo@{DIGEST}",
            f"docker.io/org/repo@{DIGEST}",
        ),
    ],
)
def test_an_image_is_referred_to_by_the_most_exact_name(names: dict[str, str], pinned: str, reference: str) -> None:
    image = Image("ci-a", docker_image="ci-a", **names)  # type: ignore[arg-type]
    assert (image.pinned, image.reference) == (pinned, reference)


@pytest.mark.parametrize(
    ("gpu_vendor", "dockerfile", "expected"),
    [
        ("", "", ""),
        ("nvidia", "", "NVIDIA"),
        ("NVIDIA", "docker/a.ubuntu.amd.Dockerfile", "NVIDIA"),
        ("", "docker/a.ubuntu.amd.Dockerfile", "AMD"),
        ("", "docker/A.NVIDIA.Dockerfile", "NVIDIA"),
        ("", "docker.amd.d/a.Dockerfile", ""),
        ("", "docker/amdahl.Dockerfile", ""),
    ],
)
def test_a_vendor_is_the_images_or_in_its_dockerfiles_name(gpu_vendor: str, dockerfile: str, expected: str) -> None:
    assert Image("ci-a", "ci-a", dockerfile=dockerfile, gpu_vendor=gpu_vendor).vendor == expected


@pytest.mark.parametrize(
    ("override", "timeout", "expected"),
    [(None, None, 7200), (None, 60, 60), (None, 0, 0), (5, 60, 5), (0, 60, 0), (7200, 60, 7200), (5, None, 5)],
)
def test_a_time_limit_is_the_override_or_the_models_or_two_hours(
    override: int | None, timeout: int | None, expected: int
) -> None:
    assert Model("a", "docker/a", "scripts/a", timeout=timeout).time_limit(override) == expected


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), -1000.0, 1e30, 2.0**28])
def test_a_figure_that_no_gpu_has_is_unknown(value: float) -> None:
    names = ("memory_used_mib", "utilization", "power_w", "temperature_c")
    sample = GpuSample("tool", 1.0, memory_used_mib=value, utilization=value, power_w=value, temperature_c=value)
    assert [getattr(sample, name) for name in names] == [None] * 4
    good = GpuSample("tool", 1.0, memory_used_mib=81559.0, utilization=100.0, power_w=700.0, temperature_c=-5.0)
    assert None not in [getattr(good, name) for name in names]
