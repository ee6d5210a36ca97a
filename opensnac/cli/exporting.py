"""export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opensnac.cli.app import ELSEWHERE, MODELS, command
from opensnac.cli.reporting import needs_extra, reporting

if TYPE_CHECKING:
    from opensnac.export.weights import Weights


@command(ELSEWHERE, "opensnac export speech_24khz_small -o onnx/ --stream --weights fp16")
def export(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help=MODELS)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder.")] = Path("onnx"),
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="fp32|fp16|int8",
            help="Storage type of the weights; repeatable. Default: fp32. int8 applies to the decoder; the encoder is "
            "then fp16.",
        ),
    ] = None,
    noise: Annotated[
        str, typer.Option(metavar="exact|none", help="Include the decoder's noise, or leave it out.")
    ] = "exact",
    stream: Annotated[
        bool, typer.Option("--stream", help="Also write streaming graphs, which take a signal in pieces.")
    ] = False,
) -> None:
    """Export a model to ONNX, for other programs: ONNX Runtime, browsers, transformers.js.

    Needs: pip install 'opensnac\\[export]'
    """
    with reporting():
        needs_extra("export", "onnx")
        from opensnac.errors import ConfigError
        from opensnac.export import folder

        if noise not in ("exact", "none"):
            raise ConfigError(f"--noise: expected exact or none, got {noise!r}")
        folder.export(_weights(model), out, weights or ["fp32"], noise=noise == "exact", stream=stream)


def _weights(model: str | None) -> Weights:
    """A model's weights. Needs PyTorch unless they are in `model.safetensors`."""
    from opensnac.export.weights import Weights
    from opensnac.models import locate

    folder, name = locate(model)
    if (folder / "model.safetensors").exists():
        return Weights.read(folder, name)
    needs_extra("torch", "torch")
    from opensnac import SNAC

    codec = SNAC.from_pretrained(folder)
    codec.name = name
    return Weights.of(codec)
