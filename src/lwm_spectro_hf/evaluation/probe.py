"""A linear layer on embeddings, fitted rather than trained."""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import nn

_REGULARIZATION = (0.001, 0.01, 0.1, 1.0, 10.0)
_FOLDS = 3
_TUNING_ROWS = 2000


class LogisticProbe:
    """Standardized features and logistic regression, its C chosen by cross-validation on the training rows alone.

    Args:
        seed (`int`): Of the folds, and of the rows that C is chosen on where there are more than 2,000.
    """

    def __init__(self, seed: int):
        self.seed, self.num_parameters = seed, 0

    def fit(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Fit; if a class has a single row, cross-validation is impossible, and C is 1."""
        self.model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        inputs, labels = inputs.numpy(), labels.numpy()
        # Such small products are slower on several threads, ten times so while PyTorch's threads wait for work.
        with warnings.catch_warnings(), threadpool_limits(1, user_api="blas"):
            # A large C may not converge on few, separable rows; such a C is not chosen.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.set_params(logisticregression__C=self._chosen_regularization(inputs, labels))
            self.model.fit(inputs, labels)
        self.num_parameters = (inputs.shape[1] + 1) * len(np.unique(labels))

    def _chosen_regularization(self, inputs: np.ndarray, labels: np.ndarray) -> float:
        if len(labels) > _TUNING_ROWS:
            chosen = _some_of_each(labels, _TUNING_ROWS / len(labels), self.seed)
            inputs, labels = inputs[chosen], labels[chosen]
        folds = min(_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
        if folds < 2:
            return 1.0
        search = GridSearchCV(
            self.model,
            {"logisticregression__C": _REGULARIZATION},
            cv=StratifiedKFold(folds, shuffle=True, random_state=self.seed),
            scoring="neg_log_loss",
            refit=False,
        )
        return search.fit(inputs, labels).best_params_["logisticregression__C"]

    def predict(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.model.predict_log_proba(inputs.numpy()))).float()

    def layer(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(num_classes, num_features)` and bias `(num_classes,)` of the equivalent linear layer."""
        scaler, regression = self.model
        weight, bias = regression.coef_, regression.intercept_
        if len(regression.classes_) == 2:  # scikit-learn keeps the logit of the second class alone
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scaler.scale_
        bias = bias - weight @ scaler.mean_
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _some_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A random share of the rows of every class, with at least two of each class that has two."""
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = []
    for value in np.unique(labels):
        rows = order[labels[order] == value]
        parts.append(rows[: max(min(2, len(rows)), round(share * len(rows)))])
    return np.sort(np.concatenate(parts))


def fit_head(head: nn.Module, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    """Initialize a linear head with a logistic regression on the current embeddings.

    With a random head, the first gradients that reach a pretrained encoder are noise, and few-shot fine-tuning ends
    below a probe on frozen embeddings; with the probe's own weights, it starts from the probe's accuracy.

    Args:
        head ([`LwmSpectroClassifier`]): A linear head; its weights are replaced.
        embeddings (`torch.Tensor` of shape `(num, hidden_size)`): Float32, on the CPU.
        labels (`torch.Tensor` of shape `(num,)`): Their classes.

    Raises:
        ValueError: If some class of the head has no row.
    """
    probe = LogisticProbe(seed=0)
    missing = set(range(head.out_proj.out_features)) - set(labels.tolist())
    if missing:
        raise ValueError(f"There is no row of class {min(missing)}, so a head with that class cannot be fitted.")
    probe.fit(embeddings, labels)
    with torch.no_grad():
        for parameter, values in zip(head.out_proj.parameters(), probe.layer(), strict=True):
            parameter.copy_(values)
