"""A limit to the threads of BLAS is lifted by the thread that has set it."""

import threading

import pytest
from helpers import breast_cancer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from hoag_shine import ShineCV
from hoag_shine.linalg.threads import one_blas_thread


def blas_threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def _two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield


def limited():
    """Return the number of threads inside of a limit."""
    with one_blas_thread():
        return blas_threads()


def test_a_thread_that_finds_a_limit_leaves_it():
    before = blas_threads()
    with one_blas_thread():
        other = threading.Thread(target=limited)
        other.start()
        other.join(30)
        assert blas_threads() == {1}
    assert blas_threads() == before
    assert limited() == {1}  # and it can be set again


def test_a_limit_is_lifted_after_an_error():
    before = blas_threads()
    with pytest.raises(ZeroDivisionError), one_blas_thread():
        1 / 0  # noqa: B018
    assert blas_threads() == before
    assert limited() == {1}


def test_a_search_leaves_the_number_of_threads_as_it_was():
    before = blas_threads()
    X, y = breast_cancer()
    ShineCV(LogisticRegression(), cv=3).fit(X, y)
    assert blas_threads() == before
