"""Command lines: parsing, help, errors and exit statuses of the Python commands.

A command calls `refuse_early` before it imports TensorFlow, which takes seconds: --help and an invalid call are
answered at once. At its end it calls `run_command`.
"""
from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import signal
import sys
import textwrap
import threading
import time
import typing

import configuration
import files
from configuration import Interrupted, RunFailed, UserError, print_on_stderr

REPORT_SECONDS = 15  # delay before a rank other than 0 reports its error
# The machine's own faults: a disk that is full, broken, read-only or gone, and limits. Also a closed standard output.
FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EROFS, errno.EACCES, errno.EPERM,
          errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENAMETOOLONG,
          errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)  # these: something in the way

# --- Parsing ---


def parse(config_class, argv, doc: str, old_names: typing.Optional[dict] = None, quiet: bool = False):
    """Makes `config_class` from the words of a command line; prints help and exits 0 for -h, --help.

    Args:
        argv: program name first.
        doc: the command's module docstring; help shows it up to its list of calls.
        old_names: switches of earlier recipes: name -> (option, value) that it sets. Each use is noted, unless `quiet`.
    Raises: UserError: an unknown option, a value that does not parse, a stray argument, or what `config_class` refuses.
    """
    return parse_with_arguments(config_class, argv, doc, "", old_names, quiet)[0]


def parse_with_arguments(config_class, argv, doc: str, arguments: str, old_names: typing.Optional[dict] = None,
                         quiet: bool = False):
    """The same for a command that takes arguments beside its options.

    Args:
        arguments: what help calls them; empty: they are refused.
    Returns: the configuration, and the arguments.
    """
    from absl import flags
    flag_values = flags.FlagValues()
    define_flags(flag_values, config_class)
    for name, (new, value) in (old_names or {}).items():
        flags.DEFINE_bool(name, False, f"old name of --{new}={value}", flag_values=flag_values)
    given = parse_command_line(argv, flag_values, doc.split("\n\n    ")[0], arguments)
    for name, (new, value) in (old_names or {}).items():
        if flag_values[name].value:
            flag_values[new].value = value
            if not quiet:
                print(f"note: --{name} means --{new}={value}.")
    values = {field.name: flag_values[field.name].value for field in dataclasses.fields(config_class)}
    return config_class(**values), given


def define_flags(flag_values, config_class):
    """Defines one absl flag per field of `config_class`, with the field's default, choices and meaning.

    Bounds stay with the dataclass (`check_options`), which tests and other callers meet as well.
    """
    from absl import flags
    define = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    kinds = configuration.kinds_of(config_class)
    for field in dataclasses.fields(config_class):
        rule = field.metadata
        common = dict(name=field.name, default=field.default, help=configuration.help_of(field),
                      flag_values=flag_values)
        if rule["choices"]:
            flags.DEFINE_enum(enum_values=list(rule["choices"]), **common)
        else:
            define[kinds[field.name]](**common)


def parse_command_line(argv, flag_values, description: str, arguments: str = "") -> typing.List[str]:
    """Parses `argv` (program name first) into absl's `flag_values`; prints help and exits 0 for -h, --help.

    More lenient than absl: dashes and underscores in names are equivalent (`--json-summary`), and a switch accepts its
    value as the next word (`--skip_adaptive false`), which absl would read as true followed by a stray argument.

    Returns: what is not an option, where the command takes `arguments`.
    Raises: UserError: an unknown flag, a value that does not parse, or a stray argument.
    """
    from absl import flags
    flag_values.set_gnu_getopt(bool(arguments))
    words = []
    for position, word in enumerate(argv):
        if position and word in ("-h", "--help", "-help"):
            print(help_text(argv[0], flag_values, description, arguments))
            sys.exit(0)
        if position and words[-1].startswith("--") and "=" not in words[-1]:
            flag = words[-1][2:]
            if flag in flag_values and flag_values[flag].boolean and word.lower() in ("true", "false", "0", "1"):
                words[-1] += "=" + word
                continue
        if position and word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
        words.append(word)
    try:
        rest = flag_values(words)
    except flags.Error as error:
        reason = " ".join(str(error).replace("FATAL Flags parsing error:", "").split()).rstrip(".")
        raise UserError(f"{reason}; --help lists every option.") from error
    if len(rest) > 1 and not arguments:
        raise UserError(f"argument {rest[1]!r} does not belong to an option; --help lists every option.")
    return rest[1:]


def help_text(program: str, flag_values, description: str, arguments: str = "") -> str:
    usage = " ".join(filter(None, ["usage:", os.path.basename(program), arguments, "[--option=value ...]"]))
    lines = [usage, "", description.strip(), "", "options:"]
    for name in flag_values:
        flag = flag_values[name]
        default = "none" if flag.default is None else str(flag.default).lower() if flag.boolean else flag.default
        meaning = re.sub("^<[^>]*>: ", "", flag.help)  # the choices, which absl puts before the text
        lines += [f"  --{name}={default}", *textwrap.wrap(meaning, 104, initial_indent=" " * 6,
                                                         subsequent_indent=" " * 6)]
    return "\n".join([*lines, "", "--name or --name=true turns a switch on, --noname or --name=false turns it off."])


# --- Running ---


def launched_rank() -> int:
    with contextlib.suppress(UserError):  # what is wrong in the environment is reported where an error can be
        return configuration.launched("RANK") or 0
    return 0


