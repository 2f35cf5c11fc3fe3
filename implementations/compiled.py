"""Compiled: ``torch.compile`` of the readable formula, what PyTorch makes of it unaided.

The compiler fuses bias, mask and softmax around the matrix products, but keeps windows and scores in memory. Each
geometry and shape compiles anew. ``fullgraph=True``: where the compiler gives up, it says so instead of running
eagerly; a process that compiles many shapes calls ``torch.compiler.reset()`` between them.
"""

import torch

from halobench import formula

attend = torch.compile(formula.attend, fullgraph=True, dynamic=False)
execution = formula.execution
