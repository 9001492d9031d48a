"""Our scores of CORE's prompts against EleutherAI's lm-eval, on one model.

    pip install "lm_eval[hf]==0.4.13"
    python tests/parity/core_lm_eval.py --tokenizer RUN/tokenizer.json --eval-data FOLDER
    python tests/parity/core_lm_eval.py --model RUN/base --eval-data FOLDER

A classic model, of a checkpoint or with random weights, scores the prompts twice: with the native
engine in fp32, and as transformers' NanoChatForCausalLM under lm-eval, which gets the same prompts
(shots included) as tasks on local JSON files. lm-eval splits prompt from continuation where the
delimiter's last space stands, so for this comparison ours does too. Compared are the log-likelihood
of every continuation, and accuracies by lm-eval's rules (acc: largest sum; acc_norm: largest sum
over the letters; greedy match for language modelling) and by CORE's (largest mean over tokens).
Stops with an error where an accuracy is not the same.

Not a test of the suite: lm-eval brings some forty packages.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nanochat.checkpoint import load_model
from nanochat.common.errors import UserError, run_main
from nanochat.engine import Engine, NativeOptions
from nanochat.evals.core import run_core_task
from nanochat.evals.core_prompts import whole_texts
from nanochat.evals.core_tasks import CoreTask, TaskRows, choose_tasks, load_rows
from nanochat.evals.likelihood import TokenRow, scorer
from nanochat.model import GPT, GPTConfig
from nanochat.model.hf import hf_config, hf_state_dict
from nanochat.testing import bench
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.interop import write_huggingface

COLUMNS = (
    "task", "examples", "too long", "acc", "lm-eval", "acc_norm", "lm-eval norm", "mean",
    "lm-eval mean", "CORE", "chance", "max diff",
)  # fmt: skip
CORE_EXAMPLES = 300  # for the column CORE, by CORE's own split of prompts
TOLERANCE = 2e-3  # nats of a continuation, fp32 on both sides

Doc = dict[str, Any]


def random_model(tokenizer: Tokenizer, *, seed: int) -> GPT:
    """Classic, with weights large enough that choices matter."""
    model = GPT(
        GPTConfig(
            arch="classic", n_layer=2, n_head=2, n_kv_head=2, n_embd=128,
            vocab_size=tokenizer.vocab_size, seq_len=2048,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def document(task: CoreTask, rows: TaskRows, index: int) -> Doc:
    """An example as lm-eval wants it: contexts, what follows each after a space, and the answer."""
    row = rows.rows[index]
    texts = whole_texts(task, rows.rows, index)
    if task.kind == "language_modeling":
        return {"contexts": texts[:1], "continuations": [row["continuation"]], "gold": 0}
    follows = row["choices"] if task.kind == "multiple_choice" else [row["continuation"]]
    follows = follows * (len(texts) // len(follows))
    contexts = [
        text.removesuffix(follow).removesuffix(" ")
        for text, follow in zip(texts, follows, strict=True)
    ]
    return {"contexts": contexts, "continuations": follows, "gold": row["gold"]}


def token_rows(doc: Doc, tokenizer: Tokenizer) -> list[TokenRow]:
    pairs = zip(doc["contexts"], doc["continuations"], strict=True)
    return [
        TokenRow(
            [tokenizer.bos, *tokenizer.encode(f"{context} {continuation}")],
            1 + len(tokenizer.encode(context)),
        )
        for context, continuation in pairs
    ]


def write_task(folder: Path, task: CoreTask, docs: Sequence[Doc]) -> None:
    """Rows and configuration of one task; JSON is YAML."""
    is_words, is_schema = task.kind == "language_modeling", task.kind == "schema"
    with (folder / f"{task.name}.jsonl").open("w") as file:
        for doc in docs:
            (context, *_), (continuation, *_) = doc["contexts"], doc["continuations"]
            if is_schema:
                row = {"contexts": doc["contexts"], "follows": continuation, "gold": doc["gold"]}
            elif is_words:
                row = {"context": context, "follows": " " + continuation}  # takes no delimiter
            else:
                row = {"context": context, "choices": doc["continuations"], "gold": doc["gold"]}
            file.write(json.dumps(row) + "\n")
    metrics = ["acc"] if is_words else ["acc", "acc_norm"]
    config: dict[str, Any] = {
        "task": f"parity_{task.name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / f"{task.name}.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood" if is_words else "multiple_choice",
        "doc_to_text": "gold" if is_schema else "context",
        "doc_to_target": "follows" if is_words or is_schema else "gold",
        "target_delimiter": " ",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in metrics
        ],
    }
    if not is_words:
        config["doc_to_choice"] = "contexts" if is_schema else "choices"
    (folder / f"{task.name}.yaml").write_text(json.dumps(config))


def lm_eval_results(
    model: GPT, tokenizer: Tokenizer, folder: Path, tasks: Sequence[CoreTask]
) -> dict[str, Any]:
    """What lm-eval makes of the tasks in ``folder``."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder)}
    import lm_eval
    import transformers
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from tokenizers.processors import TemplateProcessing

    write_huggingface(tokenizer, folder / "tokenizer.json")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|bos|>", eos_token="<|bos|>"
    )
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos)]
    )
    theirs = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(**hf_config(model.config))
    )
    theirs.load_state_dict(hf_state_dict(model), strict=True)
    results: dict[str, Any] = lm_eval.simple_evaluate(
        HFLM(
            pretrained=theirs.eval(), tokenizer=fast, add_bos_token=True, batch_size=8,
            max_length=model.config.seq_len, device="cpu",
        ),
        tasks=[f"parity_{task.name}" for task in tasks],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        num_fewshot=0,
        bootstrap_iters=0,
    )  # fmt: skip
    return results


def largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def accuracies(
    docs: Sequence[Doc], sums: Sequence[Sequence[float]], greedy: Sequence[bool],
    lengths: Sequence[Sequence[int]], task: CoreTask,
) -> dict[str, float]:  # fmt: skip
    """By the rules of lm-eval and of CORE, from log-likelihoods."""
    if task.kind == "language_modeling":
        share = sum(greedy) / len(docs)
        return {"acc": share, "mean": share}
    found = {"acc": 0, "acc_norm": 0, "mean": 0}
    for doc, logs, sizes in zip(docs, sums, lengths, strict=True):
        # lm-eval's choices of a schema are its contexts.
        choices = doc["contexts" if task.kind == "schema" else "continuations"]
        letters = [log / len(choice) for log, choice in zip(logs, choices, strict=True)]
        means = [log / size for log, size in zip(logs, sizes, strict=True)]
        for name, values in (("acc", logs), ("acc_norm", letters), ("mean", means)):
            found[name] += largest(values) == doc["gold"]
    return {name: right / len(docs) for name, right in found.items()}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a checkpoint; random if not given")
    parser.add_argument("--tokenizer", type=Path, help="of the random model")
    parser.add_argument("--eval-data", type=Path, required=True)
    parser.add_argument("--tasks", default="present", help="present, or names with commas")
    parser.add_argument("--examples", type=int, default=100, help="of each task")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if options.model is not None:
        model, tokenizer, _ = load_model(options.model)
    elif options.tokenizer is not None:
        tokenizer = Tokenizer.load(options.tokenizer)
        model = random_model(tokenizer, seed=options.seed)
    else:
        raise UserError("core_lm_eval: needs --model, or --tokenizer for random weights")
    tasks = choose_tasks(options.tasks, options.eval_data)
    rows = {task.name: load_rows(task, options.eval_data) for task in tasks}
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Engine(model, tokenizer, options=NativeOptions(dtype="fp32")) as engine,
    ):
        docs: dict[str, list[Doc]] = {}
        num_long = {}
        for task in tasks:
            asked = range(min(options.examples, len(rows[task.name].rows)))
            whole = [document(task, rows[task.name], i) for i in asked]
            docs[task.name] = [
                doc
                for doc in whole
                if max(len(row.ids) for row in token_rows(doc, tokenizer)) <= engine.context
            ]
            num_long[task.name] = len(whole) - len(docs[task.name])
            if docs[task.name]:
                write_task(Path(folder), task, docs[task.name])
        tasks = tuple(task for task in tasks if docs[task.name])
        theirs = lm_eval_results(model, tokenizer, Path(folder), tasks)
        for task in tasks:
            asked_docs = docs[task.name]
            groups = [token_rows(doc, tokenizer) for doc in asked_docs]
            scores = scorer(engine)(groups)
            lengths = [[score.num_tokens for score in group] for group in scores]
            samples = sorted(
                theirs["samples"][f"parity_{task.name}"], key=lambda sample: sample["doc_id"]
            )
            # Responses are (log-likelihood, is greedy), a list for each choice.
            answers = [[resp[0] for resp in sample["resps"]] for sample in samples]
            logs = [[float(answer[0]) for answer in group] for group in answers]
            ours = accuracies(
                asked_docs, [[-s.nats for s in group] for group in scores],
                [group[0].is_greedy for group in scores], lengths, task,
            )  # fmt: skip
            same = accuracies(
                asked_docs, logs, [bool(group[0][1]) for group in answers], lengths, task
            )
            summary = theirs["results"][f"parity_{task.name}"]
            said = {name: summary[f"{name},none"] for name in ours if name != "mean"}
            difference = max(
                abs(score.nats + log)
                for group, row in zip(scores, logs, strict=True)
                for score, log in zip(group, row, strict=True)
            )
            few = load_rows(task, options.eval_data, max_rows=CORE_EXAMPLES)
            core = run_core_task(task, few, scorer(engine), tokenizer, context=engine.context)
            found.append(
                (
                    task.name, len(asked_docs), num_long[task.name], ours["acc"], said["acc"],
                    ours.get("acc_norm"), said.get("acc_norm"), ours["mean"], same["mean"],
                    core.accuracy, task.chance, difference,
                )
            )  # fmt: skip
            is_same = ours == same and all(abs(ours[name] - said[name]) < 1e-9 for name in said)
            if not is_same or difference > TOLERANCE:
                print(bench.table(COLUMNS, found))
                raise UserError(f"core_lm_eval: {task.name} differs: {ours}, {same}, {said}")
    print(bench.table(COLUMNS, found))
    rows_of_table = [dict(zip(COLUMNS, row, strict=True)) for row in found]
    print(json.dumps({"parity": "core_lm_eval", "rows": rows_of_table}))


if __name__ == "__main__":
    run_main(main)
