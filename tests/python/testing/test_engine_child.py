"""What a process of the engine benchmark does, called in this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from nanochat.engine.core import LENGTH, NOT_FINISHED, Heard
from nanochat.model import GPTConfig
from nanochat.testing import engine_child, engine_models
from nanochat.testing.engine_child import Contender, CoreGenerator

CONFIG = GPTConfig.from_depth(1, arch="classic", vocab_size=64, seq_len=48)
PROMPTS = [[1, 2, 3, 4, 5], [9, 8, 7, 6, 5], [11, 12, 13, 14, 15]]


@pytest.fixture(scope="module")
def contender(tmp_path_factory: pytest.TempPathFactory) -> Contender:
    path = tmp_path_factory.mktemp("engine") / "random.safetensors"
    engine_models.save(engine_models.random_weights(CONFIG, seed=3), path)
    return Contender(
        engine="ours", dtype="fp32", num_threads=1, config=CONFIG, weights=str(path), num_rows=3
    )


def test_engines_say_the_same(contender: Contender) -> None:
    pytest.importorskip("transformers")
    said = []
    for engine in ("ours", "torch", "transformers"):
        generator = engine_child.load(replace(contender, engine=engine))
        found = generator.generate(PROMPTS, 8, 0.0)
        assert all(len(row) >= 8 for row in found.tokens)
        for tokens, moments in zip(found.tokens, found.arrivals_s, strict=True):
            assert len(tokens) == len(moments)
            assert moments[0] > 0 and all(a < b for a, b in pairwise(moments))
        said.append([row[:8] for row in found.tokens])
    assert said[0] == said[1] == said[2]


def test_choices_are_those_of_greedy_decoding(contender: Contender) -> None:
    pytest.importorskip("transformers")
    generator = engine_child.load(replace(contender, engine="transformers"))
    assert isinstance(generator, engine_child.Transformers)
    (tokens,) = generator.generate(PROMPTS[:1], 6, 0.0).tokens
    choices = generator.choices(PROMPTS[0] + tokens[:-1])
    assert [token for token, _ in choices[len(PROMPTS[0]) - 1 :]] == tokens
    assert all(lead > 0 for _, lead in choices)


def test_guesses_are_counted(contender: Contender, tmp_path: Path) -> None:
    weights = engine_models.copying_weights(CONFIG, period=4, seed=1)
    path = engine_models.save(weights, tmp_path / "copying.safetensors")
    text = engine_models.copied_text(4, 40)
    for max_drafts in (0, 8):
        copying = replace(contender, weights=str(path), num_rows=1, max_drafts=max_drafts)
        found = engine_child.load(copying).generate([text[:12]], 20, 0.0)
        assert found.tokens[0][:20] == text[12:32]
        assert (found.counters["accepted_tokens"] > 4) == (max_drafts > 0)


class SlowToWake:
    """A core whose tokens are heard of two steps at a time."""

    def __init__(self) -> None:
        self._num_waits = 0

    def submit(self, prompt: list[int], **sampling: object) -> int:
        return 7

    def wait(self, seconds: float) -> Sequence[Heard]:
        self._num_waits += 1
        finish = LENGTH if self._num_waits == 2 else NOT_FINISHED
        return [(7, [1], None, False, NOT_FINISHED, 0), (7, [2], None, False, finish, 0)]

    def cancel(self, id: int) -> None: ...
    def resume(self, id: int, tokens: list[int]) -> None: ...
    def close(self) -> None: ...

    def statistics(self) -> dict[str, float]:
        return {"steps": 2.0 * self._num_waits}

    def failure(self) -> str:
        return ""


def test_tokens_that_come_together_share_their_time() -> None:
    found = CoreGenerator(SlowToWake(), context=100).generate([[0]], 4, 0.0)
    assert found.tokens == [[1, 2, 1, 2]] and found.counters == {"steps": 4.0}
    first, second, third, fourth = found.arrivals_s[0]
    assert 0 < first < second < third < fourth
    assert third - second == pytest.approx(fourth - third)


def test_a_core_that_fails_is_no_result() -> None:
    class Failing(SlowToWake):
        def failure(self) -> str:
            return "out of luck"

    with pytest.raises(RuntimeError, match="out of luck"):
        CoreGenerator(Failing(), context=100).generate([[0]], 4, 0.0)
