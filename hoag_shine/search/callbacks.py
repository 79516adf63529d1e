"""scikit-learn's callbacks (1.9); in older versions, stand-ins that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Supports no callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method as it is."""
        return method


__all__ = ["CallbackSupportMixin", "Task", "with_callbacks"]


class Task:
    """A part of a fit, as a context manager: callbacks are called at its beginning and its end.

    Parameters
    ----------
    context : CallbackContext or None
        None where there are no callbacks.
    search : estimator
        The one that is being fitted.
    data : dict
        ``X``, ``y`` and ``metadata``, as callbacks get them.
    """

    def __init__(self, context: Any, search: Any, data: dict[str, Any]) -> None:
        self.context = context
        self._search = search
        self._data = data

    @classmethod
    def fit(cls, search: Any, n_subtasks: int, X: Any, y: Any, sample_weight: Any) -> Task:
        """Return the task that is the whole fit."""
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        init = getattr(search, "_init_callback_context", None)
        context = init and init(max_subtasks=n_subtasks)
        return cls(context, search, {"X": X, "y": y, "metadata": metadata})

    def subtask(self, name: str, n_subtasks: int | None = 0) -> Task:
        """Return a part of this task; of unknown length for ``n_subtasks=None``."""
        context = self.context and self.context.subcontext(name, max_subtasks=n_subtasks)
        return Task(context, self._search, self._data)

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._end(None)

    def report(self, fitted: Callable[[], dict[str, Any]] | None) -> bool:
        """Begin and end at once; return whether a callback asks to stop.

        ``fitted`` returns the attributes of the search as if it had ended here.
        """
        self._begin()
        return self._end(fitted)

    def _begin(self) -> None:
        if self.context:
            self.context.call_on_fit_task_begin(estimator=self._search, **self._data)

    def _end(self, fitted: Callable[[], dict[str, Any]] | None) -> bool:
        return bool(self.context) and bool(
            self.context.call_on_fit_task_end(
                estimator=self._search, **self._data, reconstruction_attributes=fitted
            )
        )
