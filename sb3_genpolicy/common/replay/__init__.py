"""
The replay buffer: rows on the training device, and batches drawn from them.
"""
