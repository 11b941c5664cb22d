"""Photos: files read and written with everything they carry."""

from conservator.photo.find import Contents, find_photos, look_through
from conservator.photo.photo import PHOTO_SUFFIXES, Photo, load_photo
from conservator.photo.quantisation import JpegTables
from conservator.photo.save import check_in_place, copy_photo, save_photo

__all__ = [
    "PHOTO_SUFFIXES",
    "Contents",
    "JpegTables",
    "Photo",
    "check_in_place",
    "copy_photo",
    "find_photos",
    "load_photo",
    "look_through",
    "save_photo",
]
