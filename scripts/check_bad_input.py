"""Gives every command bad input, by the thousand, and checks how it ends. Takes about half an hour on two cores.

    .venv/bin/python scripts/check_bad_input.py
    .venv/bin/python scripts/check_bad_input.py --inputs=300 --only=run_inference.py
    .venv/bin/python scripts/check_bad_input.py --only=417                 one input of the default seed again

An input is a call of a command with something wrong. The kinds:

    help       --help
    typo       an option with a misspelled name
    option     an option with a value of the wrong type, out of range, empty, or with quotes, newlines and shell code
    position   the same for the positional values of the wrappers
    file       a damaged input file: truncated, flipped bits, empty, a gzip bomb, deep JSON, a huge declared size, ...
    machine    a full disk, read-only folders, closed streams, no HOME, ASCII alone, odd paths and working folders
    signal     SIGTERM or SIGINT at a random moment
    together   two starts of one command at once

Each command must end with status 0, 2 or 75 (1 only where the machine is at fault), a refusal in one sentence, without
a traceback, a temporary file or half-written output, and without touching anything that was there before. A command
that a value smuggles in must not run.

Inputs are drawn from --seed and numbered; the options come from each command's --help. Commands run in a copy of the
repository under --folder, on a small earlier run made there first; as root, they run without root's privileges, and
nothing but --folder can be written. Commands that use TensorFlow run in forks of this process, which imports it once,
except where the environment is what is bad. The folder of an input that shows a violation is kept: the command printed
for it can be run again. Exit status 0, 1 with violations, 2 for an invalid call.
"""
from __future__ import annotations

import argparse
import atexit
import bz2
import contextlib
import ctypes
import difflib
import fcntl
import glob
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import random
import re
import resource
import runpy
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from typing import Callable, Dict, List, NamedTuple, Optional, Set

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from bad_inputs import (  # noqa: E402  (found through the line above)
    CALLS,
    KINDS,
    MARKER,
    OUTPUT_OPTIONS,
    OUTPUTS,
    PROGRAMS,
    WITH_TENSORFLOW,
    Case,
    cases,
    choose,
    damages_of,
    shorten,
    words_of,
)
from squad_questions import SQUAD_WORDS, squad_file  # noqa: E402

SECONDS = 120  # after which a command counts as hung
STARTING = 0.3  # seconds until a Python command can handle a signal
SHELL_STARTING = 0.03  # the same for bash
QUICK = 1.0  # seconds of CPU time for help and for a typo: TensorFlow alone takes 2 and more
MEMORY = 12 << 30  # address space of a command: more than any valid one takes

# --- The world: a copy of the repository, and an earlier run ---

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL_MODEL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
               "embedding_size": 16, "max_position_embeddings": 64}


