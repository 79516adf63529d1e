"""The step rules on functions of which everything is known, with right and wrong answers."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hoag_shine import Outcome
from hoag_shine.outer.steps import (
    Evaluation,
    adaptive,
    certify,
    global_search,
    resolve_step,
    secant,
    trust_region,
)

# name: value, derivative, minimum within (-18, 18)
CURVES = {
    "parabola": (lambda t: 1 + (t - 1.3) ** 2, lambda t: 2 * (t - 1.3), 1.3),
    # A held-out loss: level where the penalty is weak, then rising to another level.
    "held-out": (
        lambda t: 0.3 + 0.4 / (1 + np.exp(-(t - 2))) + 0.1 / (1 + np.exp(t + 3)),
        lambda t: (
            0.4 * np.exp(-(t - 2)) / (1 + np.exp(-(t - 2))) ** 2
            - 0.1 * np.exp(t + 3) / (1 + np.exp(t + 3)) ** 2
        ),
        None,
    ),
    "steep to the right": (lambda t: 2 + np.exp(t) - t, lambda t: np.exp(t) - 1, 0.0),
    "steep to the left": (lambda t: 2 + np.exp(-t) + t, lambda t: 1 - np.exp(-t), 0.0),
    "flat": (lambda t: 1 + 1e-3 * (t - 2) ** 4, lambda t: 4e-3 * (t - 2) ** 3, 2.0),
    "kink": (lambda t: 1 + np.hypot(t + 4, 0.01), lambda t: (t + 4) / np.hypot(t + 4, 0.01), -4.0),
}
LOWER, UPPER = np.array([-18.0]), np.array([18.0])


def minimum_of(name):
    function, _, known = CURVES[name]
    if known is not None:
        return function(known)
    grid = np.linspace(-18, 18, 100_001)
    return function(grid).min()


def evaluated(theta, value, grad, error=0.0, **known):
    """Return an evaluation, by default one that cannot become more accurate."""
    return Evaluation(
        theta=np.atleast_1d(np.asarray(theta, dtype=float)),
        value=float(value),
        grad=np.atleast_1d(np.asarray(grad, dtype=float)),
        error=error,
        **{"residual": 0.0, "final": True, "tolerance": 0.0} | known,
    )


def drive(
    rule,
    value,
    grad,
    start,
    *,
    lower=LOWER,
    upper=UPPER,
    tol=1e-3,
    residual=0.0,
    error=lambda theta: 0.0,
    limit=300,
):
    """Answer a rule's wishes as well as can be, and return its outcome and the evaluations."""
    generator = rule(np.atleast_1d(np.asarray(start, dtype=float)), lower, upper, tol)
    evaluations = []
    ask = next(generator)
    while len(evaluations) < limit:
        assert (ask.theta >= lower).all()
        assert (ask.theta <= upper).all()
        theta = ask.theta
        evaluations.append(
            evaluated(theta, value(theta), grad(theta), error(theta), residual=residual)
        )
        try:
            ask = generator.send(evaluations[-1])
        except StopIteration as stop:
            return stop.value, evaluations
    raise AssertionError(f"the rule did not end; its last wish was {ask}")


def in_one_dimension(function):
    return lambda theta: function(theta[0])


def best_of(evaluations):
    return min(evaluation.value for evaluation in evaluations)


every_curve = pytest.mark.parametrize("name", CURVES)
every_start = pytest.mark.parametrize("start", [-17.0, -5.0, 0.4, 3.0, 12.0])


# --- the local search --------------------------------------------------------------------------


