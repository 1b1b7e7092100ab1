import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import ROOT, SHARED, shared
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from wideresnet.errors import ImageError
from wideresnet.images import MAX_PIXELS, SUFFIXES, decode, from_pil, size_of

Pixels = npt.NDArray[np.uint8]

# pytest sets its own filters over those that `images` has set; that they act is tested in a process of its own
pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.", r"ignore::PIL.Image.DecompressionBombWarning")


# ——— the shared corpus, file by file ———

SINGLE = SHARED / "data" / "messy" / "single"
MANIFEST: dict[str, dict[str, Any]] = {}
if (SINGLE.parent / "MANIFEST.json").exists():
    rows = json.loads((SINGLE.parent / "MANIFEST.json").read_text(encoding="utf-8"))
    MANIFEST = {path.removeprefix("single/"): row for path, row in rows.items() if path.startswith("single/")}

# What `docs/images.md` promises for the rows that may go either way: a part of the reason, or None: it is read.
ANY = {
    "bomb_text_chunk.png": "unpacks to more than 1 MiB",
    "float32.tif": "floating-point samples",
    "icon.ico": "ICO icon",
    "large_10000x10000.png": "10000×10000 pixels, more than the limit",
    "no_extension": None,
    "truncated_tail.jpg": None,
}
REASONS = {
    "bad_crc.png": "checksum",
    "bomb_30000x30000.png": "more pixels than the limit",
    "header_only.jpg": "a JPEG whose header is broken",
    "heic_stub.heic": "HEIC",
    "lfs_pointer.jpg": "git lfs pull",
    "lying_header.png": "truncated",
    "one_byte.jpg": "not a picture of a known format",
    "pdf_renamed.jpg": "PDF",
    "text_renamed.jpg": "HTML",
    "truncated.jpg": "truncated",
    "truncated.png": "cut short",
    "zero_byte.jpg": "an empty file",
    "zero_dim.png": "a PNG whose header is broken",
    "zip_renamed.png": "ZIP",
}


def test_the_corpus_of_messy_files_is_there() -> None:
    shared("data/messy/MANIFEST.json")
    assert {name for name, row in MANIFEST.items() if row["expect"] == "any"} == set(ANY)
    assert {name for name, row in MANIFEST.items() if row["expect"] == "error"} == set(REASONS)


