"""Sample data for text classification and for tagging: the files of tasks/, see docs/tasks.md.

Classification: from what kind of document (a life, a town, a ledger, ...) a sentence is. Tagging: the names of people,
towns, rivers and hills in a sentence. The sentences are new ones about the provinces of the corpus; those of the
development files are about held-out provinces, whose names do not occur in the training files.
"""
from __future__ import annotations

import csv
import io
import json
import os
import random
import re
from typing import Dict, Iterator, List, Tuple

from sample_documents import STORIES, DocumentWriter
from sample_world import Province

import files

EXAMPLES = {"train": 300, "dev": 500}
PROVINCES = {"train": 100, "dev": 10}  # at most
NAMES = ("people", "towns", "rivers", "hills")


def write(seed: int, held_out: Dict[int, bool], folder: str) -> Dict[str, int]:
    """Writes the four files.

    Args:
        held_out: by index of a province of the corpus, whether it is held out.

    Returns: the examples of each file.
    """
    os.mkdir(os.path.join(folder, "tasks"))
    for split, count in EXAMPLES.items():
        indices = [index for index, is_held_out in held_out.items() if is_held_out == (split == "dev")]
        writers = [DocumentWriter(Province(seed, index, split == "dev")) for index in indices[:PROVINCES[split]]]
        drawn = _sentences(writers, random.Random(f"{seed}/tasks/{split}"))
        table = io.StringIO()
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("text", "label"))
        rows.writerows((text, kind) for text, kind, _ in (next(drawn) for _ in range(count)))
        files.write_text(os.path.join(folder, "tasks", f"kinds-{split}.csv"), table.getvalue())
        lines = [json.dumps({"text": text, "spans": spans(text, writer.province)})
                 for text, _, writer in (next(drawn) for _ in range(count))]
        files.write_text(os.path.join(folder, "tasks", f"names-{split}.jsonl"), "\n".join(lines) + "\n")
    return {f"{task}-{split}": count for task in ("kinds", "names") for split, count in EXAMPLES.items()}


def _sentences(writers: List[DocumentWriter], rng: random.Random) -> Iterator[Tuple[str, str, DocumentWriter]]:
    """Endlessly yields a sentence, the kind of its document, and the writer."""
    while True:
        writer, kind = rng.choice(writers), rng.choice(sorted(STORIES))
        for sentence in rng.sample(writer.narrative(kind).sentences, 2):
            yield sentence, kind, writer


def spans(text: str, province: Province) -> List[dict]:
    """The names in a sentence; a person's two names are one. A province uses a name word once."""
    kinds = {word: pool for pool in NAMES for word in province.names[pool]}
    found: List[dict] = []
    for match in re.finditer(r"\w+", text):
        kind = kinds.get(match[0])
        if kind == "people" and found and found[-1]["label"] == kind and found[-1]["end"] == match.start() - 1:
            found[-1]["end"] = match.end()
        elif kind:
            found.append({"start": match.start(), "end": match.end(), "label": kind})
    return found
