"""A Ray cluster of several nodes on one machine, as a process: a head without work, and workers.

`python -m tests.ray_nodes WORKERS FOLDER` prints a line when every node is up. For a line
"deploy FILE" on standard input it deploys a Serve config file as `serve run` does, and answers with
a line when the application runs; for "kill N" it ends a node without warning. It ends with its
standard input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray
import yaml
from ray import serve
from ray._common.utils import get_default_ray_temp_dir
from ray.cluster_utils import Cluster
from ray.serve._private import api
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from services.run import die_with_parent
from tests.infra_files import offered_resources

OBJECT_STORE_BYTES = 80 * 2**20


def started(workers: int, folder: str) -> tuple[Cluster, list]:
    """A cluster whose workers each offer what every group of the RayService does, but for GPUs."""
    # Ray notes the address there, and makes that folder only when it is its own.
    Path(get_default_ray_temp_dir()).mkdir(parents=True, exist_ok=True)
    shared = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    head = {**shared, "num_cpus": 0, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
    offered = {"num_cpus": 16, "resources": offered_resources()}
    return cluster, [
        cluster.add_node(object_store_memory=OBJECT_STORE_BYTES, **offered) for _ in range(workers)
    ]


def deploy(path: str) -> str:
    """Deploys a config file; the application's status when it runs or cannot."""
    config = ServeDeploySchema.model_validate(yaml.safe_load(Path(path).read_text()))
    client = api.serve_start(
        proxy_location=config.proxy_location, http_options=config.http_options.model_dump()
    )
    client.deploy_apps(config)
    ends = (ApplicationStatus.RUNNING, ApplicationStatus.DEPLOY_FAILED)
    while True:
        found = serve.status().applications.get(config.applications[0].name)
        if found is not None and found.status in ends:
            return f"{found.status.value} {found.message}".strip()
        time.sleep(0.2)


def main() -> int:
    """Serves until standard input ends."""
    die_with_parent()
    cluster, workers = started(int(sys.argv[1]), sys.argv[2])
    ray.init(address=cluster.address, namespace="serve", log_to_driver=False)
    print("up", flush=True)
    for line in sys.stdin:
        what, _, argument = line.strip().partition(" ")
        if what == "deploy":
            print(deploy(argument), flush=True)
        else:
            cluster.remove_node(workers[int(argument)], allow_graceful=False)
            print("killed", flush=True)
    ray.shutdown()
    cluster.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
