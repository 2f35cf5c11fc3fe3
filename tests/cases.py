"""The conformance cases: one small problem for each way in which a halo attention can go wrong.

``CASES`` has border ``"masked"``, float32; ``problem`` turns them into others. Any backend, also one of
another package, should pass them all or refuse with ``Unsupported``.
"""

from dataclasses import replace

from halobench.attention.geometry import Border, Geometry
from halobench.attention.problem import Problem

CASES = {
    "whole_blocks": Problem(Geometry(8, 3), 16, 24, batch=2, heads=2),
    "odd_block": Problem(Geometry(5, 2), 10, 15, batch=2),
    "odd_block_partial": Problem(Geometry(3, 1), 7, 8, batch=2),
    "sasa": Problem(Geometry(1, 3), 5, 6, batch=2),
    "own_pixel_only": Problem(Geometry(1, 0), 4, 3, batch=2),
    "block_beyond_map": Problem(Geometry(16, 2), 5, 6, batch=2),
    "halo_beyond_block": Problem(Geometry(2, 5), 10, 6, batch=2),
    "halo_beyond_map": Problem(Geometry(4, 9), 5, 3, batch=2),
    "no_halo": Problem(Geometry(8, 0), 16, 8, batch=2),
    "no_halo_partial": Problem(Geometry(8, 0), 16, 9, batch=2),
    "wide_window": Problem(Geometry(14, 2), 16, 20, batch=2, heads=2, value_dim=40),
    "flat_map": Problem(Geometry(4, 1), 4, 20, batch=2),
    "tall_map": Problem(Geometry(4, 1), 20, 1, batch=2),
    "partial_blocks": Problem(Geometry(8, 3), 13, 9, batch=2, heads=2),
    "one_pixel": Problem(Geometry(8, 3), 1, 1, batch=2),
    "stride_2": Problem(Geometry(8, 3, stride=2), 16, 24, batch=2, heads=2),
    "stride_2_partial": Problem(Geometry(8, 3, stride=2), 12, 10, batch=2),
    "stride_2_odd_block": Problem(Geometry(5, 2, stride=2), 10, 20, batch=2),
    "sasa_stride_2": Problem(Geometry(1, 2, stride=2), 6, 8, batch=2),
    "stride_beyond_block": Problem(Geometry(2, 1, stride=4), 8, 12, batch=2),
    "wide_values": Problem(Geometry(8, 3), 16, 16, batch=2, key_dim=16, value_dim=40),
    "narrow_values": Problem(Geometry(8, 3), 16, 16, batch=2, key_dim=32, value_dim=16),
    "odd_heads": Problem(Geometry(4, 1), 8, 12, batch=2, heads=3, key_dim=5, value_dim=3),
    "wide_heads": Problem(Geometry(4, 1), 8, 8, batch=2, key_dim=64, value_dim=64),
    "no_positions": Problem(Geometry(8, 3), 16, 24, batch=2, heads=2, relative=False),
    "no_positions_partial": Problem(Geometry(8, 3), 9, 13, batch=2, relative=False),
    "strip": Problem(Geometry(8, 3, above=3, below=3), 22, 24, batch=2, heads=2),
    "strip_of_the_last_rows": Problem(Geometry(4, 1, above=1), 7, 9, batch=2),
    "strip_cut_short": Problem(Geometry(2, 5, above=3, below=1), 10, 6, batch=2),
    "strip_stride_2": Problem(Geometry(8, 3, stride=2, above=3, below=2), 21, 10, batch=2, heads=2),
    "strip_stride_beyond_block": Problem(Geometry(2, 3, stride=4, above=3, below=1), 12, 8, batch=2),
    "strip_with_rows_unseen": Problem(Geometry(4, 1, above=6, below=5), 19, 8, batch=2),
    "strip_of_the_last_columns": Problem(Geometry(4, 1, left=1), 9, 7, batch=2),
    "strip_all_around": Problem(Geometry(4, 3, above=3, below=2, left=1, right=3), 13, 12, batch=2),
    "strip_of_columns_stride_2": Problem(Geometry(4, 3, stride=2, below=3, left=3, right=2), 11, 14, batch=2),
    "strip_of_columns_stride_beyond_block": Problem(Geometry(2, 3, stride=4, left=3, right=1), 8, 12, batch=2),
    "strip_with_columns_unseen": Problem(Geometry(4, 1, left=6, right=5), 8, 19, batch=2),
    "batch_0": Problem(Geometry(8, 3), 16, 16, batch=0),
    "batch_1": Problem(Geometry(8, 3), 16, 16, batch=1, heads=2),
    "batch_3": Problem(Geometry(8, 3), 8, 16, batch=3),
}
REPRESENTATIVE = ("whole_blocks", "partial_blocks", "stride_2", "no_positions")
"""The cases to run where all of them would take too long."""


def problem(name: str, border: Border, dtype: str) -> Problem:
    """The case of this name, under another border and dtype."""
    case = CASES[name]
    return replace(case, geometry=replace(case.geometry, border=border), dtype=dtype)
