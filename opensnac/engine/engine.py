"""What runs a trained model: made from it once, immutable, for any number of threads at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine import backends, packing
from opensnac.engine.row import Row
from opensnac.engine.scales import dequantize, quantize
from opensnac.engine.span import Span, silent_from
from opensnac.engine.whole import Course, Progress, Recorder, in_pieces
from opensnac.errors import AudioError, BackendError, CodesError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codec, Codes
from opensnac.model.layers import Signal


def no_progress(share: float) -> None:
    """The default: progress is not reported."""


class Engine:
    """A frozen model. `encode` and `decode` are those of SNAC, without a look at the model's weights.

    `backend` is "c", the kernels of a processor in float32, "torch", any device and type, or "triton", a GPU; None
    takes the fastest of the first two that is there. `dtype` float16 or bfloat16 computes in that type; the c backend
    multiplies in bfloat16, where the processor does, and keeps the rest in float32. Audio is float32 at the borders
    whatever the type inside. With `graphs` the others run whole signals by steps of few shapes, which a GPU repeats by
    one launch each; a name, such as "inductor", is torch.compile's backend that makes them. BackendError for what
    cannot be had here.
    """

    def __init__(
        self,
        model: Codec,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        graphs: bool | str = False,
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
        self._run = in_pieces if not graphs else self._recorder(graphs).run
        strides, latent, code = (
            self.config.vq_strides,
            self.nothing(0, self.latent_dim),
            torch.empty(0, 0, dtype=torch.int64, device=self.device),
        )
        self._encoding = Course(
            row=self.encoder_row(),
            enter=lambda audio: audio[0].to(latent.dtype),
            leave=self.quantize,
            like=self.nothing(0, 1),
            inputs=[self.nothing(0, 1).float()],
            every=[1],
            out_every=strides,
        )
        self._decoding = Course(
            row=self.decoder_row(),
            enter=self.dequantize,
            leave=lambda audio: [audio.float()],
            like=latent,
            inputs=[code for _ in strides],
            every=strides,
            out_every=[1],
        )

    def __repr__(self) -> str:
        return f"Engine({self.name!r}, backend={self.backend.name!r}, dtype={self.dtype}, device={str(self.device)!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an Engine cannot be pickled; pickle the model and call its freeze() where it arrives")

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        return self.backend.dtype

    @property
    def hop_length(self) -> int:
        """Samples of one latent frame."""
        return self.config.hop_length

    @property
    def latent_dim(self) -> int:
        """Channels of a latent frame."""
        return self.config.encoder_dim * 2 ** len(self.config.encoder_rates)

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

        Audio is padded with zeros to whole groups of frames (`config.frame_multiple`) and coded in pieces, so working
        memory does not grow with its length. Clips of unequal `lengths` (samples, one a clip) come out as if each
        were alone: what the batch holds beyond a clip's end is not looked at, and its codes there are 0.
        `progress` is told the share done after each piece. Raises AudioError for anything but finite mono
        floating-point audio of that shape; without `check` samples are not looked at, which saves waiting for a GPU.
        """
        audio = checked_audio(audio, torch.float32, self.device, finite=check)
        frames = self._frames_of_clips(lengths, audio.shape[-1], audio.shape[0])
        samples = [count * self.hop_length for count in frames]
        signal = audio.transpose(1, 2) if lengths is None else silent_from(audio.transpose(1, 2), lengths)
        codes = self._through(self._encoding, [signal], samples, [None] * len(frames), max(samples), progress)
        if lengths is None:
            return codes
        strides = self.config.vq_strides
        return [silent_from(c, [count // s for count in frames]) for c, s in zip(codes, strides, strict=True)]

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
        `lengths` (samples, one a clip) come out as if each were alone, followed by zeros. Works in pieces and
        tells `progress` as encode does; gradients go through the model, not through here. Raises CodesError for codes
        that do not fit the model: number of scales, lengths, type, range. Without `check` the range is not looked at,
        which saves waiting for a GPU: a code beyond it stands for the last one.
        """
        codes, frames = checked_codes(codes, self.config, self.device, self.config.frame_multiple, in_range=check)
        total, clips = frames * self.hop_length, codes[0].shape[0]
        if num_samples is not None and not 0 <= num_samples <= total:
            raise CodesError(
                f"num_samples is {num_samples}, but {frames} frames of {self.hop_length} hold {total} samples; "
                "ask for no more than that"
            )
        ends = [count * self.hop_length for count in self._frames_of_clips(lengths, total, clips)]
        seeds = [seed if noise else None] * clips
        (audio,) = self._through(self._decoding, codes, ends, seeds, frames, progress)
        if lengths is not None:
            audio = silent_from(audio, lengths)
        return audio.transpose(1, 2)[..., : total if num_samples is None else num_samples]

    def quantize(self, latent: Signal) -> list[Codes]:
        """Latent frames (batch, frames, latent_dim) -> codes of each scale, coarse to fine."""
        return quantize(self._scales, latent)

    def dequantize(self, codes: Sequence[Codes]) -> Signal:
        """Codes of each scale, or of the first ones -> latent frames (batch, frames, latent_dim)."""
        return dequantize(self._scales, codes)

    def encoder_row(self, offset: int = 0) -> Row:
        """The encoder for audio that comes in pieces of whole groups of frames, from sample `offset` on."""
        return Row(
            self._encoder_layers,
            self.config.frame_multiple * self.hop_length,
            tick=1,
            offset=offset,
            cache_bytes=self.backend.cache_bytes,
        )

    def decoder_row(self) -> Row:
        """The decoder for latent frames that come in pieces of whole groups."""
        multiple, cache_bytes = self.config.frame_multiple, self.backend.cache_bytes
        return Row(self._decoder_layers, multiple, tick=self.hop_length, cache_bytes=cache_bytes)

    def nothing(self, clips: int, channels: int, steps: int = 0) -> Signal:
        """Zeros (clips, steps, channels) of the type and on the device that the layers work with."""
        return torch.zeros(clips, steps, channels, dtype=self.backend.signal_dtype, device=self.device)

    def _through(
        self,
        course: Course,
        inputs: Sequence[Tensor],
        lengths: Sequence[int],
        seeds: Sequence[int | None],
        steps: int,
        progress: Progress,
    ) -> list[Tensor]:
        """Whole signals of `lengths` samples through the encoder or the decoder: `steps` steps of its row's input."""
        size = course.steps_at_once(len(lengths), self.config.sampling_rate)
        return self._run(course, inputs, Span([0] * len(lengths), [*lengths], [*seeds]), steps, size, progress)

    def _recorder(self, graphs: bool | str) -> Recorder:
        if self.backend.name == "c":
            raise BackendError("the C kernels have no graphs: expected backend 'torch' or 'triton', got 'c'")
        return Recorder(None if graphs is True else str(graphs))

    def _frames_of_clips(self, lengths: Sequence[int] | None, samples: int, clips: int) -> list[int]:
        """Frames that code each clip of a batch; AudioError for lengths that do not fit it."""
        if lengths is None:
            return [self.config.num_frames(samples)] * clips
        if len(lengths) != clips or not all(1 <= length <= samples for length in lengths):
            raise AudioError(
                f"lengths came as {list(lengths)}, expected {clips} numbers from 1 to {samples}, "
                "the samples of each clip of the batch"
            )
        return [self.config.num_frames(int(length)) for length in lengths]
