"""Make the mini family from seeds.

    python -m training [STAGE ...] [--out data/mini] [--work DIR]

Stages, in order: tokenizer, target, questions, texts, draft, eagle3, datastore, measure; none named
means all. What a stage has finished is kept in the work folder and not redone; a stopped stage goes
on. About two hours on two CPU cores, minutes on a GPU. Ends with the hashes of what was made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from random import Random

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from evaluation.command import Parser, run_command
from evaluation.running.manifest import git_state
from model.eagle3.checkpoint import default_layers, save_head
from model.paths import MINI
from training import texts
from training.corpus import Batch, Text, pack
from training.datastore import write_store
from training.eagle3 import HeadRecipe, train_head
from training.lm import LMRecipe, train_lm
from training.networks import load_target
from training.questions import write_questions
from training.tokenizer import train_tokenizer

SEED = 1
QUESTIONS_SEED = 7
TARGET = LMRecipe(
    layers=12,
    hidden=192,
    feed_forward=512,
    heads=3,
    kv_heads=1,
    steps=1800,
    decay_steps=750,
    learning_rate=8e-3,
)
DRAFT = LMRecipe(
    layers=2,
    hidden=128,
    feed_forward=384,
    heads=2,
    kv_heads=1,
    steps=1200,
    decay_steps=500,
    learning_rate=8e-3,
)
TEXTS = 1536
"""Training-split prompts the target answers, two thirds at temperature 0.6, the rest at 0."""
TEXT_TOKENS = 640
"""Longest answer."""
TEXTS_AT_ONCE = 128
DRAFT_VOCABULARY = 800
HEAD_TOKENS = 1_500_000
STORE_TEXTS = 1400
MEASURED = 140
"""Validation problems."""


class Family:
    """The folders and the stages; every stage is a method of the same name."""

    stages = (
        "tokenizer",
        "target",
        "questions",
        "texts",
        "draft",
        "eagle3",
        "datastore",
        "measure",
    )

    def __init__(self, out: Path, work: Path, device: torch.device) -> None:
        self.out, self.work, self.device = out, work, device
        work.mkdir(parents=True, exist_ok=True)

    def tokenizer(self) -> None:
        train_tokenizer(self.work / "tokenizer", SEED)

    def target(self) -> None:
        self._language_model(TARGET, "target")

    def questions(self) -> None:
        write_questions(self.out / "questions.jsonl", QUESTIONS_SEED)

    def texts(self) -> None:
        """What the target writes on training questions: draft model and head learn from it."""
        model, tokenizer = self._load_target(), self._load_tokenizer()
        sampled = TEXTS * 2 // 3
        for file, temperature, chosen in (
            (self._sampled, 0.6, slice(sampled)),
            (self._greedy, 0.0, slice(sampled, TEXTS)),
        ):
            if file.exists():
                continue
            users = texts.prompts(SEED, TEXTS)[chosen]
            written = texts.write(
                model, tokenizer, users, temperature, TEXT_TOKENS, SEED, TEXTS_AT_ONCE
            )
            texts.save(written, file)

    def draft(self) -> None:
        final = pack(self._read_texts(), DRAFT.batch_tokens, Random(SEED))
        self._language_model(DRAFT, "draft", final)

    def eagle3(self) -> None:
        target = self._load_target().float()
        recipe = HeadRecipe(default_layers(TARGET.layers), DRAFT_VOCABULARY, HEAD_TOKENS)
        head = train_head(recipe, target, self._read_texts())
        save_head(head, self.out / "eagle3")

    def datastore(self) -> None:
        """From what the target wrote on training questions.

        The test questions' texts are not in it.
        """
        documents = [text.output for text in self._read_texts()[:STORE_TEXTS]]
        write_store(self.out / "rest.datastore", documents, str(self.out / "target"))

    def measure(self) -> None:
        """Accuracy by kind on validation questions, at temperature 0."""
        target, tokenizer = self._load_target(), self._load_tokenizer()
        scores = texts.accuracy_by_kind(target, tokenizer, MEASURED, 0.0)
        total = sum(scores.values(), texts.Score())
        for kind, score in [*sorted(scores.items()), ("all", total)]:
            print(f"{kind:20s} {score.right:3d} of {score.asked}")

    @property
    def _sampled(self) -> Path:
        return self.work / "sampled.jsonl"

    @property
    def _greedy(self) -> Path:
        return self.work / "greedy.jsonl"

    def _language_model(
        self, recipe: LMRecipe, name: str, final: list[Batch] | None = None
    ) -> None:
        tokenizer = self._load_tokenizer()
        model = train_lm(recipe, tokenizer, self.work / name, self.device, final)
        model.config.spectts_family = "mini"
        model.bfloat16().save_pretrained(self.out / name)
        tokenizer.save_pretrained(self.out / name)

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        return AutoTokenizer.from_pretrained(self.work / "tokenizer")

    def _load_target(self) -> PreTrainedModel:
        return load_target(self.out / "target", torch.bfloat16, self.device)

    def _read_texts(self) -> list[Text]:
        """All that the target wrote, in random order."""
        both = texts.read(self._sampled) + texts.read(self._greedy)
        Random(SEED).shuffle(both)
        return both


def hashes(folder: Path) -> dict[str, str]:
    """The beginnings of the SHA-256 of every file made; runs' records are none of them."""
    digests = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or "model_answer" in str(file) or file.name == "made.json":
            continue
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        digests[str(file.relative_to(folder))] = digest
    return digests


def _parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "stage",
        nargs="*",
        choices=[*Family.stages, []],  # argparse checks an empty list against them too
        metavar="STAGE",
        help=f"{', '.join(Family.stages)}; none: all",
    )
    parser.add_argument("--out", type=Path, default=MINI, help="where the family goes")
    parser.add_argument(
        "--work", type=Path, default=Path("../.training"), help="tokenizer, training states, texts"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def main() -> int:
    args = _parser().parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    family = Family(args.out, args.work, torch.device(args.device))
    for stage in args.stage or Family.stages:
        print(f"== {stage}", flush=True)
        getattr(family, stage)()
    made = {"git": git_state(), "sha256": hashes(args.out)}
    (args.out / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    for name, digest in made["sha256"].items():
        print(f"{digest}  {name}")
    return 0


if __name__ == "__main__":
    run_command(main)()
