"""hub: downloads from a local server that implements the protocol of the Hugging Face Hub."""
from __future__ import annotations

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
