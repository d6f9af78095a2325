"""Prints what Horovod there is in the interpreter that runs this, for scripts/install_horovod.sh.

    PYTHON scripts/horovod_state.py DEVICE

One line: the version of TensorFlow, that of habana-tensorflow (or -), then one word and its explanation:
    absent
    broken REASON         files are missing, or it does not load
    other REASON          built for another TensorFlow, or without what the device needs
    serves NAME VERSION   it can be used
"""
import importlib.metadata as metadata
import importlib.util
import json
import os
import sys


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def state(device: str, tensorflow: str) -> str:
    names = [name for name in ("habana-horovod", "horovod") if version(name) != "-"]
    if not names:
        return "absent"
    files = [metadata.files(name) for name in names]  # None where pip did not finish
    if not all(files) or not all(os.path.exists(file.locate()) for each in files for file in each):
        return "broken some of its files are missing"
    if len(names) > 1:
        return "broken horovod and habana-horovod are both installed"
    if device == "hpu" and (names[0] != "habana-horovod" or version(names[0]) != version("habana-tensorflow")):
        return f"other it is {names[0]} {version(names[0])}"
    try:
        folder = importlib.util.find_spec("horovod").submodule_search_locations[0]
        with open(os.path.join(folder, "metadata.json")) as file:
            built_for = json.load(file).get("tensorflow")
        if device != "hpu":  # there it loads the bridge, which needs a card: it may be built where there is none
            import horovod.tensorflow as hvd
    except Exception as error:
        return "broken " + (str(error).splitlines() or [type(error).__name__])[0]
    if built_for != tensorflow:
        return f"other it was built for TensorFlow {built_for}"
    if device == "gpu" and not hvd.nccl_built():
        return "other it was built without NCCL"
    if device == "cpu" and not (hvd.gloo_built() or hvd.mpi_built()):
        return "other it was built without Gloo and without MPI"
    return f"serves {names[0]} {version(names[0])}"


if __name__ == "__main__":
    import tensorflow
    print(tensorflow.__version__, version("habana-tensorflow"), state(sys.argv[1], tensorflow.__version__))
