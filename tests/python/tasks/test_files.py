"""Sets on disk and behind a server that tells the truth, half of it, or something else."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from nanochat.common.errors import UserError
from nanochat.tasks import files
from nanochat.tasks.files import SetFile, eval_home, find, locate, read_lines, read_rows

ROWS = [{"question": "1+1?", "text": "a\u2028b"}, {"question": "2+2?", "text": "\x85"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
SHA = hashlib.sha256(LINES).hexdigest()


@dataclass
class Source:
    """What the server says next: (status, announced length, body); the last one for ever."""

    url: str = ""
    answers: list[tuple[int, int, bytes]] = field(default_factory=list)
    num_asked: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)

    def says(self, *answers: tuple[int, int, bytes]) -> None:
        self.answers = list(answers)


OK = (200, len(LINES), LINES)
HALF = (200, len(LINES), LINES[: len(LINES) // 2])
GONE = (404, 0, b"")
SILENT = (0, 0, b"")  # accepts the question and says nothing


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    state = Source()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.num_asked += 1
            status, length, body = state.answers[0]
            state.answers = state.answers[1:] or state.answers
            if status == SILENT[0]:
                state.is_over.wait(60)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(files, "PAUSES_S", (0.0, 0.0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    state.is_over.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def left_in_home() -> list[str]:
    return sorted(p.name for p in eval_home().rglob("*") if p.is_file() or p.name[0] == ".")


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        (".jsonl", bytes),
        (".jsonl.zst", zstandard.ZstdCompressor().compress),
        (".jsonl.gz", gzip.compress),
    ],
)
def test_a_set_is_found_in_each_format(suffix: str, pack: object, tmp_path: Path) -> None:
    assert callable(pack)
    path = write(tmp_path / "core" / f"quiz{suffix}", pack(LINES))
    assert locate(SetFile("core/quiz", "http://nowhere.invalid/quiz.jsonl"), tmp_path) == path
    assert read_rows(path).rows == ROWS  # U+2028 and U+0085 end no line


def test_parquet_is_read_like_the_rest(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "quiz.parquet")
    assert read_rows(tmp_path / "quiz.parquet").rows == ROWS
    write(tmp_path / "quiz.parquet", b"PAR1 and nothing else")
    with pytest.raises(UserError, match="not a readable parquet file"):
        read_rows(tmp_path / "quiz.parquet")


def test_bad_lines_are_counted_and_do_not_stop_the_good_ones(tmp_path: Path) -> None:
    bad = [b'{"a": ', b"[1, 2]", b"\xff\xfe{}", b"[" * 100_000, b"null", b'"text"']
    path = write(tmp_path / "quiz.jsonl", LINES + b"\n" + b"\n".join(bad) + b"\r\n  \n" + LINES)
    rows = read_rows(path)
    assert rows.rows == ROWS * 2
    assert rows.num_malformed == len(bad)


def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    packed = zstandard.ZstdCompressor().compress(LINES * 50)
    path = write(tmp_path / "quiz.jsonl.zst", packed[:-5])
    with pytest.raises(UserError, match=r"quiz\.jsonl\.zst is truncated"):
        read_rows(path)


def test_lines_of_a_word_list(tmp_path: Path) -> None:
    path = write(tmp_path / "words.txt", b"one\r\ntwo\r\n\r\n three ")
    assert read_lines(path) == ["one", "two", "three"]


def test_a_set_is_fetched_once(source: Source) -> None:
    source.says(OK)
    file = SetFile("core/quiz", f"{source.url}/data/quiz-00000-of-00001.jsonl", SHA)
    path = locate(file, None)
    assert path == eval_home() / "core" / "quiz.jsonl"
    assert read_rows(path).rows == ROWS
    assert locate(file, None) == path
    assert source.num_asked == 1
    assert left_in_home() == ["quiz.jsonl"]


def test_the_hash_is_that_of_the_decompressed_file(source: Source) -> None:
    packed = gzip.compress(LINES)
    source.says((200, len(packed), packed))
    path = locate(SetFile("quiz", f"{source.url}/HumanQuiz.jsonl.gz", SHA), None)
    assert path.name == "quiz.jsonl.gz"
    assert read_rows(path).rows == ROWS


def test_a_user_s_folder_comes_first_and_is_trusted(source: Source, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine" / "quiz.jsonl", b'{"question": "mine"}\n')
    file = SetFile("quiz", f"{source.url}/quiz.jsonl", SHA)
    assert locate(file, mine.parent) == mine
    assert source.num_asked == 0
    with pytest.raises(UserError, match="--eval-data must be a folder"):
        locate(file, tmp_path / "nothing here")


@pytest.mark.parametrize("sha256", [SHA, None])
def test_a_body_cut_short_is_asked_for_again(source: Source, sha256: str | None) -> None:
    source.says(HALF, OK)
    path = locate(SetFile("quiz", f"{source.url}/quiz.jsonl", sha256), None)
    assert path.read_bytes() == LINES
    assert source.num_asked == 2


@pytest.mark.parametrize(
    ("answer", "message", "num_tries"),
    [(HALF, "bytes arrived", 3), (GONE, "404", 1), ((503, 0, b""), "503", 3)],
)
@pytest.mark.parametrize("sha256", [SHA, None])
def test_a_fetch_that_fails_leaves_nothing(
    source: Source,
    answer: tuple[int, int, bytes],
    message: str,
    num_tries: int,
    sha256: str | None,
) -> None:
    source.says(answer)
    with pytest.raises(UserError, match=message) as raised:
        locate(SetFile("quiz", f"{source.url}/quiz.jsonl", sha256), None)
    assert str(eval_home() / "quiz.jsonl") in str(raised.value)
    assert source.num_asked == num_tries
    assert left_in_home() == []


def test_a_server_that_says_nothing(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TIMEOUT_S", 0.1)
    source.says(SILENT)
    with pytest.raises(UserError, match="timed out"):
        locate(SetFile("quiz", f"{source.url}/quiz.jsonl", SHA), None)
    assert source.num_asked == 3


def test_a_server_that_is_not_there(source: Source) -> None:
    with pytest.raises(UserError, match="--eval-data"):
        locate(SetFile("quiz", "http://127.0.0.1:9/quiz.jsonl", SHA), None)  # discard: nobody


def test_a_wrong_hash_is_refused(source: Source) -> None:
    source.says((200, 3, b"{}\n"))
    with pytest.raises(UserError, match=f"must have sha256 {SHA}"):
        locate(SetFile("quiz", f"{source.url}/quiz.jsonl", SHA), None)
    assert left_in_home() == []


def test_an_interrupted_fetch_leaves_nothing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.says(OK)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_digest", interrupted)  # when the body has arrived
    with pytest.raises(KeyboardInterrupt):
        locate(SetFile("quiz", f"{source.url}/quiz.jsonl", SHA), None)
    assert left_in_home() == []


def test_a_fetched_file_is_checked_at_each_use(source: Source) -> None:
    source.says(OK)
    file = SetFile("quiz", f"{source.url}/quiz.jsonl", SHA)
    write(locate(file, None), LINES[:-9])
    with pytest.raises(UserError, match=r"quiz\.jsonl is damaged or another file"):
        locate(file, None)


def test_an_unknown_hash_is_the_one_first_seen(source: Source) -> None:
    source.says(OK)
    file = SetFile("quiz", f"{source.url}/quiz.jsonl")
    path = locate(file, None)
    record = path.with_name("quiz.jsonl.sha256")
    assert record.read_text() == f"{SHA}\n"
    write(path, LINES[:-9])
    with pytest.raises(UserError, match="is damaged or another file"):
        locate(file, None)
    path.unlink()
    source.says((200, 3, b"{}\n"))
    with pytest.raises(UserError, match=f"must have sha256 {SHA}"):
        locate(file, None)
    record.unlink()
    assert locate(file, None).read_bytes() == b"{}\n"


def test_nothing_found_is_none(tmp_path: Path) -> None:
    assert find("quiz", tmp_path) is None