class World:
    """The folder that commands run in: `code`, `in` (the earlier run), and one folder for each input.

    Args:
        folder: emptied by `make`.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.code, self.inputs, self.kept = folder / "code", folder / "in", folder / "pristine"
        self.preloaded: Set[str] = set()  # programs that may run in a fork of this process
        self.base_env = {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
                         "LANG": "C.UTF-8", "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1",
                         "TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1",
                         "MPLCONFIGDIR": str(folder / "matplotlib"),
                         "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
                         "TMPDIR": str(folder / "tmp"),
                         **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}}
        self.states: Dict[str, dict] = {}

    # Paths and environment

    def case_folder(self, number: int) -> pathlib.Path:
        return self.folder / f"input-{number}"

    def fill_in(self, text: str, case_folder: pathlib.Path) -> str:
        return text.replace("@in@", str(self.inputs)).replace("@case@", str(case_folder))

    # Making it

    def make(self):
        """Copies the repository, and makes the data of the earlier run."""
        for path in self.folder.iterdir():
            (shutil.rmtree if path.is_dir() and not path.is_symlink() else os.remove)(path)
        self.inputs.mkdir()
        (self.folder / "matplotlib").mkdir()
        (self.folder / "tmp").mkdir()
        for pattern in ("*.py", "*.txt", "pyproject.toml", "scripts/*", "data/*.*", "data/world/*", "templates/*"):
            for path in ROOT.glob(pattern):
                if path.is_file():
                    (self.code / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, self.code / path.relative_to(ROOT))
        self.make_texts()

    def make_earlier_run(self, models: bool):
        """Runs the commands on that data. Raises: SystemExit: one failed."""
        from tqdm import tqdm
        steps = self.first_steps() + (self.model_steps() if models else [])
        for step in tqdm(steps, desc="earlier run", unit="step", disable=not sys.stderr.isatty()):
            if callable(step):
                step()
            else:
                self.make_part(*step)
        self.guard()

    def guard(self):
        """From here on nothing in `code` and `in` may change."""
        shutil.copytree(self.inputs, self.kept / "in", symlinks=True)
        shutil.copytree(self.code, self.kept / "code", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        self.states = {name: signatures(self.folder / name) for name in ("in", "code")}

    def make_texts(self):
        rng, folder = random.Random(0), self.inputs
        (folder / "corpus").mkdir()
        (folder / "squad").mkdir()
        for number in range(3):
            lines = [" ".join(rng.choices(SQUAD_WORDS, k=rng.randrange(4, 14))) if rng.random() < 0.8 else ""
                     for _ in range(250)]
            (folder / "corpus" / f"part-{number}.txt").write_text("\n".join(lines) + "\n")
        vocabulary = [*SPECIAL, *SQUAD_WORDS, "who", "follows", "?", "a", "##a", "##n"]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
        (folder / "model.json").write_text(json.dumps(SMALL_MODEL))
        (folder / "article.txt").write_text(" ".join(rng.choices(SQUAD_WORDS, k=60)) + ".\n")
        (folder / "hosts").write_text("# two\nhost1 slots=1\nhost2 slots=1\n")
        (folder / "evaluate.py").write_text("print('{\"exact_match\": 0.0, \"f1\": 0.0}')\n")
        shutil.copy(ROOT / "data" / "bf16_electra.json", folder / "bf16.json")
        for version in ("1.1", "2.0"):
            for part, questions in (("train", 12), ("dev", 6)):
                squad_file(folder / "squad" / f"{part}-v{version}.json", version, questions, seed=questions)
        self.make_raw_texts(rng)
        self.make_downloads()
        self.make_labelled()

    def make_raw_texts(self, rng: random.Random):
        """Text in every format that prepare_corpus.py reads; a table only with pyarrow."""
        def texts(count: int) -> List[str]:
            return [" ".join(f"{' '.join(rng.sample(SQUAD_WORDS, 9)).capitalize()}." for _ in range(5))
                    for _ in range(count)]

        def lines(count: int) -> bytes:
            return "".join(json.dumps({"text": text}) + "\n" for text in texts(count)).encode()

        def dump(count: int) -> bytes:
            pages = "".join(
                f"<page><title>{number} {text[:9]}</title><ns>0</ns><id>{number}</id><revision><id>{number}</id>"
                f"<model>wikitext</model><format>text/x-wiki</format><text><b>{text}</b> {{{{box|a=[[b|c]]}}}} {text}"
                "</text></revision></page>\n" for number, text in enumerate(texts(count), 1))
            return ('<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="en">'
                    '<siteinfo><namespaces><namespace key="0" case="first-letter" /></namespaces></siteinfo>\n'
                    f"{pages}</mediawiki>\n").encode()

        folder = self.inputs / "texts"
        folder.mkdir()
        made = {"plain.txt": "\n".join(texts(20)).encode(), "lines.jsonl": lines(20), "dump.xml": dump(9),
                "packed.jsonl.gz": gzip.compress(lines(9)), "dump.xml.bz2": bz2.compress(dump(9)),
                "packed.txt.xz": lzma.compress("\n".join(texts(9)).encode())}
        with contextlib.suppress(ImportError):
            import zstandard
            made["packed.txt.zst"] = zstandard.compress("\n".join(texts(9)).encode())
        for name, content in made.items():
            (folder / name).write_bytes(content)
        with contextlib.suppress(ImportError):
            import pyarrow.parquet
            pyarrow.parquet.write_table(pyarrow.table({"text": texts(9)}), folder / "table.parquet")
        (self.inputs / "questions.jsonl").write_text("".join(
            json.dumps({"id": number, "question": f"who follows {word} ?", **(
                {"context": " ".join(rng.sample(SQUAD_WORDS, 30))} if number % 2 else {})}) + "\n"
            for number, word in enumerate(SQUAD_WORDS[:8])))

    def make_labelled(self):
        """Examples for classification and for tagging."""
        rng, folder = random.Random(0), self.inputs
        made = [rng.choices(SQUAD_WORDS, k=rng.randrange(3, 9)) for _ in range(12)]
        (folder / "labelled.csv").write_text("text,label\n" + "".join(
            f"{' '.join(words)},{('left', 'right')[number % 2]}\n" for number, words in enumerate(made)))
        (folder / "labelled.conll").write_text("\n".join("".join(
            f"{word} {'O' if place else 'B-first'}\n" for place, word in enumerate(words)) for words in made))
        (folder / "labelled.jsonl").write_text("".join(json.dumps({"text": " ".join(words), "spans": [
            {"start": 0, "end": len(words[0]), "label": "first"}]}) + "\n" for words in made))

    def make_downloads(self):
        """What download.py finds with --offline: it connects to no server."""
        folder = self.inputs
        for name in ("questions", "archives"):
            (folder / name / "original").mkdir(parents=True)
        for part, other, third in (("train", "train", "train"), ("dev", "dev", "valid")):
            content = (folder / "squad" / f"{part}-v1.1.json").read_text()
            (folder / "questions" / "original" / f"cmrc2018_{other}.json").write_text(content)
            with zipfile.ZipFile(folder / "archives" / "original" / f"{third}.json.zip", "w") as archive:
                archive.writestr(f"{third}.json", content)
        (folder / "books").mkdir()
        for number in (1342, 84):
            shutil.copy(folder / "texts" / "plain.txt", folder / "books" / f"{number}.txt")
        (folder / "books.txt").write_text("1342\n84  # a comment\n")

    def first_steps(self) -> list:
        def compress():
            source, target = self.inputs / "data" / "32", self.inputs / "data" / "gzip"
            target.mkdir()
            for path in source.glob("train-*.tfrecord"):
                (target / path.name).write_bytes(gzip.compress(path.read_bytes()))
            for name in ("vocab.txt", "tokenizer_config.json"):
                shutil.copy(source / name, target)

        def half_downloaded():
            shutil.copytree(self.inputs / "questions", self.inputs / "downloaded")

        return [*(("build", {"max_seq_length": length, "output_dir": f"@in@/data/{length}"})
                  for length in ("32", "64")), compress,
                *(("pieces", {"type": kind, "output_dir": f"@in@/{folder}"})
                  for kind, folder in (("sentencepiece", "pieces"), ("bpe", "bpe"))),
                ("build", {"vocab_file": "@in@/pieces/spiece.model", "output_dir": "@in@/data/pieces"}),
                ("prepare", {"output_dir": "@in@/prepared"}), half_downloaded,
                ("fetch questions", {"output_dir": "@in@/downloaded"})]

    def model_steps(self) -> list:
        runs = {"results_dir": "@in@/results", "num_train_steps": "2"}

        def hub_and_h5():
            snapshot = self.inputs / "hub" / "models--org--model" / "snapshots" / ("0" * 40)
            shutil.copytree(self.inputs / "exported" / "discriminator", snapshot)
            (snapshot.parent.parent / "refs").mkdir()
            (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
            shutil.copytree(snapshot, self.inputs / "h5")
            import h5py
            from safetensors.numpy import load_file

            import weights
            tensors = load_file(str(self.inputs / "h5" / "model.safetensors"))
            with h5py.File(self.inputs / "h5" / "tf_model.h5", "w") as file:
                for row in weights.table(1):
                    if row.torch[0] in tensors:
                        value = tensors[row.torch[0]]
                        file[f"electra/tf_electra_model/{row.keras[0]}:0"] = value.T if row.transposed else value
            (self.inputs / "h5" / "model.safetensors").unlink()

        def last_checkpoint():
            run = self.inputs / "results" / "models" / "run"
            folder = self.inputs / "last" / "run"
            (folder / "checkpoints").mkdir(parents=True)
            shutil.copy(run / "vocab.txt", folder)
            shutil.copy(run / "tokenizer_config.json", folder)
            for path in run.glob("checkpoints/ckpt-p2-2.*"):
                shutil.copy(path, folder / "checkpoints")

        def interrupted_answers():
            whole = self.inputs / "found" / "found.jsonl"
            os.rename(whole, f"{whole}.partial")
            (self.inputs / "found" / "found.jsonl.partial.json").write_text("{}")

        return [("train", {**runs, "eval_tfrecords": "@in@/data/32/eval"}),
                ("train", {**runs, "phase2": "true", "pretrain_tfrecords": "@in@/data/64", "max_seq_length": "64",
                           "restore_checkpoint": "latest"}),
                ("export", {"pretrained_checkpoint": "@in@/results/models/run/checkpoints",
                            "output_dir": "@in@/exported"}),
                hub_and_h5, ("fine-tune", {"output_dir": "@in@/squad_run", "cache_dir": "@in@/cache"}),
                ("export", {"pretrained_checkpoint": "@in@/squad_run/checkpoints",
                            "output_dir": "@in@/exported_answerer"}),
                lambda: os.rename(self.inputs / "exported_answerer" / "question_answering", self.inputs / "answerer"),
                last_checkpoint, ("sweep again", {"out_dir": "@in@/sweep"}),
                ("classify", {"output_dir": "@in@/classified"}),
                ("answer", {"output_dir": "@in@/evaluated"}), lambda: (self.inputs / "found").mkdir(),
                ("infer a file", {"output_file": "@in@/found/found.jsonl"}), interrupted_answers]

    def make_part(self, call: str, changes: Dict[str, Optional[str]]):
        case = Case(0, "setup", call, "", words_of(CALLS[call], changes))
        run = Run(self, case._replace(copies={}))
        status = run.wait()
        if status:
            sys.exit(f"check_bad_input.py: the earlier run could not be made ({call} ended with status {status}): "
                     f"{run.output()[-2000:]}")
        run.clean_up()

    # Guarding it

    def changes(self) -> List[str]:
        """What a command has changed outside of its folder; it is put back."""
        found = []
        for name, before in self.states.items():
            after = signatures(self.folder / name)
            changed = [path for path in sorted({*before, *after}) if before.get(path) != after.get(path)]
            found += [f"touched {name}/{path}" for path in changed[:4]]
            found += [f"touched {len(changed) - 4} more in {name}"] if len(changed) > 4 else []
            for path in changed:
                self.put_back(name, path)
        return found

    def put_back(self, name: str, path: str):
        """Other commands may still be running: what is there now may be gone in a moment."""
        there, kept = self.folder / name / path, self.kept / name / path
        with contextlib.suppress(OSError):
            if there.is_dir() and not there.is_symlink():
                there.chmod(0o755)
                if not kept.is_dir():
                    shutil.rmtree(there, ignore_errors=True)
            elif there.is_symlink() or there.exists():
                there.unlink()
            if kept.is_dir():
                there.mkdir(exist_ok=True)
                shutil.copystat(kept, there)
            elif kept.exists():
                shutil.copy2(kept, there)


def signatures(folder: pathlib.Path) -> Dict[str, tuple]:
    """Size, mode and time of change of everything in a folder."""
    found = {}
    for base, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", ".ruff_cache", ".pytest_cache")]
        for name in [*folders, *names]:
            if name == ".setup.lock":  # of a wrapper that makes data
                continue
            path = os.path.join(base, name)
            with contextlib.suppress(FileNotFoundError):
                state = os.lstat(path)
                is_folder = name in folders and not os.path.islink(path)
                found[os.path.relpath(path, folder)] = (state.st_mode, *(() if is_folder else
                                                                         (state.st_size, state.st_mtime_ns)))
    return found


def digests(folder: pathlib.Path) -> Dict[str, str]:
    """Content of all files in a folder, targets of links, and folders."""
    found = {}
    for path in folder.rglob("*"):
        name = os.path.relpath(path, folder)
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            try:
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                found[name] = str(error.errno)
    return found


# --- As root ---
# The permissions of files do not hold for root, and a command that goes wrong could harm the machine.


def mount(*words: str) -> bool:
    return os.getuid() == 0 and subprocess.run(["mount", *words], capture_output=True).returncode == 0


def confine(folder: pathlib.Path):
    """As root: makes the root file system read-only for this process and its children, except `folder`."""
    new_mounts = 0x20000  # CLONE_NEWNS
    if os.getuid() == 0 and ctypes.CDLL(None).unshare(new_mounts) == 0 and mount("--make-rprivate", "/"):
        mount("--bind", str(folder), str(folder)) and mount("-o", "remount,bind,ro", "/")


def drop_privileges():
    """As root: gives up all capabilities, also for programs that are started."""
    if os.getuid() == 0:
        libc, version_3, no_root = ctypes.CDLL(None), 0x20080522, 3
        libc.prctl(28, no_root, 0, 0, 0)  # PR_SET_SECUREBITS
        libc.capset(struct.pack("Ii", version_3, 0), bytes(24))


# --- Running ---

STREAMS = ("stdin", "stdout", "stderr")


class Run:
    """A running command."""

    def __init__(self, world: World, case: Case, twin: bool = False):
        self.world, self.case = world, case
        self.folder = world.case_folder(case.number)
        self.mounted = False
        if not twin:
            self.prepare()
        self.suffix = "-2" if twin else ""
        self.streams = {name: self.folder / "streams" / (name + self.suffix) for name in STREAMS}
        self.started, self.status, self.signalled = time.monotonic(), None, False
        self.hung, self.seconds, self.cpu_seconds = False, 0.0, 0.0
        self.pid = self.start()
        self.twin = Run(world, case, True) if "together" in case.machine and not twin else None

    # Before

    def prepare(self):
        """Makes the input's folder, with damaged copies and whatever is wrong with the machine."""
        folder, case, world = self.folder, self.case, self.world
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("home", "tmp", "streams"):
            (folder / name).mkdir(parents=True)
        for name, source in case.copies.items():
            source = world.inputs / source
            (shutil.copytree if source.is_dir() else shutil.copy2)(source, folder / name)
        pattern, how = case.damage
        if pattern:
            damages_of(pattern)[how](self.find(pattern), random.Random(f"{case.number}/{case.what}"))
        self.prepare_machine(case.machine)
        self.before = digests(folder)

    def find(self, pattern: str) -> pathlib.Path:
        found = sorted(self.folder.glob(pattern))
        if found:
            return found[self.case.number % len(found)]
        path = self.folder / pattern  # such as .lock, which a finished run does not have
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"host": "elsewhere", "machine": "m", "pid": 1, "wrapper": "", "command": "c", "since": "s", '
                        '"id": "i"}\n')
        return path

    def prepare_machine(self, machine: Dict[str, str]):
        folder = self.folder
        if "read_only" in machine:
            (folder / "locked").mkdir(mode=0o555)
            (folder / "locked").chmod(0o555)
        if machine.get("output") == "file":
            (folder / "output").write_text("mine\n")
        elif "output" in machine:
            target = {"link": "target", "dangling": "nowhere", "loop": "output"}[machine["output"]]
            (folder / "target").mkdir()
            (folder / "output").symlink_to(target)
        if "disk" in machine:
            (folder / "disk").mkdir()
            self.mounted = mount("-t", "tmpfs", "-o", f"size={machine['disk']}", "tmpfs", str(folder / "disk"))
        if machine.get("cwd", "").startswith("@case@/"):
            pathlib.Path(self.cwd()).mkdir(parents=True)
        if machine.get("through") == "link":
            (folder / "linked").symlink_to(self.world.code / PROGRAMS[self.case.program])

    # The command

    def program(self) -> str:
        """As it is named on the command line, from its working folder."""
        path = PROGRAMS[self.case.program]
        through = self.case.machine.get("through")
        if through == "link":
            return "linked"
        if through == "relative":
            return os.path.relpath(self.world.code / path, self.folder)
        return path if "cwd" not in self.case.machine else str(self.world.code / path)

    def words(self) -> List[str]:
        """The command line."""
        program = self.program()
        interpreter = ["bash"] if self.case.program.endswith(".sh") else [sys.executable]
        return [*interpreter, program, *(self.world.fill_in(word, self.folder) for word in self.case.words)]

    def cwd(self) -> str:
        return self.world.fill_in(self.case.machine.get("cwd", str(self.world.code)), self.folder)

    def environment(self) -> Dict[str, str]:
        changes = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "HF_HUB_CACHE": str(
            self.folder / "hub" if "hub" in self.case.machine else self.world.inputs / "hub")}
        changes.update({name: value for name, value in self.case.machine.items() if name.isupper()})
        found = {**self.world.base_env, **changes}
        found.pop(self.case.machine.get("unset", ""), None)
        return found

    def to_repeat(self) -> str:
        """The command line for a shell."""
        wanted = {*filter(str.isupper, self.case.machine), *(["PYTHON"] if self.case.program.endswith(".sh") else []),
                  *(["HF_HUB_OFFLINE", "HF_HUB_CACHE"] if "hub" in self.case.machine else [])}
        env = [f"{name}={shlex.quote(value)}" for name, value in self.environment().items() if name in wanted]
        env += [f"env -u {self.case.machine['unset']}"] if "unset" in self.case.machine else []
        streams = "".join(f" {('<', '>', '2>')[int(digit)]}&-" for digit in self.case.machine.get("close", ""))
        if "full" in self.case.machine:
            streams += f" {('<', '>', '2>')[int(self.case.machine['full'])]}/dev/full"
        line = " ".join([*env, *map(shlex.quote, self.words())])
        return f"cd {shlex.quote(self.cwd())} && {line}{streams}".encode("utf-8", "backslashreplace").decode()

    def start(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            return pid
        try:
            self.enter()
            if self.case.in_own_process or self.case.program not in self.world.preloaded:
                words = self.words()
                os.execvpe(words[0] if "/" in words[0] else f"/bin/{words[0]}", words, self.environment())
            self.run_here()
        except BaseException:
            traceback.print_exc()
            os._exit(99)

    def enter(self):
        """In the child: streams, limits, working folder and user of the command."""
        machine = self.case.machine
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGPIPE else signal.SIG_IGN)
        self.streams["stdin"].write_bytes(bytes(range(128, 256)) * 4 if machine.get("stdin") == "binary" else b"")
        for number, name in enumerate(STREAMS):
            path = "/dev/full" if machine.get("full") == str(number) else self.streams[name]
            target = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(target, number)
            os.close(target)
        os.closerange(3, 256)
        cwd = self.cwd()
        if cwd == "deleted":
            cwd = tempfile.mkdtemp(dir=self.folder / "streams")
            os.chmod(cwd, 0o755)
            os.chdir(cwd)
            os.rmdir(cwd)
        else:
            os.chdir(cwd)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if "disk" in machine and not self.mounted:
            limit = int(machine["disk"][:-1]) * {"k": 1 << 10, "m": 1 << 20}[machine["disk"][-1]]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if "files" in machine:
            limit = int(machine["files"])
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        drop_privileges()
        for digit in machine.get("close", ""):
            os.close(int(digit))

    def run_here(self):
        """In the child: runs a Python command as the interpreter would, and ends."""
        os.environ.clear()
        os.environ.update(self.environment())
        tempfile.tempdir = None
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = open(0, closefd=False, encoding="utf-8")
        sys.stdout = open(1, "w", closefd=False, encoding="utf-8")
        sys.stderr = open(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)
        _, sys.argv[0], *sys.argv[1:] = self.words()
        sys.path[0] = str((self.world.code / sys.argv[0]).parent)
        status = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ended:
            if not isinstance(ended.code, (int, type(None))):
                print(ended.code, file=sys.stderr)
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        threading._shutdown()  # what the interpreter does at its end: waits for threads, then calls exit functions
        atexit._run_exitfuncs()
        try:
            sys.stdout.flush()
        except OSError:
            status = 120
        os._exit(status)

    # After

    def poll(self) -> bool:
        """Whether it has ended; sends the signal of its input, and kills it when its time is over."""
        elapsed = time.monotonic() - self.started
        if self.status is None:
            machine = self.case.machine
            if "signal" in machine and not self.signalled and elapsed > float(machine["delay"]):
                self.signalled = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, getattr(signal, machine["signal"]))
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.status = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                self.seconds, self.cpu_seconds = elapsed, usage.ru_utime + usage.ru_stime
            elif elapsed > SECONDS:
                self.hung = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
        return self.status is not None and (self.twin is None or self.twin.poll())

    def wait(self) -> int:
        while not self.poll():
            time.sleep(0.01)
        return self.status

    def read(self, name: str) -> str:
        try:
            return self.streams[name].read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def output(self) -> str:
        return self.read("stdout") + self.read("stderr")

    def clean_up(self, keep: bool = False):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it may have left running
        if self.mounted:
            subprocess.run(["umount", str(self.folder / "disk")], capture_output=True)
        if not keep:
            for path in [self.folder, *self.folder.rglob("*")]:
                if path.is_dir() and not path.is_symlink():
                    path.chmod(0o755)  # also what was made read-only
            shutil.rmtree(self.folder, ignore_errors=True)


