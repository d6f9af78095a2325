"""What all commands share: errors and exit statuses, JSON, options as fields, the folders and workers of a command.

The options of a command are a frozen dataclass, validated when created: every field is a flag, whose name, default,
bounds and help text are written once, by `option` (pretraining_options.py, squad_options.py). The exceptions set a
command's exit status: `UserError` 2, `RunFailed` 1, `Interrupted` 75 (EX_TEMPFAIL).

Only the standard library is imported: scripts/recipe.py reads the options before any environment exists. Command lines
are parsed in command_line.py.
"""
from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import os
import re
import reprlib
import sys
import typing

import files


class UserError(Exception):
    """An error the user can fix. Its text is one sentence that names the flag, file or key and the way out."""

    exit_status = 2


class RunFailed(Exception):
    """The run failed although its options and input were valid. Its text says what happened and what is kept."""

    exit_status = 1


class Interrupted(Exception):
    """The run was stopped on request and can be resumed. Its text says how."""

    exit_status = 75


def in_short(error: BaseException) -> str:
    """The reason in an exception, in one line without a full stop: TensorFlow's texts go on for pages."""
    text = getattr(error, "strerror", None) or str(getattr(error, "message", error))
    first = (text.splitlines() or [type(error).__name__])[0]
    return re.sub(r"\{\{.*?\}\} ", "", first).rstrip(".")  # without TensorFlow's name of the operation


_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring = 2, 60
in_brief = _brief.repr  # of a value from a file, for a message: however long or deep it is


def on_one_line(text: str) -> str:
    """A message with values of users: escapes in place of line breaks and control characters, long words shortened."""
    escaped = re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)
    return re.sub(r"\S{400,}", lambda found: f"{found[0][:100]}...{found[0][-30:]}", escaped)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def refuse_unknown_keys(given, config_class, where: str):
    """Raises UserError naming the first key of `given` that `config_class` does not have."""
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}."
            raise UserError(f"unknown key {key!r} in {where}: {hint}")


VOCABULARY_FILES = ("vocab.txt", "tokenizer.json", "spiece.model")  # in order of preference


def find_vocabulary(folder: str) -> typing.Optional[str]:
    """The vocabulary file in a folder (see tokenization.py), or None."""
    paths = [os.path.join(folder, name) for name in VOCABULARY_FILES]
    return next((path for path in paths if os.path.exists(path)), None)


def read_json_object(path: str) -> dict:
    """Reads a JSON object, see `parse_json_object`. Raises: UserError naming the file."""
    try:
        with files.open_regular(path, encoding="utf-8-sig") as file:  # Windows may put a byte order mark in front
            text = file.read()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): fix or replace it.") from error
    return parse_json_object(text, path)


def read_lines(path: str) -> typing.Iterator[typing.Tuple[str, str]]:
    """The lines of a text file, each after its place, `FILE, line N`. Raises: UserError naming the file."""
    try:
        with files.open_regular(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}, line {number}", line
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): correct the path.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}): convert it.") from error


def read_record(path: str, way_out: str, **kinds) -> dict:
    """Reads a JSON object that has these keys, each of a type or one of several. Raises: UserError naming the key."""
    content = read_json_object(path)
    for key, kind in kinds.items():
        if type(content.get(key)) not in (kind if isinstance(kind, tuple) else (kind,)):
            raise UserError(f"{path}: {key} is {in_brief(content.get(key))}, the file is damaged: {way_out}.")
    return content


def parse_json_object(text: str, where: str) -> dict:
    """Parses a JSON object: all JSON that this project reads from files goes through here.

    Stricter than Python's json, by which NaN and Infinity are numbers and the last of two equal keys wins.

    Raises: UserError naming `where` the text comes from.
    """
    try:
        content = json.loads(text, parse_int=_json_integer, parse_float=_json_float, parse_constant=_json_constant,
                             object_pairs_hook=_json_object)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}): fix or replace it.") from error
    except RecursionError as error:
        raise UserError(f"{where} is not usable JSON (nested too deeply): fix or replace it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a JSON object: fix or replace it.")
    return content


def _json_integer(text: str) -> int:
    if len(text) > 300:  # beyond float64, and from 4300 digits on Python refuses
        raise ValueError(f"it contains an integer of {len(text)} digits")
    return int(text)


def _json_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _json_constant(text[:20])


def _json_constant(text: str):
    raise ValueError(f"it contains {text}, which is not a finite number")


def _json_object(pairs) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it contains the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


