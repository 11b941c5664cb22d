"""Pages to look at: HTML files that hold all they need, share one style, and ask nothing of the network."""

from conservator.pages.compare import compared, one_picture, thumbnail
from conservator.pages.page import make_page, our_page, scrolled
from conservator.pages.pictures import jpeg_bytes, jpeg_within, picture_uri, save_png, sized

__all__ = [
    "compared",
    "jpeg_bytes",
    "jpeg_within",
    "make_page",
    "one_picture",
    "our_page",
    "picture_uri",
    "save_png",
    "scrolled",
    "sized",
    "thumbnail",
]
