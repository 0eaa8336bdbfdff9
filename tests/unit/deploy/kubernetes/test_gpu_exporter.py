"""The figures of a pod's GPUs out of what DCGM's and AMD's exporters serve over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madengine.deploy.kubernetes import gpu_exporter
from madengine.deploy.kubernetes.gpu_exporter import Exporter, ExporterSampler, samples_of
from madengine.records import GpuCost, GpuSample

POD = Exporter("http://node:9400/metrics", "bench", "job-abc", frozenset({"GPU-b"}))


def dcgm(uuid: str, pod: str, used: str = "40960", power: str = "512.5", namespace: str = "bench") -> str:
    labels = f'gpu="0",UUID="{uuid}",pci_bus_id="00000000:18:00.0",modelName="NVIDIA {{H100}}",Hostname="n1"'
    of_pod = f',container="model",namespace="{namespace}",pod="{pod}"' if pod else ""
    return (
        "# HELP DCGM_FI_DEV_FB_USED Framebuffer memory used (in MiB).\n# TYPE DCGM_FI_DEV_FB_USED gauge\n"
        f"DCGM_FI_DEV_FB_USED{{{labels}{of_pod}}} {used}\n"
        f"DCGM_FI_DEV_POWER_USAGE{{{labels}{of_pod}}} {power}\n"
        f"DCGM_FI_DEV_GPU_TEMP{{{labels}{of_pod}}} 61\n"
        f"DCGM_FI_DEV_XID_ERRORS{{{labels}{of_pod}}} 0\n"
    )


def amd(gpu: int, pod: str, prefix: str = "") -> str:
    labels = f'card_model="xxx",gpu_id="{gpu}",gpu_partition_id="0",hostname="n1",namespace="bench",pod="{pod}"'
    return (
        f"{prefix}gpu_used_vram{{{labels}}} 2048\n{prefix}gpu_gfx_activity{{{labels}}} 93\n"
        f"{prefix}gpu_average_package_power{{{labels}}} 1\n{prefix}gpu_package_power{{{labels}}} 700\n"
        f"{prefix}gpu_edge_temperature{{{labels}}} 40\n{prefix}gpu_junction_temperature{{{labels}}} 71 1700000000000\n"
    )


def figures(sample: GpuSample) -> tuple[float | None, ...]:
    return (sample.memory_used_mib, sample.utilization, sample.power_w, sample.temperature_c)


def test_the_pods_devices_are_those_that_the_exporter_gives_it() -> None:
    text = dcgm("GPU-a", "job-abc") + dcgm("GPU-b", "other") + dcgm("GPU-c", "job-abc", namespace="elsewhere")
    [sample] = samples_of(text, POD)
    assert (sample.source, figures(sample)) == ("DCGM exporter", (40960, None, 512.5, 61)), "no utilization is not zero"
    renamed = text.replace("pod=", "exported_pod=").replace("namespace=", "exported_namespace=")
    assert len(list(samples_of(renamed, POD))) == 1


def test_an_exporter_that_knows_no_pods_is_asked_for_the_uuids_that_the_pod_has_noted() -> None:
    text = dcgm("GPU-a", "") + dcgm("GPU-b", "", used="7")
    assert [sample.memory_used_mib for sample in samples_of(text, POD)] == [7]
    assert list(samples_of(text + dcgm("GPU-c", "other"), POD)) == [], "the pod has none, where pods are known"


@pytest.mark.parametrize("prefix", ["", "amd_"])
def test_amds_exporter_has_other_names(prefix: str) -> None:
    samples = list(samples_of(amd(0, "job-abc", prefix) + amd(1, "", prefix) + amd(2, "job-abc", prefix), POD))
    assert [(sample.source, figures(sample)) for sample in samples] == [("AMD exporter", (2048, 93, 700, 71))] * 2
    assert len({sample.uuid for sample in samples}) == 2


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "9223372036854775794", "x", ""])
def test_what_is_no_figure_is_unknown(value: str) -> None:
    samples = list(samples_of(dcgm("GPU-a", "job-abc", used=value), POD))
    assert [figures(sample) for sample in samples] == [(None, None, 512.5, 61)]


@given(st.text() | st.lists(st.sampled_from([dcgm("a", "job-abc"), "{", '"', "}", "\\", " 1", "NaN"])).map("".join))
def test_no_text_is_an_error(text: str) -> None:
    assert all(isinstance(sample, GpuSample) for sample in samples_of(text, POD))


@contextmanager
def served(texts: list[str]) -> Iterator[str]:
    """An exporter that serves these texts one after another, the last one for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (texts.pop(0) if len(texts) > 1 else texts[0]).encode()
            self.send_response(200 if body else 503)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
        finally:
            server.shutdown()


def sampled(texts: list[str], count: int, seconds: float = 0.3) -> tuple[GpuCost, str]:
    with served(texts) as url:
        sampler = ExporterSampler(replace(POD, url=url), count, 0.02)
        sampler.start()
        time.sleep(seconds)
        return sampler.stop(), sampler.problem.replace(url, "URL")


def test_a_run_costs_what_the_exporter_has_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_exporter, "_AGE_SECONDS", 0.02)
    texts = ["", dcgm("GPU-a", "job-abc", used="100"), dcgm("GPU-a", "job-abc", used="300"), dcgm("GPU-a", "job-abc")]
    cost, problem = sampled(texts, 1)
    assert (cost.peak_gpu_memory_mib, cost.peak_temperature_c, cost.telemetry_source) == (40960, 61, "DCGM exporter")
    assert cost.mean_power_w == pytest.approx(512.5) and cost.idle_gpu_memory_mib is None
    assert cost.mean_gpu_utilization is None and problem == ""


@pytest.mark.parametrize(
    ("text", "count", "problem"),
    [
        (dcgm("GPU-a", "job-abc"), 1, "samples 30.0 s apart are too few for so short a run"),
        (dcgm("GPU-a", "job-abc"), 2, "URL: figures of 1 of 2 GPUs"),
        (dcgm("GPU-a", "other"), 1, "URL: no figures of this pod's GPUs"),
        ("", 1, "URL: HTTP Error 503: Service Unavailable"),
    ],
)
def test_figures_that_are_not_enough_are_none(text: str, count: int, problem: str) -> None:
    cost, reason = sampled([text], count, 0.1)
    assert (cost.peak_gpu_memory_mib, cost.energy_j, reason) == (None, None, problem)
