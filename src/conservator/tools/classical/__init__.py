"""The classical toolbox: textbook methods, no weights. A new tool is one class in its file and one line here."""

from conservator.tools.classical.deblock import DctDejpeg, Deblock
from conservator.tools.classical.deblur import DEBLUR, RichardsonLucyDeblur, WienerDeblur
from conservator.tools.classical.denoise import DctDenoise, NlmDenoise, TvDenoise, WaveletDenoise
from conservator.tools.classical.light import (
    ClaheBrighten,
    GammaBrighten,
    RetinexBrighten,
    ShiftBrighten,
    StretchBrighten,
)
from conservator.tools.classical.upscale import BackprojectionUpscale, EdgeDirectedUpscale, LanczosUpscale
from conservator.tools.classical.weather import (
    ColourAttenuationDehaze,
    DarkChannelDehaze,
    MedianDerain,
    MorphologicalDerain,
)
from conservator.tools.tool import Tool

CLASSICAL: tuple[Tool, ...] = (
    DctDejpeg(),
    Deblock(),
    DctDenoise(),
    WaveletDenoise(),
    NlmDenoise(),
    TvDenoise(),
    MedianDerain(),
    MorphologicalDerain(),
    *DEBLUR,
    ColourAttenuationDehaze(),
    DarkChannelDehaze(),
    StretchBrighten(),
    ShiftBrighten(),
    GammaBrighten(),
    RetinexBrighten(),
    ClaheBrighten(),
    BackprojectionUpscale(),
    EdgeDirectedUpscale(),
    LanczosUpscale(4),
    LanczosUpscale(2),
)
"""In the order in which a cautious expert would try them."""

__all__ = [
    "CLASSICAL",
    "BackprojectionUpscale",
    "ClaheBrighten",
    "ColourAttenuationDehaze",
    "DarkChannelDehaze",
    "DctDejpeg",
    "DctDenoise",
    "Deblock",
    "EdgeDirectedUpscale",
    "GammaBrighten",
    "LanczosUpscale",
    "MedianDerain",
    "MorphologicalDerain",
    "NlmDenoise",
    "RetinexBrighten",
    "RichardsonLucyDeblur",
    "ShiftBrighten",
    "StretchBrighten",
    "TvDenoise",
    "WaveletDenoise",
    "WienerDeblur",
]
