"""Downloads models from the Hugging Face Hub, with checksums verified, and uploads exported ones: `huggingface_hub`.

Files are kept in the cache of huggingface_hub. HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the progress bar work
as documented there. huggingface_hub checks only the size of a download, so each file is also compared with the checksum
that the Hub gives in its ETag.
"""
from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import re
import tempfile
from typing import Callable, Dict, Iterator, List, Optional

import absl.logging

import configuration
from configuration import UserError, in_short

SHARDS = "model.safetensors.index.json"  # names the files that the tensors are in
WEIGHT_FILES = ("model.safetensors", SHARDS, "tf_model.h5", "pytorch_model.bin")  # in order of preference


class Unavailable(UserError):
    """A model that could not be downloaded. `sentence` has no full stop: callers may know another way out."""

    def __init__(self, sentence: str):
        super().__init__(f"{sentence}.")
        self.sentence = sentence


def check_name(name: str):
    """For a name that is no local file or folder. Raises: UserError: it cannot be a model on the hub, or is meant as a
    local path, because the folder before its slash exists."""
    owner = os.path.dirname(name)
    if os.path.isdir(owner):
        raise UserError(f"{name} does not exist, although there is a folder {owner}: name a checkpoint or a model "
                        "folder, or start from another folder to download the model of this name.")
    if os.path.lexists(name) or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?(@[\w-][\w./-]*)?", name):
        raise UserError(f"{name} does not exist: name a checkpoint, a model folder, or a model on the Hugging Face hub "
                        "such as google/electra-small-discriminator.")


def download(name: str) -> str:
    """Downloads configuration, vocabulary and weights of a model; cached files are not requested again.

    Args:
        name: such as google/electra-small-discriminator, or with a branch, a tag or a commit, name@revision.
    Returns: the local folder with the files.
    Raises: UserError: no such model, no network and nothing in the cache, or a corrupt file, which is deleted.
    """
    import huggingface_hub.constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import validate_repo_id
    repository, _, revision = name.partition("@")
    version = {"revision": revision or None}
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository} does not exist and is not a valid Hugging Face model name: use a checkpoint, a "
                        "model folder, or a model name such as google/electra-small-discriminator.") from error

    def fetch(file: str) -> Optional[str]:
        """Local path of the file, or None if the repository (or in offline mode the cache) does not have it."""
        try:
            cached = huggingface_hub.try_to_load_from_cache(repository, file, **version)
        except (OSError, ValueError) as error:
            raise UserError(f"{repository} cannot be read from the cache {huggingface_hub.constants.HF_HUB_CACHE} "
                            f"({in_short(error)}): delete its folder there, and it is downloaded again.") from error
        if cached is not None and not isinstance(cached, str):  # cached as non-existent
            return None
        if cached is None:
            _log_partial_files(repository)
        try:
            with _retries_collected() as retries:
                path = cached or huggingface_hub.hf_hub_download(repository, file, **version)
        except LocalEntryNotFoundError as error:
            if huggingface_hub.constants.HF_HUB_OFFLINE and file not in ("config.json", WEIGHT_FILES[-1]):
                return None
            raise unavailable(error, retries) from error
        except EntryNotFoundError:
            return None
        except Exception as error:  # of requests or httpx (by release), OSError, or an HTTP error of huggingface_hub
            raise unavailable(error, retries) from error
        _check_download(path)
        return path

    def unavailable(error: Exception, retries: List[str]) -> Unavailable:
        reason = _reason(error, retries)
        if isinstance(error, RepositoryNotFoundError):
            reason = "no such model, or it requires HF_TOKEN"
        if isinstance(error, RevisionNotFoundError):
            reason = f"the model has no revision {revision!r}"
        return Unavailable(
            f"there is no folder or checkpoint {name} here, and no model of this name could be downloaded from "
            f"{huggingface_hub.constants.ENDPOINT} ({reason}): check the name and the connection, or download "
            f"config.json, vocab.txt and model.safetensors or tf_model.h5 of {repository} on another machine and pass "
            "the folder with these files")

    config_file = fetch("config.json")
    if config_file is None:
        raise UserError(f"{repository} has no config.json on the Hugging Face Hub: use an ELECTRA or BERT model.")
    fetch("tokenizer_config.json")
    if not fetch("vocab.txt"):
        for file in configuration.VOCABULARY_FILES[1:]:
            fetch(file)
    found = next((file for file in WEIGHT_FILES if fetch(file)), None)
    if found is None:
        raise UserError(f"{repository} has none of {', '.join(WEIGHT_FILES)} on the Hugging Face Hub: use another "
                        "model.")
    folder = os.path.dirname(config_file)
    for file in shards(os.path.join(folder, SHARDS)) if found == SHARDS else ():
        if not fetch(file):
            raise UserError(f"{repository} has no {file} on the Hugging Face Hub, although its {SHARDS} names it: use "
                            "another model.")
    return folder