# --- Judging ---

TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^  File \"|Fatal Python error|terminate called|"
                       r"Check failed:|Segmentation fault|Aborted|^[A-Z]\w*(Error|Exception): |^Exception ignored",
                       re.MULTILINE)
SHELL = re.compile(r"^(\S*/)?(bash|\w+\.sh): (line [0-9]+|.*: line [0-9]+): .*|"
                   r"^(mkdir|mktemp|mkfifo|tee|sed|rm|cat|cp|mv|dirname|basename|cksum): .*|"
                   r"command not found|unbound variable", re.MULTILINE)
STARTUP = re.compile(r"^(WARNING: All log messages before absl|I0000 |.* Unable to register cu).*\n|"
                     r"^(\S+ |\S+: )?note: .*\n|^WARNING:.*\n", re.MULTILINE)  # before a refusal
TEMPORARY = re.compile(r"\.tmp-|\.lock$|electra\.tmp|\.workers\.tmp|\.part(\.idx)?$")
LONGEST = 1500  # characters of one sentence


def judge(run: Run) -> List[str]:
    """What is wrong with how a command ended; nothing if all is well."""
    case, found, parts = run.case, [], [run, *([run.twin] if run.twin else [])]
    if any(part.hung for part in parts):
        return [f"did not end within {SECONDS} s", *run.world.changes()]
    for part in parts:
        found += judge_end(part)
    if run.twin and 0 not in (run.status, run.twin.status):
        found.append(f"neither of two starts ended with 0 ({run.status}, {run.twin.status})")
    if not ("cwd" in case.machine and case.machine["cwd"] == "/"):
        found += [f"ran a command that was smuggled in: {path} was created" for path in
                  [*run.folder.rglob(MARKER), *run.world.code.rglob(MARKER), *run.world.inputs.rglob(MARKER)]
                  if path.is_file() and not any("touch " in part for part in path.parts)]  # else named by an odd path
    found += judge_files(run)
    found += [f"left a running process: {name}" for name in left_running(run.pid)]
    found += run.world.changes()
    return list(dict.fromkeys(found))