@pytest.mark.parametrize(("slope_error", "goes_on"), [(0.5, True), (2.0, False)])
def test_a_search_goes_on_where_only_the_direction_is_certain(slope_error, goes_on):
    """Whatever the value is: where a penalty is far too weak, it takes a thousand passes."""
    rule = secant(np.array([0.0]), LOWER, UPPER, 1e-3)
    next(rule)
    doubtful = {"error": 1.0, "final": False, "grad_error": slope_error, "grad_asked": np.inf}
    ask = rule.send(evaluated(0.0, 2.0, -1.0, **doubtful))
    assert ask.theta[0] == 0.0
    assert ask.accuracy < 1.0
    assert ask.patience < np.inf
    ask = rule.send(evaluated(0.0, 2.0, -1.0, **doubtful))  # no better: that would take longer
    assert (ask.theta[0] == 2.0) == goes_on
    if goes_on:  # the slope has changed its sign: now there is something to be known
        ask = rule.send(evaluated(2.0, 2.0, 1.0, **doubtful))
        assert ask.theta[0] == 2.0
        assert ask.patience == np.inf
    else:
        assert ask.patience == np.inf


# --- the certificate ---------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1.0, -1.0], ids=["weak penalties", "strong penalties"])
@pytest.mark.parametrize("dip", [-7.0, -6.0, -5.0])
@pytest.mark.parametrize("slope_error", [0.0, 1e-9])
def test_a_plateau_may_hide_a_dip(side, dip, slope_error):
    """The singular values are at 0: with its sigmoid S, the criterion is 2 + S^2 - 2 S S(dip)."""
    depth = 1.0 / (1.0 + np.exp(-dip))

    def at(t):
        s = 1.0 / (1.0 + np.exp(-t))
        value, slope = 2.0 + s**2 - 2.0 * s * depth, 2.0 * s * (1.0 - s) * (s - depth)
        return evaluated(side * t, value, side * slope, grad_bound=slope_error, exact=True)

    ends = sorted([at(-9.0), at(-3.5)], key=lambda s: s.theta[0])
    best = min(ends, key=lambda s: s.value)
    assert best.theta[0] == -9.0 * side
    hidden = best.value - at(dip).value
    gain = certify(ends, best, LOWER, UPPER).gain
    assert hidden <= gain <= 3.0 * hidden + 1e2 * slope_error


def estimated(t, value, slope, error=0.0):
    """Return an evaluation whose errors are estimates."""
    return evaluated(t, value, slope, error, grad_error=1e-3)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_by_estimates_the_smaller_curvature_of_both_sides_counts(side):
    """That of exp(t) - t is less on the side where more can be gained."""
    best, far, lower_side = (
        estimated(side * t, np.exp(t) - t, side * np.expm1(t)) for t in (0.3, 1.5, -1.0)
    )
    evaluations = sorted([best, far, lower_side], key=lambda s: s.theta[0])
    left = best.value - 1.0
    assert left <= certify(evaluations, best, LOWER, UPPER).gain <= 2.0 * left


def test_no_curvature_counts_where_the_criterion_has_kinks():
    def at(t, value, slope, smooth):
        return evaluated(t, value, slope, grad_bound=0.0, exact=True, smooth=smooth)

    gains = []
    for smooth in (True, False):
        left, best = at(-0.5, 1.04, -0.1, smooth), at(0.0, 1.0, 1e-3, smooth)
        gains.append(certify([left, best], best, LOWER, UPPER).gain)
    assert gains[0] < 1e-4
    assert gains[1] == pytest.approx(0.5 * 1e-3)


def test_what_is_known_to_be_lower_can_be_gained():
    """On a plateau of which the slope says little."""
    best = estimated(0.0, 1.0, 1e-6)
    lower = estimated(-2.0, 1.0 - 1e-2, 1e-6, error=1e-3)
    above = estimated(0.5, 1.1, 0.4)
    assert certify([lower, best, above], best, LOWER, UPPER).gain >= 1e-2


def test_where_the_slope_is_not_known_anything_can_be_gained():
    """Without arithmetic on infinities, which would warn."""
    best = replace(estimated(0.0, 1.0, 1e-3), grad_error=np.inf)
    far = estimated(3.0, 1.5, 0.4)
    assert certify([best, far], best, LOWER, UPPER).gain == np.inf


