"""The TFRecord file format: framing, checksums, and readers with random access, without TensorFlow.

A file is a sequence of records, each framed as (tensorflow/core/lib/io/record_writer.h)

    uint64 length   uint32 masked CRC-32C of the length   the record   uint32 masked CRC-32C of the record

in little-endian order; a file may be gzip-compressed as a whole. There is no header and no index, so files are joined
by appending, and nothing in a file says how many records it should have.

TensorFlow is not imported: the builder's workers start in a fraction of a second, and a reader can start anywhere.
"""
from __future__ import annotations

import gzip
import mmap
import os
import struct
import zlib
from typing import List, Optional

import google_crc32c
import numpy as np

from configuration import UserError

HEADER_BYTES, CHECKSUM_BYTES = 12, 4  # before and after each record
DATASET_FORMAT = "electra-pretraining-tfrecord"  # "format" in the manifest.json of a dataset

# --- Framing ---


def masked_crc(data: bytes) -> bytes:
    """The 4-byte checksum: CRC-32C, rotated and offset (tensorflow/core/lib/hash/crc32c.h)."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8 & 0xFFFFFFFF)


def record_header(length: int) -> bytes:
    """What precedes a record of `length` bytes; `masked_crc(record)` follows it."""
    packed = struct.pack("<Q", length)
    return packed + masked_crc(packed)


# --- Reading ---


def open_shard(path: str, records: Optional[int] = None):
    """A reader with `records` (their number) and `read(first, last)`.

    Args: records: their number, if known: a gzip file is then not read through to count them.
    Raises: UserError: the file cannot be read or is damaged.
    """
    return SequentialReader(path, records) if is_gzip(path) else PlainReader(path)


def is_gzip(path: str) -> bool:
    """Whether the file starts with gzip's magic number. Raises: UserError: the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): fix its permissions or leave it out.") from error


def damaged(path: str, how: str) -> UserError:
    return UserError(f"{path} {how}: it is damaged or not a TFRecord file; remove or rebuild it.")


class PlainReader:
    """Random access to the records of an uncompressed file, through a table of their offsets."""

    def __init__(self, path: str):
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        offsets, position = [], 0
        unpack = struct.Struct("<Q").unpack_from
        while position < size:
            if position + HEADER_BYTES > size:
                raise damaged(path, f"ends inside the header at byte {position}")
            end = position + HEADER_BYTES + unpack(self._bytes, position)[0] + CHECKSUM_BYTES
            # The first header's checksum tells other files apart; records are verified when they are read.
            if end > size or not offsets and masked_crc(self._bytes[:8]) != self._bytes[8:HEADER_BYTES]:
                raise damaged(path, f"has no complete record at byte {position}")
            offsets.append(position)
            position = end
        self._offsets = np.array([*offsets, position], np.int64)
        self.records = len(offsets)

    def read(self, first: int, last: int) -> List[bytes]:
        """Records [first, last)."""
        if last > self.records:
            raise damaged(self.path, f"ends after {self.records} records")
        records = []
        for start, end in zip(self._offsets[first:last].tolist(), self._offsets[first + 1:last + 1].tolist()):
            record = self._bytes[start + HEADER_BYTES:end - CHECKSUM_BYTES]
            if masked_crc(record) != self._bytes[end - CHECKSUM_BYTES:end]:
                raise damaged(self.path, f"fails its checksum in the record at byte {start}")
            records.append(record)
        return records


class SequentialReader:
    """Sequential access to a file, gzip-compressed or not: reading ahead skips, reading back starts over."""

    def __init__(self, path: str, records: Optional[int] = None):
        self.path = path
        self._file, self._next = (gzip.open if is_gzip(path) else open)(path, "rb"), 0
        self.records = records
        if records is None:
            self.records = sum(1 for _ in iter(self._skip, False))

    def _bytes(self, count: int) -> bytes:
        try:
            return self._file.read(count)
        except (OSError, EOFError, zlib.error) as error:
            raise damaged(self.path, f"cannot be decompressed ({error})") from error

    def _record(self) -> Optional[bytes]:
        header = self._bytes(HEADER_BYTES)
        if not header:
            return None
        if masked_crc(header[:8]) != header[8:]:
            raise damaged(self.path, f"has no complete record after {self._next} records")
        length = int.from_bytes(header[:8], "little")
        body = self._bytes(length + CHECKSUM_BYTES)
        record = body[:length]
        if masked_crc(record) != body[length:]:
            raise damaged(self.path, f"fails its checksum in record {self._next}")
        self._next += 1
        return record

    def _skip(self) -> bool:
        return self._record() is not None

    def read(self, first: int, last: int) -> List[bytes]:
        """Records [first, last)."""
        if first < self._next:
            self._file.seek(0)
            self._next = 0
        while self._next < first and self._skip():
            pass
        records = [self._record() for _ in range(first, last)]
        if None in records or self._next < first:
            raise damaged(self.path, f"ends after {self._next} records")
        return records
