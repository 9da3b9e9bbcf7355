"""The Helm chart of infra/helm: it renders the manifests, and refuses what would not work."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import larimar
from infra import check
from infra.chart import BY_COMMAND, BY_LIBRARY, ChartRefused, Helm, find_helm, rendered
from services.settings import ServiceSettings, Settings, TenantLimits, quiet_environment
from tests.command_line import ROOT
from tests.infra_files import INFRA, offered_resources

CHART = INFRA / check.CHART
EXAMPLE = yaml.safe_load((INFRA / check.EXAMPLE).read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
OF_THE_PODS = {
    "host", "port", "http_port", "data_dir", "erase_ledger", "audit_dir", "tls_cert", "tls_key",
}  # fmt: skip
"""Settings that the chart itself gives, since they follow from ports and mounts."""
OF_THE_STORE = {"redis_url", "redis_server"}
"""Settings that a pod has in its environment, with a password, or has no use for."""
GROUPS = ("gateways", "followers", "compute")


@pytest.fixture(scope="module")
def helm() -> Helm:
    found = find_helm()
    if found is None:
        pytest.skip("neither helm_python nor helm is installed")
    return found


def objects(helm: Helm, values: dict[str, Any], namespace: str = "larimar") -> dict[tuple, Any]:
    """What the chart renders, by kind and name."""
    return by_name(found for _, found in rendered(helm, CHART, values, namespace))


def by_name(found: Iterator[dict[str, Any]]) -> dict[tuple, Any]:
    """Objects by kind and name, with the texts in them that are YAML or JSON read too."""
    known = {}
    for one in found:
        one = copy.deepcopy(one)
        if one["kind"] == "RayService":
            one["spec"]["serveConfigV2"] = yaml.safe_load(one["spec"]["serveConfigV2"])
        if one["kind"] == "ConfigMap":
            one["data"] = {name: json.loads(text) for name, text in one["data"].items()}
        key = (one["kind"], one["metadata"]["name"])
        assert key not in known
        known[key] = one
    return known


def groups_of(found: dict[tuple, Any]) -> dict[str, dict[str, Any]]:
    """The worker groups of the RayService."""
    cluster = found["RayService", "larimar"]["spec"]["rayClusterConfig"]
    return {group["groupName"]: group for group in cluster["workerGroupSpecs"]}


def settings_in(found: dict[tuple, Any]) -> Settings:
    return Settings.from_json(
        json.dumps(found["ConfigMap", "larimar-settings"]["data"]["settings.json"])
    )


def merged(values: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Values with another one at a path such as store.storage.class."""
    made = copy.deepcopy(values)
    *folders, last = path.split(".")
    place = made
    for folder in folders:
        place = place.setdefault(folder, {})
    place[last] = value
    return made


