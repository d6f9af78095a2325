#!/usr/bin/env bash
# Builds and installs Horovod, which several workers need, into the Python that the wrappers use.
#
#   bash scripts/install_horovod.sh          CPU: workers of one machine, or of several, over Gloo;
#                                            with HOROVOD_WITH_MPI=1 in the environment also MPI
#   bash scripts/install_horovod.sh gpu      NVIDIA GPUs over NCCL
#   bash scripts/install_horovod.sh hpu      Gaudi cards: habana-horovod, over HCCL and MPI
#
# That Python is $PYTHON where it is set, else .venv, which is made where it is missing. A Horovod that is there and loads
# stays; one that was built for another TensorFlow, or not to its end, is built again. Exit status: 0, 2 where something is
# missing, else that of what failed.

# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

recipe install_horovod "$@"
horovod=0.28.1 serves="loads with"
[[ $device != hpu ]] || serves="is built for"

use_python "$device"

# --- What is there ---
# Prints the version of TensorFlow, that of habana-tensorflow (or -), and whether Horovod is absent, in pieces (broken),
# built for something else (other) or as it should be (serves); then the reason in words.
state_code='import importlib.metadata as metadata, importlib.util, json, os, sys
import tensorflow as tf

def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"

def state(device):
    names = [name for name in ("habana-horovod", "horovod") if version(name) != "-"]
    if not names:
        return "absent"
    files = [metadata.files(name) for name in names]  # None where pip has not come to the end
    if not all(files) or not all(os.path.exists(file.locate()) for each in files for file in each):
        return "broken its files are not all there"
    if len(names) > 1:
        return "broken horovod and habana-horovod are both installed"
    if device == "hpu" and (names[0] != "habana-horovod" or version(names[0]) != version("habana-tensorflow")):
        return "other it is %s %s" % (names[0], version(names[0]))
    try:
        folder = importlib.util.find_spec("horovod").submodule_search_locations[0]
        with open(os.path.join(folder, "metadata.json")) as file:
            built_for = json.load(file).get("tensorflow")
        if device != "hpu":  # where it loads the bridge, which needs a card: it may be built where there is none
            import horovod.tensorflow as hvd
    except Exception as error:
        return "broken " + (str(error).splitlines() or [type(error).__name__])[0]
    if built_for != tf.__version__:
        return "other it was built for TensorFlow %s" % built_for
    if device == "gpu" and not hvd.nccl_built():
        return "other it was built without NCCL"
    if device == "cpu" and not (hvd.gloo_built() or hvd.mpi_built()):
        return "other it was built without Gloo and without MPI"
    return "serves %s %s" % (names[0], version(names[0]))

found = state(sys.argv[1])
print(tf.__version__, version("habana-tensorflow"), found)'

look() {  # sets tensorflow, bridge, state, reason
  local answer
  answer=$(TF_CPP_MIN_LOG_LEVEL=3 "$python" -c "$state_code" "$device" 2>/dev/null) || answer=''
  [[ -z $stopped ]] || exit "$stopped"
  [[ -n $answer ]] ||
    die "TensorFlow does not load in $python: run '$python -c \"import tensorflow\"' to see why, and repair that first" 1
  read -r tensorflow bridge state reason <<<"${answer##*$'\n'}"
}

take_lock "$python"
look
IFS=. read -r major minor _ <<<"$tensorflow"
if (( major > 2 || minor > 15 )); then
  die "Horovod $horovod does not build with TensorFlow $tensorflow (2.15 is the newest with which it does): set PYTHON to a \
Python 3.10 or 3.11 with requirements-${device/hpu/hpu-1.14}.txt installed, or use one worker"
fi
if [[ $state == serves && -z $rebuild ]]; then
  say "$reason is in $python already and $serves TensorFlow $tensorflow; nothing to do"
  exit 0
fi

# --- What the build needs ---

header() {  # whether a C header is in one of the folders
  local name=$1 folder
  shift
  for folder; do [[ -z $folder || ! -e $folder/$name ]] || return 0; done
  return 1
}

