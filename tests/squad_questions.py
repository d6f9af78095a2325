"""Small files of SQuAD about invented words. Imports nothing of the project: scripts/check_bad_input.py uses it too."""
from __future__ import annotations

import json

import numpy as np

SQUAD_WORDS = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("an", "el", "ir", "om", "us")]


def squad_file(path, version, questions, seed):
    """Contexts of 10 to 40 invented words; the answer is the word after the one in the question."""
    rng = np.random.default_rng(seed)
    paragraphs = []
    for number in range(questions):
        words = list(rng.permutation(SQUAD_WORDS)[:rng.integers(10, 41)])
        place = int(rng.integers(len(words) - 1))
        impossible = version == "2.0" and number % 3 == 0
        asked = next(word for word in SQUAD_WORDS if word not in words) if impossible else words[place]
        start = len(" ".join(words[:place + 1])) + 1
        answers = [] if impossible else [{"text": words[place + 1], "answer_start": start}]
        entry = {"id": f"q{number}", "question": f"who follows {asked} ?", "answers": answers}
        if version == "2.0":
            entry["is_impossible"] = impossible
        paragraphs.append({"context": " ".join(words), "qas": [entry]})
    path.write_text(json.dumps({"version": f"v{version}", "data": [{"title": "t", "paragraphs": paragraphs}]}))
