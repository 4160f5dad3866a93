"""Trains the story's model: a support vector classifier on the iris flowers, as KServe's own sample.

Made with scikit-learn 1.9.1 and joblib 1.6.0 (e2e/serving/requirements/sklearn.txt). The same
versions on the same processor architecture write the same bytes:

    e2e/serving/setup.sh
    .tools/sklearn/bin/python examples/story/models/train_iris.py

KServe's sample is https://github.com/kserve/kserve/blob/v0.20.0/docs/samples/v1beta1/sklearn/v1/README.md
"""

import pathlib
import sys

import joblib
import sklearn
from sklearn import datasets, svm

WANT = "1.9.1"
MODEL = pathlib.Path(__file__).parent / "sklearn" / "1.0" / "model" / "model.joblib"


def main() -> None:
    if sklearn.__version__ != WANT:
        sys.exit(f"train_iris.py: got scikit-learn {sklearn.__version__}, want {WANT}")
    x, y = datasets.load_iris(return_X_y=True)
    model = svm.SVC(gamma="scale").fit(x, y)
    answer = model.predict([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]).tolist()
    if answer != [1, 1]:
        sys.exit(f"train_iris.py: got {answer}, want [1, 1]")
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, MODEL)
    print(f"{MODEL}: {MODEL.stat().st_size} bytes")


main()
