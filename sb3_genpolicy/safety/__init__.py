"""
Between a policy and a machine: actions that the data never did are clipped, held back or refused.
"""
