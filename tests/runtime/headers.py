"""Small pictures of every format, and the same with another size in their headers."""

from __future__ import annotations

import base64
import struct
import zlib

import cv2
import numpy as np

HEIC = base64.b64decode(
    """
    AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAA
    AAAAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABegABAAAAAAAAAFUAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAAB
    AABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADw
    NgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoDCBBZbqSSmubgIaDAgA
    AAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABgAAAAQAAAABBwaX
    hpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAAF1tZGF0AAAAUSgBr1iK2A6SX//ytd//Uf5D5QDDo3f+
    0vhfcL8/04VU6XxGo1YRUemY0Iy/fAD/wtSw/DYcf7jHewpPqWjc8RbKMLAx6VYeYSJ8MPX9bKR7Lw==
    """
)
"""96 x 64 pixels, the left half red, the right half blue."""

HEIC_TILES = base64.b64decode(
    """
    AAAAGGZ0eXBoZWljAAAAAG1pZjFoZWljAAACGm1ldGEAAAAAAAAAIWhkbHIAAAAAAAAAAHBpY3QAAAAAAAAAAAAAAA
    AAAAAADnBpdG0AAAAAAAUAAABgaWxvYwEAAABEAAAFAAEAAAAAAAEAAAI6AAAAGgACAAAAAAABAAACVAAAABkAAwAA
    AAAAAQAAAm0AAAAaAAQAAAAAAAEAAAKHAAAAEwAFAAEAAAABAAAAAAAAAAgAAAB3aWluZgAAAAAABQAAABVpbmZlAg
    AAAAABAABodmMxAAAAABVpbmZlAgAAAAACAABodmMxAAAAABVpbmZlAgAAAAADAABodmMxAAAAABVpbmZlAgAAAAAE
    AABodmMxAAAAABVpbmZlAgAAAAAFAABncmlkAAAAACBpcmVmAAAAAAAAABRkaW1nAAUABAABAAIAAwAEAAAA2Glwcn
    AAAACoaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroC
    QGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABRpc3
    BlAAAAAAAAAEAAAABAAAAAFGlzcGUAAAAAAAAAcAAAAHAAAAAoaXBtYQAAAAAAAAAFAAECgQIAAgKBAgADAoECAAQC
    gQIABQEDAAAAEGlkYXQAAAEBAHAAcAAAAGhtZGF0AAAAFigBrxmA93yFN//3+Mf9fav+KQV4tHAAAAAVKAGvGYD3fI
    U3s/Ef+um7/dwV4tHAAAAAFigBrxmA93yFN//7hWBHzXdvzQV4tHAAAAAPKAGvGYD3AeBO0+zi8Yvu
    """
)
"""Four tiles of 64 x 64 that make one picture, as phones write them: red, green, blue, grey."""
TILES_SHAPE = (112, 112, 3)

SUFFIXES = {
    "jpeg": ".jpg", "progressive": ".jpg", "png": ".png", "gif": ".gif", "webp": ".webp",
    "bmp": ".bmp", "tiff": ".tiff", "pgm": ".pgm", "ppm": ".ppm", "avif": ".avif", "jp2": ".jp2",
}  # fmt: skip
NAMES = (*SUFFIXES, "heic")


def colours(height: int = 64, width: int = 96) -> np.ndarray:
    """RGB with a different colour in each quarter and no flat corner."""
    image = np.random.default_rng(3).integers(0, 40, (height, width, 3)).astype(np.uint8)
    image[: height // 2, : width // 2, 0] += 180
    image[height // 2 :, : width // 2, 1] += 180
    image[: height // 2, width // 2 :, 2] += 180
    return image


def encoded(name: str, image: np.ndarray | None = None) -> bytes:
    """A picture in the format of that name."""
    if name == "heic":
        return HEIC
    image = colours() if image is None else image
    given = cv2.cvtColor(image, cv2.COLOR_RGB2BGR if name != "pgm" else cv2.COLOR_RGB2GRAY)
    options = {
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
        "jp2": [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000],
    }.get(name, [])
    done, data = cv2.imencode(SUFFIXES[name], given, options)
    assert done, name
    return data.tobytes()


def promising(name: str, width: int, height: int) -> bytes:
    """The same picture, whose header promises another size."""
    data = bytearray(encoded(name))

    def put(at: int, code: str, *values: int) -> None:
        most = {"H": 0xFFFF, "h": 0x7FFF, "I": 0xFFFFFFFF, "i": 0x7FFFFFFF}[code[1]]
        struct.pack_into(code, data, at, *(min(value, most) for value in values))

    if name in ("jpeg", "progressive"):
        put(data.find(b"\xff\xc0" if name == "jpeg" else b"\xff\xc2") + 5, ">HH", height, width)
    elif name == "png":
        put(16, ">II", width, height)
        put(29, ">I", zlib.crc32(bytes(data[12:29])))
    elif name == "gif":
        put(6, "<HH", width, height)
        put(data.find(b"\x2c\0\0\0\0") + 5, "<HH", width, height)
    elif name == "webp":
        at = data.find(b"\x9d\x01\x2a") + 3
        put(at, "<HH", width & 0x3FFF, height & 0x3FFF)
    elif name == "bmp":
        put(18, "<ii", width, height)
    elif name == "tiff":
        order = "<" if data[:2] == b"II" else ">"
        at = struct.unpack_from(order + "I", data, 4)[0]
        for place in range(struct.unpack_from(order + "H", data, at)[0]):
            entry = at + 2 + 12 * place
            tag, kind = struct.unpack_from(order + "HH", data, entry)
            if tag in (256, 257):
                value = width if tag == 256 else height
                put(entry + 8, order + ("I" if kind == 4 else "H"), value)
    elif name in ("pgm", "ppm"):
        _, _, rest = bytes(data).partition(b"\n96 64\n")
        assert rest
        return b"%s\n%d %d\n%s" % (data[:2], width, height, rest)
    elif name in ("avif", "heic"):
        put(data.find(b"ispe") + 8, ">II", width, height)
    elif name == "jp2":
        put(data.find(b"ihdr") + 4, ">II", height, width)
        put(data.find(b"\xff\x4f\xff\x51") + 8, ">II", width, height)
    return bytes(data)
