"""Many workers by Ray Train: the same loop in each, in one group of torch.distributed.

Imported only where more than one worker is asked for; nothing else here knows of Ray.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from larimar.errors import InvalidArgument, LarimarError
from training.workers import TIMEOUT_S

_ROOT = Path(__file__).resolve().parent.parent


def train_with_ray(arguments: list[str], given: argparse.Namespace) -> None:
    """Runs `training.__main__.train` with these arguments in each of the workers.

    The cluster is RAY_ADDRESS's where that is set, else one of this process's own. Workers on
    several machines need the same folders under the same paths.

    Raises:
        InvalidArgument: Ray Train is not installed, or the number of workers is not positive.
        LarimarError: a worker failed; the message is its own.
    """
    if given.workers < 1:
        raise InvalidArgument(f"--workers is {given.workers}: give 1 or more")
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    try:
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise InvalidArgument("Ray Train is not installed: pip install 'ray[train]'") from error
    on_gpu = given.device.startswith("cuda")
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    elsewhere = "RAY_ADDRESS" in os.environ
    ray.init(
        address=None if elsewhere else "local",
        num_cpus=None if elsewhere else max(given.workers, os.cpu_count() or 1),
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": path, "RAY_TRAIN_V2_ENABLED": "1"}},
    )
    trainer = TorchTrainer(
        _work,
        train_loop_config={"arguments": _absolute(arguments, given), "on_gpu": on_gpu},
        scaling_config=ScalingConfig(num_workers=given.workers, use_gpu=on_gpu),
        run_config=RunConfig(name="workers", storage_path=str(given.out / "ray")),
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo", timeout_s=TIMEOUT_S),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise LarimarError(f"a worker failed: {error}") from error
    finally:
        ray.shutdown()


def _absolute(arguments: list[str], given: argparse.Namespace) -> list[str]:
    """The arguments for workers, which run in folders of their own."""
    paths = [
        text
        for name in ("corpus", "out", "start", "prepared", "eval_data")
        if (path := getattr(given, name)) is not None
        for text in (f"--{name.replace('_', '-')}", str(path))
    ]
    return [*arguments, *paths]


def _work(config: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    from training.__main__ import train

    device = ["--device", str(get_device())] if config["on_gpu"] else []
    train([*config["arguments"], *device])
