"""String structures over integer tokens; numpy and the standard library only. They know no drafter
and no model.
"""
