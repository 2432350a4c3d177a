"""Photographs of your own: any file, made into what the networks take.

open_photo(file)        a `Photo`, or one sentence that says why there is none
load_photos(folder)     all of a folder
"""

import contextlib
import struct
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

LARGEST = 64_000_000  # pixels: more than today's telephones save; unpacked 200 MB, some much more
SQUARE = 384  # pixels: what is shown of it
KINDS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
# What Pillow raises for files that are damaged, cut off, or none of its own.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, struct.error)
DAMAGE += (zlib.error, MemoryError, RuntimeError, Image.DecompressionBombError)
Image.init()
FORMATS = tuple(set(Image.OPEN) - {"EPS", "WMF"})  # these two Pillow hands to other programs


class PhotoError(ValueError):
    """A file cannot be taken for a photograph; the message says why and what to do."""


class Photo(NamedTuple):
    """A photograph, cut to the square in its middle."""

    name: str
    square: np.ndarray  # uint8 (S, S, 3), RGB; S is at most SQUARE
    small: np.ndarray  # uint8 (32, 32, 3), RGB: as the networks get it
    notes: tuple  # sentences: what was done to it that one may not expect


def open_photo(file):
    """The `Photo` in a file.

    It is turned as the camera held it; of an animation the first picture is taken, what is
    transparent becomes white, and colours for print (CMYK) become RGB.

    file: a path.

    Raises PhotoError for anything else, empty, damaged, or larger than LARGEST.
    """
    path, notes = Path(file), []
    name = path.name
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise PhotoError(f"{name} cannot be read ({error.strerror}).") from None
    if empty:
        raise PhotoError(f"{name} is empty (0 bytes); save or copy the photo once more.")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            check_size(image.size, name)
            image.draft("RGB", (2 * SQUARE, 2 * SQUARE))  # a large JPEG is unpacked at part size
            if getattr(image, "is_animated", False) and image.format != "MPO":  # that is one photo
                notes.append("It has several pictures, or moves: this is the first.")
            image.load()
            upright = image
            with contextlib.suppress(*DAMAGE):  # tags may be nonsense where the pixels are not
                upright = ImageOps.exif_transpose(image)
            colours = to_rgb(upright, notes)
    except PhotoError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, Image.DecompressionBombError):
            raise PhotoError(too_large(name)) from None
        raise PhotoError(f"{name} is no image that can be opened; use {KINDS}.") from None
    except DAMAGE:
        raise PhotoError(f"{name} is damaged or cut off; save or copy the photo anew.") from None
    return Photo(name, *squares(colours), tuple(notes))


def check_size(size, name):
    """Raises PhotoError where there are more than LARGEST pixels. Nothing is unpacked yet."""
    if size[0] * size[1] > LARGEST:
        raise PhotoError(too_large(name, f" ({size[0]:,} × {size[1]:,})"))


def too_large(name, size=""):
    millions = LARGEST // 1_000_000
    return f"{name} is too large{size}: at most {millions} million pixels; make it smaller."


def to_rgb(image, notes):
    """An RGB image of a Pillow image of any mode. Appends to `notes` what one may not expect."""
    if image.mode.startswith(("I", "F")):  # 16 or more bits: `convert` would cut off all above 255
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
        depths = (255, 4095, 65_535) if image.mode.startswith("I;16") else ()
        top = next((top for top in depths if top >= values.max()), max(values.max(), 1))
        image = Image.fromarray((255 * values / top).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:  # many screenshots could be transparent, and are not
            notes.append("What was transparent is white.")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode == "CMYK":
        notes.append("Its colours are for print (CMYK): on a screen they are not quite the same.")
    return image.convert("RGB")


def squares(image):
    """The square in the middle of an RGB image: (at most SQUARE pixels wide, 32 x 32), uint8."""
    side = min(image.size)
    shown = ImageOps.fit(image, (min(side, SQUARE),) * 2, Image.Resampling.BICUBIC)
    small = ImageOps.fit(image, (32, 32), Image.Resampling.BICUBIC)
    return np.array(shown), np.array(small)


def load_photos(folder):
    """(photos, refusals): a `Photo` of each file in `folder` by name, a sentence where it is none.

    Raises PhotoError where there is no such folder, or nothing in it.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    if not paths:
        raise PhotoError(f"There are no photos in {folder}; make the folder and put some into it.")
    photos, refusals = [], []
    for path in paths:
        try:
            photos.append(open_photo(path))
        except PhotoError as error:
            refusals.append(str(error))
    return photos, refusals
