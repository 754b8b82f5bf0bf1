"""
The base of the offline algorithms, and what it needs around SB3's training loop.
"""
