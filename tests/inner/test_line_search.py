"""The line search on the functions that line searches are tried on.

J. J. Moré and D. J. Thuente, "Line search algorithms with guaranteed sufficient decrease",
ACM Transactions on Mathematical Software 20 (1994), section 5: functions 1, 2 and 3 (equations
5.1, 5.2 and 5.3), from first steps that are far too short and far too long.
"""

import numpy as np
import pytest

from hoag_shine.inner.line_search import Trial, strong_wolfe


def rational(t, beta=2.0):
    return -t / (t**2 + beta), (t**2 - beta) / (t**2 + beta) ** 2


def power(t, beta=0.004):
    return (t + beta) ** 5 - 2 * (t + beta) ** 4, 5 * (t + beta) ** 4 - 8 * (t + beta) ** 3


def wavy(t, beta=0.01, l=39.0):
    """Decrease, then increase, with ripples that have minima of their own."""
    if t <= 1 - beta:
        smooth = 1 - t, -1.0
    elif t >= 1 + beta:
        smooth = t - 1, 1.0
    else:
        smooth = (t - 1) ** 2 / (2 * beta) + beta / 2, (t - 1) / beta
    ripple = 2 * (1 - beta) / (l * np.pi) * np.sin(l * np.pi / 2 * t)
    return smooth[0] + ripple, smooth[1] + (1 - beta) * np.cos(l * np.pi / 2 * t)


def search(function, step, *, flip=False, **options):
    """Search from 0 towards the right, or the same mirrored, and return what strong_wolfe does."""
    sign = -1.0 if flip else 1.0
    value, slope = function(0.0)
    origin = Trial(0.0, value, slope, np.zeros(1), np.array([sign * slope]))
    generator = strong_wolfe(origin, np.array([sign]), step, **options)
    steps = []
    try:
        request = next(generator)
        while True:
            steps.append(sign * request.w[0])
            if request.line is not None:
                assert request.line.end[0] == sign * steps[-2]
                lies = request.line.share * request.line.end
                np.testing.assert_allclose(request.w, request.line.start + lies, rtol=1e-14)
            value, slope = function(steps[-1])
            request = generator.send((value, np.array([sign * slope])))
    except StopIteration as stop:
        return *stop.value, steps


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("step", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize("function", [rational, power, wavy])
def test_both_conditions_hold_from_any_first_step(function, step, flip):
    trial, n_evaluations, steps = search(function, step, flip=flip)
    value, slope = function(0.0)
    new_value, new_slope = function(trial.step)
    assert n_evaluations == len(steps) <= 20
    assert trial.step == steps[-1] > 0
    assert (trial.value, trial.slope) == (new_value, new_slope)
    assert new_value <= value + 1e-4 * trial.step * slope
    assert abs(new_slope) <= 0.9 * abs(slope)


def test_a_good_first_step_costs_one_evaluation():
    trial, n_evaluations, _ = search(lambda t: ((t - 1) ** 2, 2 * (t - 1)), 1.0)
    assert trial.step == 1.0
    assert n_evaluations == 1


def test_a_cubic_is_solved_by_one_interpolation():
    """t^3 - 3t has its minimum at 1; a first step of 2.5 is too far."""
    trial, n_evaluations, _ = search(lambda t: (t**3 - 3 * t, 3 * t**2 - 3), 2.5)
    np.testing.assert_allclose(trial.step, 1.0, rtol=1e-12)
    assert n_evaluations == 2


def test_it_gives_up_where_nothing_decreases():
    trial, n_evaluations, steps = search(lambda t: (t, -1.0), 1.0)
    assert trial is None
    assert n_evaluations == len(steps) <= 30
    assert max(steps) == 1.0


def test_it_takes_the_lowest_point_where_there_is_no_minimum():
    trial, n_evaluations, steps = search(lambda t: (-t, -1.0), 1.0, max_evaluations=7)
    assert n_evaluations == 7
    assert trial.step == max(steps)


@pytest.mark.parametrize("outside", [np.inf, np.nan])
def test_it_comes_back_from_where_the_function_is_not_finite(outside):
    def function(t):
        return (t**2 - t, 2 * t - 1) if t < 0.8 else (outside, np.nan)

    trial, _, steps = search(function, 100.0)
    assert max(steps) == 100.0
    assert 0 < trial.step < 0.8
    assert abs(trial.slope) <= 0.9


@pytest.mark.parametrize("unit", [1e-200, 1e155, 1e300])
def test_numbers_whose_squares_overflow_are_interpolated(unit):
    """In any unit, the second step goes to the minimum of the same cubic."""
    trial, n_evaluations, _ = search(lambda t: (unit * (t**3 - 3 * t), unit * (3 * t**2 - 3)), 2.5)
    np.testing.assert_allclose(trial.step, 1.0, rtol=1e-12)
    assert n_evaluations == 2
