"""Where the data folder lies: beside the packages, or where SPECTTS_DATA says.

Where packages travel to other machines, the data folder does not lie beside them.
"""

import os
from pathlib import Path

DATA = Path(os.environ.get("SPECTTS_DATA") or Path(__file__).resolve().parents[1] / "data")
MINI = DATA / "mini"
"""The model family in the repository."""
