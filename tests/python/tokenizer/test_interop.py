"""Other programs' tokenizers: ids are equal everywhere, and a bad file is named, never run."""

from __future__ import annotations

import os
import pickle
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiktoken.load import load_tiktoken_bpe

from nanochat.common.errors import UserError
from nanochat.data import tinyworld
from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer, train_bpe
from nanochat.tokenizer.bpe import CL100K_PATTERN, GPT2_PATTERN, GPT4_PATTERN
from nanochat.tokenizer.interop import (
    huggingface_json,
    merges_of,
    read_tiktoken,
    read_tokenizer,
    read_upstream_pickle,
    write_huggingface,
    write_tiktoken,
)

PATTERNS = {
    "nanochat": SPLIT_PATTERN,
    "gpt2": GPT2_PATTERN,
    "gpt4": GPT4_PATTERN,
    "cl100k": CL100K_PATTERN,
}

TEXTS = {
    "empty": "",
    "English": "It's what they'd say: we'll see, WE'LL SEE. Don't you'RE me?",
    "code": "def f(x):\n\treturn [i ** 2 for i in range(1000)]  # 1e-7\r\n\r\n    pass\n",
    "numbers": "1 12 123 1234 1234567 3.14159 1,048,576 \u0661\u0662\u0663\u0664 \u00bd\u00b2",
    "Russian": "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "Chinese": "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "Korean": "\uc544\uce68\uc5d0 \ube44\uac00 \uadf8\uce58\uace0",
    "Arabic": "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "Hindi": "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "emoji": "\U0001f469\u200d\U0001f680 go \U0001f1e9\U0001f1ea\U0001f44d\U0001f3fd!\ufe0f",
    "white space": " \t\n\r\n \u00a0\u2003\u3000 x  y   \n\n\n z \u2028\u0085  ",
    "odd": "\x00\x1f\x7f\u200b\ufeff\ufffd\U0010ffff e\u0301 '\u017f \u212a \u01c5",
    "long": "abc " * 2000 + " " * 300 + "\n" * 300,
}


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    stories = [tinyworld.document(i, split="train", seed=0) for i in range(200)]
    return train_bpe([*stories, *TEXTS.values(), Path(__file__).read_text()] * 2, 3000)


@pytest.fixture(scope="module", params=PATTERNS)
def ours(request: pytest.FixtureRequest, ranks: dict[bytes, int]) -> Tokenizer:
    return Tokenizer.from_ranks(ranks, PATTERNS[request.param])