def left_running(session: int) -> List[str]:
    """Names of the processes of a command that run on for a second after it."""
    for _ in range(20):
        names = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                name, _, rest = (entry / "stat").read_text().partition(" (")[2].rpartition(")")
                if rest.split()[3] == str(session) and rest.split()[0] != "Z":
                    names.append(name)
        if not names:
            break
        time.sleep(0.05)
    return names


def judge_end(run: Run) -> List[str]:
    """By status and text."""
    case, found = run.case, []
    allowed = {0, 2, 75} | ({1} if case.may_fail else set())
    if case.kind == "typo" or case.kind == "position" and case.program in ("install_horovod.sh", "make_venv.sh",
                                                                           "test.sh"):
        allowed = {2}
    if case.kind == "help":
        allowed = {0}
    if case.kind == "signal" and run.status not in (0, 2, 75) and float(case.machine["delay"]) < (
            SHELL_STARTING if case.program.endswith(".sh") else STARTING):
        return []  # Python itself was starting, or bash
    if case.kind == "signal":
        allowed = {0, 75}
        if not case.program.endswith(".sh") and not CALLS[case.call].trains:  # it has nothing to save
            allowed |= {130, 143, -signal.SIGTERM, -signal.SIGINT}
    if run.status not in allowed:
        found.append(f"status {run.status}")
    text = run.output()
    traced = TRACEBACK.search(text)
    if traced:
        found.append(f"traceback: {last_error(text)}")
    raw = SHELL.search(text)
    if raw:
        found.append(f"raw message: {shorten(raw[0].strip(), 120)}")
    if case.program == "test.sh" and case.kind != "help":  # its arguments are pytest's, which answers them
        return found
    if run.status in (1, 2) and not traced and "2" not in case.machine.get("close", case.machine.get("full", "")):
        found += judge_refusal(run)
    if case.kind in ("help", "typo") and run.cpu_seconds > QUICK:
        found.append(f"took {run.cpu_seconds:.1f} s of CPU time")
    return found