@pytest.mark.parametrize("name", MANIFEST)
def test_a_messy_file_does_what_the_manifest_says(name: str) -> None:
    row, path = MANIFEST[name], SINGLE / name
    if row["expect"] == "skip":
        assert path.suffix.lower() not in SUFFIXES  # so that a folder scan passes over it
        return
    reason = {**ANY, **REASONS}.get(name)
    if reason:
        with pytest.raises(ImageError) as error:
            decode(path)
        message = str(error.value)
        assert reason in message
        assert "\n" not in message
        assert str(path) not in message
        return
    image = decode(path)
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.flags.writeable
    assert size_of(path) == image.shape[:2]
    assert np.array_equal(decode(path.read_bytes()), image)
    if size := row.get("upright") or row.get("size"):
        assert image.shape[:2] == (size[1], size[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_every_picture_upright(orientation: int) -> None:
    image = decode(shared(f"data/messy/single/exif_orientation_{orientation}.jpg")).astype(int)
    for (y, x), colour in {(8, 12): (255, 0, 0), (8, 36): (0, 255, 0), (24, 12): (0, 0, 255)}.items():
        assert np.abs(image[y, x] - colour).max() < 30, (y, x, image[y, x])


def test_a_cmyk_jpeg_has_the_colours_of_its_rgb_twin() -> None:
    cmyk, twin = (decode(shared(f"data/messy/single/{name}")) for name in ("cmyk.jpg", "cmyk_rgb_twin.png"))
    assert np.abs(cmyk.astype(int) - twin).mean() < 6  # what JPEG loses; inverted it would be over 100


@pytest.mark.parametrize(("name", "channels"), [("gray16.png", 1), ("rgb16.png", 3)])
def test_16_bit_png_is_divided_by_257_and_rounded(name: str, channels: int) -> None:
    path = shared(f"data/messy/single/{name}")
    height, width = size_of(path)
    assert np.array_equal(decode(path), eighth(unpacked_png(path.read_bytes(), height, width, channels)))


@pytest.mark.parametrize("name", ["icc_srgb.jpg", "icc_garbage.png", "icc_wrong.jpg"])
def test_a_profile_that_is_srgb_or_broken_or_of_another_space_leaves_the_pixels_bit_for_bit(name: str) -> None:
    with Image.open(shared(f"data/messy/single/{name}")) as image:
        assert np.array_equal(decode(shared(f"data/messy/single/{name}")), np.asarray(image))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address-space limits are Linux's")
@pytest.mark.parametrize("name", ["bomb_30000x30000.png", "bomb_text_chunk.png", "large_10000x10000.png"])
def test_a_bomb_is_refused_without_the_memory_it_asks_for(name: str) -> None:
    # 48 MB above what the imports need: neither the 50 MB of text nor the 100 MB of pixels would fit.
    probe = (
        "import re, resource, sys; from pathlib import Path; from wideresnet import errors, images\n"
        "used = 1024 * int(re.search(r'VmSize:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)\n"
        "try: images.decode(Path(sys.argv[1]))\n"
        "except errors.ImageError as error: print('refused', '' if 'MemoryError' in str(error) else error)\n"
    )
    done = run_python(probe, str(shared(f"data/messy/single/{name}")))
    assert done.stdout.startswith("refused "), done
    assert "1 MiB" in done.stdout or "limit" in done.stdout, done.stdout


def test_reading_the_whole_corpus_prints_nothing() -> None:
    folder = shared("data/messy/single")
    probe = (
        "import sys; from pathlib import Path; from wideresnet import errors, images\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: images.decode(path)\n"
        "    except errors.ImageError: pass\n"
    )
    done = run_python(probe, str(folder))
    assert (done.stdout, done.stderr) == ("", "")


# ——— the same without it: files made here ———


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def refusal(data: bytes) -> str:
    """The reason for which it is not read; empty if it is."""
    try:
        decode(data)
    except ImageError as error:
        return str(error)
    return ""


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG written by hand: `rows` with their filter bytes; chunks before and after the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def png16(samples: npt.NDArray[np.uint16], before: bytes = b"") -> bytes:
    """Samples [H, W, bands], 16 bits: gray, gray + alpha, RGB or RGBA by the number of bands."""
    height, width, bands = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], rows, before)


def unpacked_png(data: bytes, height: int, width: int, bands: int) -> npt.NDArray[np.int64]:
    """The 16-bit samples [H, W, bands] of a PNG, by the specification's own words (filters 0 to 2)."""
    compressed, at = b"", 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        compressed += data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += 12 + length
    lines = np.frombuffer(zlib.decompress(compressed), np.uint8).reshape(height, -1)
    rows = np.zeros((height, width * bands * 2), np.uint8)
    for y, line in enumerate(lines):
        kind, rows[y] = int(line[0]), line[1:]
        if kind == 1:
            rows[y] = np.cumsum(line[1:].reshape(width, -1), axis=0, dtype=np.uint8).ravel()
        elif kind == 2:
            rows[y] += rows[y - 1]
        else:
            assert kind == 0, f"filter {kind}: teach it to this reader"
    return rows.view(">u2").reshape(height, width, bands).astype(np.int64)


def eighth(samples: npt.NDArray[Any]) -> Pixels:
    """round(v / 257), gray as RGB."""
    return np.broadcast_to(np.round(samples / 257), (*samples.shape[:2], 3)).astype(np.uint8)


images_of = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
samples_of = hnp.arrays(np.uint16, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4)))


@given(images_of, st.sampled_from(["PNG", "BMP", "TIFF", "PPM", "WEBP"]))
@settings(max_examples=60, deadline=None)
def test_what_was_saved_without_loss_is_decoded_bit_for_bit(pixels: Pixels, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(pixels), kind, **options)
    assert np.array_equal(decode(data), pixels)
    assert size_of(data) == pixels.shape[:2]
    assert np.array_equal(from_pil(Image.fromarray(pixels)), pixels)


