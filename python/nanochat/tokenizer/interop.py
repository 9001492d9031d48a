"""Tokenizers of other programs: tiktoken's rank files, Hugging Face's JSON, upstream's pickle.

What all of them share is a table of bytes and ranks. A .tiktoken file is nothing else (no pattern,
no special tokens); tokenizer.json wants the merges besides; nanochat in Python keeps a pickled
``tiktoken.Encoding``, of which only the data is read (see plain_pickle.py).
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from nanochat.common.errors import UserError
from nanochat.common.paths import atomic_write
from nanochat.tokenizer.plain_pickle import read_state
from nanochat.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer from our own file, from .tiktoken ranks with our split pattern, or from upstream.

    Raises: UserError for a file that cannot be read, is damaged, or has another suffix.
    """
    match path.suffix:
        case ".json":
            return Tokenizer.load(path)
        case ".tiktoken":
            return Tokenizer.from_ranks(read_tiktoken(path))
        case ".pkl":
            return read_upstream_pickle(path)
    raise UserError(
        f"tokenizer: file must be .json (ours), .tiktoken or .pkl (upstream's), got {path}"
    )


# tiktoken's rank files: a line per token, its bytes in base64, a space, its rank.


def read_tiktoken(path: Path | str) -> dict[bytes, int]:
    """Token bytes -> rank, in the order of ranks.

    Raises: UserError that names file and line, unless ranks are 0 to n - 1, each once, tokens are
        distinct and all 256 bytes are among them. So a file that was cut short never passes.
    """
    ranks: dict[bytes, int] = {}
    lines: dict[int, int] = {}  # rank -> line
    for number, line in enumerate(_read(path).splitlines(), start=1):
        where = f"tokenizer: {path}, line {number}"
        fields = line.split()
        if len(fields) != 2:
            raise UserError(f"{where}: must hold a token in base64 and a rank, got {_short(line)}")
        token, rank = _base64(fields[0]), int(fields[1]) if _is_rank(fields[1]) else None
        if token is None:
            raise UserError(f"{where}: token must be base64, got {_short(fields[0])}")
        if rank is None:
            raise UserError(f"{where}: rank must be a whole number, got {_short(fields[1])}")
        if token in ranks:
            first = lines[ranks[token]]
            raise UserError(f"{where}: token {_short(fields[0])} stands in line {first} already")
        if rank in lines:
            raise UserError(f"{where}: rank {rank} stands in line {lines[rank]} already")
        ranks[token] = rank
        lines[rank] = number
    for rank in range(len(ranks)):
        if rank not in lines:
            raise UserError(
                f"tokenizer: {path}: {len(ranks)} ranks must be 0 to {len(ranks) - 1}, {rank} is"
                f" missing; line {lines[max(lines)]} has {max(lines)}"
            )
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise UserError(
            f"tokenizer: {path}: all 256 bytes must be tokens, {len(missing)} are missing, the"
            f" first is 0x{missing[0]:02x}"
        )
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def write_tiktoken(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write the ranks; pattern and special tokens have no place in such a file."""
    lines = (b"%b %d\n" % (b64encode(token), rank) for rank, token in enumerate(_tokens(tokenizer)))
    atomic_write(Path(path), b"".join(lines))


def _base64(text: bytes) -> bytes | None:
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return None


def _is_rank(text: bytes) -> bool:
    return text.isdigit() and len(text) <= 9


# Hugging Face's tokenizer.json.


def huggingface_json(tokenizer: Tokenizer) -> str:
    """The text of a tokenizer.json that ``tokenizers`` and transformers load, with the same ids.

    One difference stays: those libraries look for special tokens in every text, while our
    ``encode`` takes ``<|bos|>`` for seven characters. Ids are equal on texts without such names,
    and for patterns with a native scanner (another one is up to their regex engine).

    Raises: ValueError if a token is no merge of two others, or is spelled like a special token.
    """
    tokens = _tokens(tokenizer)
    spell = _byte_letters()
    names = ["".join(map(spell.__getitem__, token)) for token in tokens]
    if clash := tokenizer.special.keys() & set(names):
        raise ValueError(f"huggingface: tokens must not be special tokens, got {min(clash)!r}")
    name = dict(zip(tokens, names, strict=True))
    # The settings of ByteLevel that matter are use_regex and add_prefix_space, in pre_tokenizer.
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {
        "type": "Split",
        "pattern": {"Regex": _oniguruma(tokenizer.pattern)},
        "behavior": "Isolated",
        "invert": False,
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": special,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for special, i in tokenizer.special.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {**byte_level, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that is a token is that token, as in tiktoken
            "vocab": {name[token]: i for i, token in enumerate(tokens)},
            "merges": [(name[left], name[right]) for left, right in merges_of(tokens)],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def write_huggingface(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write :func:`huggingface_json`. Raises: as it does, and UserError if the disk refuses."""
    atomic_write(Path(path), huggingface_json(tokenizer))


def merges_of(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The two parts of each token that is not a byte; ``tokens`` in the order of ranks.

    BPE on a token's bytes with the lower ranks alone must end with two parts, and these are what
    its merge joined. One merge for each token is enough: what is merged between two boundaries
    does not depend on what is outside, so no text ever joins a token from other parts.

    Raises: ValueError that names the token if there are not two parts: no merges make such a table.
    """
    ranks: dict[bytes, int] = {}  # the lower ones
    merges = []
    for rank, token in enumerate(tokens):
        if len(token) != 1:
            parts = _merge(token, ranks)
            if len(parts) != 2:
                raise ValueError(
                    f"merges: token {rank}, {token!r}, must be two tokens of lower rank joined,"
                    f" but merges to {len(parts)} parts"
                )
            merges.append((parts[0], parts[1]))
        ranks[token] = rank
    return merges


def _merge(text: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """BPE, the lowest rank first. All places of one rank go in one pass, since each rank is above
    those of its parts: no pair that arises can be lower."""
    parts = [text[i : i + 1] for i in range(len(text))]
    none = len(ranks)
    while len(parts) > 2:
        pairs = [ranks.get(left + right, none) for left, right in pairwise(parts)]
        lowest = min(pairs)
        if lowest == none:
            break
        merged, i = [], 0
        while i < len(parts):
            width = 2 if i < len(pairs) and pairs[i] == lowest else 1
            merged.append(parts[i] if width == 1 else parts[i] + parts[i + 1])
            i += width
        parts = merged
    return parts


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it is printed, else one from U+0100 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printed else next(others)) for byte in range(256)]


def _oniguruma(pattern: str) -> str:
    """``pattern`` for the regex engine of ``tokenizers``, where x{1,3}+ repeats x{1,3}.

    Raises: ValueError for a possessive count of anything but a property such as \\p{N}.
    """
    translated = re.sub(r"(\\p\{\w+\}\{\d+(?:,\d*)?\})\+", r"(?>\1)", pattern)
    if re.search(r"\{\d+(,\d*)?\}\+", translated):
        raise ValueError(f"huggingface: pattern must not have possessive counts, got {pattern!r}")
    return translated


# Upstream nanochat's tokenizer.pkl.


def read_upstream_pickle(path: Path | str) -> Tokenizer:
    """The tokenizer in upstream nanochat's tokenizer.pkl, a pickled ``tiktoken.Encoding``.

    Nothing in the file is executed. Raises: UserError for any other pickle, and for ranks or
    special tokens that are not nanochat's.
    """
    try:
        state = read_state(_read(path), "tiktoken.core.Encoding")
        return _from_state(state)
    except ValueError as error:
        raise UserError(
            f"tokenizer: {path} is not upstream nanochat's tokenizer.pkl: {error}"
        ) from error


def _from_state(state: object) -> Tokenizer:
    match state:
        case str():
            raise ValueError(f"it holds no ranks, only the name {state[:80]!r}")
        case {
            "name": str(),
            "pat_str": str(pattern),
            "mergeable_ranks": dict(ranks),
            "special_tokens": dict(special),
            **others,
        } if not others:
            pass
        case _:
            raise ValueError("its parts must be name, pat_str, mergeable_ranks, special_tokens")
    if not all(type(k) is bytes and type(v) is int for k, v in ranks.items()):
        raise ValueError("its ranks must be bytes and whole numbers")
    expected = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
    if special != expected:
        raise ValueError(
            f"its special tokens must be {SPECIAL_TOKENS[0]} to {SPECIAL_TOKENS[-1]} with ids"
            f" {len(ranks)} to {len(ranks) + len(SPECIAL_TOKENS) - 1}"
        )
    return Tokenizer.from_ranks(ranks, pattern)


def _tokens(tokenizer: Tokenizer) -> list[bytes]:
    """In the order of ranks, special tokens not among them."""
    num_ranks = tokenizer.vocab_size - len(tokenizer.special)
    return [tokenizer.decode_bytes([rank]) for rank in range(num_ranks)]


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"tokenizer: cannot read {path}: {error.strerror or error}") from error


def _short(text: bytes) -> str:
    return repr(text.decode("ascii", "backslashreplace")[:40])
