r"""The estimators that can be tuned: for each, its loss, its penalty parameter and its attributes.

Each family of estimators has a file with a :class:`~hoag_shine.estimators.base.Model`;
:mod:`~hoag_shine.estimators.registry` lists them all. The inner problem is

.. math:: \min_w \sum_i s_i \ell_i(w) + \frac{c\, \alpha}{2} \|w\|^2

``theta`` is the logarithm of :math:`\alpha`, or of :math:`1/C` where the parameter is C. The factor
c, a model's ``penalty_scale``, translates scikit-learn's parametrisation: 1 for those with a half
in the penalty and a whole loss, 2 for those whose objective has a half in both or in none.
"""
