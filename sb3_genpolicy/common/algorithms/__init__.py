"""
How learning goes on in SB3's loop.
"""
