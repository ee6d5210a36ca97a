"""Streams through a graph: samples to codes, and codes to samples, as soon as they are final."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opensnac.config import CodecConfig
from opensnac.errors import AudioError, CodesError, OpensnacError
from opensnac.runtime.checks import checked_audio, checked_codes
from opensnac.runtime.graphs import Arrays, Graph

ENDLESS = 2**62  # length of a signal whose end is not known yet
AT_ONCE = 1 << 16  # samples of all streams per call of the graph


class _Stream:
    """Parallel streams through one graph; input is buffered until it fills a group of frames."""

    def __init__(self, graph: Graph, config: CodecConfig, takes: Sequence[int], waiting: Arrays, nothing: Arrays):
        self.config = config
        self.look_ahead = int(graph.facts["look_ahead"])
        self._graph, self._group = graph, int(graph.facts["group_samples"])
        self._streams = len(waiting[0])
        self._takes, self._waiting = takes, waiting  # samples per step of each input, and its buffered steps
        self._nothing = nothing  # an empty array for each output
        self._position = int(graph.facts["first_sample"])
        self._state = np.zeros((self._streams, graph.facts["state_size"]), np.float32)
        self._ended = False

    def _take(self, inputs: Sequence[NDArray[Any]]) -> Arrays:
        """Take new steps of each input; returns the steps of each output that became final."""
        self._check_open(len(inputs[0]))
        joined = [np.concatenate(pair, axis=1) for pair in zip(self._waiting, inputs, strict=True)]
        whole = joined[0].shape[1] * self._takes[0] // self._group * self._group
        cuts = [whole // tick for tick in self._takes]
        self._waiting = [array[:, cut:] for array, cut in zip(joined, cuts, strict=True)]
        return self._run_graph([array[:, :cut] for array, cut in zip(joined, cuts, strict=True)], whole, ENDLESS)

    def _end(self, length: int) -> Arrays:
        """End the signals, which are `length` samples long, a multiple of a group; returns the rest of the outputs."""
        self._check_open(self._streams)
        self._ended = True
        samples = max(0, -(-(length + self.look_ahead - self._position) // self._group)) * self._group
        padded = [
            np.pad(array, ((0, 0), (0, samples // tick - array.shape[1])))
            for array, tick in zip(self._waiting, self._takes, strict=True)
        ]
        return self._run_graph(padded, samples, length)

    def _run_graph(self, inputs: Arrays, samples: int, length: int) -> Arrays:
        """Run whole groups, some at a time; returns the part of the outputs inside the signals."""
        size = max(1, AT_ONCE // (self._streams * self._group)) * self._group
        parts = [self._nothing]
        for start in range(0, samples, size):
            end = min(start + size, samples)
            piece = [array[:, start // tick : end // tick] for array, tick in zip(inputs, self._takes, strict=True)]
            *outputs, self._state = self._graph(self._named(piece) | self._places(length))
            begin = self._position - self.look_ahead
            self._position += end - start
            heard = [output.reshape(self._streams, -1) for output in outputs]
            ticks = [(end - start) // array.shape[1] for array in heard]
            first, last = max(0, -begin), max(0, length - begin)
            parts.append([array[:, first // tick : last // tick] for array, tick in zip(heard, ticks, strict=True)])
        return [np.concatenate(scale, axis=1) for scale in zip(*parts, strict=True)]

    def _named(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """The graph's inputs, by name."""
        raise NotImplementedError

    def _places(self, length: int) -> dict[str, NDArray[Any]]:
        places = {"position": self._position, "length": length}
        return {"state": self._state} | {name: np.full(self._streams, place) for name, place in places.items()}

    def _check_open(self, streams: int) -> None:
        if streams != self._streams:
            raise OpensnacError(f"expected samples or codes of {self._streams} streams, got {streams}: push to all")
        if self._ended:
            raise OpensnacError("the stream has ended; start another one")


class StreamEncoder(_Stream):
    """Samples in, codes out: each group of frames comes `look_ahead` samples after its last sample."""

    def __init__(self, graph: Graph, config: CodecConfig, streams: int = 1) -> None:
        early = np.zeros((streams, -int(graph.facts["first_sample"])), np.float32)
        super().__init__(graph, config, [1], [early], _no_codes(config, streams))
        self._samples = 0

    def push(self, audio: NDArray[np.floating[Any]]) -> Arrays:
        """Take (streams, samples), any number of samples; returns the final codes, (streams, n) of each scale.

        AudioError for anything but finite floating-point audio of that shape.
        """
        audio = checked_audio(audio, "(streams, samples)", 2)
        codes = self._take([audio])
        self._samples += audio.shape[1]
        return codes

    def flush(self) -> Arrays:
        """End the streams; returns the rest of their codes, padded to whole groups."""
        if not self._samples:
            raise AudioError("the stream ended before its first sample: expected at least one, got none")
        return self._end(self.config.num_frames(self._samples) * self.config.hop_length)

    def _named(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {"input_values": inputs[0][:, None]}


class StreamDecoder(_Stream):
    """Codes in, samples out: samples come `look_ahead` samples after their codes."""

    def __init__(
        self, graph: Graph, config: CodecConfig, streams: int = 1, *, seed: int = 0, noise: bool = True
    ) -> None:
        ticks = [config.hop_length * stride for stride in config.vq_strides]
        super().__init__(graph, config, ticks, _no_codes(config, streams), [np.zeros((streams, 0), np.float32)])
        self._noise: dict[str, NDArray[Any]] = {}
        if "seed" in graph.inputs:
            self._noise = {
                "seed": np.full(streams, _whole_number(seed)),
                "noise_gain": np.full(streams, noise, np.float32),
            }
        elif noise and config.noise:
            raise OpensnacError("this model was exported without noise: expected noise=False, got True")
        self._frames, self._given = 0, 0

    def push(self, codes: Sequence[NDArray[np.integer[Any]]]) -> NDArray[np.float32]:
        """Take codes (streams, n / stride) of each scale; returns the new samples, (streams, samples).

        CodesError for codes that do not fit the model.
        """
        codes, frames = checked_codes(codes, self.config, self.config.coarse_stride)
        (audio,) = self._take(codes)
        self._frames += frames
        self._given += audio.shape[1]
        return audio

    def flush(self, num_samples: int | None = None, *, drop_partial: bool = False) -> NDArray[np.float32]:
        """End the streams; returns the rest of their samples, cut to `num_samples` in total if given.

        CodesError where the last group of frames is incomplete, unless `drop_partial` drops it.
        """
        left = self._frames % self.config.frame_multiple
        if drop_partial:
            self._frames, left = self._frames - left, 0
            self._waiting = [array[:, :0] for array in self._waiting]
        if left or not self._frames:
            got = f"{left} frames too many" if left else "no codes"
            raise CodesError(f"flush: expected whole groups of {self.config.frame_multiple} frames, got {got}")
        (audio,) = self._end(self._frames * self.config.hop_length)
        return audio if num_samples is None else audio[:, : max(0, num_samples - self._given)]

    def _named(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return {f"audio_codes.{i}": scale for i, scale in enumerate(inputs)} | self._noise


def _no_codes(config: CodecConfig, streams: int) -> Arrays:
    return [np.zeros((streams, 0), np.int64) for _ in config.vq_strides]


def _whole_number(seed: int) -> int:
    """The seed wrapped to the graph's 64-bit integers."""
    return (seed + 2**63) % 2**64 - 2**63
