"""hub: downloads from and uploads to local servers that implement the protocol of the Hugging Face Hub."""
from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import huggingface_hub
import pytest
import safetensors.numpy
from huggingface_hub import constants

import hub as hub_module
import weights

ROOT = pathlib.Path(__file__).parent.parent
TINY = pathlib.Path(__file__).parent / "data" / "transformers_tiny" / "discriminator"
REPOSITORY = "someone/electra-tiny-discriminator"
PROGRAM = "import command_line, hub; command_line.run_command(lambda argv: print(hub.download(argv[1])))"


class Hub(http.server.ThreadingHTTPServer):
    """Serves `/<owner>/<model>/resolve/<revision>/<file>` with the headers that huggingface_hub reads.

    Attributes:
        files: the files of REPOSITORY, content by name; checksums are computed from it.
        sent: content that is sent instead, by name (a corrupt file).
        cut: number of bytes after which the server stops sending a file's body, once, by name.
        requests: (method, file, Range header) of every request.
        commits: by branch, tag or commit.
    """

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sent, self.cut, self.requests = dict(files), {}, {}, []
        self.commits = {"main": "1" * 40, "v1": "2" * 40, "1" * 40: "1" * 40, "2" * 40: "2" * 40}
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, parts = self.server, self.path.split("?")[0].strip("/").split("/")
        known = "/".join(parts[:2]) == REPOSITORY and len(parts) == 5 and parts[2] == "resolve"
        commit = hub.commits.get(parts[3]) if known else None
        name = parts[-1]
        hub.requests.append((self.command, name, self.headers.get("Range")))
        if commit is None or name not in hub.files:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if commit else "RevisionNotFound" if known else
                             "RepoNotFound")
            self.send_header("X-Repo-Commit", commit or "1" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        true, content = hub.files[name], hub.sent.get(name, hub.files[name])
        start = int(self.headers["Range"][len("bytes="):].split("-")[0]) if self.headers.get("Range") else 0
        self.send_response(206 if start else 200)
        large = name.endswith((".safetensors", ".h5"))
        etag = hashlib.sha256(true) if large else hashlib.sha1(b"blob %d\0" % len(true) + true)
        self.send_header("ETag", f'"{etag.hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            end = hub.cut.pop(name, None)
            with contextlib.suppress(ConnectionError):  # a client that was killed
                self.wfile.write(content[start:end])
            if end is not None:
                self.wfile.flush()
                self.close_connection = True
                hub.cut_done.wait(60)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server, and huggingface_hub configured for it with an empty cache in `tmp_path/cache`."""
    server = Hub({file.name: file.read_bytes() for file in TINY.iterdir() if file.name != "logits.npy"})
    server.cut_done = threading.Event()
    for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    use_endpoint(monkeypatch, server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.cut_done.set()
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch, url):
    """What HF_ENDPOINT sets when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        url + "/{repo_id}/resolve/{revision}/{filename}")


def start(hub, name=REPOSITORY, **environment):
    """A process that downloads a model to the same cache; it prints the folder."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": constants.HF_HUB_CACHE,
                   "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, name], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def read(name=REPOSITORY):
    """Numbers of tensors and tokens of the model."""
    source = weights.read(name)
    return len(source.tensors), source.tokenizer.vocab_size


def weights_requests(hub):
    return [request for request in hub.requests if request[1] == "model.safetensors" and request[0] == "GET"]


def test_a_model_is_downloaded_once_then_read_from_the_cache_also_offline(hub, tmp_path, monkeypatch):
    assert read() == (43, 23)
    assert len(weights_requests(hub)) == 1
    count = len(hub.requests)
    assert read() == (43, 23)
    process = start(hub, HF_HUB_OFFLINE="1")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and out.startswith(str(tmp_path / "cache")), err
    assert len(hub.requests) == count


def test_a_tokenizer_json_is_downloaded_where_there_is_no_vocab_txt(hub):
    assert read() == (43, 23) and "tokenizer.json" not in {request[1] for request in hub.requests}
    tokens = hub.files.pop("vocab.txt").decode().split("\n")[:23]
    model = {"type": "WordLevel", "vocab": {token: number for number, token in enumerate(tokens)}, "unk_token": "[UNK]"}
    hub.files["tokenizer.json"] = json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode()
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert read() == (43, 23) and weights.read(REPOSITORY).tokenizer.vocab_file.endswith("/tokenizer.json")


def test_the_next_weights_format_is_used_if_there_is_no_safetensors_file(hub, monkeypatch):
    nvidia = TINY.parent.parent / "nvidia_discriminator"
    del hub.files["model.safetensors"]
    hub.files.update({"tf_model.h5": (nvidia / "tf_model.h5").read_bytes(),
                      "config.json": (nvidia / "config.json").read_bytes(),
                      "vocab.txt": hub.files["vocab.txt"] + b"".join(b"word%d\n" % i for i in range(97))})
    assert read() == (43, 120)
    count = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert read() == (43, 120)
    assert len(hub.requests) == count


def test_a_revision_is_downloaded_and_read_from_the_cache(hub, monkeypatch, refuses):
    assert read() == (43, 23)
    hub.files["config.json"] = hub.files["config.json"].replace(b'_range": 0.02', b'_range": 0.5')
    revision = weights.read(f"{REPOSITORY}@v1")
    assert revision.config.initializer_range == 0.5 and "2" * 40 in revision.path
    count = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, expected in ((REPOSITORY, 0.02), (f"{REPOSITORY}@v1", 0.5), (f"{REPOSITORY}@{'2' * 40}", 0.5)):
        assert weights.read(name).config.initializer_range == expected
    assert len(hub.requests) == count
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert "no revision 'v2'" in refuses(weights.read, f"{REPOSITORY}@v2")


def test_all_files_of_sharded_weights_are_downloaded(hub, refuses):
    tensors = safetensors.numpy.load(hub.files.pop("model.safetensors"))
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {tensor: names[number % 2] for number, tensor in enumerate(tensors)}
    for name in names:
        hub.files[name] = safetensors.numpy.save({t: tensors[t] for t in tensors if weight_map[t] == name})
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert read() == (43, 23)
    weight_map["x"] = "model-00003-of-00002.safetensors"
    hub.files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map}).encode()
    assert "model-00003-of-00002" in refuses(weights.read, f"{REPOSITORY}@v1")


def test_a_download_that_was_killed_halfway_is_resumed(hub, tmp_path, caplog):
    content = hub.files["model.safetensors"] + bytes(60_000_000)  # more than buffers hold
    header = json.loads(hub.files["model.safetensors"][8:8 + int.from_bytes(content[:8], "little")])
    header["filler"] = {"dtype": "U8", "shape": [60_000_000], "data_offsets": [
        max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")] * 2}
    header["filler"]["data_offsets"][1] += 60_000_000
    text = json.dumps(header).encode()
    old = int.from_bytes(content[:8], "little")
    hub.files["model.safetensors"] = len(text).to_bytes(8, "little") + text + content[8 + old:]
    hub.cut["model.safetensors"] = len(hub.files["model.safetensors"]) // 2
    process = start(hub)
    partial = tmp_path / "cache" / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    arrived = 0
    while arrived < 20_000_000:
        assert process.poll() is None, process.communicate()
        with contextlib.suppress(FileNotFoundError):  # a small file, renamed meanwhile
            arrived = max([file.stat().st_size for file in partial.glob("*.incomplete")], default=0)
    process.kill()
    process.communicate()
    hub.cut_done.set()
    with caplog.at_level(logging.INFO, "absl"):
        assert read() == (43, 23)
    first, second = weights_requests(hub)
    assert caplog.text.count("interrupted download") == 1
    if tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (1, 18):
        assert first[2] in (None, "bytes=0-") and int(second[2][len("bytes="):-1]) > 20_000_000
        assert "resuming" in caplog.text
    else:
        assert "restarting" in caplog.text


def test_a_corrupt_download_is_deleted_and_not_used(hub, tmp_path, refuses):
    good = hub.files["model.safetensors"]
    corrupt = good[:-1] + bytes([good[-1] ^ 1])
    hub.sent["model.safetensors"] = corrupt
    text = refuses(weights.read, REPOSITORY)
    assert "model.safetensors" in text and "checksum" in text and "deleted" in text
    hub.sent.clear()
    assert read() == (43, 23)
    assert len(weights_requests(hub)) == 2
    cached = next((tmp_path / "cache").rglob("snapshots/*/model.safetensors")).resolve()
    cached.write_bytes(corrupt)  # on the disk
    assert "deleted" in refuses(weights.read, REPOSITORY)
    assert read() == (43, 23)


def test_a_missing_local_folder_is_not_looked_up(tmp_path, monkeypatch, refuses):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights.hub, "download", lambda name: pytest.fail(f"{name} was looked up"))
    os.makedirs("exported/generator")
    os.symlink("none", "link")
    for name in ("exported/discriminator", "./model", "../model", str(tmp_path / "model"), "~/model", "results/a/b",
                 "exported/generator/x", "link", ""):
        assert f"{name} does not exist" in refuses(weights.read, name)
    monkeypatch.setattr(weights.hub, "download", lambda name: pytest.fail("looked up"))
    with pytest.raises(pytest.fail.Exception, match="looked up"):
        weights.read("someone/model")


def test_a_damaged_cache_is_refused_by_its_folder(hub, tmp_path, refuses):
    assert read() == (43, 23)
    next((tmp_path / "cache").rglob("refs/main")).write_bytes("main".encode("utf-16"))
    text = refuses(weights.read, REPOSITORY)
    assert REPOSITORY in text and str(tmp_path / "cache") in text


def test_an_unavailable_model_is_refused_with_the_way_out(hub, monkeypatch, refuses):
    for name, endpoint in (("someone/other", hub.url), (REPOSITORY, "http://127.0.0.1:9")):
        use_endpoint(monkeypatch, endpoint)
        text = refuses(weights.read, name)
        assert name in text and endpoint in text and "config.json, vocab.txt and model.safetensors" in text
        assert text.startswith(f"there is no folder or checkpoint {name} here") and "has been closed" not in text
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):  # without a line per retry
        process = start(hub, **environment)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (2, "") and len(err.splitlines()) == 1
    assert "(Connection refused)" in err
    assert "config.json, vocab.txt and model.safetensors" in err
    use_endpoint(monkeypatch, hub.url)
    del hub.files["model.safetensors"]
    assert "tf_model.h5, pytorch_model.bin" in refuses(weights.read, REPOSITORY)


# --- Uploads ---


class WritableHub(http.server.ThreadingHTTPServer):
    """Creates repositories, stores large files, and takes commits.

    Attributes:
        repositories: content by file name, by repository.
        private: whether a repository was created so, by repository.
        commits: number of commits, by repository.
        refusals: status of the next answer, by the last words of a path.
        tokens: what requests were authorised with.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), WritableHandler)
        self.repositories, self.private, self.commits, self.refusals, self.tokens = {}, {}, {}, {}, set()
        self.stored = {}
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class WritableHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):  # a file, or whether there is a repository
        owner, name, *_, file = self.path.split("?")[0].strip("/").split("/")
        content = self.server.repositories.get(f"{owner}/{name}", {}).get(file)
        if content is None:
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit="1" * 40)
        else:
            self.reply(200, content, ETag=f'"{hashlib.sha1(b"blob %d" % len(content) + content).hexdigest()}"',
                       X_Repo_Commit="1" * 40)

    do_HEAD = do_GET

    def do_PUT(self):
        self.server.stored[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(200)

    def do_POST(self):
        body, hub, path = self.rfile.read(int(self.headers["Content-Length"])), self.server, self.path.strip("/")
        hub.tokens.add(self.headers.get("Authorization"))
        refused = next((word for word in hub.refusals if word in path), None)
        if refused:
            return self.reply(hub.refusals[refused], {"error": "no"}, X_Error_Code="Refused")
        if path == "api/repos/create":
            given = json.loads(body)
            repository = f"{given['organization']}/{given['name']}"
            known = repository in hub.repositories
            hub.repositories.setdefault(repository, {})
            hub.private.setdefault(repository, given.get("private", given.get("visibility") == "private"))
            self.reply(409 if known else 200, {"url": f"{hub.url}/{repository}"})
        elif path == "api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            self.reply(200, {"files": [{"path": file["path"], "shouldIgnore": False, "uploadMode":
                                        "lfs" if file["path"].endswith(".safetensors") else "regular"}
                                       for file in json.loads(body)["files"]]})
        elif path.endswith("objects/batch"):
            self.reply(200, {"transfer": "basic", "objects": [
                {**entry, "actions": {"upload": {"href": f"{hub.url}/stored/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]]})
        elif "/commit/" in path:
            self.commit("/".join(path.split("/")[2:4]), [json.loads(line) for line in body.splitlines()])
        else:
            self.reply(404)

    def commit(self, repository, entries):
        files = self.server.repositories[repository]
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        self.server.commits[repository] = self.server.commits.get(repository, 0) + 1
        self.reply(200, {"commitUrl": f"{self.server.url}/{repository}/commit/1", "commitOid": "1" * 40,
                         "pullRequestUrl": None})


@pytest.fixture
def writable(tmp_path, monkeypatch):
    server = WritableHub()
    for name in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    use_endpoint(monkeypatch, server.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path):
    for kind in ("discriminator", "generator"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "model.safetensors").write_bytes(kind.encode() * 1000)
        (tmp_path / kind / "config.json").write_text("{}")
        (tmp_path / kind / "README.md").write_text("---\nlicense: mit\n---\nours\n")
    return {f"someone/electra-{kind}": str(tmp_path / kind) for kind in ("discriminator", "generator")}


def test_each_folder_becomes_one_commit_of_a_private_repository_with_all_files(writable, exported):
    urls = hub_module.upload(exported)
    assert urls == {name: f"{writable.url}/{name}" for name in exported}
    assert writable.private == dict.fromkeys(exported, True) and writable.commits == dict.fromkeys(exported, 1)
    for name, folder in exported.items():
        assert writable.repositories[name] == {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}
    assert writable.tokens == {"Bearer hf_test"}
    hub_module.upload({"someone/open": next(iter(exported.values()))}, public=True)
    assert writable.private["someone/open"] is False


def test_a_card_that_was_edited_on_the_hub_is_kept(writable, exported, caplog):
    name, folder = next(iter(exported.items()))
    for card, kept in (("mine", True), ("ours", False)):
        writable.repositories[name] = {"README.md": card.encode()}
        with caplog.at_level(logging.INFO, "absl"):
            hub_module.upload({name: folder}, is_own_card=lambda text: text == "ours")
        assert (writable.repositories[name]["README.md"] == b"mine") == kept
        assert "config.json" in writable.repositories[name]
    assert caplog.text.count("is kept") == 1


@pytest.mark.parametrize("place, status, words", [
    ("repos/create", 401, "not valid"), ("repos/create", 403, "no right to write"), ("commit/", 403, "no right"),
    ("preupload", 404, "check the name"), ("commit/", 409, "run the same command again"),
    ("objects/batch", 400, "check the connection")])
def test_a_refused_upload_is_one_sentence_and_leaves_every_repository_as_it_was(place, status, words, writable,
                                                                                exported, refuses):
    writable.refusals[place] = status
    text = refuses(hub_module.upload, exported)
    assert "--push_to_hub" in text and words in text and "someone/electra-discriminator" in text
    assert not any(writable.repositories.values()) and not writable.commits


def test_what_was_pushed_before_a_failure_is_named(writable, exported, refuses):
    writable.refusals["electra-generator/commit"] = 409
    text = refuses(hub_module.upload, exported)
    assert "pushed before: someone/electra-discriminator" in text and "someone/electra-generator could not" in text


def test_an_upload_is_checked_before_anything_else_has_imported_the_hubs_library():
    code = "import hub\ntry:\n    hub.check_upload('a/b')\nexcept hub.UserError as error:\n    print(error)"
    found = subprocess.run([sys.executable, "-c", code], cwd=pathlib.Path(hub_module.__file__).parent, timeout=60,
                           env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.PIPE, check=True)
    assert b"HF_HUB_OFFLINE" in found.stdout


def test_an_upload_needs_a_name_a_token_and_a_network(writable, exported, monkeypatch, refuses, tmp_path):
    hub_module.check_upload("someone/electra-x")
    for name in ("electra", "a/b/c", "someone/..", "someone/x y", "/x", "someone/a--b"):
        assert f"--push_to_hub={name}" in refuses(hub_module.check_upload, name)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "HF_TOKEN" in refuses(hub_module.check_upload, "someone/electra-x")
    monkeypatch.setenv("HF_TOKEN", "x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refuses(hub_module.check_upload, "someone/electra-x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    text = refuses(hub_module.upload, exported)
    assert "127.0.0.1:9" in text and "Connection refused" in text