@pytest.fixture(scope="module")
def theirs(ours: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(huggingface_json(ours))


@pytest.fixture(scope="module")
def plain(ranks: dict[bytes, int]) -> Tokenizer:
    return Tokenizer.from_ranks(ranks)


# Hugging Face.


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_huggingface_gives_the_same_ids(
    ours: Tokenizer, theirs: tokenizers.Tokenizer, text: str
) -> None:
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text


_PIECES = st.sampled_from([
    *("'", "s", "'LL", "'\u017f", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "a", "The", "1", "12"),
    *("\u0663", "\u00b2", ".", "!?", "\u0301", "\u4f60", "\U0001f44d", "\u200d", "<|", "|>"),
])  # fmt: skip


@given(text=st.text(max_size=60) | st.lists(_PIECES, max_size=25).map("".join))
def test_huggingface_gives_the_same_ids_at_random(
    ours: Tokenizer, theirs: tokenizers.Tokenizer, text: str
) -> None:
    ids = ours.encode(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids) == text


@given(ids=st.lists(st.integers(0, 3000 + len(SPECIAL_TOKENS) - 1), max_size=30))
def test_huggingface_decodes_any_ids_alike(
    ours: Tokenizer, theirs: tokenizers.Tokenizer, ids: list[int]
) -> None:
    assert ours.vocab_size == 3000 + len(SPECIAL_TOKENS)
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


def test_huggingface_knows_the_special_tokens(
    ours: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    assert theirs.get_vocab_size() == ours.vocab_size
    assert {name: theirs.token_to_id(name) for name in SPECIAL_TOKENS} == ours.special
    assert theirs.decode([ours.bos, *ours.encode("hi")]) == "hi"
    # The documented difference: they look for names in a text, we do not.
    assert theirs.encode("a<|bos|>b").ids == [*ours.encode("a"), ours.bos, *ours.encode("b")]
    assert ours.bos not in ours.encode("a<|bos|>b")


def test_transformers_loads_the_file(plain: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_huggingface(plain, tmp_path / "tokenizer.json")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert len(fast) == plain.vocab_size
    assert fast.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(plain.special.values())
    for text in TEXTS.values():
        assert fast(text)["input_ids"] == plain.encode(text)
        assert fast.decode(plain.encode(text)) == text


def test_merges_are_those_of_training(ranks: dict[bytes, int]) -> None:
    """Replayed in order, on ids, the merges make exactly the table they were read from."""
    tokens = [bytes([i]) for i in range(256)]
    known = set(tokens)
    for left, right in merges_of(list(ranks)):
        assert left in known
        assert right in known
        tokens.append(left + right)
        known.add(left + right)
    assert tokens == list(ranks)


def test_a_merge_takes_the_lower_rank_first() -> None:
    tokens = [*(bytes([i]) for i in range(256)), b"bc", b"ab", b"abc", b"aa", b"aaaa", b"aaa"]
    expected = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"a", b"a"), (b"aa", b"aa")]
    assert merges_of(tokens) == [*expected, (b"aa", b"a")]


def test_a_token_that_no_merge_makes_is_named() -> None:
    tokenizer = Tokenizer([*(bytes([i]) for i in range(256)), b"ab", b"xyz"])
    with pytest.raises(ValueError, match="token 257, b'xyz', must be two tokens of lower rank"):
        huggingface_json(tokenizer)


def test_a_token_spelled_like_a_special_one_is_named() -> None:
    name = b"<|bos|>"
    tokens = [bytes([i]) for i in range(256)] + [name[:i] for i in range(2, len(name) + 1)]
    with pytest.raises(ValueError, match=r"must not be special tokens, got '<\|bos\|>'"):
        huggingface_json(Tokenizer(tokens))


@pytest.mark.filterwarnings("ignore:nanochat. the split pattern has no native scanner")
def test_a_pattern_that_means_something_else_there_is_refused(ranks: dict[bytes, int]) -> None:
    with pytest.raises(ValueError, match="pattern must not have possessive counts"):
        huggingface_json(Tokenizer.from_ranks(ranks, r"[a-z]{2,3}+|\s+|."))


# tiktoken.


def test_ranks_come_back(plain: Tokenizer, ranks: dict[bytes, int], tmp_path: Path) -> None:
    path = tmp_path / "sub" / "ours.tiktoken"
    write_tiktoken(plain, path)
    assert read_tiktoken(path) == ranks
    assert list(read_tiktoken(path)) == list(ranks)
    assert list(path.parent.iterdir()) == [path]  # no temporary file stays


def test_tiktoken_reads_what_we_write(
    plain: Tokenizer, ranks: dict[bytes, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    write_tiktoken(plain, tmp_path / "ours.tiktoken")
    assert load_tiktoken_bpe(str(tmp_path / "ours.tiktoken")) == ranks


def test_order_and_line_ends_of_a_file_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "windows.tiktoken"
    lines = [b"%b %d" % (b64encode(bytes([255 - i])), i) for i in range(256)]
    path.write_bytes(b"\r\n".join(reversed(lines)))
    assert list(read_tiktoken(path).items()) == [(bytes([255 - i]), i) for i in range(256)]


BYTES = [b"%b %d" % (b64encode(bytes([i])), i) for i in range(256)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"all 256 bytes must be tokens, 256 are missing, the first is 0x00"),
        (BYTES[:255], r"all 256 bytes must be tokens, 1 are missing, the first is 0xff"),
        ([*BYTES, b"YWI"], r"line 257: must hold a token in base64 and a rank, got 'YWI'"),
        ([*BYTES, b"YWI="], r"line 257: must hold a token in base64 and a rank, got 'YWI='"),
        ([*BYTES, b""], r"line 257: must hold a token in base64 and a rank, got ''"),
        ([*BYTES, b"YWI= 256 1"], r"line 257: must hold a token in base64 and a rank"),
        ([b"?w== 0", *BYTES[1:]], r"line 1: token must be base64, got '\?w=='"),
        ([*BYTES, b"YWI 256"], r"line 257: token must be base64, got 'YWI'"),
        ([*BYTES, b"Y?WI= 256"], r"line 257: token must be base64, got 'Y\?WI='"),
        ([*BYTES, b"==== 256"], r"line 257: token must be base64, got '===='"),
        ([*BYTES, b"YWI= x"], r"line 257: rank must be a whole number, got 'x'"),
        ([*BYTES, b"YWI= -1"], r"line 257: rank must be a whole number, got '-1'"),
        ([*BYTES, b"YWI= 2_5"], r"line 257: rank must be a whole number, got '2_5'"),
        ([*BYTES, b"YWI= " + b"9" * 5000], r"line 257: rank must be a whole number, got '9+'$"),
        ([*BYTES, b"YWI= \xff"], r"line 257: rank must be a whole number, got '\\\\xff'"),
        ([*BYTES, b"AA== 256"], r"line 257: token 'AA==' stands in line 1 already"),
        ([*BYTES, b"YWI= 25"], r"line 257: rank 25 stands in line 26 already"),
        ([*BYTES, b"YWI= 257"], r"257 ranks must be 0 to 256, 256 is missing; line 257 has 257"),
    ],
)
def test_a_bad_rank_file_is_named_to_the_line(
    lines: list[bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.tiktoken"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.raises(UserError, match=message) as caught:
        read_tiktoken(path)
    assert str(path) in str(caught.value)


def test_a_rank_file_cut_short_never_passes_for_a_smaller_one(
    plain: Tokenizer, ranks: dict[bytes, int], tmp_path: Path
) -> None:
    """But for a cut between two lines, which leaves a good file."""
    path = tmp_path / "cut.tiktoken"
    write_tiktoken(plain, path)
    whole = path.read_bytes()
    for missing in range(1, 40):
        path.write_bytes(whole[:-missing])
        if whole[-missing:].startswith(b"\n") or whole[-missing - 1 :].startswith(b"\n"):
            assert read_tiktoken(path).items() <= ranks.items()
        else:
            with pytest.raises(UserError, match="line "):
                read_tiktoken(path)


# Upstream's pickle.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_upstreams_pickle_is_read(ours: Tokenizer, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(ours.to_tiktoken(), protocol))
    tokenizer = read_upstream_pickle(path)
    assert tokenizer.hash == ours.hash
    assert tokenizer.special == ours.special
    for text in TEXTS.values():
        assert tokenizer.encode(text) == ours.encode(text)


def dump(path: Path, ranks: object, special: object, pattern: object = SPLIT_PATTERN) -> Path:
    """A pickled Encoding of any parts; made without its checks."""
    encoding = object.__new__(tiktoken.Encoding)
    encoding.name = "rustbpe"
    encoding._pat_str = pattern
    encoding._mergeable_ranks = ranks
    encoding._special_tokens = special
    path.write_bytes(pickle.dumps(encoding))
    return path


BYTE_RANKS = {bytes([i]): i for i in range(256)}
SPECIAL = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}


@pytest.mark.parametrize(
    ("ranks", "special", "pattern", "message"),
    [
        (BYTE_RANKS, {}, SPLIT_PATTERN, r"special tokens must be <\|bos\|> .* with ids 256 to 264"),
        (BYTE_RANKS, {**SPECIAL, "<|bos|>": 300}, SPLIT_PATTERN, "special tokens must be"),
        (BYTE_RANKS, {**SPECIAL, "<|more|>": 265}, SPLIT_PATTERN, "special tokens must be"),
        (BYTE_RANKS, {**SPECIAL, "<|bos|>": SPECIAL}, SPLIT_PATTERN, "special tokens must be"),
        ({**BYTE_RANKS, "ab": 256}, SPECIAL, SPLIT_PATTERN, "ranks must be bytes and whole"),
        ({**BYTE_RANKS, b"a": b"97"}, SPECIAL, SPLIT_PATTERN, "ranks must be bytes and whole"),
        ({**BYTE_RANKS, b"a": 98}, SPECIAL, SPLIT_PATTERN, "ranks must be 0 to 255, each once"),
        ({b"a": 0}, {n: i - 255 for n, i in SPECIAL.items()}, SPLIT_PATTERN, "255 are missing"),
        (BYTE_RANKS, SPECIAL, b"bytes", "parts must be name, pat_str"),
        (BYTE_RANKS, SPECIAL, "(", "is not upstream nanochat's"),
        ("cl100k", SPECIAL, SPLIT_PATTERN, "parts must be name, pat_str"),
    ],
)
def test_a_pickle_of_another_tokenizer_is_refused(
    ranks: object, special: object, pattern: object, message: str, tmp_path: Path
) -> None:
    path = dump(tmp_path / "tokenizer.pkl", ranks, special, pattern)
    with pytest.raises(UserError, match=message) as caught:
        read_upstream_pickle(path)
    assert str(path) in str(caught.value)


def test_a_pickle_by_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken pickles its registered encodings as a name, which would have to be downloaded."""
    monkeypatch.setattr(tiktoken.Encoding, "__getstate__", lambda _: "gpt2")
    path = dump(tmp_path / "tokenizer.pkl", {}, {})
    with pytest.raises(UserError, match="holds no ranks, only the name 'gpt2'"):
        read_upstream_pickle(path)


class Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    """One is enough here: every way to attack is tried in test_plain_pickle.py."""
    proof = tmp_path / "proof"
    path = dump(tmp_path / "tokenizer.pkl", BYTE_RANKS, {"<|bos|>": Command(f"touch {proof}")})
    with pytest.raises(UserError, match=r"asks for '(posix|nt)\.system'"):
        read_upstream_pickle(path)
    assert not proof.exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"\x80\x04N.", b"\x00" * 100])
def test_what_is_no_pickle_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.pkl is not upstream nanochat's"):
        read_upstream_pickle(tmp_path / "tokenizer.pkl")


# By suffix.


def test_a_tokenizer_is_read_by_suffix(plain: Tokenizer, tmp_path: Path) -> None:
    plain.save(tmp_path / "a.json")
    write_tiktoken(plain, tmp_path / "a.tiktoken")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(plain.to_tiktoken()))
    for suffix in ("json", "tiktoken", "pkl"):
        assert read_tokenizer(tmp_path / f"a.{suffix}").hash == plain.hash
    with pytest.raises(UserError, match=r"file must be \.json .*, got .*a\.bin"):
        read_tokenizer(tmp_path / "a.bin")
    for suffix in ("json", "tiktoken", "pkl"):
        with pytest.raises(UserError, match=rf"cannot read .*none\.{suffix}"):
            read_tokenizer(tmp_path / f"none.{suffix}")
