"""The engine: built from a trained model once, immutable, usable from any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine import backends, packing
from opensnac.engine.scales import dequantize, quantize
from opensnac.engine.span import Span, mask_from
from opensnac.engine.stack import LayerStack
from opensnac.engine.whole import GraphRunner, Pipeline, Progress, in_pieces
from opensnac.errors import AudioError, BackendError, CodesError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codec, Codes
from opensnac.model.layers import Signal


def no_progress(share: float) -> None:
    """The default: progress is not reported."""


class Engine:
    """A frozen model. `encode` and `decode` are those of SNAC, without checking whether the weights have changed.

    `backend` is "c" (CPU kernels in float32) or "torch" (any device and type); None takes the faster available one.
    `dtype` float16 or bfloat16 computes in that type; the c backend multiplies in bfloat16 where the CPU can, and keeps
    the rest in float32. Input and output audio is float32 whatever the type inside. With `graphs` the torch backend
    runs whole signals in steps of a few shapes, which a GPU replays with one launch each (None: on CUDA only); a name
    such as "inductor" is the torch.compile backend that compiles them. BackendError for a combination that is not
    available here.
    """

    def __init__(
        self,
        model: Codec,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        graphs: bool | str | None = None,
    ) -> None:
        weight = model.quantizer.scales[0].codebook.weight
        self.config: CodecConfig = model.config
        self.name = model.name
        self.fingerprint = model.fingerprint
        self.device = torch.empty(0, device=weight.device if device is None else device).device
        self.backend = backends.choose(backend, self.device, weight.dtype if dtype is None else dtype)
        with torch.inference_mode(False), torch.no_grad():
            kind, place = self.backend, self.backend.place(self.device)
            self._encoder_layers = kind.prepare(packing.encoder_layers(model, place))
            self._decoder_layers = kind.prepare(packing.decoder_layers(model, place))
            self._scales = kind.prepare_scales(packing.scales(model, place))
        graphs = self.device.type == "cuda" if graphs is None else graphs
        self._run = in_pieces if not graphs else self._graph_runner(graphs).run
        strides, latent, code = (
            self.config.vq_strides,
            self.zeros(0, self.latent_dim),
            torch.empty(0, 0, dtype=torch.int64, device=self.device),
        )
        self._encoding = Pipeline(
            stack=self.encoder_stack(),
            preprocess=lambda audio: audio[0].to(latent.dtype),
            postprocess=self.quantize,
            like=self.zeros(0, 1),
            inputs=[self.zeros(0, 1).float()],
            in_strides=[1],
            out_strides=strides,
        )
        self._decoding = Pipeline(
            stack=self.decoder_stack(),
            preprocess=self.dequantize,
            postprocess=lambda audio: [audio.float()],
            like=latent,
            inputs=[code for _ in strides],
            in_strides=strides,
            out_strides=[1],
        )

    def __repr__(self) -> str:
        return f"Engine({self.name!r}, backend={self.backend.name!r}, dtype={self.dtype}, device={str(self.device)!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an Engine cannot be pickled; pickle the model and call freeze() after unpickling")

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrix products are computed in."""
        return self.backend.dtype

    @property
    def hop_length(self) -> int:
        """Samples of one latent frame."""
        return self.config.hop_length

    @property
    def latent_dim(self) -> int:
        """Channels of a latent frame."""
        return self.config.encoder_dim * 2 ** len(self.config.encoder_rates)

    @property
    def piece_samples(self) -> int:
        """Samples of one signal that suit the device at a time: 2 s on a CPU, else what its memory allows."""
        return self._decoding.steps_at_once(1, self.config.sampling_rate) * self.hop_length

    @torch.no_grad()
    def encode(
        self,
        audio: Audio,
        lengths: Sequence[int] | None = None,
        *,
        check: bool = True,
        progress: Progress = no_progress,
    ) -> list[Codes]:
        """(batch, 1, samples) -> codes (batch, frames / stride) int64 of each scale, coarse to fine.

        Audio is padded with zeros to whole groups of frames (`config.frame_multiple`) and encoded in pieces, so working
        memory does not grow with its length. Clips of unequal `lengths` (in samples, one per clip) get the codes they
        get alone: samples beyond a clip's end are ignored, and codes there are 0. `progress` receives the share done
        after each piece. AudioError for anything but finite mono floating-point audio of that shape; without `check`
        the values are not checked, which avoids a GPU synchronisation.
        """
        audio = checked_audio(audio, torch.float32, self.device, finite=check)
        frames = self._frames_of_clips(lengths, audio.shape[-1], audio.shape[0])
        samples = [count * self.hop_length for count in frames]
        signal = audio.transpose(1, 2) if lengths is None else mask_from(audio.transpose(1, 2), lengths)
        codes = self._run_pipeline(self._encoding, [signal], samples, [None] * len(frames), max(samples), progress)
        if lengths is None:
            return codes
        strides = self.config.vq_strides
        return [mask_from(c, [count // s for count in frames]) for c, s in zip(codes, strides, strict=True)]

    @torch.no_grad()
    def decode(
        self,
        codes: Sequence[Codes],
        num_samples: int | None = None,
        lengths: Sequence[int] | None = None,
        *,
        seed: int = 0,
        noise: bool = True,
        check: bool = True,
        progress: Progress = no_progress,
    ) -> Audio:
        """Codes of each scale, coarse to fine -> audio (batch, 1, samples), cut to `num_samples` if given.

        The decoder's noise depends on `seed` and position alone; `noise=False` leaves it out. Clips of unequal
        `lengths` (in samples, one per clip) sound as they do alone, followed by zeros. Works in pieces and reports
        `progress` as encode does; not differentiable, unlike the model. CodesError for codes that do not fit the model:
        number of scales, lengths, type, range. Without `check` the range is not checked, which avoids a GPU
        synchronisation, and codes outside it are clamped.
        """
        codes, frames = checked_codes(codes, self.config, self.device, self.config.frame_multiple, in_range=check)
        total, clips = frames * self.hop_length, codes[0].shape[0]
        if num_samples is not None and not 0 <= num_samples <= total:
            raise CodesError(
                f"num_samples: expected 0 to {total}, the samples of {frames} frames of {self.hop_length}, "
                f"got {num_samples}"
            )
        ends = [count * self.hop_length for count in self._frames_of_clips(lengths, total, clips)]
        seeds = [seed if noise else None] * clips
        (audio,) = self._run_pipeline(self._decoding, codes, ends, seeds, frames, progress)
        if lengths is not None:
            audio = mask_from(audio, lengths)
        return audio.transpose(1, 2)[..., : total if num_samples is None else num_samples]

    def quantize(self, latent: Signal) -> list[Codes]:
        """Latent frames (batch, frames, latent_dim) -> codes of each scale, coarse to fine."""
        return quantize(self._scales, latent)

    def dequantize(self, codes: Sequence[Codes]) -> Signal:
        """Codes of each scale, or of the first ones -> latent frames (batch, frames, latent_dim)."""
        return dequantize(self._scales, codes)

    def encoder_stack(self, offset: int = 0) -> LayerStack:
        """The encoder, for audio in pieces of whole groups of frames, starting at sample `offset`."""
        return LayerStack(
            self._encoder_layers,
            self.config.frame_multiple * self.hop_length,
            tick=1,
            offset=offset,
            cache_bytes=self.backend.cache_bytes,
        )

    def decoder_stack(self) -> LayerStack:
        """The decoder, for latent frames in pieces of whole groups."""
        multiple, cache_bytes = self.config.frame_multiple, self.backend.cache_bytes
        return LayerStack(self._decoder_layers, multiple, tick=self.hop_length, cache_bytes=cache_bytes)

    def zeros(self, clips: int, channels: int, steps: int = 0) -> Signal:
        """Zeros (clips, steps, channels) in the type and on the device of the layers."""
        return torch.zeros(clips, steps, channels, dtype=self.backend.signal_dtype, device=self.device)

    def _run_pipeline(
        self,
        pipeline: Pipeline,
        inputs: Sequence[Tensor],
        lengths: Sequence[int],
        seeds: Sequence[int | None],
        steps: int,
        progress: Progress,
    ) -> list[Tensor]:
        """Whole signals of `lengths` samples through the encoder or decoder: `steps` steps of its stack's input."""
        size = pipeline.steps_at_once(len(lengths), self.config.sampling_rate)
        return self._run(pipeline, inputs, Span([0] * len(lengths), [*lengths], [*seeds]), steps, size, progress)

    def _graph_runner(self, graphs: bool | str) -> GraphRunner:
        if self.backend.name == "c":
            raise BackendError("the C kernels have no graphs: expected backend 'torch', got 'c'")
        return GraphRunner(None if graphs is True else str(graphs))

    def _frames_of_clips(self, lengths: Sequence[int] | None, samples: int, clips: int) -> list[int]:
        """Frames that code each clip of a batch; AudioError for lengths that do not fit it."""
        if lengths is None:
            return [self.config.num_frames(samples)] * clips
        if len(lengths) != clips or not all(1 <= length <= samples for length in lengths):
            raise AudioError(
                f"lengths: expected {clips} numbers from 1 to {samples}, the samples of each clip in the batch, "
                f"got {list(lengths)}"
            )
        return [self.config.num_frames(int(length)) for length in lengths]
