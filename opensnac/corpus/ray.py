"""Shards made by a Ray cluster: Ray Data passes their numbers to actors that hold the model and write the files.

An actor does what a local worker does, so the files are the same. Every node must see the recordings and the corpus's
folder under the same names: a shared disk, or URLs of an object store.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from opensnac.corpus.local import On
from opensnac.corpus.places import is_url
from opensnac.corpus.plan import Plan
from opensnac.corpus.store import Store
from opensnac.corpus.work import Job, Record, Worker
from opensnac.errors import OpensnacError

BLOCKS = 4096  # at most, of shard numbers to distribute


def run(job: Job, shards: Sequence[int], workers: int | None, on: On, address: str | None = None) -> None:
    """Make the shards on the cluster at `address`, or on a new local one. Ray replaces lost actors."""
    import ray
    from ray.data import ActorPoolStrategy

    here = not ray.is_initialized()
    if here:
        _start(address)
    try:
        on_gpu = job.device.startswith("cuda")
        cores = 1 + job.readers
        count = workers or int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 1) // (1 if on_gpu else cores))
        ray.data.DataContext.get_current().enable_progress_bars = False
        away = replace(job, out=job.out if is_url(job.out) else os.path.abspath(job.out))
        made = ray.data.from_items(
            [{"shard": shard} for shard in shards], override_num_blocks=min(len(shards), BLOCKS)
        ).map_batches(
            _Actor,
            fn_constructor_args=(away, os.getcwd()),
            batch_size=1,
            compute=ActorPoolStrategy(size=max(1, min(count, len(shards)))),
            num_cpus=cores,
            num_gpus=1 if on_gpu else 0,
        )
        sizes = Plan(Store(job.out)).sizes
        for answer in made.iter_rows():
            if answer["error"]:
                raise OpensnacError(str(answer["error"]))
            record = Record.from_json(answer["record"])
            on("done", (record.seconds, sizes[record.shard]))
            on("shard", record)
    finally:
        if here:
            ray.shutdown()


class _Actor:
    """A worker on some node, in the command's working directory so that relative names resolve the same."""

    def __init__(self, job: Job, folder: str) -> None:
        if os.path.isdir(folder):
            os.chdir(folder)
        torch.set_num_threads(1)
        self._worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Make one shard, unless it was made before a task was repeated."""
        shard = int(batch["shard"][0])
        worker = self._worker
        try:
            name = worker.plan.name(shard)
            done = worker.store.exists(f"{Record(shard, name).file}")
            record = Record.read(worker.store, name) if done else worker.make(shard)
        except (OpensnacError, OSError) as error:  # retrying on another node would not help
            return {"record": [""], "error": [f"shard {shard}: {error}"]}
        return {"record": [record.to_json()], "error": [""]}


def _start(address: str | None) -> None:
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    options: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
