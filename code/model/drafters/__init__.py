"""One file a method; its name is the method's name. See `model/draft.py` for what a file must define."""
