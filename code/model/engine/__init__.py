"""The engine: one cache, one attention, one verification rule, one loop for every method, vanilla
included.
"""
