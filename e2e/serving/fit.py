"""Fits one model per kind that internal/sklearn reads, and predicts 1,000 random rows with each.

    fit.py DIRECTORY

writes NAME.joblib and NAME.json ({"rows": ..., "want": ...}) for each. Run by predictions_test.go
with the scikit-learn of requirements/sklearn.txt; the seed is fixed, so a failure comes back.
"""

import json
import pathlib
import pickle
import sys

import joblib
import numpy
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

ROWS = 1000
random = numpy.random.default_rng(20)


def data(classes, features):
    """Overlapping clusters of features of very different sizes."""
    y = numpy.arange(60 * classes) % classes
    centres = random.normal(scale=1.5, size=(classes, features))
    return (centres[y] + random.normal(size=(len(y), features))) * random.uniform(0.1, 20, size=features), y


def words(y):
    return numpy.array(["ash", "birch", "cedar", "dröhn 木", "elm"])[y]


def models():
    for classes in (2, 3, 5):
        for kernel in ("rbf", "linear", "poly", "sigmoid"):
            # The wide features make linear and sigmoid kernels slow to converge; scaled data keeps the fit short.
            x, y = data(classes, 6)
            x = StandardScaler().fit_transform(x)
            yield f"svc-{kernel}-{classes}", SVC(kernel=kernel, coef0=0.3), x, y
        x, y = data(classes, 4)
        yield f"svc-words-{classes}", SVC(), x, words(y)
        yield f"svc-floats-{classes}", SVC(gamma=0.01, C=10), x, y * 2.0
        yield f"svc-weights-{classes}", SVC(class_weight="balanced", decision_function_shape="ovo"), x, y - 7
        yield f"logistic-{classes}", LogisticRegression(max_iter=5000), x, y
        yield f"logistic-words-{classes}", LogisticRegression(max_iter=5000), x, words(y).astype(object)
        yield f"logistic-bare-{classes}", LogisticRegression(max_iter=5000, fit_intercept=False), x, y
        yield f"scaler-svc-{classes}", make_pipeline(StandardScaler(), SVC(kernel="poly", degree=2)), x, y
        yield f"scaler-logistic-{classes}", make_pipeline(StandardScaler(), LogisticRegression()), x, words(y)
    # Whole numbers, where distances and votes tie.
    x = random.integers(-3, 4, size=(200, 3)).astype(float)
    yield "svc-ties", SVC(kernel="linear"), x, (x[:, 0] > 0) * 1 + (x[:, 1] > 0) * 2


def main(directory):
    for name, model, x, y in models():
        model.fit(x, y)
        rows = x[random.integers(len(x), size=ROWS)] + random.normal(size=(ROWS, x.shape[1])) * x.std(axis=0)
        if name == "svc-ties":
            rows = random.integers(-4, 5, size=(ROWS, 3)).astype(float)
        joblib.dump(model, directory / f"{name}.joblib")
        (directory / f"{name}.pkl").write_bytes(pickle.dumps(model))
        answer = {"rows": rows.tolist(), "want": model.predict(rows).tolist()}
        (directory / f"{name}.json").write_text(json.dumps(answer))


main(pathlib.Path(sys.argv[1]))