# --- Options: dataclass fields that are also flags ---

def option(default, meaning, *, choices=None, minimum=None, maximum=None):
    """A dataclass field with its help text, choices and bounds. `minimum` and `maximum` are inclusive."""
    return dataclasses.field(default=default, metadata=dict(meaning=meaning, choices=choices, minimum=minimum,
                                                            maximum=maximum))


def help_of(field: dataclasses.Field) -> str:
    """The help text of a field made by `option`, with its choices where the text does not name them."""
    meaning, choices = field.metadata["meaning"], field.metadata["choices"] or ()
    return meaning if all(choice in meaning for choice in choices) else f"{meaning}: {', '.join(choices)}"


LARGEST_OPTION = {bool: 1, int: 2**31 - 1, float: 1e38}  # what int32 and float32 hold


def check_options(config):
    """Checks every field created by `option` against its choices and bounds. Raises: UserError naming the flag."""
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata
        if value is None or not rule:
            continue
        if value == "":
            raise UserError(f"--{field.name}= is empty: give a value or omit the option.")
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(f"--{field.name}={value} is unknown: choose one of {', '.join(rule['choices'])}.")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name}={value} is not a finite number: give a finite one.")
        if isinstance(value, (int, float)) and abs(value) > LARGEST_OPTION[type(value)]:
            size = "large" if value > 0 else "small"
            raise UserError(f"--{field.name}={in_brief(value)} is too {size}: the limit is "
                            f"{LARGEST_OPTION[type(value)]:.10g}.")
        if rule["minimum"] is not None and value < rule["minimum"]:
            raise UserError(f"--{field.name}={value} is too small: it must be at least {rule['minimum']}.")
        if rule["maximum"] is not None and value > rule["maximum"]:
            raise UserError(f"--{field.name}={value} is too large: it must be at most {rule['maximum']}.")


def profiled(config) -> typing.Optional[typing.Tuple[int, int]]:
    """The first and last update of --profile_steps. Raises: UserError."""
    if config.profile_steps is None:
        return None
    found = re.fullmatch("([0-9]{1,9}):([0-9]{1,9})", config.profile_steps)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--profile_steps={config.profile_steps} must be the first and the last update of the profile, "
                        "such as 10:15.")
    return int(found[1]), int(found[2])