@pytest.mark.parametrize(("t", "inside"), [(-1.0, True), (4.0, False)])
def test_where_a_solve_has_failed_anything_can_be_gained(t, inside):
    """The interval is from the lower bound to 2, where the criterion rises."""
    best = evaluated(0.0, 1.0, -1e-4, grad_bound=1e-6, exact=True)
    above = evaluated(2.0, 1.5, 0.4, grad_bound=1e-6, exact=True)
    failed = evaluated(t, 2.0, 0.1, np.inf, exact=True)
    assert np.isinf(certify([best, above, failed], best, LOWER, UPPER).gain) == inside


# --- the secant rule ---------------------------------------------------------------------------


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_wide_bracket_in_which_nothing_can_be_gained_ends_the_search(direction):
    """Two units apart, with derivatives that leave a hundred-thousandth to gain."""
    outcome, evaluations = drive(
        secant,
        lambda theta: 1 + 1e-6 * (theta[0] - direction) ** 2,
        lambda theta: 2e-6 * (theta[0] - direction),
        0.0,
        tol=1e-2,
    )
    assert outcome is Outcome.CONVERGED
    assert [evaluation.theta[0] for evaluation in evaluations] == [0.0, 2.0 * direction]


def test_where_the_derivative_dies_away_all_that_is_left_counts():
    """Of exp(theta), another exp(theta) can be gained, more than a parabola promises."""
    tol = 0.02
    _, evaluations = drive(
        secant,
        lambda theta: 1 + np.exp(theta[0]),
        lambda theta: np.exp(theta[0]),
        0.0,
        tol=tol,
        lower=np.array([-30.0]),
    )
    assert best_of(evaluations) - 1.0 <= tol**2


@every_start
@every_curve
def test_right_derivatives_lead_to_the_minimum(name, start):
    value, grad, _ = CURVES[name]
    outcome, evaluations = drive(secant, in_one_dimension(value), in_one_dimension(grad), start)
    lowest = minimum_of(name)
    if name == "held-out" and start == 12.0:
        # So far out, the derivative is 2e-5: the next step is worth less than the tolerance.
        assert outcome is Outcome.CONVERGED
        return
    assert outcome is Outcome.CONVERGED
    assert best_of(evaluations) - lowest <= 1e-5 * lowest
    assert len(evaluations) <= 30


