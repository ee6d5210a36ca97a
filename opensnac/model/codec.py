"""SNAC: waveform to codes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from opensnac.config import CodecConfig
from opensnac.errors import AudioError, CodesError
from opensnac.model import pretrained
from opensnac.model.attention import Mixing
from opensnac.model.decoder import Decoder
from opensnac.model.encoder import Encoder
from opensnac.model.layers import Groups, Kernel
from opensnac.model.pipeline import Pipeline, State
from opensnac.model.quantizer import Quantized, ResidualVectorQuantizer

Audio = Float[Tensor, "batch 1 samples"]
Codes = Int[Tensor, "batch codes"]

Progress = Callable[[float], None]  # takes the share that is done, 0 to 1

PIECE_SECONDS = 2.0  # what encode and decode work on at once: memory stays flat, caches stay warm


def no_progress(share: float) -> None:
    """Nobody wants to know."""


class SNAC(nn.Module):
    """Multi-scale neural audio codec (arXiv 2410.14411).

    Takes the keys of a published `config.json` (see CodecConfig); ConfigError names an unknown one. Audio is
    (batch, 1, samples) at `config.sampling_rate`, in [-1, 1]; codes are one (batch, frames / stride) integer tensor
    per scale, coarse to fine. State dicts have the published names and shapes.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = CodecConfig.from_dict(config)
        self.name = "unnamed"
        self._fingerprint: str | None = None  # of the weights before they were folded, else computed when asked for
        self.encoder = Encoder(self.config)
        self.quantizer = ResidualVectorQuantizer(self.config)
        self.decoder = Decoder(self.config)

    @classmethod
    def from_config(cls, config: CodecConfig | Mapping[str, Any] | str | Path) -> SNAC:
        """A model with fresh random weights from a configuration, its mapping or a `config.json`'s path."""
        if isinstance(config, str | Path):
            config = CodecConfig.from_json(Path(config))
        return cls(**(config.to_dict() if isinstance(config, CodecConfig) else config))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path | None = None,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> SNAC:
        """A trained model, in eval mode: a bundled name, a folder or a hub id; the bundled default if no name.

        Reads `model.safetensors`, else `pytorch_model.bin` (tensors only, nothing is unpickled).
        Raises ModelError when there is no such model or its weights do not fit its configuration.
        """
        folder, label = pretrained.locate(name, revision, cache_dir, local_files_only)
        model = cls.from_config(folder / "config.json")
        model._fingerprint = pretrained.load_weights(model, folder)
        model.name = label
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into `folder`, which is made if need be."""
        pretrained.save(self, Path(folder))

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload to a hub repository; `options` (token, revision, private, ...) as huggingface_hub names them."""
        return pretrained.push_to_hub(self, repo_id, **options)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights as they were before folding, 64 hexadecimal digits: which model a file needs."""
        return self._fingerprint or pretrained.fingerprint(self.state_dict())

    @property
    def hop_length(self) -> int:
        """Samples of one latent frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Latent frames a second."""
        return self.config.frame_rate

    @property
    def code_rates(self) -> tuple[float, ...]:
        """Codes a second of each scale, coarse to fine."""
        return self.config.code_rates

    @property
    def bits_per_second(self) -> float:
        """Bit rate of one channel at fixed width."""
        return self.config.bits_per_second

    @property
    def latent_dim(self) -> int:
        """Channels of a latent frame."""
        return self.config.encoder_dim * 2 ** len(self.config.encoder_rates)

    def fold_weight_norm(self) -> SNAC:
        """Replace each weight's gain and direction by the weight itself, in place: for inference, not for training."""
        self._fingerprint = self.fingerprint
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
        return self

    def reduce_precision(self, reduced: bool = True, *, encoder: bool = False) -> SNAC:
        """Let the decoder, and the `encoder` if asked, multiply in bfloat16 where the processor can, in place.

        Sums stay in float32. Faster by a third to a half. The error of decoding lies more than 35 dB below the sound.
        Of what a reduced encoder gives, about a third of the codes differ; they score little lower (docs/log.md).
        """
        for part, chosen in ((self.decoder, reduced), (self.encoder, reduced and encoder)):
            for module in part.modules():
                if isinstance(module, Kernel | Mixing):
                    module.reduced = chosen
        return self

    def forward(self, audio: Audio) -> tuple[Audio, list[Codes]]:
        """Audio through the codec and back: (audio of the same length, codes). Differentiable, in one piece.

        In training mode the noise is drawn afresh at each call.
        """
        audio_hat, quantized = self.reconstruct(audio)
        return audio_hat, quantized.codes

    def reconstruct(self, audio: Audio) -> tuple[Audio, Quantized]:
        """As forward, with what training needs of the quantiser."""
        latent = self.encoder(self._padded(audio).transpose(1, 2))
        quantized = self.quantizer(latent)
        seeds = torch.randint(2**62, audio.shape[:1], device=audio.device) if self.training else 0
        audio_hat = self.decoder(quantized.latent, seeds)
        return audio_hat.transpose(1, 2)[..., : audio.shape[-1]], quantized

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
        check_audio(audio, next(self.parameters()))
        frames = self._frames_of_clips(lengths, audio.shape[-1], audio.shape[0])
        pipeline = self.encoder_pipeline()
        state = State([count * self.hop_length for count in frames], [None] * len(frames))
        latents = pipeline.run(self._audio_pieces(audio, lengths, max(frames), progress), state)
        codes = [torch.cat(scale, dim=1) for scale in zip(*map(self.quantizer.codes, latents), strict=True)]
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
        tells `progress` as encode does; gradients go through `forward`, not through here. Raises CodesError for codes
        that do not fit the model: number of scales, lengths, type, range.
        """
        frames, hop = self.check_codes(codes, self.config.frame_multiple), self.hop_length
        if num_samples is not None and not 0 <= num_samples <= frames * hop:
            raise CodesError(
                f"num_samples is {num_samples}, but {frames} frames of {hop} hold {frames * hop} samples; "
                "ask for no more than that"
            )
        clips = self._frames_of_clips(lengths, frames * hop, codes[0].shape[0])
        state = State([*clips], [seed if noise else None] * len(clips))
        audio = torch.cat([*self.decoder_pipeline().run(self._latent_pieces(codes, frames, progress), state)], dim=1)
        for i, length in enumerate(lengths or []):
            audio[i, length:] = 0
        return audio.transpose(1, 2)[..., : frames * hop if num_samples is None else num_samples]

    def encoder_pipeline(self, offset: int = 0) -> Pipeline:
        """The encoder for audio that comes in pieces of whole groups of frames, from sample `offset` on."""
        multiple = self.config.frame_multiple
        layers = [*self.encoder.layers(), Groups(multiple)]
        return Pipeline(layers, multiple * self.hop_length, offset)

    def decoder_pipeline(self) -> Pipeline:
        """The decoder for latent frames that come in pieces of whole groups."""
        return Pipeline(self.decoder.layers(), self.config.frame_multiple)

    @property
    def _piece_frames(self) -> int:
        multiple = self.config.frame_multiple
        return max(1, round(PIECE_SECONDS * self.frame_rate / multiple)) * multiple

    def _audio_pieces(
        self, audio: Audio, lengths: Sequence[int] | None, frames: int, progress: Progress
    ) -> Iterator[Tensor]:
        """Time-major pieces of audio, zeros where a clip has ended."""
        total, size = frames * self.hop_length, self._piece_frames * self.hop_length
        for start in range(0, total, size):
            piece = audio[:, :, start : start + size].transpose(1, 2)
            if lengths is not None:
                step = torch.arange(start, start + piece.shape[1], device=audio.device)
                ends = torch.tensor(lengths, device=audio.device)[:, None]
                piece = piece.masked_fill((step >= ends)[..., None], 0)
            yield F.pad(piece, (0, 0, 0, min(size, total - start) - piece.shape[1]))
            progress(min(1.0, (start + size) / total))

    def _latent_pieces(self, codes: Sequence[Codes], frames: int, progress: Progress) -> Iterator[Tensor]:
        size, strides = self._piece_frames, self.config.vq_strides
        for start in range(0, frames, size):
            stop = min(start + size, frames)
            cut = [c[:, start // s : stop // s].long() for c, s in zip(codes, strides, strict=True)]
            yield self.quantizer.from_codes(cut)
            progress(stop / frames)

    def _frames_of_clips(self, lengths: Sequence[int] | None, samples: int, clips: int) -> list[int]:
        """Frames that code each clip of a batch; AudioError for lengths that do not fit it."""
        if lengths is None:
            return [self.config.num_frames(samples)] * clips
        if len(lengths) != clips or not all(1 <= length <= samples for length in lengths):
            raise AudioError(
                f"lengths came as {list(lengths)}; {clips} numbers from 1 to {samples} were needed, "
                "the samples of each clip of the batch"
            )
        return [self.config.num_frames(int(length)) for length in lengths]

    def _padded(self, audio: Audio) -> Audio:
        check_audio(audio, next(self.parameters()))
        samples = self.config.num_frames(audio.shape[-1]) * self.hop_length
        return F.pad(audio, (0, samples - audio.shape[-1]))

    def check_codes(self, codes: Sequence[Codes], multiple: int) -> int:
        """The number of frames that the codes stand for; CodesError if they do not fit the model or `multiple`."""
        strides, size = self.config.vq_strides, self.config.codebook_size
        if not isinstance(codes, list | tuple) or len(codes) != len(strides):
            came = f"{len(codes)} tensors" if isinstance(codes, list | tuple) else type(codes).__name__
            raise CodesError(
                f"codes came as {came}; a list of {len(strides)} was needed, one per scale, coarse to fine"
            )
        for scale, code in enumerate(codes):
            _check_code(scale, code, size, next(self.parameters()).device)
        shapes = ", ".join(str(tuple(code.shape)) for code in codes)
        frames = codes[0].shape[1] * strides[0]
        expected = [(codes[0].shape[0], frames // stride) for stride in strides]
        if [tuple(code.shape) for code in codes] != expected or frames % multiple:
            raise CodesError(
                f"codes came in shapes {shapes}; for strides {list(strides)} each scale must hold frames / stride "
                f"codes of the same batch, frames being a multiple of {multiple}"
            )
        return frames


def check_audio(audio: Audio, weight: Tensor) -> None:
    """Raise AudioError, saying what to do, unless audio is finite, (batch, 1, samples), and as the weights are."""
    if not isinstance(audio, Tensor):
        raise AudioError(f"audio came as {type(audio).__name__}; a torch tensor (batch, 1, samples) was needed")
    shape = tuple(audio.shape)
    if audio.ndim != 3:
        hint = "audio[None, None]" if audio.ndim == 1 else "audio[:, None] for a batch of mono clips"
        raise AudioError(f"audio came in shape {shape}; (batch, 1, samples) was needed: use {hint}")
    if audio.shape[1] != 1:
        raise AudioError(
            f"audio came with {audio.shape[1]} channels, shape {shape}; (batch, 1, samples) was needed: code each "
            "channel by itself with audio.reshape(-1, 1, audio.shape[-1]), or mix down with audio.mean(1, keepdim=True)"
        )
    if audio.numel() == 0:
        raise AudioError(f"audio is empty, shape {shape}; at least one clip of one sample was needed")
    if audio.dtype != weight.dtype:
        raise AudioError(
            f"audio came as {audio.dtype}; {weight.dtype} in [-1, 1] was needed, as the model's weights are: "
            "convert it (16-bit integers: audio.float() / 32768)"
        )
    if audio.device != weight.device:
        raise AudioError(
            f"audio came on {audio.device} and the model is on {weight.device}: use audio.to({str(weight.device)!r})"
        )
    if not torch.isfinite(audio).all():
        raise AudioError("audio holds NaN or infinite values; finite ones were needed: repair or cut the recording")


def _check_code(scale: int, code: Codes, codebook_size: int, device: torch.device) -> None:
    came = f"shape {tuple(code.shape)}, {code.dtype}" if isinstance(code, Tensor) else type(code).__name__
    if not isinstance(code, Tensor) or code.ndim != 2 or code.is_floating_point() or code.dtype == torch.bool:
        raise CodesError(f"codes of scale {scale} came as {came}; an integer tensor (batch, codes) was needed")
    if code.numel() == 0:
        raise CodesError(f"codes of scale {scale} are empty ({came}); at least one frame was needed")
    if code.device != device:
        raise CodesError(
            f"codes of scale {scale} came on {code.device} and the model is on {device}: "
            f"use [scale.to({str(device)!r}) for scale in codes]"
        )
    low, high = int(code.min()), int(code.max())
    if low < 0 or high >= codebook_size:
        raise CodesError(
            f"codes of scale {scale} run from {low} to {high}; 0 to {codebook_size - 1} was needed: "
            "subtract the vocabulary's offsets, or use the model that made them"
        )