def shards(index: str) -> Dict[str, List[str]]:
    """The tensors in each file that a `model.safetensors.index.json` names. Raises: UserError."""
    weight_map = configuration.read_record(index, "download it again", weight_map=dict)["weight_map"]
    found: Dict[str, List[str]] = {}
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file):
            raise UserError(f"{index}: {configuration.in_brief(tensor)} is in {configuration.in_brief(file)}, which is "
                            "not the name of a .safetensors file beside it: download it again.")
        found.setdefault(file, []).append(tensor)
    return found


def _reason(error: Exception, retries: List[str]) -> str:
    """Why a request failed, in one line: what failed first."""
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:  # the first error of the chain says why
        cause = cause.__cause__ or cause.__context__
    first = retries[0] if retries else str(cause)  # what failed after a retry may not even name the first error
    return re.sub(r"^\[Errno -?\d+\] ", "", " ".join(first.split()))[:200].rstrip(".") or type(cause).__name__


@contextlib.contextmanager
def _retries_collected() -> Iterator[List[str]]:
    """Collects why huggingface_hub retries requests during the block, in place of two logged lines for each."""
    reasons: List[str] = []
    logger = logging.getLogger("huggingface_hub")
    handlers = logger.handlers

    class Collector(logging.Handler):
        def emit(self, record):
            match = re.match("'?(.*?)'? thrown while requesting ", record.getMessage(), re.DOTALL)
            if match:
                reasons.append(match[1])
            elif "Retry" not in record.getMessage():
                for handler in handlers:
                    handler.handle(record)

    logger.handlers = [Collector()]
    try:
        yield reasons
    finally:
        logger.handlers = handlers


def _log_partial_files(repository: str):
    """Logs whether an interrupted download resumes: huggingface_hub resumes partial files up to release 1.17."""
    import huggingface_hub.constants
    cache = os.path.join(huggingface_hub.constants.HF_HUB_CACHE, "models--" + repository.replace("/", "--"), "blobs")
    partial = [os.path.getsize(path) for path in glob.glob(os.path.join(glob.escape(cache), "*.incomplete"))]
    if not any(partial):
        return
    release = tuple(int(part) for part in huggingface_hub.__version__.split(".")[:2])
    if release < (1, 18):
        absl.logging.info("resuming the interrupted download of %s after %.1f MB.", repository, max(partial) / 1e6)
    else:
        absl.logging.info("restarting the interrupted download of %s: huggingface_hub %s does not resume downloads, "
                          "1.17.0 does.", repository, huggingface_hub.__version__)


