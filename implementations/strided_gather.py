"""Strided gather: overlapping windows as strided views of the padded map, no unfold.

A window is a view: its strides walk the padded map, and neighbouring windows share their pixels. Nothing is copied
until the matrix products ask for contiguous operands, so this needs less memory and time than ``naive_unfold``.
The formula itself is ``halobench.attention.formula.attend``; read it first.
"""

from functools import partial

from halobench.attention import formula

attend = partial(formula.attend, windows=formula.strided_windows)
strips = True
execution = formula.execution
