"""Every shipped or published layout, with few channels, and odd small ones."""

from __future__ import annotations

import configs

from opensnac import CodecConfig
from opensnac.models import bundled_models

MUSIC_44KHZ = CodecConfig().to_dict()


def small(config: configs.Config) -> configs.Config:
    """A layout with few channels, but enough for attention."""
    return config | {"latent_dim": None, "encoder_dim": 64 >> len(config["encoder_rates"]), "decoder_dim": 64}


LAYOUTS = {
    "speech_24khz": small(configs.SPEECH_24KHZ),
    "music_32khz": small(configs.MUSIC_32KHZ),
    "music_44khz": small(MUSIC_44KHZ),
    **configs.SMALL,
}
SHIPPED = {
    name: small(CodecConfig.from_json(folder / "config.json").to_dict()) for name, folder in bundled_models().items()
}
LAYOUTS |= {name: layout for name, layout in SHIPPED.items() if layout not in LAYOUTS.values()}
