"""Files and folders that are whole or absent: written under a temporary name beside the target, then renamed.

Only the standard library is used: the wrappers' Python reads this before any environment exists.
"""
from __future__ import annotations

import contextlib
import json
import os
from typing import Iterator


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Yields a temporary name beside `path`; the file written there takes the place of `path` when the block succeeds.

    The content is on the disk before the rename, so that a power cut leaves the old file or the new one. After an
    exception the temporary file is gone and `path` is unchanged.
    """
    temporary = f"{path}.tmp{os.getpid()}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def write_text(path: str, content: str):
    """Writes a UTF-8 text file as a whole. Raises: OSError."""
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(content)


def write_json(path: str, content: dict):
    """Writes an indented JSON file as a whole. Raises: OSError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