LIES = {
    "wrong sign": lambda slope, rng: -slope,
    "zero": lambda slope, rng: 0.0,
    "noise": lambda slope, rng: rng.normal(),
    "far too large": lambda slope, rng: 1e6 * slope,
    "far too small": lambda slope, rng: 1e-6 * slope,
    "always left": lambda slope, rng: 1.0,
    "always right": lambda slope, rng: -1.0,
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("start", [-3.0, 0.4, 4.0])
@pytest.mark.parametrize("name", ["parabola", "held-out", "steep to the right", "flat"])
def test_values_decide_where_derivatives_lie(name, start, lie):
    value, grad, _ = CURVES[name]
    rng = np.random.default_rng(0)
    outcome, evaluations = drive(
        secant,
        in_one_dimension(value),
        lambda theta: LIES[lie](grad(theta[0]), rng),
        start,
        residual=np.nan,
    )
    assert outcome is Outcome.CONVERGED
    assert best_of(evaluations) - minimum_of(name) <= 1e-3 * minimum_of(name)
    assert len(evaluations) <= 60


@given(
    seed=st.integers(0, 2**32 - 1),
    start=st.floats(-18, 18),
    residual=st.sampled_from([0.0, np.nan, 1.0]),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
    size=st.sampled_from([0.0, 1e-3, 10.0]),
    fixed=st.booleans(),
)
# The lowest evaluation by value and error was not the lowest by value.
@example(seed=4910, start=-15.0, residual=np.nan, scale=1e-8, size=10.0, fixed=False)
def test_it_ends_whatever_it_is_told(seed, start, residual, scale, size, fixed):
    """Values, derivatives and errors that have nothing to do with each other, nor with theta.

    They are another draw every time, or else stay what they are at each theta.
    """
    stream = np.random.default_rng(seed)

    def rng(theta):
        return np.random.default_rng([seed, *theta.view(np.uint32)]) if fixed else stream

    outcome, _ = drive(
        secant,
        lambda theta: rng(theta).normal(),
        lambda theta: scale * rng(theta).normal(),
        start,
        residual=residual,
        error=lambda theta: size * rng(theta).random(),
    )
    assert outcome in (Outcome.CONVERGED, Outcome.BOUND)


@given(start=st.floats(-18, 18), residual=st.sampled_from([0.0, np.nan]))
def test_a_constant_is_left_alone(start, residual):
    outcome, evaluations = drive(secant, lambda t: 1.0, lambda t: 0.0, start, residual=residual)
    assert outcome in (Outcome.CONVERGED, Outcome.BOUND)
    assert len(evaluations) <= (1 if residual == 0.0 else 30)


@pytest.mark.parametrize("residual", [0.0, np.nan])
@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("start", [-18.0, -2.0, 18.0])
def test_an_optimum_on_a_bound_is_said_to_be_one(start, direction, residual):
    outcome, evaluations = drive(
        secant,
        lambda t: 10.0 + direction * t[0] / 18.0,
        lambda t: direction / 18.0,
        start,
        residual=residual,
    )
    assert outcome is Outcome.BOUND
    assert best_of(evaluations) == 9.0
    assert min(evaluations, key=lambda s: s.value).theta[0] == -18.0 * direction


def test_a_minimum_inside_narrow_bounds_is_not_on_them():
    value, grad, _ = CURVES["parabola"]
    outcome, evaluations = drive(
        secant,
        in_one_dimension(value),
        in_one_dimension(grad),
        1.0,
        lower=np.array([0.9]),
        upper=np.array([1.4]),
    )
    assert outcome is Outcome.CONVERGED
    assert best_of(evaluations) - 1.0 <= 1e-6


def test_at_the_minimum_there_is_nothing_to_do():
    value, grad, minimum = CURVES["parabola"]
    outcome, evaluations = drive(secant, in_one_dimension(value), in_one_dimension(grad), minimum)
    assert outcome is Outcome.CONVERGED
    assert len(evaluations) == 1


def test_a_smaller_tolerance_comes_nearer():
    value, grad, minimum = CURVES["steep to the right"]
    errors = []
    for tol in (1e-1, 1e-3, 1e-5):
        _, evaluations = drive(
            secant, in_one_dimension(value), in_one_dimension(grad), 4.0, tol=tol
        )
        errors.append(abs(min(evaluations, key=lambda s: s.value).theta[0] - minimum))
    assert errors[2] < errors[0]
    assert errors[2] <= 1e-4


def conversation(final, error_of):
    """Answer with evaluations whose errors are as asked for, or not; return thetas and errors."""
    value, grad, _ = CURVES["steep to the right"]
    generator = secant(np.array([4.0]), LOWER, UPPER, 1e-3)
    ask, path = next(generator), []
    while len(path) < 200:
        theta, error = ask.theta[0], error_of(ask)
        path.append((theta, error))
        known = {"final": final, "tolerance": 1.0}
        try:
            ask = generator.send(evaluated(theta, value(theta), grad(theta), error, **known))
        except StopIteration:
            return path
    raise AssertionError("the rule did not end")


def test_a_sample_is_refined_where_its_error_could_hide_the_gain():
    path = conversation(False, lambda ask: min(ask.accuracy, 50.0))
    again = [(b, c) for (a, b), (d, c) in pairwise(path) if a == d]
    assert again
    assert all(later < earlier for earlier, later in again)
    theta, error = path[-1]
    assert abs(theta) <= 0.01
    assert error <= 1e-3  # where there is little to gain, less may be wrong


def test_a_sample_that_cannot_be_refined_is_taken_as_it_is():
    path = conversation(True, lambda ask: 50.0)
    assert len(path) > 2
    assert all(a != b for (a, _), (b, _) in pairwise(path))


# --- the adaptive rule -------------------------------------------------------------------------


def test_hoags_steps_are_those_of_its_formula():
    """Written out from the docstring: the first step has length 1, then 1/L adapts."""
    A, b, start = np.diag([9.0, 0.4]), np.array([1.0, -2.0]), np.array([0.3, -3.0])

    def value(t):
        return 5 + 0.5 * t @ A @ t - b @ t

    def grad(t):
        return A @ t - b

    lower, upper = np.full(2, -18.0), np.full(2, 18.0)
    tolerances = [0.1 / k**2 for k in range(1, 13)]
    generator = adaptive(start, lower, upper, 1e-6)
    asked = [next(generator).theta]
    for tolerance in tolerances:
        t = asked[-1]
        evaluation = evaluated(t, value(t), grad(t), tolerance=tolerance)
        asked.append(generator.send(evaluation).theta)

    t, L = start, np.linalg.norm(grad(start))
    halved = lengthened = 0
    for k in range(len(tolerances)):
        np.testing.assert_allclose(asked[k], t, rtol=1e-12)
        new = np.clip(t - grad(t) / L, lower, upper)
        if k + 1 < len(tolerances):
            d = np.linalg.norm(new - t)
            bound = (
                value(t) + 0.25 * tolerances[k + 1] + tolerances[k] * (0.25 + 1) * d - L / 2 * d**2
            )
            lengthened += value(new) <= bound
            halved += value(new) > bound
            L = L / 1.05 if value(new) <= bound else 2 * L
        t = new
    assert halved >= 1
    assert lengthened >= 1


@pytest.mark.parametrize("name", ["adaptive", "auto"])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_minimum_of_a_quadratic_is_found_in_any_dimension(d, name):
    rng = np.random.default_rng(d)
    M = rng.normal(size=(d, d))
    A, minimum = M @ M.T / d + np.eye(d), rng.normal(size=d)
    outcome, evaluations = drive(
        resolve_step(name, d),
        lambda t: 1 + 0.5 * (t - minimum) @ A @ (t - minimum),
        lambda t: A @ (t - minimum),
        minimum + 3.0 * rng.normal(size=d),
        lower=np.full(d, -18.0),
        upper=np.full(d, 18.0),
    )
    assert outcome is Outcome.CONVERGED
    assert best_of(evaluations) - 1.0 <= 1e-4


@pytest.mark.parametrize("name", ["adaptive", "auto"])
def test_steps_slide_along_a_bound(name):
    """The minimum is at (3, -1), but (1, -1) is as far as the first bound lets one go."""
    outcome, evaluations = drive(
        resolve_step(name, 2),
        lambda t: 1 + (t[0] - 3) ** 2 + (t[1] + 1) ** 2,
        lambda t: np.array([2 * (t[0] - 3), 2 * (t[1] + 1)]),
        [0.0, 0.5],
        lower=np.array([-1.0, -4.0]),
        upper=np.array([1.0, 4.0]),
    )
    assert outcome is Outcome.BOUND
    assert evaluations[-1].theta[0] == 1.0
    assert best_of(evaluations) - 5.0 <= 1e-4


def test_adaptive_steps_end_where_the_derivative_is_zero():
    outcome, evaluations = drive(adaptive, lambda t: 1.0, lambda t: np.zeros(1), 2.0)
    assert outcome is Outcome.CONVERGED
    assert len(evaluations) == 1


# --- names -------------------------------------------------------------------------------------


def test_rules_go_by_name():
    assert resolve_step("secant", 1) is secant
    assert resolve_step("adaptive", 1) is adaptive
    assert resolve_step("auto", 1) is global_search
    assert resolve_step("auto", 4) is trust_region


@pytest.mark.parametrize("wrong", ["newton", "", None, 3, ["secant"]])
def test_an_unknown_rule_is_refused(wrong):
    with pytest.raises(ValueError, match=r"step must be 'auto', one of .*'secant'"):
        resolve_step(wrong, 1)


def test_the_secant_rule_has_one_dimension():
    with pytest.raises(ValueError, match=r"step='secant' tunes one hyperparameter .* has 3"):
        resolve_step("secant", 3)
