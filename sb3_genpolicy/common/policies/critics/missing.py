"""
What a policy without critics has in their place.
"""

from typing import Any


class MissingCritics:
    """
    In the place of Q and V: whoever asks them for anything gets a sentence.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Whoever copies or describes an object asks for these
            raise AttributeError(name)
        raise ValueError(
            "This policy was cloned and has no critics that could choose among its actions: n_candidates, guidance and "
            "deterministic_action='best_q' or 'auto' are for policies that have some, as IDQL's."
        )