def last_error(text: str) -> str:
    """The line of an exception that says what happened."""
    lines = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt)\b", line)]
    return shorten((lines or [line for line in text.splitlines() if line] or [""])[-1], 160)


def judge_refusal(run: Run) -> List[str]:
    """A refusal is one sentence that begins with the command's name."""
    case, found = run.case, []
    text = STARTUP.sub("", run.read("stderr")).strip()
    lines = text.splitlines()
    if not lines:
        return [f"status {run.status} without a message"]
    if not re.match(r"(\w+\.(py|sh)|linked)( \(worker \d+\))?: .{10}|usage: ", lines[-1]):
        found.append(f"the last line is no message of the command: {shorten(lines[-1], 120)}")
    if len(lines[-1]) > LONGEST + 3 * max(map(len, case.words), default=0):  # which it may repeat
        found.append(f"a message of {len(lines[-1])} characters")
    logs = CALLS[case.call].trains
    if len(lines) == 2 and "is above)" in lines[1] and re.match(r"\w+\.py: ", lines[0]):
        lines = lines[:1]  # a wrapper after the command that it asked
    if len(lines) > 1 and not logs and case.kind != "machine" and not lines[0].startswith("usage: "):
        found.append(f"a message of {len(lines)} lines: {shorten(lines[0], 60)} ... {shorten(lines[-1], 60)}")
    if case.kind == "typo" and not re.search("did you mean|--help", text, re.IGNORECASE):
        found.append("a typo without a hint")
    if case.option and case.kind == "option" and not logs and not names_something(text, case):
        found.append(f"the refusal names neither --{case.option} nor a file: {shorten(lines[-1], 200)}")
    return found