def user_cache() -> str:
    """This project's folder in the user's cache folder (XDG base directory specification: absolute paths only)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(named if os.path.isabs(named) else os.path.expanduser("~/.cache"), "electra")


def require_options(config, *names: str):
    """Raises UserError naming the first of `names` that was not given."""
    for name in names:
        if not getattr(config, name):
            raise UserError(f"--{name} is missing: give it (--help lists every option).")


def kinds_of(config_class) -> typing.Dict[str, type]:
    """The type of every field by name: bool, int, float or str, also where None is allowed."""
    hints = typing.get_type_hints(config_class)
    return {name: next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
            for name, hint in hints.items()}


def from_words(config_class, words: typing.Dict[str, str]):
    """Makes `config_class` from texts by field name, without absl.

    Raises: UserError: an unknown name, a text that is not of the field's type, or what `config_class` refuses.
    """
    refuse_unknown_keys(words, config_class, "the options")
    kinds, values = kinds_of(config_class), {}
    names = {int: "an integer", float: "a number", bool: "true or false"}
    for name, word in words.items():
        try:
            values[name] = {"true": True, "false": False}[word] if kinds[name] is bool else kinds[name](word)
        except (KeyError, ValueError) as error:
            raise UserError(f"--{name}={word} must be {names[kinds[name]]}.") from error
    return config_class(**values)


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """The device of a training command, its precision, and its workers."""

    device: str = option("cpu", "device to run on", choices=("cpu", "gpu", "hpu"))
    precision: str = option("fp32", "precision: fp32, bf16 (hmp is an alias), or tf32 on gpu",
                            choices=("fp32", "bf16", "hmp", "tf32"))
    xla: str = option("auto", "compile with XLA: all on gpu, elementwise operations on cpu (auto is true there); "
                      "ignored on hpu", choices=("auto", "true", "false"))
    bf16_config_path: typing.Optional[str] = option(
        None, "hpu with bf16: JSON file that lists the operations to convert (default: data/bf16_electra.json)")
    recompute: bool = option(False, "run the forward pass of each layer again in the backward pass: less memory, more "
                             "time, the same results up to rounding")
    num_workers: int = option(
        0, "number of workers the launcher must have started, one device each (0: any number)", minimum=0)
    gradient_compression: str = option(
        "none", "type to which gradients are cast for the all-reduce; bf16 where Horovod supports it",
        choices=("none", "fp16", "bf16"))
    force: bool = option(False, "start although the estimated memory of an update exceeds the free memory")


def like(config_class, name: str, default=dataclasses.MISSING):
    """An option that another configuration has too, with its meaning, choices and bounds."""
    known = config_class.__dataclass_fields__[name]
    return dataclasses.field(default=known.default if default is dataclasses.MISSING else default,
                             metadata=known.metadata)


# --- Folders and workers of a command ---


def check_folder(path: str, flag: str, replaced: bool = False):
    """Raises UserError where a folder cannot be created or used, see `files.obstacle`."""
    reason = files.obstacle(path, replaced)
    if reason:
        shown = path if len(path) < 400 else f"{path[:400]}..."
        raise UserError(f"{shown} {reason}: choose another --{flag}.")


@contextlib.contextmanager
def sole_user(folder: str, way_out: str, workers=None, junk=(), beside: bool = False):
    """Keeps every other process out of a command's folder during the block, and removes what killed ones left there.

    Args:
        folder: created if missing, and removed again if it stays empty.
        way_out: how to choose another folder, for the message.
        workers: rank 0 of these holds the lock, and all end where it is refused.
        junk: further folders that the command writes to.
        beside: the command replaces the folder as a whole: the lock is beside it, and the parent is what is created.
    Raises: UserError: another process is using the folder, or it cannot be written.
    """
    refusal = None

    def remove_if_empty(*created: str):
        for path in created:
            with contextlib.suppress(OSError):
                os.rmdir(path)

    with contextlib.ExitStack() as held:
        if workers is None or workers.is_chief:
            try:
                reason = files.obstacle(folder, replaced=beside)
                if reason:
                    raise UserError(f"{folder if len(folder) < 400 else folder[:400] + '...'} {reason}: {way_out}.")
                lock_file = os.path.realpath(folder) + ".lock" if beside else os.path.join(folder, ".lock")
                missing, existing = [], os.path.dirname(os.path.abspath(lock_file))
                while not os.path.isdir(existing):
                    missing.append(existing)
                    existing = os.path.dirname(existing)
                held.callback(remove_if_empty, *missing)
                os.makedirs(os.path.dirname(lock_file), exist_ok=True)
                held.enter_context(files.hold(lock_file, log=print_on_stderr))
                files.remove_junk(*junk, *([] if beside else [folder]))
            except UserError as error:
                refusal = error
            except files.Held as holder:
                refusal = UserError(f"{folder} is in use by {holder}: wait until that has ended, or {way_out}.")
            except OSError as error:
                refusal = UserError(f"{folder} cannot be written ({error.strerror}): {way_out}.")
        if workers is not None:
            refusal = workers.from_chief(refusal)
        if refusal:
            raise refusal
        yield


def print_on_stderr(line: str):
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
        print(line, file=sys.stderr, flush=True)


def launched(word: str) -> typing.Optional[int]:
    """RANK, SIZE, LOCAL_RANK or LOCAL_SIZE (`word`) from mpirun, horovodrun or srun. None without a launcher."""
    for name in (f"OMPI_COMM_WORLD_{word}", f"HOROVOD_{word}"):
        if os.environ.get(name):
            return integer(name)
    if not started_by_srun():
        return None
    if word == "LOCAL_SIZE":
        return srun_tasks_per_node()[integer("SLURM_NODEID")]
    return integer({"RANK": "SLURM_PROCID", "SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}[word])


def integer(name: str) -> int:
    """An environment variable of a launcher. Raises: UserError: it is not an integer."""
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UserError(f"{name}={os.environ[name]} in the environment must be an integer: unset it, or start the "
                        "workers with srun, mpirun or horovodrun.") from error


def started_by_srun() -> bool:
    """Whether Slurm's srun alone started this process, as one of several. (mpirun and horovodrun may use srun.)"""
    return (bool(os.environ.get("SLURM_STEP_NUM_TASKS")) and integer("SLURM_STEP_NUM_TASKS") > 1
            and not (os.environ.get("OMPI_COMM_WORLD_SIZE") or os.environ.get("HOROVOD_SIZE")))


def srun_tasks_per_node() -> typing.List[int]:
    """Processes of the job step on each of its hosts: '2(x3),1' is [2, 2, 2, 1]."""
    counts = []
    for part in os.environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return counts
