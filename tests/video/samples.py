"""Videos whose frame k shows k, files that are no videos, and archives written byte by byte."""

from __future__ import annotations

import struct
import wave
import zlib

import numpy as np
from PIL import Image

from pipeline.video import codec

BITS = 10
_CELL = 32


def numbered(number, height=240, width=320):
    """A picture that shows its number in binary, in blocks that survive compression and resizing."""
    image = np.full((height, width, 3), 60, np.uint8)
    for bit in range(BITS):
        image[: height // 2, bit * _CELL : (bit + 1) * _CELL] = 255 if number >> bit & 1 else 0
    return image


def number_of(image):
    """The number that a picture shows."""
    row, cell = image.shape[0] // 4, image.shape[1] * _CELL / 320
    values = [int(image[row - 5 : row + 5, int((bit + 0.5) * cell)].mean()) for bit in range(BITS)]
    assert all(value < 80 or value > 175 for value in values), values
    return sum(1 << bit for bit, value in enumerate(values) if value > 127)


def video(path, frames, rate=25.0, codec_name="PIM1"):
    """Write ``frames`` numbered pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec.write(path, (numbered(k) for k in range(frames)), rate, codec=codec_name)
    return path


def variable(path, seconds):
    """Write an animation whose frame k is shown for ``seconds[k]`` (hundredths count)."""
    pictures = [Image.fromarray(numbered(k)) for k in range(len(seconds))]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[round(1000 * s) for s in seconds],
                     format="GIF", optimize=False)  # fmt: skip
    return path


def sound(path):
    """Write a tone: a media file without pictures."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.round(8000 * np.sin(np.arange(8000) / 5)).astype("<i2").tobytes())
    return path


def rar(path, members, *, method=0x30, solid=False, packed=None):
    """Write a RAR 4 archive: marker, archive header, one header and the bytes for each member, end.

    Args:
        path: the file.
        members: content by name; ``None`` makes a folder, a string a symbolic link to it.
        method: 0x30 stores; others claim compression.
        solid: set the flag of a solid archive.
        packed: bytes to put instead of each content (for claimed compression).
    """

    def block(kind, flags, fields, extra=b""):
        body = struct.pack("<BHH", kind, flags, 7 + len(fields)) + fields
        return struct.pack("<H", zlib.crc32(body) & 0xFFFF) + body + extra

    out = b"Rar!\x1a\x07\x00" + block(0x73, 0x08 if solid else 0, b"\0" * 6)
    for name, content in members.items():
        folder, link = content is None, isinstance(content, str)
        data = content.encode() if link else content or b""
        stored = data if packed is None or folder else packed
        label = name.encode()
        mode = 0o120777 if link else 0o40755 if folder else 0o100644
        fields = struct.pack("<IIBIIBBHI", len(stored), len(data), 3, zlib.crc32(data), 0x4A21_0000, 29,
                             0x30 if folder or link else method, len(label), mode) + label  # fmt: skip
        out += block(0x74, 0x8000 | (0xE0 if folder else 0), fields, stored)
    path.write_bytes(out + block(0x7B, 0x4000, b""))
    return path
