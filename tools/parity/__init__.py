"""Recorded cases of the released code against ours: one file for each kind.

A kind's module has
  `CEILING`: output name (or "*") -> {bound: largest value a case may ask for};
  `run(case, dtype)`: yields (output name, array in the case's layout) in order;
  optionally `BF16_FACTOR`: output name (or "*") -> factor on the case's `bf16_diff`
  (default 1.5);
  optionally `bf16_diff(case, name)`: the recorded deviation to judge an output by,
  where its own says nothing.
Kinds of single JSON files have `check(table)`, which yields `Row`s themselves.
"""
