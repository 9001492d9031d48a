"""Replies that a model draws to questions, and what each was worth.

Everything here is a pure function of its arguments: the questions of a step and the noise of a
reply are keyed by (seed, step, question, sample). So a run that was killed draws the same replies
again, and any number of ranks share the questions of a step without a word between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat.common.errors import UserError
from nanochat.data.shuffle import permutation, random_words
from nanochat.engine import Completion, Engine, Sampling
from nanochat.engine.sampling import MAX_SEED
from nanochat.tasks import Example
from nanochat.train.reward import Reward


@dataclass(frozen=True)
class Reply:
    """One sample.

    Attributes:
        ids: Prompt and reply, with the token that ended it if one did.
        is_drawn: For each of ``ids``, whether the model drew it: not the prompt, not what a tool
            answered.
        is_cut: It came to the limit of tokens, or of the context.
        advantage: Its reward less the mean over the replies to its question.
    """

    ids: list[int]
    is_drawn: list[bool]
    is_cut: bool
    reward: float
    advantage: float

    @property
    def num_drawn(self) -> int:
        return sum(self.is_drawn)


def questions_of(step: int, *, num_questions: int, per_step: int, seed: int) -> list[int]:
    """Which questions a step asks; all are asked, in a new order, before one comes again."""
    asked = []
    for position in range(step * per_step, (step + 1) * per_step):
        epoch, place = divmod(position, num_questions)
        asked.append(int(permutation(num_questions, seed, epoch)[place]))
    return asked


def reply_seed(seed: int, step: int, question: int) -> int:
    """Of all samples of one question in one step; their index tells them apart."""
    return int(random_words(1, seed, step, question)[0]) & MAX_SEED


def roll_out(
    engine: Engine,
    examples: Sequence[Example],
    seeds: Sequence[int],
    *,
    num_samples: int,
    max_tokens: int,
    top_k: int | None,
    reward: Reward,
) -> list[list[Reply]]:
    """``num_samples`` replies to each example at temperature 1, with tools.

    Returns: One list for each example; empty if its prompt leaves no room in the context.
    Raises: UserError for a reward that is no number.
    """
    prompts = [engine.tokenizer.render_prompt(example.prompt) for example in examples]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.context]
    samplings = [
        # Log-probabilities are asked for since they name the token that ended a reply.
        Sampling(max_tokens=max_tokens, top_k=top_k, seed=seeds[i], logprobs=0)
        for i in fitting
    ]
    completions = engine.generate([prompts[i] for i in fitting], samplings, n=num_samples)
    replies: list[list[Reply]] = [[] for _ in examples]
    for at, i in enumerate(fitting):
        samples = completions[at * num_samples : (at + 1) * num_samples]
        rewards = [_checked(reward(examples[i], sample.text)) for sample in samples]
        # Of equals it is exactly theirs, so that what teaches nothing has an advantage of 0.
        mean = rewards[0] if len({*rewards}) == 1 else math.fsum(rewards) / num_samples
        replies[i] = [
            _reply(prompts[i], sample, value, value - mean)
            for sample, value in zip(samples, rewards, strict=True)
        ]
    return replies


def _reply(prompt: list[int], sample: Completion, reward: float, advantage: float) -> Reply:
    assert sample.logprobs is not None
    end = [sample.logprobs[-1].token] if sample.reason == "stop" else []
    return Reply(
        ids=[*prompt, *sample.ids, *end],
        is_drawn=[*(False for _ in prompt), *map(bool, sample.mask), *(True for _ in end)],
        is_cut=sample.reason == "length",
        reward=reward,
        advantage=advantage,
    )


def _checked(value: float) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"reward: must be a finite number, got {value!r}; look at the function")
    return float(value)