def leaves(tree: Any) -> Iterator[Any]:
    """Every pair of a key and its value, however deep."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield key, value
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, dict | list):
            yield from leaves(value)


def test_default_values_render_the_manifests(helm) -> None:
    made = objects(helm, {})
    # The one thing that Helm alone needs: without it `helm uninstall` deletes what was erased.
    kept = made["PersistentVolumeClaim", "larimar-ledger"]["metadata"].pop("annotations")
    assert kept == {"helm.sh/resource-policy": "keep"}
    # The secrets are in the namespace before the chart is: whoever makes them makes it.
    without = {"Kustomization", "Namespace"}
    manifests = by_name(one for _, one in check.manifests() if one["kind"] not in without)
    assert set(made) == set(manifests)
    for key, found in made.items():
        assert found == manifests[key], key


def test_both_ways_to_helm_render_the_same() -> None:
    if not shutil.which("helm"):
        pytest.skip("no helm on the PATH to compare with")
    pytest.importorskip("helm_python")
    for values in ({}, EXAMPLE):
        assert objects(BY_LIBRARY, values) == objects(BY_COMMAND, values)
    for way in (BY_LIBRARY, BY_COMMAND):
        assert way.lint(CHART, EXAMPLE, "larimar") == []
        assert way.lint(CHART, {"generations": 1}, "larimar")
        with pytest.raises(ChartRefused, match="'generations' not allowed"):
            objects(way, {"generations": 1})


def test_the_chart_is_of_the_library_that_it_installs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == larimar.__version__
    assert DEFAULTS["image"]["tag"].startswith(f"{larimar.__version__}-")


@pytest.mark.parametrize(
    ("name", "old", "new", "found"),
    [
        ("larimar/Chart.yaml", "version: 0.1.0", "version: one", "version"),
        ("larimar/values.yaml", "generation: 1", "generation: first", "generation"),
        ("larimar/templates/network.yaml", "{{- end }}", "", "EOF"),
        ("larimar/templates/service.yaml", "  ports:", " ports:", "YAML"),
        ("larimar/templates/_settings.tpl", '"http_port"', '"http_ports"', "http_ports"),
        ("larimar/templates/rayservice.yaml", "rayVersion", "rayversion", "rayversion"),
        ("larimar/templates/rayservice.yaml", "route_prefix", "prefix_route", "prefix_route"),
        ("larimar/templates/rayservice.yaml", "containerPort", "port", "containerPort"),
        ("larimar/templates/rayservice.yaml", "ports: *proxy", "ports: []", "probe"),
        ("larimar/templates/rayservice.yaml", "name: exporter,", "name: metrics,", "metrics"),
        ("larimar/templates/disruption.yaml", "minAvailable: 1", "maxUnavailable: 1", "scale"),
        ("larimar/templates/scrape.yaml", "rules:", "rule:", "rule"),
        (
            "larimar/templates/ledger.yaml",
            "namespace: {{ quote .Release.Namespace }}",
            "namespace: larimar",
            "is in the namespace larimar",
        ),
        ("example-values.yaml", "tag:", "tags:", "'tags' not allowed"),
    ],
)
def test_a_wrong_chart_is_found(helm, tmp_path, monkeypatch, name, old, new, found) -> None:
    shutil.copytree(INFRA / "helm", tmp_path / "helm")
    text = (INFRA / "helm" / name).read_text()
    assert old in text
    (tmp_path / "helm" / name).write_text(text.replace(old, new, 1))
    monkeypatch.setattr(check, "HERE", tmp_path)
    assert found in "\n".join(check.check_chart())


def test_without_helm_the_check_says_that_it_was_not_made(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "helm_python", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_helm() is None
    assert check.check_chart() == []
    (line,) = capsys.readouterr().out.splitlines()
    assert "the chart was not checked" in line


BAD = [
    ("gateways.replicas", -1, "got -1"),
    ("compute.maxReplicas", -2, "got -2"),
    ("gateways.minReplicas", 5, "gateways.minReplicas is 5 and gateways.maxReplicas 4"),
    ("followers.replicas", 9, "choose a number from minReplicas"),
    ("store.maxmemory", "11gb", "store.maxmemory is 11gb .* two thirds"),
    ("store.resources.memory", "15000Mi", "store.maxmemory is 10gb .* two thirds"),
    ("rayStore.maxmemory", "700mb", "rayStore.maxmemory is 700mb .* two thirds"),
    ("store.maxmemory", "10Gi", "does not match pattern"),
    ("ledger.storage.size", "1Gi", "twice the audit log"),
    ("settings.audit_mb", 2049, "twice the audit log"),
    ("secrets.store", "", "secrets.store is empty: make the secret by .*create secret generic"),
    ("secrets.rayStore", "", "secrets.rayStore is empty: make the secret by .*secret generic"),
    ("secrets.tls", "", "secrets.tls is empty: make the secret by .*create secret tls"),
    ("secrets.tls", None, "secrets.tls is empty: make the secret by .*create secret tls"),
    ("settings.gateway.replicas", 3, "gateways.minReplicas"),
    ("settings.memory.replicas", 3, "followers.minReplicas"),
    ("settings.memory.cpus", 2.5, "settings.memory asks for 10 CPUs"),
    ("settings.decoder.gpus", 0.4, "ask for 1.2 GPUs"),
    ("settings.decoder.cpus", 4, "ask for 10 CPUs"),
    ("compute.resources.gpus", 0, "settings.encoder.gpus is 0.1 and compute.resources.gpus 0"),
    ("settings.scope", {"gpus": 0, "cpus": 0}, "settings.scope has gpus and cpus of 0"),
    ("settings.redis_url", "redis://:secret@store", "'redis_url' not allowed"),
    ("settings.port", 9001, "'port' not allowed"),
    ("settings.gateway.max_replicas", 3, "'max_replicas' not allowed"),
    ("settings.treads", 2, "'treads' not allowed"),
    ("gateways.resources.cpu", "2", "want integer"),
    ("image.tag", None, "missing property 'tag'"),
    ("service.type", "ExternalName", "value must be one of"),
    ("replicas", 2, "'replicas' not allowed"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_bad_values_are_refused_with_what_is_wrong(helm, path, value, message) -> None:
    with pytest.raises(ChartRefused, match=message):
        objects(helm, merged({}, path, value))


def test_the_largest_values_that_fit_are_taken(helm) -> None:
    values = merged({}, "store.resources.memory", "15360Mi")
    for path, value in (
        ("ledger.storage.size", "2048Mi"),
        ("settings.decoder.gpus", 0.3),
        ("settings.memory.cpus", 2),
        ("rayStore.maxmemory", "682mb"),
    ):
        values = merged(values, path, value)
    assert objects(helm, values)


def test_the_settings_that_are_values_are_those_of_a_pipeline() -> None:
    """Each field of the code is a value, or the chart's own; so a new one has its place at once."""
    of_values = SCHEMA["properties"]["settings"]["properties"]
    fields = {one.name for one in dataclasses.fields(Settings)}
    assert fields == {*of_values} | OF_THE_PODS | OF_THE_STORE
    assert not {*of_values} & (OF_THE_PODS | OF_THE_STORE)
    of_service = {one.name for one in dataclasses.fields(ServiceSettings)} - {"resource"}
    assert {*SCHEMA["$defs"]["computing"]["properties"]} == of_service
    assert {*of_values["memory"]["properties"]} == of_service - {"gpus"}
    load = {"max_replicas", "target_ongoing", "scale_up_s", "scale_down_s"}
    assert {*of_values["gateway"]["properties"]} == of_service - {"gpus"} - load
    limits = {one.name for one in dataclasses.fields(TenantLimits)}
    assert {*SCHEMA["$defs"]["limits"]["properties"]} == limits


