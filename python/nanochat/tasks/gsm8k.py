"""GSM8K: word problems of grade school, solved in steps with the calculator.

    A robe takes 2 bolts ...          It takes 2/2=<<2/2=1>>1 bolt of white fiber
                                      So the total is 2+1=<<2+1=3>>3 bolts of fabric
                                      #### 3

What stands in << >> becomes a tool call and its result. A reply is right if the number behind its
last #### is the one of the reference; one without such a number is unanswered.

Source: Cobbe et al., arXiv:2110.14168; 7,473 problems to learn from, val are the 1,319 of the test.
"""

from __future__ import annotations

import re
from pathlib import Path

from nanochat.data.tinyworld.draw import Split
from nanochat.tasks.base import Example, ask, graded
from nanochat.tasks.files import Rows, SetFile, locate, read_rows
from nanochat.tasks.grading import number_behind_marker, numbers_match
from nanochat.tasks.rows import Row, RowTask, text_of

_SOURCE = (
    "https://raw.githubusercontent.com/openai/grade-school-math/"
    "3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
)
FILES: dict[Split, SetFile] = {
    "train": SetFile(
        "gsm8k_train",
        f"{_SOURCE}/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
    "val": SetFile(
        "gsm8k_test",
        f"{_SOURCE}/test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    ),
}
_CALL = re.compile(r"<<([^<>]*)=([^<>=]*)>>")


def task(folder: Path | None) -> RowTask:
    def rows(split: Split) -> Rows:
        return read_rows(locate(FILES[split], folder))

    return RowTask("gsm8k", "generative", 0.0, rows, _example)


def _example(row: Row) -> Example:
    question, solution = text_of(row, "question"), text_of(row, "answer")
    answer = number_behind_marker(solution)
    if answer is None:
        raise ValueError(f"row: answer must end with #### and a number, got {solution[-40:]!r}")
    return graded(ask(question), content_of(solution), numbers_match(answer))


def content_of(solution: str) -> list[dict[str, str]]:
    """The solution as parts of an assistant message, its calculations as tool calls."""
    parts, end = [], 0
    for call in _CALL.finditer(solution):
        parts.append({"type": "text", "text": solution[end : call.start()]})
        parts.append({"type": "python", "text": call[1]})
        parts.append({"type": "python_output", "text": call[2]})
        end = call.end()
    parts.append({"type": "text", "text": solution[end:]})
    return [part for part in parts if part["text"]]