def names_something(text: str, case: Case) -> bool:
    """Whether a refusal names the option, another one, its value, or a file."""
    values = [word.partition("=")[2] for word in case.words if word.startswith(f"--{case.option}=")]
    return bool(re.search(rf"--\w|/|\b{case.option}\b", text)) or any(value and value in text for value in values)


KEPT = re.compile("/logs/|/logfile.txt$|/record_index/|^hub/")  # may change also where a command refuses


def judge_files(run: Run) -> List[str]:
    """By what is left in the input's folder."""
    case, before, after, found = run.case, run.before, digests(run.folder), []
    refused = run.status == 2
    leaves_nothing = not (CALLS[case.call].trains or case.call == "check" or case.kind == "together")
    for path, content in sorted(after.items()):
        new = path not in before
        if path.startswith(("streams/", "home/.")) or before.get(path) == content:
            continue
        if ".partial/" in path and run.status not in (0, 2):  # where an interrupted build of a dataset continues
            continue
        if path.startswith(".prepared.partial") and run.status:  # what is finished there is used by the next call
            continue
        if new and (TEMPORARY.search(path) or path.startswith("tmp/")):
            found.append(f"left {path}")
        elif refused and not KEPT.search(path) and (leaves_nothing or not new):
            found.append(f"refused, and {'left' if new else 'changed'} {path}")
        elif path.split("/")[0] not in may_write(case):
            found.append(f"wrote {path}, which is not its output")
        elif new and is_half_written(run.folder / path):
            found.append(f"half-written {path}")
    gone = [path for path in before if path not in after and not path.startswith("streams/")]
    if refused and gone:
        found.append(f"refused, and removed {gone[0]}")
    return found[:6]