def _check_download(path: str):
    """Verifies the checksum of a cached file: its blob is named by the SHA-256, or for small files by git's SHA-1.

    Raises: UserError: the checksum does not match; the file has been deleted.
    """
    blob = os.path.realpath(path)
    expected = os.path.basename(blob)
    size = os.path.getsize(blob)
    digest = {64: hashlib.sha256(), 40: hashlib.sha1(b"blob %d\0" % size)}.get(len(expected))
    if digest is None or not re.fullmatch("[0-9a-f]+", expected):
        absl.logging.info("note: %s has no checksum and is not verified.", path)
        return
    with open(blob, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != expected:
        for corrupt in (blob, path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(corrupt)
        raise UserError(f"{path} was corrupt (wrong checksum) and has been deleted: run the same command again to "
                        "download it.")


# --- Uploads ---


def check_upload(name: str):
    """Raises: UserError: not a name on the hub, no token, or offline mode: before anything is computed."""
    import huggingface_hub.constants  # some releases do not have it as an attribute before
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]{0,80}", name) or ".." in name or "--" in name:
        raise UserError(f"--push_to_hub={name} must be the owner and the name of a model on the hub, such as "
                        "owner/electra-tiny.")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise UserError(f"--push_to_hub={name} needs the network, but HF_HUB_OFFLINE is set: unset it, or omit "
                        "--push_to_hub.")
    if not huggingface_hub.get_token():
        raise UserError(f"--push_to_hub={name} needs a token of {huggingface_hub.constants.ENDPOINT} that can write: "
                        "set HF_TOKEN, or log in with `hf auth login`.")


def upload(folders: Dict[str, str], public: bool = False, message: str = "Export from ELECTRA for TensorFlow",
           is_own_card: Callable[[str], bool] = lambda card: False) -> Dict[str, str]:
    """Uploads folders, each to a repository of its own, in one commit: it has all files or is as it was.

    Repositories that do not exist are created first, so that a missing right is known before anything is sent.

    Args:
        folders: local folder by repository.
        public: whether new repositories are; those that exist stay as they are.
        is_own_card: whether a README.md of the repository may be replaced; others are kept.
    Returns: the address of each repository.
    Raises: UserError: a request failed; it names the repositories that have been pushed before.
    """
    import huggingface_hub.constants
    api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT)
    urls: Dict[str, str] = {}
    for repository in folders:
        with _pushing(repository, urls):
            api.create_repo(repository, private=not public, exist_ok=True)
    for repository, folder in folders.items():
        with _pushing(repository, urls):
            card = _card_of(api, repository)
            kept = ["README.md"] if card and not is_own_card(card) else []
            if kept:
                absl.logging.info("%s has a README.md that was edited, which is kept.", repository)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message, ignore_patterns=kept)
        urls[repository] = f"{api.endpoint}/{repository}"
    return urls


def _card_of(api, repository: str) -> str:
    """The README.md of a repository; empty where there is none."""
    import huggingface_hub.constants
    from huggingface_hub.errors import EntryNotFoundError
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = huggingface_hub.hf_hub_download(repository, "README.md", local_dir=folder, endpoint=api.endpoint)
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
    except EntryNotFoundError as error:
        if getattr(error, "response", None) is None:  # not reached, rather than not there
            raise
        return ""


STATUSES = {
    401: "the token is not valid: set HF_TOKEN to one that can write",
    403: "the token has no right to write there: use one that can write, or another owner",
    404: "there is no such owner or repository for this token: check the name",
    409: "the repository was changed at the same time: run the same command again",
    413: "a file is too large for this repository",
    429: "too many requests: run the same command again later"}


@contextlib.contextmanager
def _pushing(repository: str, done: Dict[str, str]):
    """Turns what a request raises into a sentence. Raises: UserError."""
    from huggingface_hub import constants
    with _retries_collected() as retries:
        try:
            yield
        except Exception as error:  # of requests or httpx (by release), OSError, or an HTTP error of huggingface_hub
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = STATUSES.get(status) or f"{_reason(error, retries)}: check the connection"
            pushed = f"; pushed before: {', '.join(done)}" if done else ""
            raise UserError(f"--push_to_hub: {repository} could not be pushed to {constants.ENDPOINT} and received no "
                            f"files ({reason}); the exported folder is complete{pushed}.") from error
