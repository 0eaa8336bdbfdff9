"""A stand-in for the Job controller and the kubelet: the pods of Jobs as real containers of the bed's docker.

A pod gets what its template says: images by digest, commands, variables (with `$(NAME)` filled in), users, read-only
roots, volumes, memory limits, a termination message; its sidecar gets TERM when the model's container has ended.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bed.components import Engine
from tests.k8s import jobset_schema
from tests.k8s.api_server import ApiServer, now

Object = dict[str, Any]
EVICTION = {
    "reason": "Evicted",
    "message": "The node was low on resource: memory.",
    "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
}
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")


def expanded(text: str, known: Mapping[str, str]) -> str:
    """What the kubelet makes of a variable or an argument: `$$` is `$`, `$(NAME)` a variable that is known."""
    return _REFERENCE.sub(lambda match: "$" if match[1] == "$" else known.get(match[2], match[0]), text)


@dataclass
class Kubelet:
    """Runs every Job that the server receives, a pod after another; `node` is its name."""

    server: ApiServer
    docker: Engine
    folder: Path
    node: str = "node-1"
    # What to do with the pod of an index in place of running it to its end: "kill" (out of memory), "evict", "delete".
    mishaps: list[str] = field(default_factory=list)
    # A stand-in that NVIDIA's runtime puts into containers with its GPUs: those that ask for some, or for all to see.
    nvidia_smi: Path | None = None
    threads: list[threading.Thread] = field(default_factory=list)
    queue: list[Object] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, created: Object) -> None:
        if created.get("spec", {}).get("suspend"):
            self.queue.append(created)
            return
        if created["kind"] == "JobSet":
            for job in jobset_schema.check(created):
                owner = {"apiVersion": created["apiVersion"], "kind": "JobSet", "name": created["metadata"]["name"]}
                job["metadata"]["ownerReferences"] = [{**owner, "uid": created["metadata"]["uid"]}]
                self.server.cluster.create("jobs", job["metadata"]["namespace"], job)
        if created["kind"] == "Job":
            created["spec"].setdefault(
                "selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": created["metadata"]["uid"]}}
            )
            thread = threading.Thread(target=self._job, args=(created,))
            self.threads.append(thread)
            thread.start()

    def admit(self) -> None:
        """Start what waits in queues, as Kueue does: on the nodes of a flavor."""
        while self.queue:
            waiting = self.queue.pop(0)
            meta, plural = waiting["metadata"], f"{waiting['kind'].lower()}s"
            place = {"template": {"spec": {"nodeSelector": {"flavor": "gpu"}}}} if plural == "jobs" else {}
            patch = {"spec": {"suspend": False, **place}}
            self.start(self.server.cluster.patch(plural, meta["namespace"], meta["name"], patch))

    def join(self) -> None:
        """Wait for the end of all Jobs."""
        for thread in self.threads:
            thread.join(120)
        assert not self.problems, self.problems

    def _job(self, job: Object) -> None:
        try:
            spec, name = job["spec"], job["metadata"]["name"]
            codes = []
            for index in range(spec.get("completions", 1)):
                codes.append(self._index(job, index if spec.get("completionMode") == "Indexed" else None))
            done = not any(codes)
            condition = {"type": "Complete" if done else "Failed", "status": "True"}
            if not done:
                condition |= {"reason": "PodFailurePolicy", "message": f"exit code {codes}"}
            self.server.cluster.set_status(
                "jobs", job["metadata"]["namespace"], name, {"startTime": now(), "conditions": [condition]}
            )
        except Exception as error:
            self.problems.append(repr(error))

    def _index(self, job: Object, index: int | None) -> int:
        """Run a pod, and others in place of those that the Job's rules don't count."""
        while True:
            code, status = self._pod(job, index)
            marks = [one["type"] for one in status.get("conditions", ())]
            rules = job["spec"].get("podFailurePolicy", {}).get("rules", ())
            ignored = [one["type"] for rule in rules if rule["action"] == "Ignore" for one in rule["onPodConditions"]]
            if not code or not set(marks) & set(ignored):
                return code

    def _pod(self, job: Object, index: int | None) -> tuple[int, Object]:
        meta, template = job["metadata"], job["spec"]["template"]
        number = next(self._numbers)
        name = f"{meta['name']}{'' if index is None else f'-{index}'}-{number:05d}"
        marks = {"batch.kubernetes.io/job-name": meta["name"], "batch.kubernetes.io/controller-uid": meta["uid"]}
        notes = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
        pod: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {**template["metadata"]["labels"], **marks},
                "annotations": {**template["metadata"]["annotations"], **notes},
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"]}
                ],
            },
            "spec": {**template["spec"], "nodeName": self.node},
        }
        pod["metadata"]["annotations"]["log/model"] = str(self.folder / f"{name}.log")
        pod["metadata"]["annotations"]["log/report"] = str(self.folder / f"{name}.report.log")
        pod = self.server.cluster.create("pods", meta["namespace"], pod)
        mishap = self.mishaps.pop(0) if self.mishaps else ""
        return self._run(pod, mishap)

    def _run(self, pod: Object, mishap: str) -> tuple[int, Object]:
        spec, name = pod["spec"], pod["metadata"]["name"]
        places = self._volumes(pod)
        messages = [self._message(f"{name}.{one['name']}") for one in spec.get("initContainers", ())]
        sidecars = [
            self._start(pod, one, places, f"{message}:/dev/termination-log")
            for one, message in zip(spec.get("initContainers", ()), messages, strict=True)
        ]
        model = spec["containers"][0]
        message = self._message(name)
        began = now()
        container = self._start(pod, model, places, f"{message}:/dev/termination-log")
        if mishap in ("kill", "evict"):
            self._wait_for_start(container)
            self.docker("kill", f"--signal={'KILL' if mishap == 'kill' else 'TERM'}", container)
        code = int(self.docker("wait", container).stdout)
        out_of_memory = (
            mishap == "kill" or "true" in self.docker("inspect", "-f", "{{.State.OOMKilled}}", container).stdout
        )
        ended = now()
        logs = self.docker("logs", container)
        (self.folder / f"{name}.log").write_text(logs.stdout + logs.stderr, encoding="utf-8")
        finished = {"terminated": {"exitCode": code, "reason": "Completed", "finishedAt": ended}}
        running = [
            {"name": one["name"], "state": {"running": {"startedAt": began}}} for one in spec.get("initContainers", ())
        ]
        status: Object = {"phase": "Running", "startTime": began, "initContainerStatuses": running}
        status["containerStatuses"] = [{"name": "model", "state": finished}]
        self.server.cluster.set_status("pods", pod["metadata"]["namespace"], name, status)
        for sidecar in sidecars:
            self.docker("kill", "--signal=TERM", sidecar, check=False)
            self.docker("wait", sidecar)
            output = self.docker("logs", sidecar)
            (self.folder / f"{name}.report.log").write_text(output.stdout + output.stderr, encoding="utf-8")
            self.problems += [line for line in output.stderr.splitlines() if "Traceback" in line]
        text = message.read_text(encoding="utf-8", errors="replace")
        if not text and code and model["terminationMessagePolicy"] == "FallbackToLogsOnError":
            text = logs.stdout[-2048:]
        reason = "OOMKilled" if out_of_memory else "Error" if code else "Completed"
        terminated = {
            "exitCode": code,
            "reason": reason,
            "startedAt": began,
            "finishedAt": ended,
            "message": text[-4096:],
        }
        state = {"name": "model", "imageID": model["image"], "state": {"terminated": terminated}}
        reports = [
            {"name": one["name"], "state": {"terminated": {"exitCode": 0, "message": path.read_text(encoding="utf-8")}}}
            for one, path in zip(spec.get("initContainers", ()), messages, strict=True)
        ]
        status = {
            "phase": "Failed" if code else "Succeeded",
            "startTime": began,
            "containerStatuses": [state],
            "initContainerStatuses": reports,
            **(EVICTION if mishap == "evict" else {}),
        }
        if mishap == "delete":
            self.server.cluster.delete("pods", pod["metadata"]["namespace"], name)
        else:
            self.server.cluster.set_status("pods", pod["metadata"]["namespace"], name, status)
        return code, status

    def _message(self, name: str) -> Path:
        """Return the file of a container's termination message."""
        path = self.folder / f"{name}.message"
        path.touch(0o666)
        path.chmod(0o666)
        return path

    def _wait_for_start(self, container: str) -> None:
        while "started" not in self.docker("logs", container).stdout:
            time.sleep(0.2)

    def _start(self, pod: Object, one: Object, places: Mapping[str, str], *binds: str) -> str:
        name = f"{self.folder.name}-{pod['metadata']['name']}-{one['name']}"
        security = one.get("securityContext", {})
        words = ["run", "--detach", "--name", name, "--network=host"]
        words += [f"--user={security['runAsUser']}:{security['runAsGroup']}"] if "runAsUser" in security else []
        words += ["--read-only"] if security.get("readOnlyRootFilesystem") else []
        words += [f"--cap-drop={cap}" for cap in security.get("capabilities", {}).get("drop", ())]
        memory = one.get("resources", {}).get("limits", {}).get("memory")
        words += [f"--memory={memory[:-1].lower()}", f"--memory-swap={memory[:-1].lower()}"] if memory else []
        words += ["--security-opt=no-new-privileges"] if security.get("allowPrivilegeEscalation") is False else []
        for mount in one["volumeMounts"]:
            if mount["name"] in places:
                mode = ":ro" if mount.get("readOnly") else ""
                binds += (f"{places[mount['name']]}:{mount['mountPath']}{mode}",)
        known = self._environment(pod, one)
        limits = one.get("resources", {}).get("limits", {})
        if self.nvidia_smi and ("nvidia.com/gpu" in limits or known.get("NVIDIA_VISIBLE_DEVICES") == "all"):
            binds += (f"{self.nvidia_smi}:/usr/bin/nvidia-smi:ro",)
        words += [word for bind in binds for word in ("--volume", bind)]
        words += [word for pair in known.items() for word in ("--env", "=".join(pair))]
        command = [expanded(word, known) for word in (*one.get("command", ()), *one.get("args", ()))]
        self.containers.append(name)
        self.docker(*words, f"--entrypoint={command[0]}", one["image"], *command[1:])
        probe = one.get("startupProbe")
        while probe and self.docker("exec", name, *probe["exec"]["command"], check=False).code:
            time.sleep(0.1)
        return name

    def _environment(self, pod: Object, one: Object) -> dict[str, str]:
        known = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.server.port)}
        index = pod["metadata"]["annotations"].get("batch.kubernetes.io/job-completion-index")
        if index is not None:
            known["JOB_COMPLETION_INDEX"] = index
        for variable in one.get("env", ()):
            if "value" in variable:
                known[variable["name"]] = expanded(variable["value"], known)
                continue
            path: str = variable["valueFrom"]["fieldRef"]["fieldPath"]
            if path in ("status.hostIP", "status.podIP"):
                known[variable["name"]] = "127.0.0.1"
                continue
            part, _, rest = path.partition("[")
            value: Any = pod
            for step in part.split("."):
                value = value[step]
            known[variable["name"]] = value[rest.strip("]'")] if rest else value
        return known

    def _volumes(self, pod: Object) -> dict[str, str]:
        """The folders that stand for a pod's volumes; shared memory stays docker's own."""
        namespace = pod["metadata"]["namespace"]
        places = {}
        for volume in pod["spec"]["volumes"]:
            folder = self.folder / f"{pod['metadata']['name']}.{volume['name']}"
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                continue
            if "projected" in volume:
                folder = self.server.account(namespace, pod["spec"].get("serviceAccountName", "default"))
            elif "configMap" in volume:
                folder.mkdir()
                config = self.server.cluster.get("configmaps", namespace, volume["configMap"]["name"])
                everything = [{"key": key, "path": key} for key in config["data"]]
                for item in volume["configMap"].get("items", everything):
                    path = folder / item["path"]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(config["data"][item["key"]], encoding="utf-8")
                    path.chmod(volume["configMap"].get("defaultMode", 0o644))
            elif "persistentVolumeClaim" in volume:
                folder = self.folder / f"claim-{volume['persistentVolumeClaim']['claimName']}"
                folder.mkdir(exist_ok=True)
                folder.chmod(0o777)
            elif "secret" in volume:
                folder.mkdir()
            elif "hostPath" in volume:
                folder = Path(volume["hostPath"]["path"])
            else:
                folder.mkdir()
                folder.chmod(0o777)
            places[volume["name"]] = str(folder)
        return places

    def stop(self) -> None:
        if self.containers:
            self.docker("rm", "--force", *self.containers, check=False)


@contextmanager
def running(server: ApiServer, docker: Engine, folder: Path, **more: Any) -> Iterator[Kubelet]:
    """A kubelet until the block ends; its containers are gone then."""
    folder.mkdir()
    folder.chmod(0o755)
    kubelet = Kubelet(server, docker, folder, **more)
    server.cluster.created = kubelet.start
    server.cluster.exec_words = lambda pod, container: [
        "env", f"DOCKER_HOST={docker.environment['DOCKER_HOST']}", "docker", "exec", f"{folder.name}-{pod}-{container}",
    ]  # fmt: skip
    try:
        yield kubelet
    finally:
        for thread in kubelet.threads:
            thread.join(60)
        kubelet.stop()
        shutil.rmtree(folder, ignore_errors=True)


def describe(server: ApiServer) -> str:
    """All objects, for a failing test's message."""
    return json.dumps([list(key) for key in server.cluster.objects], indent=1)
