"""
The benchmark that compares two trees bit by bit sees one bit, and nothing where there is nothing to see.
"""

import numpy as np
import torch as th

from benchmarks import bits


def test_a_variant_gives_the_same_hashes_again_and_others_with_another_seed():
    variants = {"again": bits.training, "another": lambda: bits.training(seed=1)}
    first, second = (bits.rows_of({"again": bits.training}) for _ in range(2))
    assert first == second and {row.phase for row in first} == {"end", "loaded"}
    assert bits.comparison(first, second)[1] == 0
    other = [row._replace(variant="again") for row in bits.rows_of({"another": variants["another"]})]
    said, n_different = bits.comparison(first, other)
    assert n_different == 1 and "| again | " in said
    changed = {row.name for row, mine in zip(other, first, strict=True) if row.sha256 != mine.sha256}
    expected = (
        "policy/actor.model.network.head.weight",
        "actor.optimizer/state/0/exp_avg",
        "log of train/actor_loss",
        "sampled",
    )
    assert changed.issuperset(expected), changed


def test_one_bit_is_another_hash():
    weights = th.linspace(0.0, 1.0, 7)
    changed = weights.clone()
    changed.numpy().view(np.uint32)[3] ^= 1
    assert bits.sha256(changed) != bits.sha256(weights) == bits.sha256(weights.clone())
    assert bits.sha256(weights.reshape(7, 1)) != bits.sha256(weights) != bits.sha256(weights.double())


def test_a_variant_or_a_name_that_one_side_lacks_differs():
    rows = [bits.Row("a", "end", "x", "0"), bits.Row("a", "end", "y", "1"), bits.Row("b", "end", "x", "0")]
    assert bits.comparison(rows, rows)[1] == 0
    assert bits.comparison(rows, rows[:2])[1] == bits.comparison(rows[1:], rows)[1] == 1
    ends = [bits.Row("c", "uninterrupted", "x", "0"), bits.Row("c", "resumed", "x", "1")]
    assert bits.unequal_ends(rows + ends) == ["c"] and bits.unequal_ends(rows) == []
