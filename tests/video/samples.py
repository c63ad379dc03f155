"""Videos whose frame k shows k, files that are no videos, and archives written byte by byte."""

import stat
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
from scipy.io import wavfile

from pipeline.video.frames import codec

BITS, _CELL = 10, 32


def numbered(number, height=240, width=320):
    """A picture that shows its number in binary, in blocks that survive compression and resizing."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(BITS):
        image[: height // 2, bit * _CELL : (bit + 1) * _CELL] = 255 if number >> bit & 1 else 0
    return image


def number_of(image):
    row, cell = image.shape[0] // 4, image.shape[1] * _CELL / 320
    values = [int(image[row - 5 : row + 5, int((bit + 0.5) * cell)].mean()) for bit in range(BITS)]
    assert all(value < 80 or value > 175 for value in values), values
    return sum(1 << bit for bit, value in enumerate(values) if value > 127)


def video(path, frames, rate=25.0, codec_name="PIM1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(codec.encode_video(map(numbered, range(frames)), rate, path.suffix, codec_name))
    return path


def variable(path, seconds):
    """Write an animation whose frame k is shown for ``seconds[k]`` (hundredths count)."""
    pictures = [Image.fromarray(numbered(k)) for k in range(len(seconds))]
    times = [round(1000 * second) for second in seconds]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=times, optimize=False)


def sound(path):
    wavfile.write(path, 8000, np.round(8000 * np.sin(np.arange(8000) / 5)).astype("<i2"))


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16 if isinstance(content, str) else 0
            file.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


def rar(path, members, *, packed=None, solid=False):
    """Write the same as a RAR 4 archive, stored, or with ``packed`` as what each member claims to be compressed to."""

    def block(kind, flags, fields, extra=b""):
        body = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body + extra

    out = b"Rar!\x1a\x07\x00" + block(0x73, 0x08 if solid else 0, b"\0" * 6)
    for name, content in members.items():
        data, mode = (content.encode(), 0o120777) if isinstance(content, str) else (content, 0o100644)
        stored, method = (data, 0x30) if packed is None else (packed, 0x33)
        fields = struct.pack("<IIBIIBBHI", len(stored), len(data), 3, zlib.crc32(data), 0x4A21_0000, 29, method,
                             len(name), mode) + name.encode()  # fmt: skip
        out += block(0x74, 0x8000, fields, stored)
    path.write_bytes(out + block(0x7B, 0x4000, b""))
    return path
