"""
What files of a model leave out.
"""


class Transient:
    """
    Base of what an algorithm holds for as long as it lives: made anew when a model is loaded, and in no file.
    """
