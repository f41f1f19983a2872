"""Numbers from records: typed results, each computed once. Never text; no torch, no models."""
