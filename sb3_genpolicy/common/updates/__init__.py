"""
What one gradient step is made of.
"""
