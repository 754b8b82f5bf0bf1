"""
Reading logged data: one file for each kind of source, one record for all.
"""

from sb3_genpolicy.common.datasets.embedded import EMBEDDED
from sb3_genpolicy.common.datasets.loading import DatasetSource, dataset_spaces, load_dataset
from sb3_genpolicy.common.datasets.minari_opening import local_datasets_for, open_minari

__all__ = ["EMBEDDED", "DatasetSource", "dataset_spaces", "load_dataset", "local_datasets_for", "open_minari"]
