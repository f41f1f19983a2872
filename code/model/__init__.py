"""Decoding: drafters, the engine that verifies them, and the model families. Knows nothing of
questions or records.
"""
