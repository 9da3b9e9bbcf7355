"""Checks every file of infra/ by its schema or its linter: `python -m infra.check`.

Prints what is wrong, a line each; exit status 1 when anything is.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from infra.chart import ChartRefused, find_helm, rendered
from larimar.errors import LarimarError
from services.settings import Settings

HERE = Path(__file__).resolve().parent
TOOLS = Path(sys.executable).parent
KUBERNETES = "1.33"
"""Version whose API the manifests are checked with."""
SCHEMA = HERE / "kubernetes" / "rayservice.schema.json"
CHART = Path("helm", "larimar")
EXAMPLE = Path("helm", "example-values.yaml")
"""Values that differ from the chart's own wherever one can."""

Object = dict[str, Any]
Named = Iterable[tuple[str, Object]]
"""Kubernetes objects, each with the name of what it comes from."""


def manifests() -> Iterator[tuple[str, Object]]:
    """Every Kubernetes object, with the name of its file."""
    for path in sorted((HERE / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path.name, document


def serve_config(service: dict[str, Any]) -> dict[str, Any]:
    """What a RayService has Serve deploy."""
    return yaml.safe_load(service["spec"]["serveConfigV2"])


def pod_templates(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod template of each group of a RayService."""
    cluster = service["spec"]["rayClusterConfig"]
    workers = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **workers}


def _run(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [done.stdout + done.stderr] if done.returncode else []


def check_yaml() -> list[str]:
    """The form of every YAML file."""
    return _run(TOOLS / "yamllint", "--strict", "--config-file", HERE / ".yamllint", HERE)


def check_image() -> list[str]:
    """The image definition, by hadolint."""
    return _run(TOOLS / "hadolint", HERE / "Dockerfile")


def check_compose() -> list[str]:
    """The compose file, by the schema of the compose specification."""
    schema = ("--builtin-schema", "vendor.compose-spec")
    return _run(TOOLS / "check-jsonschema", *schema, HERE / "compose.yaml")


def check_settings() -> list[str]:
    """Every file of settings, and that of the cluster."""
    texts = {path.name: path.read_text("utf-8") for path in HERE.glob("settings-*.json")}
    return _wrong_settings(texts | _settings_of(manifests()))


def _settings_of(objects: Named) -> dict[str, str]:
    return {
        name: found["data"]["settings.json"]
        for name, found in objects
        if found["kind"] == "ConfigMap"
    }


def _wrong_settings(texts: dict[str, str]) -> list[str]:
    wrong = []
    for name, text in texts.items():
        try:
            Settings.from_json(text)
        except LarimarError as error:
            wrong.append(f"{name}: {error.message}")
    return wrong


def check_kubernetes() -> list[str]:
    """Every object, by the schema of its kind; a RayService by its parts."""
    return _wrong_objects(manifests())


def _wrong_objects(objects: Named) -> list[str]:
    wrong = []
    for name, found in objects:
        checks: dict[str, Callable[[], Any]] = {}
        if found["kind"] == "RayService":
            checks["RayService"] = lambda f=found: jsonschema.validate(
                f, json.loads(SCHEMA.read_text("utf-8"))
            )
            checks["serveConfigV2"] = lambda f=found: _check_serve(serve_config(f))
            for group, template in pod_templates(found).items():
                made = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": group}}
                checks[group] = lambda m=made, t=template: _check_object({**m, "template": t})
        elif found["kind"] != "Kustomization":
            checks[found["kind"]] = lambda f=found: _check_object(f)
        for part, check in checks.items():
            try:
                check()
            except Exception as error:  # of four libraries, each with its own
                wrong.append(f"{name}: {part}: {error}")
    return wrong


def _check_object(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)


def _check_serve(config: dict[str, Any]) -> None:
    from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

    ServeDeploySchema.model_validate(config)  # which lets unknown fields pass
    unknown = set(config) - set(ServeDeploySchema.model_fields)
    for application in config["applications"]:
        unknown |= set(application) - set(ServeApplicationSchema.model_fields)
    if unknown:
        raise ValueError(f"Serve knows no {', '.join(sorted(unknown))}")


def check_workers() -> list[str]:
    """What KubeRay adds to the pods of a RayService, and cannot do with them."""
    return _wrong_workers(list(manifests()))


def _wrong_workers(objects: list[tuple[str, Object]]) -> list[str]:
    wrong = []
    for name, service in objects:
        if service["kind"] != "RayService":
            continue
        proxy = serve_config(service)["http_options"]["port"]
        templates = pod_templates(service)
        for group, template in templates.items():
            ray, *beside = template["spec"]["containers"]
            ports = {one["name"]: one["containerPort"] for one in ray.get("ports", ())}
            routed = any(one.get("route_prefix") for one in serve_config(service)["applications"])
            if group != "head" and not routed and "readinessProbe" not in ray:
                wrong.append(
                    f"{name}: {group}: no application has a route, so that KubeRay's own readiness "
                    "probe, of Serve's proxy, never succeeds: the group needs one"
                )
            if ports.get("serve") != proxy:
                wrong.append(f"{name}: {group}: KubeRay's probe needs a port serve, {proxy}")
            for container in beside:
                if "metrics" in {one["name"] for one in container.get("ports", ())}:
                    wrong.append(f"{name}: {group}: KubeRay names a port of Ray's own metrics so")
        for budget_name, found in objects:
            if found["kind"] == "PodDisruptionBudget":
                budget = found["spec"]
                wrong += [
                    f"{budget_name}: {group}: pods of a RayCluster have no scale, by which a "
                    "budget counts that says more than a number of minAvailable"
                    for group, template in templates.items()
                    if _selects(budget["selector"], template)
                    and not isinstance(budget.get("minAvailable"), int)
                ]
    return wrong


def _selects(selector: dict[str, Any], template: dict[str, Any]) -> bool:
    return selector["matchLabels"].items() <= template["metadata"]["labels"].items()


def check_chart() -> list[str]:
    """The Helm chart: linted strictly, and what it renders checked as the manifests are."""
    helm = find_helm()
    if helm is None:
        print("infra: the chart was not checked: neither helm_python nor helm is installed")
        return []
    chart = HERE / CHART
    example = yaml.safe_load((HERE / EXAMPLE).read_text("utf-8"))
    wrong = []
    for of, values, namespace in (
        ("default values", {}, "larimar"),
        (EXAMPLE.name, example, "larimar-small"),
    ):
        try:
            found = [*helm.lint(chart, values, namespace)]
            objects = rendered(helm, chart, values, namespace)
            found += [
                f"{name}: {one['kind']} is in the namespace {one['metadata'].get('namespace')}"
                for name, one in objects
                if one["metadata"].get("namespace") != namespace
            ]
            found += _wrong_settings(_settings_of(objects))
            found += _wrong_objects(objects) + _wrong_workers(objects)
        except (ChartRefused, LookupError) as error:
            found = [str(error)]
        wrong += [f"chart, {of}: {line}" for line in found]
    return wrong


CHECKS = (
    check_yaml,
    check_image,
    check_compose,
    check_settings,
    check_kubernetes,
    check_workers,
    check_chart,
)


def main() -> int:
    """Runs every check."""
    wrong = [line for check in CHECKS for line in check()]
    print("\n".join(wrong) or "infra: every file is well-formed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
