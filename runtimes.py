"""Networks for other runtimes: ONNX (written by tf2onnx, for onnxruntime and others) and TensorFlow Lite.

`write` adds files to an exported folder. Each takes `input_ids`, `input_mask` and `segment_ids`, int32 [batch, length],
of any batch and any length up to the longest position, and returns float32 tensors by name: `start_logits` and
`end_logits` [batch, length] of the independent head, or `logits` of the other networks, as weights.serving_module does.

The int8 files have weights in int8. Activations are quantized as they are computed (dynamic quantization), which needs
no calibration data. `open_model` runs any of these files.
"""
from __future__ import annotations

import contextlib
import os
import sys
from typing import Callable, Dict, Iterator, List, NamedTuple, Tuple

import numpy as np
import tensorflow as tf

import weights
from configuration import RunFailed, UserError, in_short

Model = Callable[[Dict[str, np.ndarray]], Dict[str, np.ndarray]]

OPSET = 17  # of ONNX: the first with layer normalization, read by onnxruntime since 1.12
TOLERANCE = 1e-3  # between the logits of a file and those of the network, relative to the largest if that is above 1


class Written(NamedTuple):
    """A file, how large it is, and how far its logits are from those of the network; NaN if it could not be run."""

    name: str
    megabytes: float
    difference: float

    def __str__(self) -> str:
        gap = "not run: onnxruntime is not installed" if np.isnan(self.difference) else (
            f"logits within {self.difference:.1g}")
        return f"{self.name} ({self.megabytes:.1f} MB, {gap})"


def check_head(run: weights.SavedRun):
    """Raises UserError: the checkpoint has the joint head."""
    if run.kind == "question_answering" and run.state["head"].get("joint_head", True):
        raise UserError(f"checkpoint {run.prefix} has the joint head, whose end logits depend on the starts that a "
                        "beam search chooses; --onnx and --tflite export the independent head: export this one with "
                        "--savedmodel, or fine-tune with --nojoint_head.")


def write(network: tf.Module, folder: str, onnx: bool = False, tflite: bool = False, int8: bool = False
          ) -> List[Written]:
    """Writes `model.onnx` and `model.tflite`, each with `int8` also as `model_int8`, and compares their logits.

    Args:
        network: a modeling.Network, or a modeling.TaskModel but for question answering with the joint head.
    Raises: OSError: a file cannot be written. RunFailed: the network cannot be converted, or the result differs.
    """
    if not onnx and not tflite:
        return []
    module = weights.serving_module(network)
    written = []
    for kind, chosen, convert in (("onnx", onnx, _write_onnx), ("tflite", tflite, _write_tflite)):
        for precision in ("", *(("_int8",) if int8 else ())) if chosen else ():
            path = os.path.join(folder, f"model{precision}.{kind}")
            try:
                with _hidden_stderr():
                    convert(module, path, bool(precision))
            except OSError:
                raise
            except Exception as error:  # the converters raise many kinds of errors
                raise RunFailed(f"{os.path.basename(path)} could not be converted with TensorFlow {tf.__version__} "
                                f"({in_short(error)[:300]}).") from error
            written.append(_compared(module, path, is_exact=not precision))
    return written


def _write_onnx(module: tf.Module, path: str, int8: bool):
    if int8:  # from the file in float32, which is there
        from onnxruntime.quantization import QuantType, quantize_dynamic
        quantize_dynamic(path.replace("_int8.", "."), path, weight_type=QuantType.QInt8, per_channel=True)
        return
    import onnx
    import tf2onnx
    concrete = module.serve.get_concrete_function()
    graph, values = _without_weights(concrete, module.network.variables)
    inputs = {tensor.name: tensor.name.split(":")[0] for tensor in concrete.inputs if tensor.dtype != tf.resource}
    outputs = {tensor.name: name for name, tensor in concrete.structured_outputs.items()}
    model, _ = tf2onnx.convert.from_graph_def(
        graph, input_names=[*inputs, *(f"{name}:0" for name in values)], output_names=list(outputs), opset=OPSET,
        tensors_to_rename={**inputs, **outputs}, custom_op_handlers={"Erfc": (_convert_erfc, [])})
    inputs_of = list(model.graph.input)
    del model.graph.input[:]
    for value in inputs_of:
        array = values.pop(value.name.split(":")[0], None)
        if array is None:
            model.graph.input.append(value)
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    for value in (*model.graph.input, *model.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, ("batch", "length")):
            if not dimension.dim_value:
                dimension.dim_param = name
    onnx.save(model, path)


