"""Models of the Hugging Face hub as local folders, through `huggingface_hub`: fetched once, checked, kept in its cache.

HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the progress bar are the library's and work as documented there. It
compares sizes only, so every file is compared with the checksum that the hub names it by.
"""
from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from typing import Optional

from absl import logging

from configuration import UserError

WEIGHT_FILES = ("model.safetensors", "tf_model.h5", "pytorch_model.bin")  # in order of preference


class Unavailable(UserError):
    """A model that could not be downloaded."""


def download(repository: str) -> str:
    """A folder with the configuration, vocabulary and weights of a model on the hub.

    What the cache holds is not asked for again.

    Raises: UserError: no such model, no network and nothing cached, or a damaged file, which is deleted.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository} does not exist and is no name of a hub model either: name a checkpoint, a model "
                        "folder, or a model of the Hugging Face hub such as google/electra-small-discriminator.") \
            from error

    def fetch(file: str) -> Optional[str]:
        """The file's path, or None where the repository has no such file (or, offline, the cache)."""
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if cached is not None and not isinstance(cached, str):  # the library's mark: asked before, and not there
            return None
        if cached is None:
            _say_what_happens_to_partial_files(repository)
        try:
            path = cached or huggingface_hub.hf_hub_download(repository, file)
        except LocalEntryNotFoundError as error:
            if huggingface_hub.constants.HF_HUB_OFFLINE and file not in ("config.json", WEIGHT_FILES[-1]):
                return None
            raise unavailable(error) from error
        except EntryNotFoundError:
            return None
        except Exception as error:  # requests' or httpx' by the library's release, OSError, its own HTTP errors
            raise unavailable(error) from error
        _check_download(path)
        return path

    def unavailable(error: Exception) -> Unavailable:
        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        reason = " ".join(str(cause).split())[:200].rstrip(".") or type(cause).__name__
        if isinstance(error, RepositoryNotFoundError):
            reason = "no such model, or one that needs HF_TOKEN"
        return Unavailable(
            f"{repository} is no folder here, and it cannot be had from {huggingface_hub.constants.ENDPOINT} "
            f"({reason}): mend the name or the connection, or download config.json, vocab.txt and "
            f"{' or '.join(WEIGHT_FILES[:2])} of {repository} elsewhere and name the folder that holds them.")

    config_file = fetch("config.json")
    if config_file is None:
        raise UserError(f"{repository} has no config.json on the hub: name an ELECTRA or BERT model.")
    for file in ("vocab.txt", "tokenizer_config.json"):
        fetch(file)
    if not any(fetch(file) for file in WEIGHT_FILES):
        raise UserError(f"{repository} has none of {', '.join(WEIGHT_FILES)} on the hub: name another model.")
    return os.path.dirname(config_file)


def _say_what_happens_to_partial_files(repository: str):
    """An interrupted transfer leaves a partial file: huggingface_hub continues it up to release 1.17."""
    import huggingface_hub
    cache = os.path.join(huggingface_hub.constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"), "blobs")
    partial = [os.path.getsize(path) for path in glob.glob(os.path.join(glob.escape(cache), "*.incomplete"))]
    if not any(partial):
        return
    release = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
    if release < (1, 18):
        logging.info("an interrupted download of %s is continued after %.1f MB.", repository, max(partial) / 1e6)
    else:
        logging.info("an interrupted download of %s starts again: huggingface_hub %s does not continue it, 1.17.0 "
                     "does.", repository, huggingface_hub.__version__)


def _check_download(path: str):
    """Compares a cached file with the checksum that the hub gave it: the name of its blob is a SHA-256, or git's SHA-1
    for small files. A damaged file is deleted. Raises: UserError."""
    blob = os.path.realpath(path)
    expected = os.path.basename(blob)
    size = os.path.getsize(blob)
    digest = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % size)}.get(len(expected))
    if digest is None or not re.fullmatch("[0-9a-f]+", expected):
        logging.info("note: %s carries no checksum and is used unchecked.", path)
        return
    with open(blob, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != expected:
        for damaged in (blob, path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(damaged)
        raise UserError(f"{path} was damaged on its way or on the disk (checksum) and is deleted: start again to "
                        "download it anew.")
