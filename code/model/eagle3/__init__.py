"""The EAGLE-3 draft head (Li et al. 2025): its network, reading its checkpoints, and growing its
draft tree.
"""
