"""Makes the models in this folder, and cases.json with their rows and scikit-learn's predictions.

Made with scikit-learn 1.9.1, joblib 1.6.0, numpy 2.4.6 (e2e/serving/requirements/sklearn.txt):

    e2e/serving/setup.sh
    .tools/sklearn/bin/python internal/sklearn/testdata/make.py
"""

import json
import pathlib
import pickle
import sys

import joblib
import numpy
import sklearn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

WANT = "1.9.1"
HERE = pathlib.Path(__file__).parent
random = numpy.random.default_rng(4)


def data(classes, features=3, rows=40):
    x = random.normal(size=(rows, features)) + 2 * (numpy.arange(rows) % classes)[:, None] * random.normal(size=features)
    return numpy.round(x, 3), numpy.arange(rows) % classes


def save(name, model):
    path = HERE / name
    if name.endswith(".pkl"):
        protocol = int(name[-5]) if name[-5].isdigit() else 4
        path.write_bytes(pickle.dumps(model, protocol=protocol))
    else:
        compress = {".gz": ("gzip", 3), ".zlib": ("zlib", 3), ".xz": ("xz", 3), ".bz2": ("bz2", 3)}
        joblib.dump(model, path, compress=compress.get(path.suffix, 0))


def main():
    if sklearn.__version__ != WANT:
        sys.exit(f"make.py: got scikit-learn {sklearn.__version__}, want {WANT}")
    x3, y3 = data(3)
    x2, y2 = data(2)
    words = numpy.array(["setosa", "versicolor", "virginica"])
    models = {
        "svc-rbf.joblib": SVC(kernel="rbf").fit(x3, y3),
        "svc-rbf-words.joblib": SVC(kernel="rbf").fit(x3, words[y3]),
        "svc-rbf-floats.joblib": SVC(kernel="rbf").fit(x3, y3 * 2.0),
        "svc-rbf-binary.joblib": SVC(kernel="rbf").fit(x2, y2),
        "svc-rbf-bool.joblib": SVC(kernel="rbf").fit(x2, y2 == 1),
        "svc-linear.joblib": SVC(kernel="linear", gamma="auto").fit(x3, y3),
        "svc-poly.joblib": SVC(kernel="poly", degree=4, coef0=0.5).fit(x3, y3),
        "svc-sigmoid.joblib": SVC(kernel="sigmoid", gamma=0.1, coef0=-0.2).fit(x3, y3),
        "svc-3.pkl": SVC().fit(x3, y3),
        "svc-4.pkl": SVC().fit(x3, y3),
        "svc-5.pkl": SVC().fit(x3, y3),
        "svc.joblib.gz": SVC().fit(x3, y3),
        "svc.joblib.zlib": SVC().fit(x3, y3),
        "logistic.joblib": LogisticRegression().fit(x3, y3),
        "logistic-binary.joblib": LogisticRegression().fit(x2, y2),
        "logistic-objects.joblib": LogisticRegression().fit(x3, words[y3].astype(object)),
        "logistic-objects-5.pkl": LogisticRegression().fit(x3, words[y3].astype(object)),
        "logistic-float32.joblib": LogisticRegression().fit(x3.astype(numpy.float32), y3),
        "scaler-svc.joblib": make_pipeline(StandardScaler(), SVC()).fit(x3, y3),
        "scaler-logistic.joblib": make_pipeline(StandardScaler(with_mean=False), LogisticRegression()).fit(x3, y3),
        "scaler-nested.joblib": make_pipeline(StandardScaler(with_std=False), make_pipeline(StandardScaler(), SVC())).fit(x3, y3),
    }
    cases = {}
    for name, model in models.items():
        save(name, model)
        rows = numpy.round(random.normal(scale=3, size=(20, 3)), 3)
        cases[name] = {"rows": rows.tolist(), "want": model.predict(rows).tolist()}
    # A row of zeros is exactly on the border: SVC says the second class, LogisticRegression the first.
    x, y = numpy.array([[-1.0], [1.0]]), numpy.array([4, 9])
    borders = {"border-svc.joblib": SVC(kernel="linear"), "border-logistic.joblib": LogisticRegression(fit_intercept=False)}
    for name, model in borders.items():
        save(name, model.fit(x, y))
        rows = numpy.array([[-0.5], [0.0], [0.5]])
        assert model.decision_function(rows)[1] == 0
        cases[name] = {"rows": rows.tolist(), "want": model.predict(rows).tolist()}
    (HERE / "cases.json").write_text(json.dumps(cases, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    # Not read: each must be refused with an error that names what it is.
    save("refused-xz.joblib.xz", LogisticRegression().fit(x2, y2))
    save("refused-bz2.joblib.bz2", LogisticRegression().fit(x2, y2))
    save("refused-class.joblib", StandardScaler().fit(x2))
    save("refused-kernel.joblib", SVC(kernel="precomputed").fit(x2 @ x2.T, y2))
    save("refused-ties.joblib", SVC(break_ties=True).fit(x3, y3))
    save("refused-sparse.joblib", LogisticRegression().fit(x2, y2).sparsify())


main()
