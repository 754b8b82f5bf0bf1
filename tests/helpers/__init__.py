"""
What tests share and is no test: datasets, environments, closed forms, scripts that run in processes of their own.
"""
