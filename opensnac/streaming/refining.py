"""An encoder that listens: codes refined until what the decoder makes of them is nearer to the original.

An encoder chooses codes in one pass, without hearing the result. This one decodes them, compares spectra and moves the
latent along the gradient, some rounds for each window of a few seconds (analysis by synthesis; gradients pass straight
through the quantiser, as in training). The codes are of the same kind and number: any decoder of the model plays them.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from opensnac.engine.codec import SNAC
from opensnac.errors import AudioError, OpensnacError
from opensnac.model.checks import checked_audio
from opensnac.model.codec import Audio, Codes, Latent, Quantized
from opensnac.spectra.distances import MEL_WINDOWS, Sound, Spectra, complex_loss, mel_loss
from opensnac.spectra.loudness import loudness_loss
from opensnac.streaming.streams import StreamDecoder, StreamEncoder

MEL, LOUDNESS, COMPLEX, COMMITMENT = 15.0, 22.0, 5.0, 0.1  # weights of the distances
STEP, BETAS = 0.03, (0.8, 0.95)  # Adam's first step, a share of the latent's standard deviation; the last is near zero
WINDOW_SECONDS = 4.0


@dataclass
class Window:
    """The state of streams: the samples that are not coded yet, after some that are, and the latent of those."""

    audio: Audio
    before: Latent
    ended: bool = False


class RefiningEncoder:
    """Samples in, refined codes out, a window of `window` samples at a time, each stream as it would be alone.

    A round takes about as long as a step of training the decoder on those samples. A window's codes are as near to the
    original as the plain ones or nearer, given the codes before it. It is decoded with the next `look_ahead` samples,
    so that its end fits what follows. The model's current weights are used; later changes do not affect the stream.
    """

    def __init__(self, model: SNAC, rounds: int) -> None:
        if rounds < 1:
            raise OpensnacError(f"rounds: expected at least 1, got {rounds}")
        if not isinstance(model, SNAC):
            raise OpensnacError(f"model: expected a SNAC, which has gradients, got {type(model).__name__}")
        self.rounds, self.engine = rounds, model.freeze()
        with torch.inference_mode(False):
            self._model = copy.deepcopy(model).float().eval().requires_grad_(False)
            self._model.fold()
        group = model.config.frame_multiple * model.hop_length
        reach = max(stream(self.engine).exact_look_ahead for stream in (StreamEncoder, StreamDecoder))
        self.look_ahead = -(-reach // group) * group
        self.window = max(self.look_ahead, round(WINDOW_SECONDS * model.sampling_rate / group) * group)

    def start(self, streams: int = 1) -> Window:
        """The state of `streams` streams that have not begun."""
        device = self.engine.device
        return Window(
            torch.zeros(streams, 1, 0, device=device), torch.zeros(streams, self.engine.latent_dim, 0, device=device)
        )

    def push(self, audio: Audio, state: Window) -> list[list[Codes]]:
        """Take (streams, 1, samples), any number of samples; returns each stream's new codes, (1, n) per scale.

        AudioError for anything but finite floating-point audio of that shape.
        """
        audio = checked_audio(audio, torch.float32, self.engine.device)
        self._check_open(audio.shape[0], state)
        state.audio = torch.cat([state.audio, audio], dim=-1)
        none = torch.zeros(1, 0, dtype=torch.int64, device=self.engine.device)
        parts = [[[none] * len(self.engine.config.vq_strides)] for _ in audio]
        while state.audio.shape[-1] >= self._known(state) + self.window + self.look_ahead:
            end = self._known(state) + self.window
            for known, codes in zip(parts, self._coded(state, end), strict=True):
                known.append(codes)
            state.audio = state.audio[..., end - self.look_ahead :]
        return [_joined(stream) for stream in parts]

    def flush(self, state: Window) -> list[list[Codes]]:
        """End the streams; returns the rest of each one's codes, padded to whole groups as in `SNAC.encode`."""
        self._check_open(len(state.audio), state)
        if not state.audio.shape[-1]:
            raise AudioError("the stream ended before its first sample: expected at least one, got none")
        state.ended = True
        return self._coded(state, None)

    def encode(self, audio: Audio) -> list[Codes]:
        """Audio (batch, 1, samples) -> codes of each scale, coarse to fine, shaped as those of `SNAC.encode`."""
        state = self.start(len(audio))
        clips = [_joined([*both]) for both in zip(self.push(audio, state), self.flush(state), strict=True)]
        return _joined(clips, dim=0)

    def _known(self, state: Window) -> int:
        """Samples that are coded already."""
        return state.before.shape[-1] * self.engine.hop_length

    def _coded(self, state: Window, end: int | None) -> list[list[Codes]]:
        """The codes from the first uncoded sample up to `end`, or up to the last; the state keeps their last latent."""
        until = None if end is None else end + self.look_ahead
        streams = [
            self._refined(audio[None, :, :until], before[None])
            for audio, before in zip(state.audio, state.before, strict=True)
        ]
        if end is None:
            return [stream.codes for stream in streams]
        frames, context = (n // self.engine.hop_length for n in (self.window, self.look_ahead))
        state.before = torch.cat([stream.latent[..., frames - context : frames] for stream in streams])
        strides = self.engine.config.vq_strides
        return [[codes[:, : frames // s] for codes, s in zip(q.codes, strides, strict=True)] for q in streams]

    def _refined(self, audio: Audio, before: Latent) -> Quantized:
        """One stream's window, whose beginning decodes `before`: the quantised rest that comes nearest to it."""
        with torch.inference_mode(False), torch.enable_grad():
            audio = self._model.preprocess(audio.clone())
            start = self._model.latent(audio)[..., before.shape[-1] :]
            original, step = Spectra(_long_enough(audio)), STEP * float(start.std())
            rate = self.engine.config.sampling_rate
            moving = start.clone().requires_grad_()
            adam = torch.optim.Adam([moving], step, BETAS)
            best, least = self._model.quantize(start), math.inf
            for round_ in range(self.rounds + 1):
                quantized = self._model.quantize(moving)
                decoded = self._model.decode_latent(torch.cat([before, quantized.latent], dim=-1))
                apart = distance(_long_enough(decoded), original, rate)
                if (now := apart.item()) < least:
                    best, least = quantized, now
                if round_ < self.rounds:
                    for group in adam.param_groups:
                        group["lr"] = step * (1 - round_ / (self.rounds + 1))
                    rounding = [F.mse_loss(e, q.detach()) for e, q in zip(quantized.z_e, quantized.z_q, strict=True)]
                    (moving.grad,) = torch.autograd.grad(apart + COMMITMENT * sum(rounding), moving)
                    adam.step()
            return Quantized(best.latent.detach(), best.codes, [], [])

    def _check_open(self, streams: int, state: Window) -> None:
        if streams != len(state.audio):
            raise OpensnacError(f"expected samples of {len(state.audio)} streams, got {streams}: push to all")
        if state.ended:
            raise OpensnacError("the stream has ended; start another one")


def distance(decoded: Sound, original: Sound, sample_rate: int) -> Tensor:
    """What refinement lowers: a sum of distances of spectra and of loudness, of at least 2048 samples."""
    decoded, original = Spectra.of(decoded), Spectra.of(original)
    return (
        MEL * mel_loss(decoded, original, sample_rate)
        + LOUDNESS * loudness_loss(decoded.audio, original.audio, sample_rate)
        + COMPLEX * complex_loss(decoded, original)
    )


def _long_enough(audio: Audio) -> Audio:
    """Audio with zeros after it where it is shorter than the longest window."""
    return F.pad(audio, (0, max(0, MEL_WINDOWS[-1] - audio.shape[-1])))


def _joined(parts: list[list[Codes]], dim: int = 1) -> list[Codes]:
    """Codes per scale, one after the other."""
    return [torch.cat(scale, dim) for scale in zip(*parts, strict=True)]
