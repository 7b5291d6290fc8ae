"""Pure linear algebra of the method: tensors in, frozen results out, no modules and no files.

Letters: n rows (tokens), F columns (features), k rank, H units, w columns per unit, D outputs.
A (n, F) activations; G = A^T A (F, F); K the k kept columns; T (k, F) interpolation matrix with
A ~= A[:, K] T.

May use: nothing.
"""
