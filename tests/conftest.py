"""Shapes and types that the model's and the losses' signatures state are checked at every call the tests make."""

from jaxtyping import install_import_hook

CHECKED = ("attention", "decoder", "encoder", "layers", "noise", "quantizer")

install_import_hook([f"opensnac.model.{name}" for name in CHECKED], "beartype.beartype")
install_import_hook(["opensnac.training.losses", "opensnac.training.discriminators"], "beartype.beartype")
