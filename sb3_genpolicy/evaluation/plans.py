"""
What a policy is at in logged steps: with several actions to a plan, somewhere within one.

A policy that executes several actions before it plans anew is one of single steps in larger states: what the environment
shows, and what is left of the plan. So it is valued step by step, ``Q(s, a, rest of the plan)``, whose next value is that of
the rest or, when there is none left, of a new plan. Logged windows of as many steps would not do: whoever logged them looked
at every step, so that a later action tells of the states before it, which an action that was planned ahead does not.
"""

from typing import NamedTuple

import numpy as np
import torch as th

from sb3_genpolicy.evaluation.question import Question


class Held(NamedTuple):
    """
    Which plan a policy holds in some steps; tensors of one shape.

    :param origins: numbers of the states in which it was made
    :param draws: which of those drawn there it is
    :param positions: how many of its actions were executed before
    """

    origins: th.Tensor
    draws: th.Tensor
    positions: th.Tensor


class Plans:
    """
    Actions as Q gets them: the one of a step, those that the plan has for later, zeros for those that were executed, and which
    of the plan's it is, one-hot; of a policy of single actions the action alone.

    :param ask: what is asked
    :param actions: of the rows, scaled, (n_rows, action_dim)
    :param drawn: plans of the states, as far as they are executed, scaled, (n_states, n_draws, length * action_dim)
    """

    def __init__(self, ask: Question, actions: th.Tensor, drawn: th.Tensor):
        self.actions, self.drawn = actions, drawn
        self.length, self.n_draws = drawn.shape[2] // actions.shape[1], drawn.shape[1]
        self.next_states = th.as_tensor(np.asarray(ask.data.next_rows), device=actions.device)
        self.steps = th.as_tensor(ask.steps, device=actions.device)
        origins, positions = on_path(ask, self.length)
        self._origins, self._positions = (th.as_tensor(each, device=actions.device) for each in (origins, positions))

    @property
    def input_dim(self) -> int:
        """Numbers that Q gets."""
        action_dim = self.actions.shape[1]
        return action_dim if self.length == 1 else self.length * (action_dim + 1)

    @property
    def n_rests(self) -> int:
        """Plans of a state that what was logged may be followed by."""
        return 1 if self.length == 1 else self.n_draws

    def draw(self, rows: th.Tensor, generator: th.Generator) -> Held:
        """
        :param rows: numbers of rows, any shape
        :param generator: of the random numbers; none are drawn for single actions
        :return: a plan that was made there or up to ``length - 1`` steps before, in the same episode, at random
        """
        if self.length == 1:
            return self.along(rows, th.zeros_like(rows))
        furthest = self.steps[rows].clamp(max=self.length - 1)
        uniform = th.rand(rows.shape, generator=generator, device=rows.device, dtype=th.float64)
        positions = (uniform * (furthest + 1)).long()
        return Held(rows - positions, self._draws(rows, generator), positions)

    def along(self, states: th.Tensor, draws: th.Tensor) -> Held:
        """
        :param states: numbers of states, any shape
        :param draws: numbers of draws, of the same shape
        :return: the plan that it holds there which began to plan where the episode began
        """
        return Held(self._origins[states], draws, self._positions[states])

    def following(self, rows: th.Tensor, held: Held, generator: th.Generator) -> tuple[th.Tensor, th.Tensor]:
        """
        :param rows: numbers of rows, any shape
        :param held: plans, of a shape that broadcasts with it
        :param generator: of the random numbers
        :return: numbers of the states that they led to, and the policy's actions there: of the same plan, or of a new one
        """
        states = self.next_states[rows]
        chosen = self._draws(rows, generator)
        is_over = held.positions + 1 == self.length
        after = Held(
            th.where(is_over, states, held.origins),
            th.where(is_over, chosen, held.draws),
            th.where(is_over, 0, held.positions + 1).expand(states.shape),
        )
        return states, self.planned(after)

    def logged(self, rows: th.Tensor, held: Held) -> th.Tensor:
        """
        :param rows: numbers of rows, any shape
        :param held: plans, of the same shape
        :return: what was logged, and then the rest of the plan, (\\*shape, input_dim)
        """
        actions = self.actions[rows]
        return actions if self.length == 1 else self._inputs(held, actions)

    def planned(self, held: Held) -> th.Tensor:
        """
        :param held: plans, any shape
        :return: the plan's own action, and the rest of it, (\\*shape, input_dim)
        """
        return self.drawn[held.origins, held.draws] if self.length == 1 else self._inputs(held, None)

    def _draws(self, rows: th.Tensor, generator: th.Generator) -> th.Tensor:
        return th.randint(self.n_draws, tuple(rows.shape), generator=generator, device=rows.device)

    def _inputs(self, held: Held, first: th.Tensor | None) -> th.Tensor:
        plans = self.drawn[held.origins, held.draws].unflatten(-1, (self.length, -1))
        places = held.positions[..., None] + th.arange(self.length, device=plans.device)
        left = plans.gather(-2, places.clamp(max=self.length - 1)[..., None].expand(plans.shape))
        left = left * (places < self.length)[..., None]
        if first is not None:
            left = th.cat([first[..., None, :], left[..., 1:, :]], dim=-2)
        which = th.nn.functional.one_hot(held.positions, self.length).to(left)
        return th.cat([left.flatten(-2), which], dim=-1)


def on_path(ask: Question, length: int) -> tuple[np.ndarray, np.ndarray]:
    """
    :param ask: what is asked
    :param length: number of actions that are executed before a policy plans anew
    :return: of every state, where it last planned and how many steps before, (n_states,) each, if it plans where episodes
        begin
    """
    positions = ask.steps_of_states % length
    own = np.arange(len(positions))
    # Those that episodes ended with come behind the rows: the row before them says where they are
    before = own.copy()
    next_rows = np.asarray(ask.data.next_rows)
    behind = np.flatnonzero(next_rows >= ask.data.n_rows)
    before[next_rows[behind]] = behind + 1
    return np.where(positions == 0, own, before - positions), positions
