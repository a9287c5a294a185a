"""What one tensor is: eigenvectors of interaction matrices, HOSVD, CP, and how alike two tensors are."""
