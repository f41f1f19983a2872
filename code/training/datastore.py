"""Build a REST datastore from text, with the target's tokenizer.

    python -m training.datastore --model-path MODEL --text FILE [FILE ...] --out STORE

Each file is plain text, one document a line, or JSON lines with a `text`. Documents are kept apart.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from model import checkpoint
from model.checkpoint import load_config, tokenizer_hash
from model.errors import UserError
from model.index import suffix_array


def write_store(file: Path, documents: Iterable[list[int]], model_folder: str) -> None:
    """Write the datastore of token documents for the model in `model_folder`."""
    config = load_config(model_folder).get_text_config()
    header = {"vocab_size": config.vocab_size, "tokenizer": tokenizer_hash(model_folder)}
    suffix_array.build(file, documents, header)


def texts_of(files: list[str]) -> Iterator[str]:
    """Every document of every file."""
    for file in files:
        try:
            lines = Path(file).read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from None
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            if not file.endswith(".jsonl"):
                yield line
                continue
            try:
                yield json.loads(line)["text"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{file}, line {number}: a JSON object with 'text' is expected") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model-path", required=True, help="whose tokenizer: a folder, a hub id, or 'mini'")
    parser.add_argument("--text", nargs="+", required=True, help="files of text")
    parser.add_argument("--out", required=True, help="the datastore file")
    args = parser.parse_args()
    path = checkpoint.resolve(args.model_path)
    tokenizer = checkpoint.load_tokenizer(path)
    documents = [tokenizer.encode(text, add_special_tokens=False) for text in texts_of(args.text)]
    if not documents:
        raise UserError("the files hold no text")
    write_store(Path(args.out), documents, path)
    print(f"{args.out}: {sum(map(len, documents))} tokens in {len(documents)} documents")
    return 0


if __name__ == "__main__":
    from evaluation.errors import guarded

    guarded(main)()
