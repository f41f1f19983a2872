"""Records: one JSON line a generation, and the manifest beside them. Loads no torch, no models."""