def test_a_decoded_picture_is_the_callers_own_whether_from_path_or_bytes(tmp_path: Path) -> None:
    (tmp_path / "named.txt").write_bytes(saved(Image.new("RGB", (3, 2), "red"), "PNG"))  # content counts, not names
    first, second = decode(tmp_path / "named.txt"), decode((tmp_path / "named.txt").read_bytes())
    first[...] = 0
    assert np.array_equal(second, np.full((2, 3, 3), (255, 0, 0)))


QUADRANTS = np.zeros((4, 6, 3), np.uint8)
QUADRANTS[:2, :3], QUADRANTS[:2, 3:], QUADRANTS[2:, :3] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
# orientation → how the upright picture lies in the file
STORED = {
    1: QUADRANTS,
    2: QUADRANTS[:, ::-1],
    3: QUADRANTS[::-1, ::-1],
    4: QUADRANTS[::-1],
    5: QUADRANTS.transpose(1, 0, 2),
    6: np.rot90(QUADRANTS, 1),
    7: np.rot90(QUADRANTS.transpose(1, 0, 2), 2),
    8: np.rot90(QUADRANTS, -1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_orientation_is_undone_in_pixels_and_size(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.fromarray(np.ascontiguousarray(STORED[orientation])), kind, exif=exif, **options)
    assert np.array_equal(decode(data), QUADRANTS)
    assert size_of(data) == (4, 6)
    with Image.open(io.BytesIO(data)) as opened:
        assert np.array_equal(from_pil(opened), QUADRANTS)


def test_exif_behind_the_pixels_of_a_png_turns_it_too() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = b"\0" + bytes(range(9)) + b"\0" + bytes(range(9, 18))  # 3 wide, 2 tall
    data = png(3, 2, 8, 2, rows, after=chunk(b"eXIf", exif.tobytes()[6:]))
    assert decode(data).shape == (3, 2, 3)
    assert size_of(data) == (3, 2)


@given(st.binary(max_size=80), st.booleans())
@settings(max_examples=150, deadline=None)
def test_exif_that_is_garbage_is_ignored(garbage: bytes, looks_like_tiff: bool) -> None:
    exif = b"Exif\0\0" + (b"II*\0\x08\0\0\0" if looks_like_tiff else b"") + garbage
    image = decode(saved(Image.fromarray(QUADRANTS), "JPEG", exif=exif, quality=95))
    assert image.size == QUADRANTS.size


@given(samples_of, st.sampled_from([1, 3]))
@settings(max_examples=60, deadline=None)
def test_16_bits_become_8_by_rounding_v_over_257(samples: npt.NDArray[np.uint16], bands: int) -> None:
    samples = samples[..., :bands]
    assert np.array_equal(decode(png16(samples)), eighth(samples))


@given(samples_of, st.sampled_from([2, 4]))
@settings(max_examples=60, deadline=None)
def test_16_bit_alpha_lays_the_rounded_colours_on_white(samples: npt.NDArray[np.uint16], bands: int) -> None:
    samples = samples[..., -bands:]
    colours, alpha = eighth(samples[..., :-1]).astype(int), np.round(samples[..., -1:] / 257)
    expected = np.floor((colours * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    assert np.array_equal(decode(png16(samples)), expected)


def test_a_16_bit_transparent_colour_is_compared_in_all_its_bits() -> None:
    samples = np.array([[[0x1234, 0, 0], [0x1235, 0, 0]]], np.uint16)
    image = decode(png16(samples, before=chunk(b"tRNS", struct.pack(">3H", 0x1234, 0, 0))))
    assert image.tolist() == [[[255, 255, 255], [18, 0, 0]]]


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_rgb_tiff_keeps_its_low_bytes_in_either_byte_order(byte_order: str, compression: int) -> None:
    samples = np.arange(0, 65536, 3641, dtype=np.uint16).reshape(2, 3, 3)
    assert np.array_equal(decode(tiff(samples, byte_order, compression)), eighth(samples))


def tiff(samples: npt.NDArray[Any], order: str, compression: int = 1, photometric: int = 2, bits: int = 16) -> bytes:
    """A TIFF of one strip, written by hand. samples [H, W, bands]; `order` is struct's; compression 8 is deflate."""
    height, width, bands = samples.shape
    strip = samples.astype(f"{order}u2").tobytes()
    strip = zlib.compress(strip) if compression == 8 else strip
    entries = {256: width, 257: height, 258: bits, 259: compression, 262: photometric}
    entries |= {273: 0, 277: bands, 278: height, 279: len(strip)}
    end = 8 + 2 + 12 * len(entries) + 4  # of the directory: three depths follow, then the strip
    entries[273] = end + 6
    directory = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        if tag == 258 and bands == 3:
            directory += struct.pack(f"{order}HHII", tag, 3, 3, end)
        else:
            directory += struct.pack(f"{order}HHII", tag, 4, 1, value)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8) + directory + bytes(4) + struct.pack(f"{order}3H", *[bits] * 3) + strip


def test_16_bit_gray_tiff_in_which_white_is_zero_is_inverted() -> None:
    samples = np.array([[[0], [1000], [65535]]], np.uint16)
    assert decode(tiff(samples, "<", photometric=1))[0, :, 0].tolist() == [0, 4, 255]
    assert decode(tiff(samples, "<", photometric=0))[0, :, 0].tolist() == [255, 251, 0]


def test_a_pgm_of_16_bits_is_scaled_like_a_png() -> None:
    data = b"P5 3 1 65535\n" + struct.pack(">3H", 0, 1000, 65535)
    assert decode(data)[0, :, 0].tolist() == [0, 4, 255]


@given(hnp.arrays(np.uint8, (4, 5, 4)))
@settings(max_examples=40, deadline=None)
def test_transparency_is_laid_on_white(pixels: Pixels) -> None:
    colours, alpha = pixels[..., :3].astype(float), pixels[..., 3:].astype(float)
    expected = np.floor((colours * alpha + 255 * (255 - alpha)) / 255 + 0.5)
    assert np.array_equal(decode(saved(Image.fromarray(pixels), "PNG")), expected)
    assert np.array_equal(from_pil(Image.fromarray(pixels)), expected)


def test_each_kind_of_transparency_shows_white_where_nothing_is_left() -> None:
    gray = Image.fromarray(np.array([[10, 200]], np.uint8))
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    mask = Image.fromarray(np.array([[0, 255]], np.uint8))
    rows = {
        "gray with a key": (saved(gray, "PNG", transparency=10), (200, 200, 200)),
        "gray and alpha": (saved(Image.merge("LA", (gray, mask)), "PNG"), (200, 200, 200)),
        "palette with a key": (saved(palette, "PNG", transparency=0), (200, 100, 50)),
        "palette with alpha for each": (saved(palette, "PNG", transparency=bytes([0, 255])), (200, 100, 50)),
        "GIF": (saved(palette, "GIF", transparency=0), (200, 100, 50)),
        "colours with a key": (saved(gray.convert("RGB"), "PNG", transparency=(10, 10, 10)), (200, 200, 200)),
        "1 bit with a key": (png(2, 1, 1, 0, b"\0\x40", before=chunk(b"tRNS", b"\0\0")), (255, 255, 255)),
        "2 bits with a key": (png(2, 1, 2, 0, b"\0\x60", before=chunk(b"tRNS", b"\0\x01")), (170, 170, 170)),
    }
    found = {name: decode(data).tolist() for name, (data, _) in rows.items()}
    assert found == {name: [[[255, 255, 255], list(colour)]] for name, (_, colour) in rows.items()}


def test_every_other_kind_of_samples_becomes_its_rgb() -> None:
    image = Image.fromarray(np.full((3, 4, 3), (200, 100, 50), np.uint8))
    for mode, kind, near in [("CMYK", "TIFF", 2), ("YCbCr", "TIFF", 3), ("LAB", "TIFF", 3), ("P", "BMP", 40)]:
        with_mode = image.convert(mode) if mode != "LAB" else to_lab(image)
        found = decode(saved(with_mode, kind)).astype(int)
        assert np.abs(found - (200, 100, 50)).max() <= near, (mode, found[0, 0])
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode(saved(bits, "PNG"))[0, :, 0].tolist() == [0, 255]


def to_lab(image: Image.Image) -> Image.Image:
    srgb, lab = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in ("sRGB", "LAB"))
    return ImageCms.ImageCmsTransform(srgb, lab, "RGB", "LAB").apply(image)


def test_samples_without_a_stated_white_are_refused() -> None:
    for pixels in (np.ones((2, 2), np.float32), np.ones((2, 2), np.int32)):
        with pytest.raises(ImageError, match="nothing says which value is white"):
            decode(saved(Image.fromarray(pixels), "TIFF"))


def gamma_profile(gamma: float, swapped: bool = False) -> bytes:
    """An ICC profile (version 2, matrix and curves) with sRGB's primaries, its red and green swapped if so asked."""

    def fixed(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    primaries = {
        b"rXYZ": (0.4361, 0.2225, 0.0139),
        b"gXYZ": (0.3851, 0.7169, 0.0971),
        b"bXYZ": (0.1431, 0.0606, 0.7141),
    }
    if swapped:
        primaries[b"rXYZ"], primaries[b"gXYZ"] = primaries[b"gXYZ"], primaries[b"rXYZ"]
    tags = {kind: b"XYZ \0\0\0\0" + b"".join(map(fixed, values)) for kind, values in primaries.items()}
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": white}
    table, content, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for kind, tag in tags.items():
        table += kind + struct.pack(">II", at + len(content), len(tag))
        content += tag
    size = struct.pack(">I", at + len(content))
    head = size + bytes(4) + b"\x02\x20\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    return (head + b"".join(map(fixed, (0.9642, 1.0, 0.8249))) + bytes(48))[:128] + table + content


def test_a_profile_of_other_colours_is_converted_to_srgb() -> None:
    image = Image.fromarray(np.full((2, 2, 3), (200, 60, 60), np.uint8))
    swapped = decode(saved(image, "PNG", icc_profile=gamma_profile(2.2, swapped=True)))[0, 0]
    assert (swapped[1] > 180, swapped[0] < 80) == (True, True), swapped  # what the profile calls red is green
    darker = decode(saved(image, "PNG", icc_profile=gamma_profile(1.0)))[0, 0].astype(int)
    linear = 255 * (1.055 * (np.array([200, 60, 60]) / 255) ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    assert np.abs(darker - linear).max() <= 2, (darker, linear)


def test_an_srgb_profile_changes_no_pixel_and_one_of_another_space_neither() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    profiles = [ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes() for space in ("sRGB", "LAB")]
    for profile in (*profiles, profiles[0][:200], b"no profile"):
        assert np.array_equal(decode(saved(Image.fromarray(pixels), "PNG", icc_profile=profile)), pixels)
    gray = saved(Image.fromarray(pixels[..., 0]), "PNG", icc_profile=profiles[0])
    assert np.array_equal(decode(gray), np.repeat(pixels[..., :1], 3, axis=2))


def test_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.abs(decode(data).astype(int) - (255, 0, 0)).max() < 8, kind


def test_many_threads_decode_what_one_does() -> None:
    profile = gamma_profile(1.8)
    sources = [
        saved(
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8)), kind, icc_profile=profile
        )
        for i in range(12)
        for kind in ("PNG", "JPEG", "WEBP", "TIFF")
    ]
    with ThreadPoolExecutor(8) as pool:
        assert all(map(np.array_equal, pool.map(decode, sources * 3), map(decode, sources * 3)))


# ——— what is no picture ———


def test_a_path_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "file.jpg").touch()
    os.mkfifo(tmp_path / "pipe.jpg")  # opened for reading it would wait for a writer for ever
    rows = {
        "dangling.jpg": "a link to nowhere.jpg, which does not exist",
        "self.jpg": "a link that leads back to itself",
        "folder.jpg": "a folder, not a file",
        "pipe.jpg": "a pipe, socket or device, not a file",
        "missing.jpg": "no such file",
        "file.jpg/below.jpg": "no such file",
        "file.jpg": "an empty file",
        "with\0zero.jpg": "cannot be opened: embedded null byte",
        "x" * 300: "cannot be opened: File name too long",
    }
    for name, reason in rows.items():
        for read in (decode, size_of):
            with pytest.raises(ImageError) as error:
                read(tmp_path / name)
            assert str(error.value) == reason


@pytest.mark.skipif(os.name != "posix", reason="a device")
def test_a_device_is_refused() -> None:
    with pytest.raises(ImageError, match="device"):
        decode(Path("/dev/zero"))


@pytest.mark.skipif(os.name != "posix", reason="permissions")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.jpg"
    path.write_bytes(saved(Image.new("RGB", (2, 2)), "JPEG"))
    path.chmod(0)
    probe = (
        "import os, sys; from pathlib import Path; from wideresnet import errors, images\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"  # root may read everything; nobody may not
        "try: images.decode(Path(sys.argv[1]))\n"
        "except errors.ImageError as error: print(error)\n"
    )
    assert run_python(probe, str(path)).stdout == "may not be read (permission denied)\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (bytes(700), "nothing but zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<svg xmlns=""/>', "an SVG drawing"),
        (b'{"message": "Not Found"}', "text, not a picture"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "a PostScript document"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"\0\0\0\x20ftypheic\0\0\0\0", "a HEIC picture, a format not read here"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF picture, a format not read here"),
        (b"\0\0\x01\0\x01\0\x10\x10", "an ICO icon"),
        (b"\xff\xd8\xff\xe0", "a JPEG whose header is broken"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "broken or cut short"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1rest", "begins with d0 cf 11 e0 a1 b1 1a e1"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode(content)


def test_avif_that_pillow_could_read_is_refused_alike_on_every_machine() -> None:
    pytest.importorskip("PIL._avif")
    with pytest.raises(ImageError, match="AVIF"):
        decode(saved(Image.new("RGB", (8, 8)), "AVIF"))


def test_a_cut_or_changed_picture_is_refused() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = {
        kind: saved(Image.fromarray(pixels), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM")
    }
    for kind, data in whole.items():
        for share in (0.3, 0.6, 0.9):
            assert refusal(data[: int(len(data) * share)]), f"{kind} cut at {share} was read"
    checksum = whole["PNG"].rindex(b"IEND") - 8  # the last pixel chunk's own; the pixels are whole
    broken = bytearray(whole["PNG"])
    broken[checksum] ^= 1
    assert "checksum" in refusal(bytes(broken))
    assert "without its palette" in refusal(png(2, 1, 8, 3, b"\0\0\1"))
    assert "broken" in refusal(struct.pack("<4sHHQ", b"II+\0", 8, 0, 2**64 - 1))  # BigTIFF, its directory nowhere


def test_a_header_alone_decides_that_a_picture_is_too_large() -> None:
    width = MAX_PIXELS // 1000 + 1
    for reader in (decode, size_of):
        with pytest.raises(ImageError, match=f"{width}×1000 pixels, more than the limit of 89,478,485"):
            reader(png(width, 1000, 8, 2, b""))
    assert size_of(png(width - 1, 1000, 8, 2, b"")) == (1000, width - 1)


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("PNG", {"icc_profile": gamma_profile(2.0)}),
    ("GIF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {}),
    ("BMP", {}),
    ("WEBP", {}),
    ("PPM", {}),
]
CORPUS = [saved(Image.fromarray(QUADRANTS), kind, **options) for kind, options in KINDS]
CORPUS += [png16(np.zeros((2, 2, bands), np.uint16)) for bands in (1, 2, 3, 4)]


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_at_random_are_refused_with_a_reason(garbage: bytes) -> None:
    with pytest.raises(ImageError):
        decode(garbage)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_is_a_picture_or_an_image_error_and_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    reason = refusal(bytes(damaged))
    assert "\n" not in reason
    if not reason:
        image = decode(bytes(damaged))
        assert (image.dtype.name, image.ndim) == ("uint8", 3)
        assert size_of(bytes(damaged)) == image.shape[:2]


def png_of_noise() -> bytes:
    return saved(Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)), "PNG")


def test_a_png_cut_short_still_has_the_size_of_its_header() -> None:
    whole = png_of_noise()
    for end in (60, len(whole) // 2, len(whole) - 12):
        assert size_of(whole[:end]) == (20, 30)
        with pytest.raises(ImageError, match="broken or cut short: "):
            decode(whole[:end])


def test_a_length_that_is_forged_asks_for_no_memory() -> None:
    whole = png_of_noise()
    at = whole.index(b"IDAT") - 4
    forged = whole[:at] + b"\x7f\xff\xff\xf0" + whole[at + 4 :]
    tracemalloc.start()
    with pytest.raises(ImageError):
        decode(forged)
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
