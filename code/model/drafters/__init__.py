"""One file a method; its name is the method's name. `model/methods.py` says what a file defines."""
