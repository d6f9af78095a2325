#!/usr/bin/env bash
# Builds Horovod, which several workers need, and installs it into the Python that the wrappers use.
#
#   bash scripts/install_horovod.sh          CPU: workers on one machine or several, over Gloo;
#                                            with HOROVOD_WITH_MPI=1 in the environment also MPI
#   bash scripts/install_horovod.sh gpu      NVIDIA GPUs over NCCL
#   bash scripts/install_horovod.sh hpu      Gaudi cards: habana-horovod, over HCCL and MPI
#
# That Python is $PYTHON where it is set, else .venv, which is created if it is missing. A Horovod that works stays; one
# that was built for another TensorFlow, or is incomplete, is built again. Exit status: 0, 2 where something is missing,
# else that of the step that failed.

# shellcheck source=scripts/environment.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/environment.sh"

recipe install_horovod "$@"
horovod=0.28.1 serves="loads with"
[[ $device != hpu ]] || serves="is built for"

use_python "$device"

# --- What is installed ---

look() {  # sets tensorflow, bridge (habana-tensorflow), state and reason as horovod_state.py says
  local answer
  answer=$(TF_CPP_MIN_LOG_LEVEL=3 "$python" "$root/scripts/horovod_state.py" "$device" 2>/dev/null) || answer=''
  [[ -z $stopped ]] || leave
  [[ -n $answer ]] || die "TensorFlow does not load in $python: '$python -c \"import tensorflow\"' shows why" 1
  read -r tensorflow bridge state reason <<<"${answer##*$'\n'}"
}

take_lock "$python"
look
IFS=. read -r major minor _ <<<"$tensorflow"
if (( major > 2 || minor > 15 )); then
  die "Horovod $horovod does not build with TensorFlow $tensorflow (2.15 is the newest that works): set PYTHON to a \
Python 3.10 or 3.11 with requirements-${device/hpu/hpu-1.14}.txt installed, or use one worker"
fi
if [[ $state == serves && -z $rebuild ]]; then
  say "$reason is already in $python and $serves TensorFlow $tensorflow; nothing to do"
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
  needed=$(printf ', %s' "${missing[@]}")
  die "building Horovod needs ${needed#, }: install them first ('apt-get install build-essential cmake' brings gcc, \
g++, make and cmake on Debian)"
fi

export HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
export CMAKE_POLICY_VERSION_MINIMUM=3.5  # the build files name versions that CMake 4 no longer accepts
export MAKEFLAGS=${MAKEFLAGS:--j$(nproc)}
package=horovod==$horovod
case $device in
  cpu) export HOROVOD_WITH_GLOO=1; [[ ${HOROVOD_WITH_MPI:-} == 1 ]] || export HOROVOD_WITHOUT_MPI=1 ;;
  gpu) export HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_WITH_GLOO=1 ;;
  hpu) package=habana-horovod==$bridge ;;
esac

# --- Building and installing ---

check_step() {  # check_step FAILURE: ends the script after a signal or a failed command
  [[ -z $stopped ]] || die "stopped; Horovod was not installed: run the same command to start again" "$stopped"
  (( status == 0 )) || die "$1" "$status"
}

why=''
case $state in broken | other) why=", because the installed Horovod cannot be used: $reason" ;; esac
say "building $package for TensorFlow $tensorflow with $python$why; this takes some minutes"
folder=$(mktemp -d "${TMPDIR:-/tmp}/electra.tmp-$host-$$-XXXXXX")
trap 'rm -rf "$folder"' EXIT
export TMPDIR=$folder  # removed with everything that pip and the compilers leave when they are stopped
pip=("$python" -m pip --disable-pip-version-check)
run_group "${pip[@]}" install --quiet -r "$root/requirements-horovod.txt"
check_step "pip could not install requirements-horovod.txt (status $status, see above): check the network connection \
and pip's index settings"
# Without pip's cache, which would return this wheel for another TensorFlow.
run_group "${pip[@]}" wheel --no-cache-dir --no-deps --no-build-isolation --use-pep517 --no-binary=:all: \
  --wheel-dir="$folder/wheel" "$package"
check_step "$package could not be built (status $status, see above); it was not installed"
[[ $state == absent ]] || run_whole "${pip[@]}" uninstall --quiet --yes horovod habana-horovod
run_whole "${pip[@]}" install --quiet --no-deps --no-index "$folder"/wheel/*.whl
(( status == 0 )) || die "pip could not install the $package that was built (status $status, see above)" "$status"
look
if [[ $state != serves ]]; then
  run_whole "${pip[@]}" uninstall --quiet --yes horovod habana-horovod
  die "$package was built, but cannot be used here and was removed: $reason" 1
fi
release_lock
say "$reason is in $python and $serves TensorFlow $tensorflow"
