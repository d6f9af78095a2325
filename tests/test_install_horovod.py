"""scripts/install_horovod.sh and horovod_state.py, with a stand-in for Python: nothing is downloaded or built."""
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, STAND_IN, Clone, assert_refused, make_folder, wait_for, write_executable

SCRIPT = "install_horovod.sh"

# The file STATE has what horovod_state.py would print after the versions; pip records how it is called, and building a
# wheel does what FAKE_BUILD says, in bash.
FAKE_PYTHON = STAND_IN + r"""
case $1 in
  -c) exit 0 ;;
  */horovod_state.py) echo a warning; echo "${FAKE_TENSORFLOW-2.15.1 -} $(cat "$STATE")"; exit 0 ;;
esac
shift 3  # -m pip --disable-pip-version-check
echo "$*" >>"$CALLS"
case "$*" in
  wheel*)
    env | grep -E '^(HOROVOD|CMAKE_POLICY|MAKEFLAGS)' | sort >"$CALLS.env"
    eval "${FAKE_BUILD:-true}"
    for word; do case $word in --wheel-dir=*) mkdir -p "${word#*=}"; touch "${word#*=}/horovod.whl" ;; esac; done ;;
  uninstall*) echo absent >"$STATE" ;;
  *horovod.whl) echo "${FAKE_AFTER-serves horovod 0.28.1}" >"$STATE"; exit "${FAKE_INSTALL:-0}" ;;
esac
"""


@pytest.fixture
def installing(tmp_path):
    """A clone whose PYTHON is the stand-in, without Horovod, on a machine with everything that a build on cpu needs."""
    clone = Clone(make_folder(tmp_path / "clone"))
    for name in [name for name in clone.environment if name.startswith("HOROVOD_")] + ["MAKEFLAGS"]:
        clone.environment.pop(name, None)
    for tool in ("gcc", "g++", "cmake", "make"):
        write_executable(tmp_path / "bin" / tool, "#!/bin/sh\n")
    clone.state = tmp_path / "state"
    clone.state.write_text("absent")
    clone.environment.update(PYTHON=write_executable(tmp_path / "fake" / "python", FAKE_PYTHON), STATE=str(clone.state),
                             TMPDIR=str(make_folder(tmp_path / "temporary")),
                             PATH=f"{tmp_path / 'bin'}:{clone.environment['PATH']}")
    return clone


def leftovers(clone):
    return os.listdir(clone.environment["TMPDIR"])


def test_a_build_says_what_it_does_and_is_done_once(installing):
    result = installing.call(wrapper=SCRIPT)
    assert result.returncode == 0, result.stderr
    first, last = result.stdout.splitlines()
    assert first.startswith(f"{SCRIPT}: building horovod==0.28.1 for TensorFlow 2.15.1 with ")
    assert last == f"{SCRIPT}: horovod 0.28.1 is in {installing.environment['PYTHON']} and loads with TensorFlow 2.15.1"
    requirements, wheel, install = installing.recorded()
    assert requirements == f"install --quiet -r {installing.folder}/requirements-horovod.txt"
    assert {"--no-build-isolation", "--no-deps", "--no-cache-dir", "horovod==0.28.1"} < set(wheel.split())
    assert install.endswith("/wheel/horovod.whl") and "--no-deps" in install
    given = (installing.folder / "calls.txt.env").read_text().split()
    assert set(given) == {"CMAKE_POLICY_VERSION_MINIMUM=3.5", "HOROVOD_WITHOUT_MPI=1", "HOROVOD_WITHOUT_MXNET=1",
                          "HOROVOD_WITHOUT_PYTORCH=1", "HOROVOD_WITH_GLOO=1", "HOROVOD_WITH_TENSORFLOW=1",
                          f"MAKEFLAGS=-j{len(os.sched_getaffinity(0))}"}
    assert leftovers(installing) == []
    again = installing.call("cpu", wrapper=SCRIPT)
    assert again.returncode == 0 and "already" in again.stdout and len(installing.recorded()) == 3
    assert installing.call("--rebuild", wrapper=SCRIPT).returncode == 0
    assert [call.split()[0] for call in installing.recorded()[3:]] == ["install", "wheel", "uninstall", "install"]


