"""Documents to packed rows of tokens."""

from nanochat.data.loader import Loader, LoaderState, LoaderStats, Step, count_rows, validation_rows
from nanochat.data.rendering import Render, TokenBatch, Tokens, lay_end_to_end, render_text
from nanochat.data.sources import Corpus, FileSource, GeneratedSource, Source, items

__all__ = [
    "Corpus",
    "FileSource",
    "GeneratedSource",
    "Loader",
    "LoaderState",
    "LoaderStats",
    "Render",
    "Source",
    "Step",
    "TokenBatch",
    "Tokens",
    "count_rows",
    "items",
    "lay_end_to_end",
    "render_text",
    "validation_rows",
]
