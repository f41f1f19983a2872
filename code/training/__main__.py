"""Make the mini family from seeds: python -m training [STAGE ...] [--out data/mini] [--work DIR]

Stages, in order: tokenizer, target, questions, texts, draft, eagle3, datastore, measure; none named means all. What a
stage has finished is kept in the work folder and not redone; a stopped stage goes on. About two hours on two CPU
cores, minutes on a GPU. Ends with the hashes of what was made.
"""

import argparse
import hashlib
import json
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from evaluation.manifest import git_state
from model.checkpoint import MINI
from model.eagle3.checkpoint import default_layers, save_head
from training import texts
from training.corpus import pack
from training.datastore import write_store
from training.eagle3 import HeadRecipe, train_head
from training.lm import LMRecipe, train_lm
from training.questions import write_questions
from training.tokenizer import train_tokenizer

SEED = 1
TARGET = LMRecipe(layers=12, hidden=192, feed_forward=512, heads=3, kv_heads=1, steps=1800, decay_steps=750,
                  learning_rate=8e-3)
DRAFT = LMRecipe(layers=2, hidden=128, feed_forward=384, heads=2, kv_heads=1, steps=1200, decay_steps=500,
                 learning_rate=8e-3)
TEXTS = 1536       # training-split prompts the target answers, two thirds of them at temperature 0.6, the rest at 0
TEXT_TOKENS = 640  # longest answer
HEAD_TOKENS = 1_500_000
STORE_TEXTS = 1400


class Family:
    """The folders and the stages; every stage is a method of the same name."""

    stages = ("tokenizer", "target", "questions", "texts", "draft", "eagle3", "datastore", "measure")

    def __init__(self, out: Path, work: Path, device: torch.device) -> None:
        self.out, self.work, self.device = out, work, device
        work.mkdir(parents=True, exist_ok=True)

    def tokenizer(self) -> None:
        train_tokenizer(self.work / "tokenizer", SEED)

    def target(self) -> None:
        self._language_model(TARGET, "target")

    def questions(self) -> None:
        write_questions(self.out / "questions.jsonl", seed=7)

    def texts(self) -> None:
        """What the target writes on training questions; made for the draft model and the head to learn."""
        model, tokenizer = self._target(), self._tokenizer()
        for name, temperature, begin, end in (("sampled", 0.6, 0, TEXTS * 2 // 3), ("greedy", 0.0, TEXTS * 2 // 3, TEXTS)):
            if (self.work / f"{name}.jsonl").exists():
                continue
            users = texts.prompts(SEED, TEXTS)[begin:end]
            texts.save(texts.write(model, tokenizer, users, temperature, TEXT_TOKENS, SEED, batch=128),
                       self.work / f"{name}.jsonl")

    def draft(self) -> None:
        final = pack(self._texts(), DRAFT.batch_tokens, Random(SEED))
        self._language_model(DRAFT, "draft", final)

    def eagle3(self) -> None:
        model = self._target().float()
        layers = default_layers(TARGET.layers)
        recipe = HeadRecipe(layers, draft_vocab=800, tokens=HEAD_TOKENS)
        save_head(train_head(recipe, model, self._texts()), self.out / "eagle3")

    def datastore(self) -> None:
        """From what the target wrote on training questions: the test questions' texts are not in it."""
        documents = [output for _, output in self._texts()[:STORE_TEXTS]]
        write_store(self.out / "rest.datastore", documents, str(self.out / "target"))

    def measure(self) -> None:
        """Accuracy by kind on validation questions, at temperature 0."""
        found = texts.accuracy_by_kind(self._target(), self._tokenizer(), 140, 0.0)
        for kind, (right, asked) in sorted(found.items()):
            print(f"{kind:20s} {right:3d} of {asked}")
        print(f"{'all':20s} {sum(r for r, _ in found.values()):3d} of {sum(a for _, a in found.values())}")

    def _language_model(self, recipe: LMRecipe, name: str, final: list | None = None) -> None:
        tokenizer = self._tokenizer()
        model = train_lm(recipe, tokenizer, self.work / name, self.device, final)
        model.config.spectts_family = "mini"
        model.to(torch.bfloat16).save_pretrained(self.out / name)
        tokenizer.save_pretrained(self.out / name)

    def _tokenizer(self):
        return AutoTokenizer.from_pretrained(self.work / "tokenizer")

    def _target(self) -> PreTrainedModel:
        model = AutoModelForCausalLM.from_pretrained(self.out / "target", dtype=torch.bfloat16)
        return model.to(self.device).eval().requires_grad_(False)

    def _texts(self) -> list[tuple[list[int], list[int]]]:
        both = texts.read(self.work / "sampled.jsonl") + texts.read(self.work / "greedy.jsonl")
        Random(SEED).shuffle(both)
        return both


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file made, with the commit they were made at."""
    files = sorted(f for f in folder.rglob("*") if f.is_file() and "model_answer" not in str(f) and f.name != "made.json")
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="*", choices=[*Family.stages, []], help="stages to run; none: all")
    parser.add_argument("--out", type=Path, default=MINI, help="where the family goes")
    parser.add_argument("--work", type=Path, default=Path("../.training"), help="tokenizer, training states, texts")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
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
    from evaluation.errors import guarded

    guarded(main)()
