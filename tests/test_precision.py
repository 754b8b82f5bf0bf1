"""
Products of matrices in the precision that was asked for, for as long as training lasts.
"""

import numpy as np
import pytest
import torch as th

from sb3_genpolicy import GMPG, GMPO
from sb3_genpolicy.common.updates import precision
from sb3_genpolicy.common.updates.precision import matmul_precision, onednn_keeps_float32
from tests.helpers.arrays import SMALL, make_arrays

CPU = th.device("cpu")


def settings():
    """What the whole process sees: the new settings and the old one, which torch does not let one mix."""
    return th.backends.mkldnn.matmul.fp32_precision, th.backends.cuda.matmul.fp32_precision, th.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", precision.PRECISIONS)
def test_a_precision_lasts_as_long_as_training(arrays, name):
    before, seen = settings(), []

    class Stopped(GMPO):
        def objective(self, batch):
            seen.append(settings())
            raise KeyError

    with pytest.raises(KeyError):
        Stopped("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, precision=name).learn(1)
    assert settings() == before
    assert (seen[0][0] != before[0]) == onednn_keeps_float32() and seen[0][2] == (name == "bfloat16")
    # What users set with torch's older functions can still be read and set
    assert th.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("name", ["float32", "tf32"])
def test_float32_products_on_a_cpu_keep_their_digits(name):
    left, right = th.randn(64, 256), th.randn(256, 128)
    expected = left.double() @ right.double()
    with matmul_precision(name, CPU):
        product = left @ right
    assert product.dtype == th.float32 and (product - expected).abs().max() < 1e-4


def test_where_onednn_would_round_it_is_left_alone(monkeypatch):
    """As on processors that have units for bfloat16: the probe's product is off by far more than float32 is."""

    def rounding_product(left, right):
        return (
            (left.bfloat16().double() @ right.bfloat16().double()).float() if left.dtype == th.float32 else plain(left, right)
        )

    plain = th.Tensor.__matmul__
    onednn_keeps_float32.cache_clear()
    monkeypatch.setattr(th.Tensor, "__matmul__", rounding_product)
    try:
        assert not onednn_keeps_float32()
        before = settings()
        with matmul_precision("float32", CPU):
            assert settings() == before
    finally:
        onednn_keeps_float32.cache_clear()


@pytest.mark.parametrize("algorithm", [GMPO, GMPG])
def test_bfloat16_follows_the_curve_of_float32(arrays, algorithm):
    options = dict(pretraining_steps=100) if algorithm is GMPG else {}

    def curve(name):
        model = algorithm(
            "FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, batch_size=32, precision=name, gamma=0.9, **options
        )
        losses = []
        for steps in (50, 100, 150):
            model.learn(50, reset_num_timesteps=False, log_interval=None)
            assert model.num_timesteps == steps and all(p.dtype == th.float32 for p in model.policy.parameters())
            losses.append({key: value.item() for key, value in model.means.pop().items()})
        return losses

    for ours, expected in zip(curve("bfloat16"), curve("float32"), strict=True):
        assert ours.keys() == expected.keys()
        for name in expected.keys() & {"critic_loss", "value_loss", "matching_loss", "actor_loss", "q_value"}:
            assert ours[name] == pytest.approx(expected[name], rel=0.1, abs=0.02), name
            # Nor is it the same run
            assert ours[name] != expected[name], name


def test_every_step_in_bfloat16_sees_the_parameters_of_the_last(arrays):
    """Rounded copies of parameters are kept no longer than a step: two at once are as two."""

    def trained(calls):
        model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, precision="bfloat16").learn(1)
        for steps in calls:
            model.train(steps, 32)
        return model

    at_once, apart = trained([6]), trained([1] * 6)
    for mine, expected in zip(at_once.policy.parameters(), apart.policy.parameters(), strict=True):
        th.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_actions_do_not_depend_on_the_precision_of_training(arrays):
    """`predict` is float32 always."""
    model = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0, precision="bfloat16").learn(5)
    plain = GMPO("FlowPolicy", dataset=arrays, policy_kwargs=SMALL, seed=0)
    plain.policy.load_state_dict(model.policy.state_dict())
    rows = np.ones((4, 3), dtype=np.float32)
    np.testing.assert_array_equal(*(m.predict(rows, deterministic=True)[0] for m in (model, plain)))


def test_an_unknown_precision_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"precision='bfloat6' is unknown\. Did you mean 'bfloat16'\?"):
        GMPO("FlowPolicy", dataset=make_arrays(), precision="bfloat6")
