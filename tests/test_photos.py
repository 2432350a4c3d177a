"""Files of every kind: each gives the right pixels, or one sentence."""

import numpy as np
import pytest
from PIL import Image

from core.photos import LARGEST, PhotoError, load_photos, open_photo

RED, BLUE = (200, 30, 20), (10, 60, 220)


def halves(width=120, height=80, mode="RGB"):
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width, height // 2))
    return image.convert(mode)


def save(folder, image, name="photo.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


def colours(photo):
    """Those near the top and the bottom of the 32 x 32 image."""
    return photo.small[4, 16].tolist(), photo.small[28, 16].tolist()


@pytest.mark.parametrize("name", [f"a.{k}" for k in ("png", "jpg", "webp", "gif", "bmp", "tiff")])
def test_every_kind(name, tmp_path):
    photo = open_photo(save(tmp_path, halves(), name))
    assert photo.name == name
    assert (photo.small.shape, photo.small.dtype) == ((32, 32, 3), np.uint8)
    assert photo.square.shape == (80, 80, 3)
    assert photo.notes == ()
    for found, wanted in zip(colours(photo), (RED, BLUE), strict=True):
        assert found == pytest.approx(wanted, abs=12)


def test_the_square_in_the_middle_is_taken(tmp_path):
    """Of a wide picture, green at both ends; and what is shown of a large one is limited."""
    image = Image.new("RGB", (3000, 1000), (0, 255, 0))
    image.paste(halves(1000, 1000), (1000, 0))
    photo = open_photo(save(tmp_path, image))
    assert photo.square.shape == (384, 384, 3)
    for found, wanted in zip(colours(photo), (RED, BLUE), strict=True):
        assert found == pytest.approx(wanted, abs=3)
    assert photo.small[:, 1:-1, 1].max() < 70  # nothing green


def test_a_camera_held_upright_is_turned(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the top of the scene is on the right of the file
    path = save(tmp_path, halves(80, 120).rotate(90, expand=True), "a.jpg", exif=exif)
    assert Image.open(path).size == (120, 80)
    found = colours(open_photo(path))
    assert found[0] == pytest.approx(RED, abs=12)


def test_colours_for_print(tmp_path):
    photo = open_photo(save(tmp_path, halves(mode="CMYK"), "a.jpg"))
    assert colours(photo)[0] == pytest.approx(RED, abs=25)
    assert "CMYK" in photo.notes[0]


def test_what_is_transparent_is_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((*BLUE, 255), (0, 32, 64, 64))
    photo = open_photo(save(tmp_path, image))
    assert colours(photo) == ([255, 255, 255], list(BLUE))
    assert "transparent" in photo.notes[0]


def test_a_transparent_palette(tmp_path):
    image = halves().quantize(4)
    path = save(tmp_path, image, "a.gif", transparency=image.getpixel((1, 1)))
    assert colours(open_photo(path))[0] == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_of_an_animation_the_first_picture(name, tmp_path):
    first, second = Image.new("RGB", (64, 64), RED), Image.new("RGB", (64, 64), BLUE)
    path = save(tmp_path, first, name, save_all=True, append_images=[second], duration=100)
    photo = open_photo(path)
    assert colours(photo)[0] == pytest.approx(RED, abs=12)
    assert "the first" in photo.notes[0]


def test_an_opaque_screenshot_is_not_called_transparent(tmp_path):
    photo = open_photo(save(tmp_path, Image.new("RGBA", (64, 64), (*BLUE, 255))))
    assert (colours(photo)[0], photo.notes) == (list(BLUE), ())


def test_twelve_bits_and_pixels_that_are_no_number(tmp_path):
    twelve = np.full((40, 40), 4095 * 2 // 5, np.uint16)
    assert colours(open_photo(save(tmp_path, Image.fromarray(twelve))))[0] == [102, 102, 102]
    floats = np.full((40, 40), 100, np.float32)
    floats[:, 20:] = 200
    floats[0, 0] = np.nan
    photo = open_photo(save(tmp_path, Image.fromarray(floats), "a.tiff"))
    assert photo.square[20, 5, 0] in (127, 128)
    assert photo.square[20, 35, 0] == 255


def test_what_another_program_would_open_is_not_opened(tmp_path):
    path = save(tmp_path, Image.new("RGB", (64, 64), RED), "a.eps")
    with pytest.raises(PhotoError, match="no image that can be opened; use JPEG, PNG"):
        open_photo(path)


def test_sixteen_bits_and_grey(tmp_path):
    deep = Image.fromarray(np.full((40, 40), 257 * 100, np.uint16))
    for image in (deep, Image.new("L", (40, 40), 100), Image.new("LA", (40, 40), (100, 255))):
        assert colours(open_photo(save(tmp_path, image)))[0] == [100, 100, 100]


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (32, 32)])
def test_small_ones(size, tmp_path):
    assert colours(open_photo(save(tmp_path, Image.new("RGB", size, RED))))[0] == list(RED)


def test_an_image_of_the_data_set_comes_back(tmp_path, small):
    image = small.test_images[0]
    assert np.array_equal(open_photo(save(tmp_path, Image.fromarray(image))).small, image)


def refusal(path):
    with pytest.raises(PhotoError) as caught:
        open_photo(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text and len(text) < 140
    return text


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def test_no_photographs(tmp_path):
    for name, content in {
        "words.jpg": b"This is no photograph.",
        "page.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "noise.png": np.random.default_rng(0).bytes(5000),
        "head.png": b"\x89PNG\r\n\x1a\n",
        "head.gif": b"GIF89a",
        "head.jpg": b"\xff\xd8\xff",
    }.items():
        (tmp_path / name).write_bytes(content)
        text = refusal(tmp_path / name)
        assert "use JPEG, PNG, WebP, GIF, BMP or TIFF" in text or "is damaged or cut off" in text


def test_empty_missing_and_a_folder(tmp_path):
    (tmp_path / "empty.jpg").touch()
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.jpg")
    assert "cannot be read" in refusal(tmp_path / "no.jpg")
    (tmp_path / "folder").mkdir()
    assert "cannot be read (Is a directory)" in refusal(tmp_path / "folder")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_cut_off(name, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    cut(path)
    assert "damaged or cut off" in refusal(path)


def test_a_hundred_megapixels_are_refused_before_they_are_unpacked(tmp_path):
    path = save(tmp_path, Image.new("1", (10_000, 10_000)))
    assert path.stat().st_size < 100_000  # unpacked it would be 300 MB
    assert "too large (10,000 × 10,000): at most 64 million pixels" in refusal(path)
    path = save(tmp_path, Image.new("1", (20_000, 20_000)), "b.png")  # a bomb to Pillow, too
    assert "too large" in refusal(path)


def test_what_a_telephone_saves_is_small_enough():
    assert LARGEST > 8160 * 6120


def test_a_folder(tmp_path):
    save(tmp_path, halves(), "b.png")
    save(tmp_path, halves(), "a.jpg")
    (tmp_path / "c.txt").write_text("a list")
    (tmp_path / ".hidden").touch()
    photos, refusals = load_photos(tmp_path)
    assert [photo.name for photo in photos] == ["a.jpg", "b.png"]
    assert len(refusals) == 1 and "c.txt is no image" in refusals[0]


def test_no_folder(tmp_path):
    for folder in (tmp_path, tmp_path / "no"):
        with pytest.raises(PhotoError, match="make the folder and put some into it"):
            load_photos(folder)
