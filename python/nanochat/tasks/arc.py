"""ARC: questions of school science, an easy set and one that retrieval cannot answer.

Source: Clark et al., arXiv:1803.05457. val is the test set, 2,376 and 1,172 questions; where the
folder has the CORE files, which are the same questions, those are read.
"""

from __future__ import annotations

from pathlib import Path

from nanochat.data.tinyworld.draw import Split
from nanochat.tasks.choice import choice_example
from nanochat.tasks.files import Rows, SetFile, eval_home, find, locate, read_rows
from nanochat.tasks.rows import RowTask

_HUB = "https://huggingface.co/datasets/allenai/ai2_arc/resolve"
_AT = "210d026faf9955653af8916fad021475a3f00453"
_SHA256 = {
    "ARC-Easy/train": "b315db8a4be597dc7daa50a4e70d48dd7c990c32085629e6ccd8c926beaa80b5",
    "ARC-Easy/test": "4160597d618ae851c7eb04e281574f3f654776216ac6b6641588d64527b47177",
    "ARC-Challenge/train": "e488c1587ffdcfc8443f916c53488a95cd471c5790e0746c6bfe4cecf20962cb",
    "ARC-Challenge/test": "62f03257e737aed263f55c6abf87c7bb0028a44a6bdd2a26eb1279eb42c1d1e9",
}


def easy(folder: Path | None) -> RowTask:
    return _task("arc_easy", "ARC-Easy", folder)


def challenge(folder: Path | None) -> RowTask:
    return _task("arc_challenge", "ARC-Challenge", folder)


def _task(name: str, subset: str, folder: Path | None) -> RowTask:
    def rows(split: Split) -> Rows:
        part = "train" if split == "train" else "test"
        local = "arc_train" if split == "train" else f"core/world_knowledge/{name}"
        for place in (folder, eval_home()):
            if place is not None and (path := find(local, place)) is not None:
                found = read_rows(path)
                ours = [row for row in found.rows if row.get("subset", subset) == subset]
                return Rows(ours, found.num_malformed)
        url = f"{_HUB}/{_AT}/{subset}/{part}-00000-of-00001.parquet"
        file = SetFile(f"{name}_{part}", url, _SHA256[f"{subset}/{part}"])
        return read_rows(locate(file, folder))

    return RowTask(name, "multiple_choice", 0.25, rows, choice_example)
