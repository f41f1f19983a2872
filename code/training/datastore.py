"""Build a REST datastore from text, with the target's tokenizer.

    python -m training.datastore --model-path MODEL --text FILE [FILE ...] --out STORE

Each file is plain text, one document a line, or JSON lines with a `text`. Documents are kept apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from evaluation.command import Parser, run_command, summary
from model import checkpoint
from model.errors import UserError
from model.index import suffix_array
from model.network import load_config


def write_store(file: Path, documents: Iterable[list[int]], model_folder: str) -> None:
    """Write the datastore of token documents for the model in `model_folder`."""
    config = load_config(model_folder).get_text_config()
    tokenizer = checkpoint.tokenizer_hash(model_folder)
    header = {"vocab_size": config.vocab_size, "tokenizer": tokenizer}
    suffix_array.build(file, documents, header)


def texts_of(files: Iterable[str]) -> Iterator[str]:
    """Every document of every file."""
    for file in files:
        for number, line in enumerate(_lines(file), 1):
            if line.strip():
                yield _document(line, file, number)


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {file}: {reason}") from None


def _document(line: str, file: str, number: int) -> str:
    if not file.endswith(".jsonl"):
        return line
    try:
        return json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file}, line {number}: a JSON object with 'text' is expected") from None


def _parser() -> Parser:
    parser = Parser(description=summary(__doc__))
    parser.add_argument(
        "--model-path", required=True, help="whose tokenizer: a folder, a hub id, or 'mini'"
    )
    parser.add_argument("--text", nargs="+", required=True, help="files of text")
    parser.add_argument("--out", required=True, help="the datastore file")
    return parser


def main() -> int:
    args = _parser().parse_args()
    path = checkpoint.resolve(args.model_path)
    tokenizer = checkpoint.load_tokenizer(path)
    documents = [tokenizer.encode(text, add_special_tokens=False) for text in texts_of(args.text)]
    if not documents:
        raise UserError("the files hold no text")
    write_store(Path(args.out), documents, path)
    tokens = sum(len(document) for document in documents)
    print(f"{args.out}: {tokens} tokens in {len(documents)} documents")
    return 0


if __name__ == "__main__":
    run_command(main)()