def test_one_that_does_not_work_is_built_again(installing):
    for state in ("other it was built for TensorFlow 2.9.1", "broken its files are not all there"):
        installing.calls.unlink(missing_ok=True)
        installing.state.write_text(state)
        result = installing.call(wrapper=SCRIPT)
        assert result.returncode == 0, result.stderr
        assert f": {state.partition(' ')[2]};" in result.stdout
        assert "uninstall --quiet --yes horovod habana-horovod" in installing.recorded()


@pytest.mark.parametrize("arguments, environment, words", [
    (["--device=tpu"], {}, ["device=tpu", "cpu", "gpu", "hpu"]),
    (["cpu", "gpu"], {}, ["gpu"]),
    ([], {"FAKE_TENSORFLOW": "2.21.0 -"}, ["TensorFlow 2.21.0", "2.15 is the newest", "requirements-cpu.txt"]),
    ([], {"FAKE_TENSORFLOW": "2.16.1 -"}, ["TensorFlow 2.16.1", "2.15 is the newest"]),
    (["hpu"], {"FAKE_TENSORFLOW": "2.15.0 1.14.0.493", "SYNAPSE_ROOT": "/nowhere"}, ["hccl.h (SynapseAI"]),
    (["gpu"], {"HOROVOD_CUDA_HOME": "/nowhere"}, ["building Horovod needs", "nccl.h (libnccl-dev"]),
])
def test_a_mistake_is_one_sentence_and_status_2(installing, arguments, environment, words):
    if arguments == ["hpu"] and os.path.exists("/usr/include/habanalabs/hccl.h"):
        pytest.skip("this machine has SynapseAI")
    nccl = [*Path("/usr/include").glob("**/nccl.h"), *Path("/usr/local/include").glob("nccl.h")]
    if arguments == ["gpu"] and (nccl or "HOROVOD_NCCL_HOME" in os.environ):
        pytest.skip("this machine has NCCL")
    assert_refused(installing.call(*arguments, wrapper=SCRIPT, **environment), *words)
    assert installing.recorded() == []


