"""
Files and folders of other tools, each recognised by what is in it and read into one form: rows of episodes.
"""
