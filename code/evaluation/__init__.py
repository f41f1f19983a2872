"""The harness: questions, paradigms, records and what is read off them. `model` does the decoding."""