def test_missing_tools_are_named(installing, tmp_path):
    """PATH has what the script itself uses, and of the tools only make."""
    path = make_folder(tmp_path / "few")
    for name in ("bash", "dirname", "cat", "env", "readlink"):
        os.symlink(subprocess.check_output(["which", name], text=True).strip(), path / name)
    write_executable(path / "make", "#!/bin/sh\n")
    write_executable(path / "python3", f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    assert_refused(installing.call(wrapper=SCRIPT, PATH=str(path)), "needs gcc, g++, cmake: install")


def test_gpu_and_hpu_build_their_own(installing, tmp_path):
    cuda, synapse = tmp_path / "cuda", make_folder(tmp_path / "synapse") / "include"
    write_executable(cuda / "bin" / "nvcc", "#!/bin/sh\n")
    (make_folder(cuda / "include") / "nccl.h").touch()
    result = installing.call("gpu", wrapper=SCRIPT, HOROVOD_CUDA_HOME=str(cuda))
    assert result.returncode == 0, result.stderr
    given = (installing.folder / "calls.txt.env").read_text().split()
    assert "HOROVOD_GPU_OPERATIONS=NCCL" in given and "HOROVOD_WITHOUT_MPI=1" not in given
    installing.state.write_text("absent")
    make_folder(synapse)
    for name in ("hccl.h", "synapse_api.h"):
        (synapse / name).touch()
    write_executable(tmp_path / "bin" / "mpicxx", "#!/bin/sh\n")
    result = installing.call("hpu", wrapper=SCRIPT, FAKE_TENSORFLOW="2.15.0 1.14.0.493",
                             SYNAPSE_ROOT=str(synapse.parent))
    assert result.returncode == 0, result.stderr
    assert installing.recorded()[-2].endswith(" habana-horovod==1.14.0.493")


def test_habana_horovod_is_judged_without_loading_it(installing, tmp_path):
    """It loads the bridge, which needs a card; it may be built and kept where there is none."""
    site = make_folder(tmp_path / "site")
    for name in ("habana-horovod", "habana-tensorflow"):
        folder = make_folder(site / f"{name.replace('-', '_')}-1.14.0.493.dist-info")
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.14.0.493\n")
        (folder / "RECORD").write_text("horovod/metadata.json,,\n")
    (site / "tensorflow.py").write_text("__version__ = '2.15.0'")
    package = make_folder(site / "horovod")
    for folder in (package, make_folder(package / "tensorflow")):
        (folder / "__init__.py").write_text("raise RuntimeError('there is no card')")
    (package / "metadata.json").write_text(json.dumps({"tensorflow": "2.15.0"}))
    python = write_executable(tmp_path / "only_site" / "python", f"""#!/bin/sh
        # Without the packages installed here.
        case "$1" in -c | */recipe.py | */horovod_state.py) exec {sys.executable} -S "$@" ;; esac
    """)
    result = installing.call("hpu", wrapper=SCRIPT, PYTHON=python, PYTHONPATH=str(site))
    assert result.returncode == 0, result.stderr
    assert "habana-horovod 1.14.0.493 is already in " in result.stdout and "nothing to do" in result.stdout


def test_a_build_that_fails_leaves_what_there_was(installing):
    installing.state.write_text("other it was built for TensorFlow 2.9.1")
    result = installing.call(wrapper=SCRIPT, FAKE_BUILD="echo no compiler >&2; exit 3")
    assert result.returncode == 3
    assert result.stderr.splitlines()[0] == "no compiler" and "could not be built (status 3" in result.stderr
    assert [call.split()[0] for call in installing.recorded()] == ["install", "wheel"]
    assert leftovers(installing) == []


def test_what_does_not_load_in_the_end_is_removed(installing):
    result = installing.call(wrapper=SCRIPT, FAKE_AFTER="broken undefined symbol")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("removed: undefined symbol")
    assert installing.recorded()[-1].startswith("uninstall")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_compilers_too_and_installs_nothing(installing, tmp_path, number):
    compiler = tmp_path / "compiler"
    build = f"sh -c 'echo $$ >{compiler}.new; mv {compiler}.new {compiler}; exec sleep 100'"
    process = subprocess.Popen(installing.command(wrapper=SCRIPT), cwd=installing.folder, text=True,
                               start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**installing.environment, "FAKE_BUILD": build})
    wait_for(compiler.exists)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1].startswith(f"{SCRIPT}: stopped; Horovod was not installed")

    def ended():
        try:
            with open(f"/proc/{int(compiler.read_text())}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    wait_for(ended)
    assert [call.split()[0] for call in installing.recorded()] == ["install", "wheel"]
    assert leftovers(installing) == []


@pytest.mark.parametrize("device, content, file, state", [
    ("cpu", "", "horovod/metadata.json", "serves horovod 0.28.1"),
    ("gpu", "", "horovod/metadata.json", "other it was built without NCCL"),
    ("hpu", "", "horovod/metadata.json", "other it is horovod 0.28.1"),
    ("cpu", "gloo_built = mpi_built", "horovod/metadata.json", "other it was built without Gloo and without MPI"),
    ("cpu", "raise OSError('no symbol\\nin it')", "horovod/metadata.json", "broken no symbol"),
    ("cpu", "", "horovod/removed.py", "broken some of its files are missing"),
    ("cpu", None, "horovod/metadata.json", "other it was built for TensorFlow 2.9.1"),
])
def test_the_state_of_horovod(tmp_path, device, content, file, state):
    distribution = make_folder(tmp_path / "horovod-0.28.1.dist-info")
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: horovod\nVersion: 0.28.1\n")
    (distribution / "RECORD").write_text(f"{file},,\n")
    (tmp_path / "tensorflow.py").write_text("__version__ = '2.15.1'")
    for folder in ("horovod", "horovod/tensorflow"):
        (make_folder(tmp_path / folder) / "__init__.py").touch()
    built_for = "2.9.1" if content is None else "2.15.1"
    (tmp_path / "horovod" / "metadata.json").write_text(json.dumps({"tensorflow": built_for}))
    (tmp_path / "horovod" / "tensorflow" / "__init__.py").write_text(
        f"nccl_built = mpi_built = lambda: False\ngloo_built = lambda: True\n{content or ''}\n")
    assert print_state(device, "-S", PYTHONPATH=str(tmp_path)) == f"2.15.1 - {state}"


def print_state(device, *options, **environment):
    command = [sys.executable, *options, str(ROOT / "scripts" / "horovod_state.py"), device]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()[-1]


def test_the_state_is_that_of_this_python():
    """Whether Horovod is installed here or not."""
    tensorflow, _, state, *_ = print_state("cpu", TF_CPP_MIN_LOG_LEVEL="3").split()
    assert tensorflow.startswith("2.") and state in ("absent", "broken", "other", "serves")
