"""A search for hyperparameters: scikit-learn through joblib, on the cluster.

    pip install scikit-learn
    mpirun -n 8 python examples/hyperparameters.py
    python examples/hyperparameters.py

What scikit-learn does in parallel, it does with joblib, and joblib has a backend for Dask:
one more line, and the fits run on the workers.
"""

from mpidask import mpi_dask_main


@mpi_dask_main
def main(client):
    import joblib
    from scipy.stats import loguniform
    from sklearn.datasets import load_digits
    from sklearn.model_selection import RandomizedSearchCV, train_test_split
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    train, test, train_digits, test_digits = train_test_split(
        images / 16, digits, stratify=digits, random_state=0
    )
    search = RandomizedSearchCV(
        SVC(),
        {"C": loguniform(1e-2, 1e3), "gamma": loguniform(1e-4, 1e1)},
        n_iter=16,
        cv=4,
        random_state=0,
    )
    with joblib.parallel_config("dask"):
        search.fit(train, train_digits)

    best = ", ".join(f"{name}={value:.3g}" for name, value in search.best_params_.items())
    print(f"{len(train)} images, {search.n_iter} candidates, {search.n_splits_} fits each")
    print("best parameters:", best)
    print(f"accuracy in cross-validation: {search.best_score_:.3f}")
    print(f"accuracy on {len(test)} other images: {search.score(test, test_digits):.3f}")


main()