def prepare_streams():
    """Makes standard streams that nothing can break: a closed one is /dev/null, and no file that is opened later takes
    its number; characters that the terminal's encoding lacks are written as escapes."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
        if mode == "w" and hasattr(getattr(sys, name), "reconfigure"):  # pytest has streams of its own
            getattr(sys, name).reconfigure(errors="backslashreplace")


def refuse_early(config_class, doc: str, old_names: typing.Optional[dict] = None, check=None, resumable: bool = False):
    """Answers --help and refuses an invalid call before the caller imports TensorFlow; else returns.

    Args:
        config_class, doc, old_names: see `parse`.
        check: called with the configuration, and raises UserError. Where it returns True, the command ends: there is
            nothing else to do. Of several workers none calls it, because the others would wait for the one that ends:
            they refuse together, later.
        resumable: a signal that comes while TensorFlow is imported ends the command with the status of an interruption.
    """
    def main(argv):
        own = argv[:argv.index("--")] if "--" in argv else argv  # the rest are another command's
        config = parse(config_class, own, doc, old_names, quiet=True)
        alone = configuration.launched("RANK") is None or getattr(config, "check_only", False)
        done = check and alone and check(config)
        return 0 if done else GO_ON

    prepare_streams()
    _early.update(resumable=resumable)
    for number in files.STOP_SIGNALS:
        signal.signal(number, _stop_at_once)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a request to save that comes before there is anything to save
    status = _status_of(main)
    if status != GO_ON:
        write_status(launched_rank(), status)
        _exit(status)


GO_ON = -1  # no exit status: the command continues
_early = {"resumable": False}  # what `refuse_early` was told, for the handler of signals


def _stop_at_once(number, frame):
    """While modules are imported, through which an exception would not get: nothing is held yet, nothing written."""
    rank, status = launched_rank(), Interrupted.exit_status if _early["resumable"] else 128 + number
    then = " before the first update: run the same command again" if _early["resumable"] else ""
    write_status(rank, status)
    if not rank:
        with contextlib.suppress(OSError):
            os.write(2, f"{os.path.basename(sys.argv[0])}: stopped by {signal.Signals(number).name}{then}.\n".encode())
    os._exit(status)


def _interrupt(number, frame):
    """After the imports, until the command handles signals itself: what it holds by then is released."""
    raise Interrupted(f"stopped by {signal.Signals(number).name} before the first update: run the same command again.")


def run_command(main):
    """Runs `main(argv)` as a command: an error of the user's ends in one sentence and status 2, an interruption in 75.

    One of several workers names its rank and writes its status to $ELECTRA_STATUS_FILE.<rank> if that is set, because
    launchers exit with a status of their own.
    """
    prepare_streams()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if signal.getsignal(signal.SIGINT) == _stop_at_once:
        resumable = _early["resumable"]
        signal.signal(signal.SIGINT, _interrupt if resumable else signal.default_int_handler)
        signal.signal(signal.SIGTERM, _interrupt if resumable else signal.SIG_DFL)
    end_with_wrapper()
    status = _status_of(main)
    write_status(launched_rank(), status)
    _exit(status)


def _status_of(main) -> int:
    """Runs `main(argv)`, reports what it raises, and returns the exit status."""
    rank = launched_rank()
    try:
        configuration.launched("RANK")
        return main(sys.argv) or 0
    except (UserError, RunFailed, Interrupted) as stop:
        write_status(rank, stop.exit_status)
        if rank and not isinstance(stop, Interrupted):  # rank 0 reports what all ranks found, and its exit ends them
            time.sleep(REPORT_SECONDS)
        if not (rank and isinstance(stop, Interrupted)):
            who = os.path.basename(sys.argv[0]) + (f" (worker {rank})" if rank else "")
            print_on_stderr(f"{who}: {configuration.on_one_line(str(stop))}")
        return stop.exit_status
    except KeyboardInterrupt:
        print_on_stderr(f"{os.path.basename(sys.argv[0])}: stopped by SIGINT.")
        return 128 + signal.SIGINT
    except BrokenPipeError:  # the reader of our output (head, less) is gone
        return 1
    except OSError as error:
        if error.errno not in FAULTS:
            raise
        name = os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else "the output"
        print_on_stderr(f"{os.path.basename(sys.argv[0])}: {name} could not be read or written ({error.strerror}): "
                        "make room or fix that, and start again.")
        return 1
    except Exception as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "ResourceExhaustedError":  # TensorFlow's
            raise
        print_on_stderr(f"{os.path.basename(sys.argv[0])}: memory ran out ({configuration.in_short(error)}): use "
                        "smaller batches or another machine.")
        return 1


def _exit(status: int):
    """Ends the process. Output that cannot be written any more is left, instead of a complaint at the very end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError) as error:
        status = status or 1
        if not isinstance(error, BrokenPipeError):
            print_on_stderr(f"{os.path.basename(sys.argv[0])}: the output could not be written "
                            f"({getattr(error, 'strerror', None) or error}).")
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def end_with_wrapper():
    """Asks this command to stop, as SIGTERM does, once the wrapper that started it was killed with -9.

    Otherwise it would train on beside the next start. Called at the beginning of a command.
    """
    wrapper = os.environ.get("ELECTRA_WRAPPER", "")

    def watch():
        while not files.wrapper_is_gone(wrapper):
            time.sleep(1)
        print_on_stderr("the wrapper was killed: stopping.")
        os.kill(os.getpid(), signal.SIGTERM)

    if wrapper:
        threading.Thread(target=watch, daemon=True).start()


def write_status(rank: int, status: int):
    if os.environ.get("ELECTRA_STATUS_FILE"):
        with contextlib.suppress(OSError):  # the folder may not exist on another machine
            files.write_text(f"{os.environ['ELECTRA_STATUS_FILE']}.{rank}", f"{status}\n")
