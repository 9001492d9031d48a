"""Bytes per token of a tokenizer, by kind of text: what its training text taught it, and what not.

More bytes per token means a shorter sequence for the same text. 1.0 is a tokenizer that knows
nothing but bytes. Each text is also decoded again, which must give it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanochat.common.errors import UserError
from nanochat.common.paths import home
from nanochat.data import tinyworld
from nanochat.tokenizer import Tokenizer

NUM_DOCUMENTS = 200  # of tinyworld, held out

TEXTS = {
    "prose": (
        "The ferry had not run since the storm, so the doctor walked. It took her the better part "
        "of a day, along the dunes and then through fields that nobody had ploughed this spring. "
        "By the time she saw the lighthouse she had eaten both apples and finished every argument "
        "she meant to have with her brother; when he opened the door she only asked for tea."
    ),
    "science": (
        "Enzymes lower the activation energy of a reaction without being consumed. Their rate "
        "saturates as the concentration of substrate grows, since every active site is then busy; "
        "the Michaelis constant is the concentration at which half of that limit is reached."
    ),
    "code": (
        "def median(values: list[float]) -> float:\n"
        '    """Middle of the sorted values; the mean of the two middles if there are two."""'
        "\n    ordered = sorted(values)\n    half = len(ordered) // 2\n"
        "    if len(ordered) % 2:\n        return ordered[half]\n"
        "    return (ordered[half - 1] + ordered[half]) / 2\n"
    ),
    "maths": (
        r"Let $f(x) = x^3 - 3x + 1$. Since $f'(x) = 3(x^2 - 1)$ vanishes at $x = \pm 1$ only, and "
        r"$f(-1) = 3 > 0 > -1 = f(1)$, there are three real roots. \begin{equation} x_k = 2 \cos "
        r"\left( \frac{2 \pi (3k + 1)}{9} \right), \quad k = 0, 1, 2. \end{equation}"
    ),
    "numbers": "3.14159 1,048,576 2026-11-22 0x7f3a 192.168.0.1 +49 30 901820 1e-7 50% 12:45",
    "German": (
        "Das M\u00e4dchen h\u00f6rte den Zug, lange bevor es ihn sah. \u00dcber den Fluss kam "
        "sein Pfeifen, \u00fcber die W\u00e4lder, durch die k\u00fchle Luft des Morgens."
    ),
    "Korean": (
        "\uc544\uce68\uc5d0 \ube44\uac00 \uadf8\uce58\uace0 \ud558\ub298\uc774 "
        "\ub9d1\uc544\uc84c\ub2e4. \uc6b0\ub9ac\ub294 \uac15\uac00\ub97c "
        "\uac78\uc73c\uba70 \uc774\uc57c\uae30\ub97c \ub098\ub204\uc5c8\ub2e4."
    ),
}


@dataclass(frozen=True, kw_only=True)
class TokEvalConfig:
    """Show how many bytes a token of a run's tokenizer holds, by kind of text."""

    run: str = "default"
    """Name of the run: its folder is NANOCHAT_HOME/runs/<run>."""
    out: Path | None = None
    """Folder of the run, instead of --run."""
    text: tuple[Path, ...] = ()
    """More texts: UTF-8 files, each a row of its own."""


def tok_eval(config: TokEvalConfig) -> None:
    """Print the table. Raises: UserError for a tokenizer or a text that cannot be read."""
    folder = config.out if config.out is not None else home() / "runs" / config.run
    path = folder / "tokenizer.json"
    if not path.exists():
        raise UserError(f"tok-eval: no tokenizer at {path}; run tok-train first")
    tokenizer = Tokenizer.load(path)
    documents = [tinyworld.document(i, split="val", seed=0) for i in range(NUM_DOCUMENTS)]
    texts = {"tinyworld": "\n".join(documents), **TEXTS, **{p.name: _read(p) for p in config.text}}
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("text", "bytes", "tokens", "bytes per token"):
        table.add_column(name, justify="left" if name == "text" else "right")
    for name, ratio in bytes_per_token(tokenizer, texts).items():
        num_bytes = len(texts[name].encode())
        table.add_row(name, f"{num_bytes:,}", f"{round(num_bytes / ratio):,}", f"{ratio:.2f}")
    Console().print(table)


def bytes_per_token(tokenizer: Tokenizer, texts: Mapping[str, str]) -> dict[str, float]:
    """UTF-8 bytes per token of each text.

    Raises: ValueError for a text that is empty, or that does not come back from its tokens.
    """
    ratios = {}
    for name, text in texts.items():
        ids = tokenizer.encode(text)
        if not ids:
            raise ValueError(f"tok-eval: text must not be empty, got {name}")
        if tokenizer.decode(ids) != text:
            raise ValueError(f"tok-eval: {name} does not come back from its tokens")
        ratios[name] = len(text.encode()) / len(ids)
    return ratios


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tok-eval: cannot read {path}: {error}") from error
    if not text:
        raise UserError(f"tok-eval: {path} is empty")
    return text
