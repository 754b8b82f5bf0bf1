"""
What a training did, on a page that stands alone in one file.
"""

from sb3_genpolicy.reporting.report import report as report
