"""MMLU: questions of 57 subjects from school to profession, four choices each.

This is the smallest of the tasks over files, and the one to copy for a set of your own:

1. Say where its files are. A :class:`SetFile` has the name under which a folder given with
   --eval-data may hold the file, the address of a pinned revision, and the hash of the content.
2. Make a :class:`RowTask`: its name, its kind, the accuracy of guessing, the rows of a split, and
   the function that makes an example of one row. That function raises ValueError for a row that is
   not what it should be, which is then counted and left out. Here it is ``choice_example``; for a
   rule of your own see gsm8k.py, where text is read, and humaneval.py, where code is run.
3. Name it in suite.py, so that ``nanochat chat-eval --tasks <name>`` finds it.

Source: Hendrycks et al., arXiv:2009.03300. val is the test set of 14,042 questions; train are the
285 of the development set, five of each subject. Scores are broken down by subject.
"""

from __future__ import annotations

from pathlib import Path

from nanochat.data.tinyworld.draw import Split
from nanochat.tasks.choice import choice_example
from nanochat.tasks.files import Rows, SetFile, locate, read_rows
from nanochat.tasks.rows import RowTask

_HUB = "https://huggingface.co/datasets/cais/mmlu/resolve/c30699e8356da336a370243923dbaf21066bb9fe"
FILES: dict[Split, SetFile] = {
    "train": SetFile(
        "mmlu_dev",
        f"{_HUB}/all/dev-00000-of-00001.parquet",
        "2b19bde1ed8ca6b482fb283abc90e8e0d9d228947029c0b91795d64b28b3bc3f",
    ),
    "val": SetFile(
        "mmlu_test",
        f"{_HUB}/all/test-00000-of-00001.parquet",
        "74a41822ce7d3def56e1682f958469c04642a5336a5ce912fa375fdb90fb25d7",
    ),
}


def task(folder: Path | None) -> RowTask:
    def rows(split: Split) -> Rows:
        return read_rows(locate(FILES[split], folder))

    return RowTask("mmlu", "multiple_choice", 0.25, rows, choice_example)