missing=()
for tool in gcc g++ cmake make; do [[ -n $(type -P "$tool") ]] || missing+=("$tool"); done
if [[ $device == hpu && -z $(type -P mpicxx) ]]; then missing+=("mpicxx (Open MPI)"); fi
if [[ $device == gpu ]]; then
  for folder in "${HOROVOD_CUDA_HOME:-}" "${CUDA_HOME:-}" /usr/local/cuda; do
    [[ -n $folder && -x $folder/bin/nvcc ]] || continue
    export PATH=$PATH:$folder/bin HOROVOD_CUDA_HOME=$folder
    break
  done
  [[ -n $(type -P nvcc) ]] || missing+=("nvcc (the CUDA toolkit; HOROVOD_CUDA_HOME names its folder)")
  header nccl.h "${HOROVOD_NCCL_HOME:+$HOROVOD_NCCL_HOME/include}" "${HOROVOD_NCCL_INCLUDE:-}" /usr/include \
    /usr/include/x86_64-linux-gnu /usr/local/include "${HOROVOD_CUDA_HOME:+$HOROVOD_CUDA_HOME/include}" ||
    missing+=("nccl.h (libnccl-dev; HOROVOD_NCCL_HOME names its folder)")
elif [[ $device == hpu ]]; then
  for name in synapse_api.h hccl.h; do
    header "$name" "${SYNAPSE_ROOT:+$SYNAPSE_ROOT/include}" /usr/include/habanalabs ||
      missing+=("$name (SynapseAI; /usr/include/habanalabs)")
  done
fi
if (( ${#missing[@]} )); then
  names=$(printf ', %s' "${missing[@]}")
  die "building Horovod needs ${names#, }: install that first ('apt-get install build-essential cmake' brings gcc, g++, make \
and cmake on Debian)"
fi

export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
export CMAKE_POLICY_VERSION_MINIMUM=3.5  # the build files ask for versions that CMake 4 has dropped
export MAKEFLAGS=${MAKEFLAGS:--j$(nproc)}
package=horovod==$horovod
case $device in
  cpu) export HOROVOD_WITH_GLOO=1; [[ ${HOROVOD_WITH_MPI:-} == 1 ]] || export HOROVOD_WITHOUT_MPI=1 ;;
  gpu) export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_WITH_GLOO=1 ;;
  hpu) package=habana-horovod==$bridge ;;
esac

# --- Building and installing ---

interrupted() { [[ -z $stopped ]] || die "stopped; Horovod was not installed: the same call starts again" "$stopped"; }

case $state in
  absent) say "building $package for TensorFlow $tensorflow with $python; this takes some minutes" ;;
  serves) say "building $package for TensorFlow $tensorflow again with $python; this takes some minutes" ;;
  *) say "building $package for TensorFlow $tensorflow with $python, because the Horovod there does not serve: $reason; this \
takes some minutes" ;;
esac
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export TMPDIR=$folder  # pip and the compilers leave nothing behind when they are stopped
pip=("$python" -m pip --disable-pip-version-check)
run_group "${pip[@]}" install --quiet -r "$root/requirements-horovod.txt"
interrupted
(( status == 0 )) || die "pip could not install requirements-horovod.txt (status $status, its reason is above): check the \
network connection and pip's index settings" "$status"
# The wheel does not go to pip's cache, from where it would come back for another TensorFlow.
run_group "${pip[@]}" wheel --no-cache-dir --no-deps --no-build-isolation --use-pep517 --no-binary=:all: \
  --wheel-dir="$folder/wheel" "$package"
interrupted
(( status == 0 )) || die "$package could not be built (status $status, its reason is above); it was not installed" "$status"
[[ $state == absent ]] || run_whole "${pip[@]}" uninstall --quiet --yes horovod habana-horovod
run_whole "${pip[@]}" install --quiet --no-deps --no-index "$folder"/wheel/*.whl
(( status == 0 )) || die "pip could not install the $package that was built (status $status, its reason is above)" "$status"
look
if [[ $state != serves ]]; then
  run_whole "${pip[@]}" uninstall --quiet --yes horovod habana-horovod
  die "$package was built, but it is of no use here and was removed: $reason" 1
fi
release_lock
say "$reason is in $python and $serves TensorFlow $tensorflow"