def schema_at(path: tuple[str, ...]) -> dict[str, Any]:
    found = SCHEMA
    for name in path:
        found = found["properties"][name]
        if "$ref" in found:
            found = SCHEMA["$defs"][found["$ref"].removeprefix("#/$defs/")]
    return found


def test_every_value_has_a_comment_and_a_place_in_the_schema() -> None:
    above, path, seen = "", [], 0
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        key = re.match(r"( *)(\w+):", line)
        if key:
            path = [*path[: len(key[1]) // 2], key[2]]
            assert schema_at(tuple(path))["description"]
            # A value that holds others may leave it to theirs.
            assert above.strip().startswith("#") or line.endswith(":"), line
            seen += 1
        above = line
    assert seen > 60
    for part in (SCHEMA, *SCHEMA["$defs"].values()):
        for found in closed(part):
            assert found["additionalProperties"] is False, found["description"]


def closed(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The objects of a schema that list their fields."""
    if "properties" in part:
        yield part
        for one in part["properties"].values():
            yield from closed(one)


def test_the_settings_of_the_example_are_read(helm) -> None:
    settings = settings_in(objects(helm, EXAMPLE))
    assert (settings.threads, settings.audit_mb, settings.require_keys) == (2, 256, True)
    assert settings.limits_of("trial").asks_per_s == 5
    assert settings.limits_of("trial").reads_per_s == settings.limits_of("other").reads_per_s
    assert settings.decoder.max_replicas == 2
    mounted = settings_in(objects(helm, {}))
    for name in OF_THE_PODS:
        assert getattr(settings, name) == getattr(mounted, name)


def test_large_numbers_stay_whole(helm) -> None:
    values = merged({"generation": 1767225600}, "settings.checkpoint_every", 10_000_000)
    found = objects(helm, values)
    (application,) = found["RayService", "larimar"]["spec"]["serveConfigV2"]["applications"]
    assert application["args"]["generation"] == 1767225600
    assert settings_in(found).checkpoint_every == 10_000_000


@pytest.mark.parametrize("values", [{}, EXAMPLE], ids=["defaults", "example"])
def test_ray_is_told_what_the_pods_ask_for(helm, values) -> None:
    found = objects(helm, values)
    settings = settings_in(found)
    for group in groups_of(found).values():
        container = group["template"]["spec"]["containers"][0]
        asked, most = container["resources"]["requests"], container["resources"]["limits"]
        start = group["rayStartParams"]
        assert start["num-cpus"] == asked["cpu"]
        assert start["num-gpus"] == most.get("nvidia.com/gpu", "0")
        assert asked.get("nvidia.com/gpu") == most.get("nvidia.com/gpu")
        assert asked["memory"] == most["memory"]
        threads = next(one for one in container["env"] if one["name"] == "OMP_NUM_THREADS")
        assert threads["value"] == quiet_environment(settings)["OMP_NUM_THREADS"]


def test_the_example_runs_on_cpus_whose_shares_find_room(helm) -> None:
    found = objects(helm, EXAMPLE)
    settings, groups = settings_in(found), groups_of(found)
    assert not [key for key, _ in leaves(found) if key == "nvidia.com/gpu"]
    assert not [value for _, value in leaves(found) if value == "nvidia.com/gpu"]
    services = {
        "gateways": [settings.gateway],
        "followers": [settings.memory],
        "compute": [settings.encoder, settings.scope, settings.decoder],
    }
    for name, placed in services.items():
        (resource,) = {one.resource for one in placed}
        offered = offered_resources([groups[name]])
        assert {*offered} == {resource}, "only this group has it, and so only this group has them"
        pods = groups[name]["minReplicas"]
        assert 2 * sum(one.replicas for one in placed) <= offered[resource] * pods
        cpus = int(groups[name]["rayStartParams"]["num-cpus"]) * pods
        assert 0 < 2 * sum(one.cpus * one.replicas for one in placed) <= cpus
        assert {one.gpus for one in placed} == {0}
        assert groups[name]["rayStartParams"]["num-gpus"] == "0"


def test_a_service_without_a_share_of_a_gpu_stays_in_the_compute_pods(helm) -> None:
    found = objects(helm, merged({}, "settings.encoder.gpus", 0))
    settings = settings_in(found)
    assert (settings.encoder.resource, settings.decoder.resource) == ("compute", "")
    assert "compute" in offered_resources([groups_of(found)["compute"]])
    assert "compute" not in offered_resources([*groups_of(objects(helm, {})).values()])


def test_names_of_secrets_reach_every_reference(helm) -> None:
    named = {"store": "one", "rayStore": "two", "tls": "three"}
    referred = []
    for values in ({}, {"secrets": named}):
        found = objects(helm, values)
        text = json.dumps(list(found.values()))
        referred.append(
            [
                value["name"] if key == "secretKeyRef" else value
                for key, value in leaves(json.loads(text))
                if key in ("secretKeyRef", "secretName")
            ]
        )
    default, other = referred
    renamed = dict(zip(DEFAULTS["secrets"].values(), named.values(), strict=True))
    assert len(default) == 4 + 1 + 2 * 4, "two a store, one of the cluster, two a pod"
    assert [renamed[one] for one in default] == other


def test_the_values_of_the_example_reach_the_objects(helm) -> None:
    found = objects(helm, EXAMPLE, "elsewhere")
    assert {one["metadata"]["namespace"] for one in found.values()} == {"elsewhere"}
    cluster = found["RayService", "larimar"]["spec"]["rayClusterConfig"]
    pods = [cluster["headGroupSpec"]["template"]["spec"]]
    pods += [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    stores = [one["spec"] for (kind, _), one in found.items() if kind == "StatefulSet"]
    for pod in (*pods, *(store["template"]["spec"] for store in stores)):
        assert pod["imagePullSecrets"] == [{"name": "registry-credentials"}]
    for pod in pods:
        for container in pod["containers"]:
            assert container["image"] == "registry.example/team/larimar:0.1.0-cpu"
            assert container["imagePullPolicy"] == "IfNotPresent"
    assert cluster["autoscalerOptions"]["imagePullPolicy"] == "IfNotPresent"
    for store in stores:
        (container,) = store["template"]["spec"]["containers"]
        assert container["image"] == "registry.example/mirror/valkey:9.1.2-trixie"
        (claim,) = store["volumeClaimTemplates"]
        assert claim["spec"]["storageClassName"] == "fast"
    ledger = found["PersistentVolumeClaim", "larimar-ledger"]["spec"]
    assert (ledger["storageClassName"], ledger["accessModes"]) == ("shared", ["ReadWriteMany"])
    assert found["Service", "larimar"]["spec"]["type"] == "LoadBalancer"
    assert found["Service", "larimar"]["metadata"]["annotations"] == {"team.example/zone": "inside"}
    for name, outside in (("callers", True), ("metrics", False), ("ray-metrics", False)):
        (rule,) = found["NetworkPolicy", name]["spec"]["ingress"]
        label, *addresses = rule["from"]
        assert label["namespaceSelector"]["matchLabels"] == {"team.example/larimar": "caller"}
        assert addresses == [{"ipBlock": {"cidr": "192.0.2.0/24"}}] * outside
    (subject,) = found["RoleBinding", "larimar-scrape"]["subjects"]
    assert (subject["name"], subject["namespace"]) == ("scraper", "observability")
    # One pod of each group at the least: a budget would hold every drain.
    budgets = {name for kind, name in found if kind == "PodDisruptionBudget"}
    assert budgets == {"larimar-store"}


@pytest.mark.parametrize("part", ["head", *GROUPS, "store", "rayStore"])
def test_pods_go_to_the_nodes_that_are_chosen_for_them(helm, part) -> None:
    chosen = {"team.example/pool": part}
    borne = [{"key": "team.example/pool", "operator": "Exists"}]
    values = merged(merged({}, f"{part}.nodeSelector", chosen), f"{part}.tolerations", borne)
    found = objects(helm, values)
    cluster = found["RayService", "larimar"]["spec"]["rayClusterConfig"]
    pods = {"head": cluster["headGroupSpec"], **groups_of(found)}
    pods |= {"store": found["StatefulSet", "larimar-store"]["spec"]}
    pods |= {"rayStore": found["StatefulSet", "larimar-ray-store"]["spec"]}
    for name, pod in pods.items():
        spec = pod["template"]["spec"]
        assert (spec.get("nodeSelector") == chosen) == (name == part)
        assert (spec.get("tolerations") == borne) == (name == part)


@pytest.mark.parametrize(
    ("value", "kind"),
    [("networkPolicies", "NetworkPolicy"), ("disruptionBudgets", "PodDisruptionBudget")],
)
def test_what_is_switched_off_is_not_made(helm, value, kind) -> None:
    with_it, without = objects(helm, {}), objects(helm, {value: {"create": False}})
    assert {*with_it} - {*without} == {key for key in with_it if key[0] == kind}


def test_no_value_is_a_secret_and_none_is_made(helm) -> None:
    for values in ({}, EXAMPLE):
        assert not [key for key in objects(helm, values) if key[0] == "Secret"]
    assert "password" not in [key for key, _ in leaves(DEFAULTS)]


def test_the_chart_stays_out_of_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines and not [line for line in lines if "helm" in line or line == "!infra"]
    assert Path(CHART, "templates").is_dir()
