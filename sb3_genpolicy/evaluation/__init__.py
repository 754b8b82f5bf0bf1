"""
How good a policy is, from logged data alone: its value with an interval, the doubts about it, and a choice among several.
"""
