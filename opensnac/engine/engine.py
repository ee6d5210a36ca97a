"""What runs a trained model: made from it once, immutable, for any number of threads at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.config import CodecConfig
from opensnac.engine import backends, packing
from opensnac.engine.row import Row
from opensnac.engine.scales import dequantize, quantize
from opensnac.errors import AudioError, CodesError
from opensnac.model.checks import checked_audio, checked_codes
from opensnac.model.codec import Audio, Codec, Codes
from opensnac.model.layers import Signal

Progress = Callable[[float], None]  # takes the share that is done, 0 to 1

PIECE_SECONDS = {"cpu": 2.0}  # what encode and decode work on at once: memory stays flat, caches stay warm
DEVICE_PIECE_SECONDS = 20.0  # elsewhere: fewer launches


def no_progress(share: float) -> None:
    """The default: progress is not reported."""


class Engine:
    """A frozen model. `encode` and `decode` are those of SNAC, without a look at the model's weights.

    `backend` is "c", the kernels of a processor in float32, or "torch", any device and type; the fastest that is there
    if None. `dtype` float16 or bfloat16 computes in that type; the c backend multiplies in bfloat16, where the
    processor does, and keeps the rest in float32. Audio is float32 at the borders whatever the type inside.
    BackendError for what cannot be had here.
    """

    def __init__(
        self,
        model: Codec,
        backend: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
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
        self._encoder, self._decoder = self.encoder_row(), self.decoder_row()

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
        self, audio: Audio, lengths: Sequence[int] | None = None, *, progress: Progress = no_progress
    ) -> list[Codes]:
        """(batch, 1, samples) -> codes (batch, frames / stride) int64 of each scale, coarse to fine.

        Audio is padded with zeros to whole groups of frames (`config.frame_multiple`) and coded in pieces, so working
        memory does not grow with its length. Clips of unequal `lengths` (samples, one a clip) come out as if each
        were alone: what the batch holds beyond a clip's end is not looked at, and its codes there are 0.
        `progress` is told the share done after each piece. Raises AudioError for anything but finite mono
        floating-point audio of that shape.
        """
        audio = checked_audio(audio, torch.float32, self.device)
        frames = self._frames_of_clips(lengths, audio.shape[-1], audio.shape[0])
        state = self._encoder.start(
            [count * self.hop_length for count in frames], [None] * len(frames), self.nothing(len(frames), 1)
        )
        latents = self._encoder.run(self._audio_pieces(audio, lengths, max(frames), progress), state)
        codes = [torch.cat(scale, dim=1) for scale in zip(*map(self.quantize, latents), strict=True)]
        cut = [code[:, : max(frames) // stride] for code, stride in zip(codes, self.config.vq_strides, strict=True)]
        for i, count in enumerate(frames):
            for code, stride in zip(cut, self.config.vq_strides, strict=True):
                code[i, count // stride :] = 0
        return cut

    @torch.no_grad()
    def decode(
        self,
        codes: Sequence[Codes],
        num_samples: int | None = None,
        lengths: Sequence[int] | None = None,
        *,
        seed: int = 0,
        noise: bool = True,
        progress: Progress = no_progress,
    ) -> Audio:
        """Codes of each scale, coarse to fine -> audio (batch, 1, samples), cut to `num_samples` if given.

        The decoder's noise depends on `seed` and position alone; `noise=False` leaves it out. Clips of unequal
        `lengths` (samples, one a clip) come out as if each were alone, followed by zeros. Works in pieces and
        tells `progress` as encode does; gradients go through the model, not through here. Raises CodesError for codes
        that do not fit the model: number of scales, lengths, type, range.
        """
        codes, frames = checked_codes(codes, self.config, self.device, self.config.frame_multiple)
        total, clips = frames * self.hop_length, codes[0].shape[0]
        if num_samples is not None and not 0 <= num_samples <= total:
            raise CodesError(
                f"num_samples is {num_samples}, but {frames} frames of {self.hop_length} hold {total} samples; "
                "ask for no more than that"
            )
        ends = [count * self.hop_length for count in self._frames_of_clips(lengths, total, clips)]
        state = self._decoder.start(ends, [seed if noise else None] * clips, self.nothing(clips, self.latent_dim))
        audio = torch.cat([*self._decoder.run(self._latent_pieces(codes, frames, progress), state)], dim=1).float()
        for i, length in enumerate(lengths or []):
            audio[i, length:] = 0
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

    @property
    def _piece_frames(self) -> int:
        multiple = self.config.frame_multiple
        seconds = PIECE_SECONDS.get(self.device.type, DEVICE_PIECE_SECONDS)
        return max(1, round(seconds * self.config.frame_rate / multiple)) * multiple

    def _audio_pieces(
        self, audio: Audio, lengths: Sequence[int] | None, frames: int, progress: Progress
    ) -> Iterator[Signal]:
        """Time-major pieces of audio, zeros where a clip has ended."""
        total, size = frames * self.hop_length, self._piece_frames * self.hop_length
        ends = None if lengths is None else torch.tensor(lengths, device=self.device)[:, None]
        for start in range(0, total, size):
            piece = audio[:, :, start : start + size].transpose(1, 2)
            if ends is not None:
                step = torch.arange(start, start + piece.shape[1], device=self.device)
                piece = piece.masked_fill((step >= ends)[..., None], 0)
            yield F.pad(piece, (0, 0, 0, min(size, total - start) - piece.shape[1])).to(self.backend.signal_dtype)
            progress(min(1.0, (start + size) / total))

    def _latent_pieces(self, codes: Sequence[Tensor], frames: int, progress: Progress) -> Iterator[Signal]:
        size, strides = self._piece_frames, self.config.vq_strides
        for start in range(0, frames, size):
            stop = min(start + size, frames)
            yield self.dequantize([c[:, start // s : stop // s] for c, s in zip(codes, strides, strict=True)])
            progress(stop / frames)

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