def may_write(case: Case) -> Set[str]:
    """What a command may write to in the input's folder."""
    machine, spot = case.machine, {"disk": "disk", "read_only": "locked", "output": "output"}
    found = {*OUTPUTS, "a", "cache", "hub", "missing", "target", "nowhere", machine.get("path", "").split("/")[0]}
    found |= {folder for key, folder in spot.items() if key in machine}
    return found | ({"x"} if case.option in OUTPUT_OPTIONS else set())  # ../../x, from the working folder a/b


def is_half_written(path: pathlib.Path) -> bool:
    """Whether it is a JSON file that ends early, or the index of a checkpoint without its data."""
    if path.suffix == ".index":
        return not list(path.parent.glob(glob.escape(path.stem) + ".data-*"))
    return path.suffix == ".json" and not is_json(path)


def is_json(path: pathlib.Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
        return True
    except (OSError, ValueError):
        return False


# --- The campaign ---


class Result(NamedTuple):
    """One row of what was found."""

    case: Case
    status: int
    seconds: float
    traced: bool
    violations: List[str]
    repeat: str


def run_all(world: World, chosen: List[Case], jobs: int, say: Callable[[str], None] = print) -> List[Result]:
    """Runs the inputs, `jobs` at a time, and judges each when it has ended."""
    from tqdm import tqdm
    results, running, waiting = [], [], list(reversed(chosen))
    hidden = not sys.stderr.isatty()
    with contextlib.ExitStack() as last, tqdm(total=len(chosen), desc="inputs", unit="input", disable=hidden) as bar:
        last.callback(lambda: [run.clean_up(keep=True) for run in running])  # after Ctrl-C
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Run(world, waiting.pop()))
            for run in [run for run in running if run.poll()]:
                running.remove(run)
                violations = judge(run)
                traced = any(text.startswith("traceback") for text in violations)
                results.append(Result(run.case, run.status, run.seconds, traced, violations, run.to_repeat()))
                run.clean_up(keep=bool(violations))
                bar.update()
                if violations:
                    say(describe(results[-1]))
            time.sleep(0.005)
    return sorted(results, key=lambda result: result.case.number)