def _without_weights(concrete, variables) -> Tuple[tf.compat.v1.GraphDef, Dict[str, np.ndarray]]:
    """The graph of a function with a placeholder for each variable, and the values by the placeholder's name.

    TensorFlow and tf2onnx copy a graph a dozen times: with its weights, `base` took more than 20 GB.
    """
    of_handle = {id(variable.handle): variable.numpy() for variable in variables}
    captured = {inner.name.split(":")[0]: of_handle[id(outer)] for outer, inner in concrete.graph.captures
                if id(outer) in of_handle}
    graph, values, first = concrete.graph.as_graph_def(), {}, {}
    for node in graph.node:
        if node.op == "ReadVariableOp":
            source, kind = node.input[0], node.attr["dtype"].type
            del node.input[:]
            node.attr.clear()
            if source in first:
                node.op = "Identity"
                node.input.append(first[source])
                node.attr["T"].type = kind
            else:
                node.op, first[source], values[node.name] = "Placeholder", node.name, captured[source]
                node.attr["dtype"].type = kind
                node.attr["shape"].shape.CopyFrom(tf.TensorShape(captured[source].shape).as_proto())
    rest = [node for node in graph.node if node.name not in captured]
    del graph.node[:]
    graph.node.extend(rest)
    return graph, values


def _convert_erfc(graph, node, *_):
    """1 - erf(x), for GELU since TensorFlow 2.16: neither ONNX nor tf2onnx has erfc."""
    one = graph.make_const(f"{node.name}/one", np.float32(1)).output[0]
    erf = graph.make_node("Erf", [node.input[0]]).output[0]
    graph.remove_node(node.name)
    graph.make_node("Sub", [one, erf], outputs=node.output, name=node.name)


def _write_tflite(module: tf.Module, path: str, int8: bool):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if int8 else []
    content = converter.convert()
    with open(path, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def _hidden_stderr() -> Iterator[None]:
    """Hides what converters write to standard error, whatever the log level: notes on each kind of operation."""
    sys.stderr.flush()
    shown = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(shown, 2)
        os.close(shown)


def _compared(module: tf.Module, path: str, is_exact: bool) -> Written:
    """Runs a file on two texts of random tokens, one of them shorter.

    Raises: RunFailed: it differs from the network.
    """
    config, rng = module.network.encoder.config, np.random.default_rng(0)
    length = min(24, config.max_position_embeddings)
    mask = (np.arange(length) < np.array([[length], [length // 2]])).astype(np.int32)
    features = {"input_ids": mask * rng.integers(config.vocab_size, size=mask.shape, dtype=np.int32),
                "input_mask": mask, "segment_ids": mask * (np.arange(length, dtype=np.int32) > length // 3)}
    megabytes = os.path.getsize(path) / 1e6
    try:
        found = open_model(path)(features)
    except ImportError:  # to write ONNX, its runtime is not needed
        return Written(os.path.basename(path), megabytes, float("nan"))
    expected = module.serve(*(tf.constant(features[name]) for name in weights.SERVING_INPUTS))
    gap = max(float(np.abs(found[name] - value.numpy()).max()) for name, value in expected.items())
    largest = max(1.0, *(float(np.abs(value.numpy()).max()) for value in expected.values()))
    if is_exact and not gap <= TOLERANCE * largest:
        raise RunFailed(f"{os.path.basename(path)} has other logits than the network, by {gap:.2g}: its converter does "
                        f"not work with TensorFlow {tf.__version__}; export with another version.")
    return Written(os.path.basename(path), megabytes, gap)


# --- Running ---


def open_model(path: str, threads: int = 0) -> Model:
    """A file of `write` as a function of features by name, int32 [B, L], which returns its outputs by name.

    Args:
        threads: 0 for as many as there are cores.
    Raises: ImportError: a `.onnx` file, and onnxruntime is not installed.
    """
    if path.endswith(".onnx"):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda features: dict(zip(names, session.run(
            names, {name: features[name] for name in weights.SERVING_INPUTS})))
    run = tf.lite.Interpreter(path, num_threads=threads or os.cpu_count()).get_signature_runner()
    return lambda features: run(**{name: features[name] for name in weights.SERVING_INPUTS})
