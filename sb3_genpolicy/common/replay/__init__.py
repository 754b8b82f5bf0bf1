"""
Rows on the training device, and the batches that are drawn from them.
"""