def describe(result: Result) -> str:
    case = result.case
    lines = [f"{case.number} {case.kind}, {case.program} ({case.call}), {case.what}:"]
    lines += [f"    {text}" for text in result.violations]
    repeat = result.repeat if len(result.repeat) < 4000 else f"{result.repeat[:4000]}..."
    return "\n".join([*lines, f"    {repeat}"])


def table(results: List[Result]) -> str:
    """By command and by kind: how many inputs, how they ended, what was wrong."""
    head = ("", "inputs", "0", "2", "75", "1", "other", "tracebacks", "violations", "slowest")
    rows = [head]
    groups = [(name, [result for result in results if result.case.program == name]) for name in PROGRAMS]
    groups += [(kind, [result for result in results if result.case.kind == kind]) for kind in KINDS]
    for name, group in [*groups, ("all", results)]:
        if group:
            counted = [sum(result.status == status for result in group) for status in (0, 2, 75, 1)]
            rows.append((name, *map(str, [len(group), *counted, len(group) - sum(counted), sum(
                result.traced for result in group), sum(bool(result.violations) for result in group)]),
                f"{max(result.seconds for result in group):.1f} s"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.ljust(width) if not number else cell.rjust(width) for number, (cell, width) in
                               enumerate(zip(row, widths))).rstrip() for row in rows)


def options_of(world: World) -> Dict[str, List[str]]:
    """The options of every command that exists, from its --help."""
    found = {}
    for program, path in PROGRAMS.items():
        if not (world.code / path).exists():
            continue
        call = next(name for name, call in CALLS.items() if call.program == program)
        run = Run(world, Case(0, "setup", call, "--help", ["--help"]))
        run.wait()
        found[program] = list(dict.fromkeys(re.findall(r"^ {1,6}(?:\d+ +)?--(\w+)", run.read("stdout"), re.MULTILINE)))
        run.clean_up()
    return found


def preload(world: World):
    """Imports TensorFlow and the commands that use it: forks then have them. No operation may run before the forks."""
    os.environ.update({name: world.base_env[name] for name in ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES",
                                                               "MPLCONFIGDIR", "OMP_NUM_THREADS", "TMPDIR")})
    sys.path[:0] = [str(world.code), str(world.code / "scripts"), str(world.code / "data")]
    sys.dont_write_bytecode = True
    for program, path in PROGRAMS.items():
        if program in WITH_TENSORFLOW:
            __import__(pathlib.Path(path).stem)
            world.preloaded.add(program)
    import h5py  # noqa: F401
    import matplotlib
    import tensorflow  # noqa: F401
    matplotlib.use("Agg")
    import matplotlib.pyplot  # noqa: F401


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1500, help="number of inputs (default 1500)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the inputs (default 1)")
    parser.add_argument("--only", default="", help="kinds, commands or numbers of inputs, separated by commas")
    parser.add_argument("--quick", action="store_true", help="only inputs that train nothing and need no trained model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="inputs at a time (default: the cores)")
    parser.add_argument("--folder", default=str(ROOT / "build" / "bad_input"), help="working folder, which is emptied")
    arguments = parser.parse_args()
    if arguments.inputs < 1 or arguments.jobs < 1:
        parser.error("--inputs and --jobs must be at least 1")
    only = set(filter(None, arguments.only.split(",")))
    unknown = [word for word in only if word not in {*KINDS, *PROGRAMS} and not word.isdigit()]
    if unknown:
        close = difflib.get_close_matches(unknown[0], [*KINDS, *PROGRAMS], n=1)
        parser.error(f"--only={unknown[0]} is unknown: " + (f"did you mean {close[0]}?" if close else "choose from "
                                                            f"{', '.join([*KINDS, *PROGRAMS])}, or give a number"))
    os.umask(0o022)
    folder = pathlib.Path(arguments.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        parser.error(f"--folder={folder} is in use by another campaign: wait until that has ended, or choose another")
    confine(folder)
    world = World(folder)
    world.make()
    preload(world)
    chosen = choose(cases(arguments.seed, options_of(world)), arguments.inputs, only, arguments.quick)
    world.make_earlier_run(models=any(case.needs_models for case in chosen))
    results = run_all(world, chosen, arguments.jobs)
    print(table(results))
    wrong = sum(bool(result.violations) for result in results)
    print(f"{len(results)} inputs of seed {arguments.seed}: {wrong} with violations.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
