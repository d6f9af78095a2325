"""The encoder: sizes, and the settings that a `config.json` holds, with Hugging Face's field names.

Sizes follow Clark et al. 2020 (arXiv:2003.10555), table 6 (small, base, large); `tiny` is for tests and laptops.
Only the standard library is imported.
"""
from __future__ import annotations

import dataclasses
import json
import math

from configuration import UserError, in_brief, read_json_object, refuse_unknown_keys, round_up

SIZES = {
    "tiny": dict(num_hidden_layers=2, hidden_size=128, num_attention_heads=2, intermediate_size=512, embedding_size=64),
    "small": dict(num_hidden_layers=12, hidden_size=256, num_attention_heads=4, intermediate_size=1024,
                  embedding_size=128),
    "base": dict(num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072,
                 embedding_size=768),
    "large": dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096,
                  embedding_size=1024),
}
# The generator's width as a fraction of the discriminator's (table 6: 1/4, 1/3, 1/4).
GENERATOR_FRACTIONS = {"tiny": 1 / 2, "small": 1 / 4, "base": 1 / 3, "large": 1 / 4}


# Largest sizes: beyond all published models, and small enough that no product of two overflows.
LARGEST_VOCABULARY = 2**21 - 1  # the dataset builder writes token ids of up to 21 bits
LARGEST = dict(vocab_size=LARGEST_VOCABULARY, hidden_size=2**16, embedding_size=2**16, num_hidden_layers=2**10,
               num_attention_heads=2**10, intermediate_size=2**18, max_position_embeddings=2**20, type_vocab_size=2**10)


# Keys of a `config.json` that would make it another network, and the values that this project implements.
IMPLEMENTED = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False,
               "pruned_heads": {}}


@dataclasses.dataclass(frozen=True)
class ElectraConfig:
    """One encoder. Field names are those of Hugging Face's `config.json` for `model_type: electra`."""

    vocab_size: int = 30522
    embedding_size: int = 768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12

    def __post_init__(self):
        for name, most in LARGEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(f"{name}={in_brief(value)} must be an integer from 1 to {most}.")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise UserError(f"{name}={in_brief(value)} must be at least 0 and below 1.")
        for name in ("initializer_range", "layer_norm_eps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise UserError(f"{name}={in_brief(value)} must be a number above 0, of at most 1.")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"num_attention_heads={self.num_attention_heads} does not divide "
                            f"hidden_size={self.hidden_size}: choose a number of heads that does.")
        if self.hidden_act != "gelu":
            raise UserError(f"hidden_act={in_brief(self.hidden_act)} is not supported: ELECTRA uses 'gelu'.")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the word embedding: `vocab_size` rounded up to a multiple of 8, for the matrix units."""
        return round_up(self.vocab_size, 8)

    @classmethod
    def of_size(cls, size: str, **overrides) -> ElectraConfig:
        """The discriminator of a named size, with any field replaced.

        Raises: UserError: an unknown size or field.
        """
        if size not in SIZES:
            raise UserError(f"model_size={size!r} is unknown: choose one of {', '.join(SIZES)}.")
        refuse_unknown_keys(overrides, cls, "the model configuration")
        return cls(**{**SIZES[size], **overrides})

    @classmethod
    def from_json_file(cls, path: str) -> ElectraConfig:
        """Reads a Hugging Face `config.json`; keys that do not describe the encoder are ignored.

        Raises: UserError: not a readable JSON object, another `model_type`, or an unsupported value.
        """
        content = read_json_object(path)
        model_type = content.get("model_type", "electra")  # Google's and the oldest Hugging Face files have none
        if model_type != "electra":
            raise UserError(f"{path}: model_type is {in_brief(model_type)}, not 'electra': name an ELECTRA model "
                            "folder.")
        return cls.from_content(content, path)

    @classmethod
    def from_content(cls, content: dict, where: str) -> ElectraConfig:
        """The encoder that a `config.json` describes; keys that do not describe it are ignored.

        Raises: UserError naming `where` the content comes from, also where it describes what is not implemented.
        """
        for key, implemented in IMPLEMENTED.items():
            if content.get(key) not in (None, implemented):
                raise UserError(f"{where}: {key} is {in_brief(content[key])}, which is not implemented: use a model "
                                f"with {json.dumps(implemented)}.")
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def to_dict(self) -> dict:
        """The content of a Hugging Face `config.json` for this encoder."""
        return {"model_type": "electra", **dataclasses.asdict(self)}

    def generator(self, fraction: float) -> ElectraConfig:
        """The generator beside this discriminator (ELECTRA, section 3.2 and table 6).

        Width is `fraction` of `hidden_size` rounded up to a multiple of 64, with heads of 64 and a feed-forward layer
        of 4 times the width; embeddings are shared, so `embedding_size` stays.
        """
        # 0.33333334 of 768 is 256.000005: the small slack keeps a rounded third from growing by 64.
        width = round_up(math.ceil(fraction * self.hidden_size - 1e-3), 64)
        return dataclasses.replace(self, hidden_size=width, num_attention_heads=max(1, width // 64),
                                   intermediate_size=4 * width)
