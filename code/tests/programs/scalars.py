"""Triton's interpreter takes loop bounds by `int()` of an array of one element, up to version 3.6.

Newer versions of numpy refuse that. Here it is done as later versions of Triton do it; the kernels
themselves, compiled, are not concerned.
"""

from triton.runtime import interpreter

_given = interpreter._patch_lang_tensor


def _with_indices(tensor, scope):
    _given(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))


interpreter._patch_lang_tensor = _with_indices
