"""Metrics for Prometheus: the pools' counters, and histograms of model calls and of the time to first sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from opensnac.serving.pool import Tick

if TYPE_CHECKING:
    from opensnac.serving.service import Service

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
STREAMS = (1, 2, 4, 8, 16, 32)
ENDS = ("finished", "cancelled", "idle", "failed", "refused")


class Metrics:
    """Metrics of one service."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Pools(service))

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"opensnac_{name}", what, ["kind"], buckets=buckets, registry=self.registry)

        self._batch = histogram("batch_streams", "Streams in one model call.", STREAMS)
        self._tick = histogram("tick_seconds", "Duration of a model call.", SECONDS)
        self._wait = histogram("wait_seconds", "Time that a group of frames waited for a model call.", SECONDS)
        self.first = histogram("first_sound_seconds", "Time from a stream's start to its first output.", SECONDS)

    def ticked(self, kind: str) -> Callable[[Tick], None]:
        """A pool's `watch` function."""
        batch, seconds, wait = (one.labels(kind) for one in (self._batch, self._tick, self._wait))

        def watch(tick: Tick) -> None:
            batch.observe(tick.streams)
            seconds.observe(tick.seconds)
            for waited in tick.waits:
                wait.observe(waited)

        return watch

    def text(self) -> bytes:
        """All metrics, in the Prometheus text format."""
        return generate_latest(self.registry)


class _Pools(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        """Empty: the names are known once there is a pool."""
        return []

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "kind"]
        streams = GaugeMetricFamily("opensnac_streams", "Open streams.", labels=labels)
        queue = GaugeMetricFamily("opensnac_queue_streams", "Streams that wait for a model call.", labels=labels)
        factor = GaugeMetricFamily(
            "opensnac_real_time_factor", "Seconds of sound per second of worker time, so far.", labels=labels
        )
        opened = CounterMetricFamily("opensnac_streams_opened", "Streams opened.", labels=labels)
        ended = CounterMetricFamily("opensnac_streams_ended", "Streams ended, by cause.", labels=[*labels, "end"])
        ticks = CounterMetricFamily("opensnac_ticks", "Model calls.", labels=labels)
        groups = CounterMetricFamily("opensnac_groups", "Groups of frames processed.", labels=labels)
        sound = CounterMetricFamily("opensnac_sound_seconds", "Seconds of sound output.", labels=labels)
        busy = CounterMetricFamily("opensnac_busy_seconds", "Seconds of worker time.", labels=labels)
        for served in self._service.served.values():
            for kind, pool in (("decode", served.decoders), ("encode", served.encoders)):
                names, counters = [served.engine.name, kind], pool.counters
                streams.add_metric(names, pool.open_streams)
                queue.add_metric(names, pool.queued)
                factor.add_metric(names, counters.sound / counters.busy if counters.busy else 0)
                opened.add_metric(names, counters.opened)
                for end in ENDS:
                    ended.add_metric([*names, end], getattr(counters, end))
                ticks.add_metric(names, counters.ticks)
                groups.add_metric(names, counters.steps)
                sound.add_metric(names, counters.sound)
                busy.add_metric(names, counters.busy)
        yield from (streams, queue, factor, opened, ended, ticks, groups, sound, busy)
