"""
The storage of studies, which processes and machines share.
"""

import random
import time

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

# To open a database that another process is laying out
_ATTEMPTS = 10


def open_storage(address: str) -> BaseStorage:
    """
    :param address: what ``--storage`` takes: a database (``sqlite:///study.db``, ``postgresql://...``), or a file of Optuna's
        journal, which ends in ``.log``
    :return: the storage, laid out
    """
    if address.endswith(".log"):
        return JournalStorage(JournalFileBackend(address))
    lay_out_database(address)
    return optuna.storages.get_storage(address)


def lay_out_database(storage: str) -> None:
    """
    Make a database ready for studies. Of processes that start together on an empty one, all but one may find it half laid out,
    and look again.

    :param storage: its address
    """
    for attempt in range(_ATTEMPTS):
        try:
            optuna.storages.get_storage(storage)
            return
        except SQLAlchemyError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(1.0 + random.Random().random())
