"""Codecs behind one interface, one class each: a clip is encoded to actual bytes and decoded."""

from __future__ import annotations

import re
from collections.abc import Callable

from opensnac.errors import OpensnacError
from opensnac.evaluation.codecs.amr import AmrWb
from opensnac.evaluation.codecs.base import Codec, Coded, Original
from opensnac.evaluation.codecs.lyra import Lyra
from opensnac.evaluation.codecs.programs import Codec2, Opus, Speex
from opensnac.evaluation.codecs.snac import Opensnac, Refined
from opensnac.evaluation.codecs.transformers import Dac, Encodec, Mimi

__all__ = ["DEFAULT_CODECS", "FAMILIES", "Codec", "Coded", "by_name"]

DEFAULT_CODECS = ("opensnac", "opus:6", "codec2:1200")
_NUMBER = r"\d+(\.\d+)?"
_NUMBER_AND_MODEL = _NUMBER + "(@.+)?"

# Prefix before the colon -> the form of what follows, an example, and the class.
FAMILIES: dict[str, tuple[str, str, Callable[[str], Codec]]] = {
    "opensnac": (".+", "opensnac:FOLDER_OR_HUB_ID", Opensnac),
    "refined": ("[1-9][0-9]*(@.+)?", "refined:8[@FOLDER_OR_HUB_ID]", Refined),
    "opus": (_NUMBER + "(@music|@speech)?", "opus:6", Opus),
    "codec2": (".+", "codec2:1200", Codec2),
    "speex": (_NUMBER, "speex:6", Speex),
    "amrwb": (_NUMBER, "amrwb:6.6", AmrWb),
    "lyra": (_NUMBER_AND_MODEL, "lyra:3.2@FOLDER", Lyra),
    "encodec": (_NUMBER_AND_MODEL, "encodec:1.5[@FOLDER_OR_HUB_ID]", Encodec),
    "dac": (_NUMBER_AND_MODEL, "dac:1.5[@FOLDER_OR_HUB_ID]", Dac),
    "mimi": (_NUMBER_AND_MODEL, "mimi:1.1[@FOLDER_OR_HUB_ID]", Mimi),
}


def by_name(name: str) -> Codec:
    """The codec called `name`, such as opensnac, opensnac:FOLDER, opus:6 or codec2:1200; loads nothing yet.

    Raises OpensnacError, which lists the forms, for other names.
    """
    if name == "original":
        return Original()
    if name == "opensnac":
        return Opensnac()
    family, _, choice = name.partition(":")
    if family in FAMILIES:
        spelling, _, make = FAMILIES[family]
        if re.fullmatch(spelling, choice):
            return make(choice)
    forms = ", ".join(example for _, example, _ in FAMILIES.values())
    raise OpensnacError(f"expected a codec opensnac, {forms}, got {name!r}")
