"""What must stand before TensorFlow loads, and fixtures that several test files share."""
import os

# Read when TensorFlow loads. Expected numbers are those of the CPU, and `open_device("cpu")` cannot hide a GPU that an
# earlier test has used: `CUDA_VISIBLE_DEVICES=0 pytest` is for tests that are about a GPU.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("AUTOGRAPH_STRICT_CONVERSION", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import json
import logging
import pathlib
import re
import signal
import sys

import pytest
import support

# Started in the background, pytest has SIGINT ignored, under nohup SIGHUP, and so would have what it starts: bash
# cannot trap a signal that was ignored when it began. A handler is not inherited, and this one ignores SIGHUP as well.
signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda number, frame: None)

VOCABULARY = """[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat ran to and un want ##want ##ed wa runn ##ing low
##est ##er cafe caf ##s ##e ##é é É e 中 国 , . ! ? ' -""".split()


def pytest_make_parametrize_id(val):
    """Bytes get no part in the name of a test: they may depend on the time or on hash seeds, while the workers of
    pytest-xdist must find the same names."""
    return "bytes" if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def elementwise_operations_are_not_compiled():
    """`open_device` sets this for the process; the next test starts without it."""
    yield
    if "fused" in sys.modules:
        sys.modules["fused"].ENABLED = False


@pytest.fixture(scope="session")
def vocab_file(tmp_path_factory) -> str:
    """A `vocab.txt` of 41 tokens, alone in its folder."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(token + "\n" for token in VOCABULARY), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def golden():
    """Reads a file of tests/data, which names its source."""
    return lambda name: json.loads((pathlib.Path(__file__).parent / "data" / name).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def absl_is_heard():
    """Gives absl's messages from INFO on to the root logger, where `caplog` listens, whatever a test before has set: a
    command that logs to a file ends that, and a level that was set stays."""
    logger = logging.getLogger("absl")
    logger.propagate = True
    logger.setLevel(logging.INFO)


@pytest.fixture(scope="session")
def said():
    """Standard error without what TensorFlow writes there as it loads, although TF_CPP_MIN_LOG_LEVEL is 2: 2.21 that
    oneDNN is on, the 2.15 that is built for GPUs that its CUDA libraries registered twice."""
    notes = "WARNING: All log messages before absl::InitializeLog", "I0000 ", ".* Unable to register cu"
    pattern = re.compile(rf"^({'|'.join(notes)}).*\n", re.MULTILINE)
    return lambda text: pattern.sub("", text)


@pytest.fixture
def refuses():
    """Runs a call and returns its refusal, after checking that a user can read it: one line, ended as a sentence."""
    from configuration import UserError

    def run(call, *args, **kwargs) -> str:
        with pytest.raises(UserError) as caught:
            call(*args, **kwargs)
        text = str(caught.value)
        assert "\n" not in text and text[-1] in ".?" and len(text) > 20, text
        return text

    return run


@pytest.fixture(scope="session")
def pretraining_data(tmp_path_factory):
    """Folders of records of length 32 (training, held out) and 64, and the flags of a very small model."""
    base = tmp_path_factory.mktemp("data")
    model = base / "model.json"
    model.write_text(json.dumps({"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 128,
                                 "num_attention_heads": 2, "embedding_size": 32, "max_position_embeddings": 64}))
    return {32: support.write_shards(base / "32", 32), 64: support.write_shards(base / "64", 64, records=40),
            "held_out": support.write_shards(base / "held_out", 32, records=24, shards=1, seed=1), "model": str(model)}


def save_encoder(folder, name, encoder, stddev):
    """Saves a discriminator with random weights and the vocabulary of `folder` in its subfolder `name`."""
    import tensorflow as tf

    import modeling
    import weights
    from tokenization import ElectraTokenizer
    make = modeling.VariableMaker(3, stddev)
    network = modeling.Network(modeling.Embeddings(encoder, "electra/embeddings", make),
                               modeling.Encoder(encoder, "electra", make, tf.float32),
                               modeling.DiscriminatorHead(encoder, make, tf.float32))
    weights.save_folder(network, "discriminator", ElectraTokenizer(str(folder / "vocab.txt")), str(folder / name))


@pytest.fixture(scope="session")
def squad_data(tmp_path_factory):
    """A folder with SQuAD files and, in `model`, an encoder's weights."""
    folder = tmp_path_factory.mktemp("squad")
    for version in ("1.1", "2.0"):
        support.squad_file(folder / f"train-v{version}.json", version, 30, seed=1)
        support.squad_file(folder / f"dev-v{version}.json", version, 14, seed=2)
    (folder / "vocab.txt").write_text("\n".join([*support.SQUAD_VOCABULARY, "a", "b"]))
    save_encoder(folder, "model", support.SQUAD_ENCODER, 0.05)
    return folder


@pytest.fixture(scope="session")
def reader_folder(tmp_path_factory):
    """A folder with a vocabulary and, in `encoder`, an encoder's weights, for models that find `zed` in a text."""
    folder = tmp_path_factory.mktemp("reader")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *support.FILLERS, "where", "is", "it", "?", "zed", "."]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    save_encoder(folder, "encoder", support.READER_ENCODER, 0.2)
    return folder


@pytest.fixture(scope="session")
def joint(reader_folder):
    """A model with the joint head, fine-tuned on SQuAD 2.0: see `support.fine_tune_reader`."""
    return support.fine_tune_reader(reader_folder, "joint", joint_head=True)


@pytest.fixture(scope="session")
def independent(reader_folder):
    """A model with the independent head, fine-tuned on SQuAD 1.1."""
    return support.fine_tune_reader(reader_folder, "independent", joint_head=False)
