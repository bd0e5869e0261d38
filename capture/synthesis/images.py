"""Images: from files, bytes and addresses to what a request carries. RGB, resized, JPEG, a base64 data URL.

http(s) addresses pass as they are: the server fetches them, at whatever size they have.
"""

import warnings
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from hashlib import shake_128
from io import BytesIO
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from tbench.capture.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY: Final = 75
"""Of the JPEG: Pillow's own default, which genai-bench uses."""
GRAIN: Final = 8
"""Pixels between the random colours of a generated image: about the bytes of a photograph."""
COMMENT_HEAD, COMMENT_MOST = 4, 65_537
"""Bytes of a JPEG's comment: of what stands before its text, and of all, at the most."""
REMOTE: Final = ("http://", "https://")


def data_url(
    image: bytes | str | Path, pixels: tuple[int, int] | None = None, *, large: bool = False
) -> str:
    """An image as requests carry it, `pixels` wide and high, or at its own size.

    Raises InputError where it cannot be read. `large` lifts Pillow's limit on the number of pixels.
    """
    if isinstance(image, str) and image.startswith(REMOTE):
        return image
    try:
        with _opened(image, large=large) as opened:
            return _encoded(opened, pixels)
    except _failures() as error:
        name = str(image) if isinstance(image, Path) else "an image of the dataset"
        raise InputError(f"{name}: not an image that can be read: {error}") from None


def generated(rng: Random, pixels: tuple[int, int]) -> str:
    """A picture of random colours, no two alike."""
    from PIL import Image  # noqa: PLC0415 (heavy)

    small = tuple(max(2, -(-side // GRAIN)) for side in pixels)
    noise = Image.frombytes("RGB", (small[0], small[1]), rng.randbytes(3 * small[0] * small[1]))
    return _encoded(noise.resize(pixels, Image.Resampling.BICUBIC), None)


def pixels_of(image: bytes) -> tuple[int, int] | None:
    """Width and height of a picture; None of what cannot be read."""
    try:
        with _opened(image, large=True) as opened:
            return opened.size
    except _failures():
        return None


def blank(seed: bytes, pixels: tuple[int, int], size: int) -> bytes:
    """A JPEG of one colour, filled up with comments to `size` bytes; colour and comments are the seed's."""
    from PIL import Image  # noqa: PLC0415 (heavy)

    out = BytesIO()
    Image.new("RGB", pixels, tuple(seed[:3])).save(out, format="JPEG", quality=QUALITY)
    picture, comments = out.getvalue(), b""
    while (missing := size - len(picture) - len(comments)) >= COMMENT_HEAD:
        length = min(missing, COMMENT_MOST)
        comments += b"\xff\xfe" + (length - 2).to_bytes(2)
        comments += shake_128(seed + comments[-2:]).digest(length - COMMENT_HEAD)
    return picture[:2] + comments + picture[2:]


def readable(image: object) -> str | None:
    """Why a row's image cannot be used, by a look at its beginning; None where it can."""
    if image is None:
        return "without an image"
    if isinstance(image, str) and image.startswith(REMOTE):
        return None
    if not isinstance(image, bytes | str | Path):
        return "with an image that is none"
    try:
        with _opened(image, large=True):
            return None
    except FileNotFoundError:
        return "with an image that is not there"
    except _failures():
        return "with an image that cannot be read"


def _opened(image: bytes | str | Path, *, large: bool) -> "Image":
    """Open an image; only its head is read so far."""
    from PIL import Image  # noqa: PLC0415 (heavy)

    if isinstance(image, str):
        image = b64decode(image.partition(",")[2], validate=True)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if large else "error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = None if large else limit
        try:
            return Image.open(BytesIO(image) if isinstance(image, bytes) else image)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _encoded(image: "Image", pixels: tuple[int, int] | None) -> str:
    from PIL import Image  # noqa: PLC0415 (heavy)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about transparency, which JPEG has not
        picture = image.convert("RGB")
    if pixels is not None and picture.size != pixels:
        picture = picture.resize(pixels, Image.Resampling.LANCZOS)
    out = BytesIO()
    picture.save(out, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + b64encode(out.getvalue()).decode()


def _failures() -> tuple[type[Exception], ...]:
    """What Pillow raises for files that are broken, not images, or suspiciously large."""
    from PIL import Image  # noqa: PLC0415 (heavy)

    bombs: Any = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    return (OSError, ValueError, SyntaxError, NotBase64, *bombs)
