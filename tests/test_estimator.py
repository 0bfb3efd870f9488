"""The scikit-learn classifier keeps scikit-learn's contract and trains what `train` trains."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from aba_core import ABAClassifier

QUICK = ABAClassifier(epochs=5, learning_rate=0.02, random_state=0)


@pytest.mark.slow
# Strengths are in standard units; scikit-learn's checks are in any.
@pytest.mark.filterwarnings("ignore:inputs have mean", "ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([QUICK])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_it_refuses_what_scikit_learns_classifiers_refuse():
    x, y = load_wine(return_X_y=True)
    for given, told in (((x, y[:5]), "inconsistent numbers"), ((x, y * 0), "only one class")):
        with pytest.raises(ValueError, match=told):
            QUICK.fit(*given)
    with pytest.raises(NotFittedError):
        clone(QUICK).predict(x)


def test_it_stands_in_pipelines_and_searches_and_learns():
    x, y = load_wine(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    model = make_pipeline(StandardScaler(), QUICK)
    assert cross_val_score(model, x, names, cv=2).mean() > 0.8
    search = GridSearchCV(model, {"abaclassifier__method": [None, "fastaba"]}, cv=2)
    search.fit(x, names)
    assert search.best_score_ > 0.8
    assert set(search.predict(x)) == {"a", "b", "c"}


def test_the_method_and_the_seed_decide_the_model():
    x, y = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x)

    def scores(**changes):
        return QUICK.__class__(**{**QUICK.get_params(), **changes}).fit(x, y).predict_proba(x)

    assert np.array_equal(scores(), scores())
    for other in ({"method": None}, {"strength": 1.0}, {"random_state": 1}):
        assert not np.allclose(scores(), scores(**other))
    with pytest.raises(ValueError, match="mixop"):
        scores(method="mixop")
